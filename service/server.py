"""The process: signals, drain, reload, and what systemd is told.

SIGTERM, SIGINT   drain: stop listening, let open streams end, cut them after `drain` seconds;
                  a second one ends the process at once
SIGHUP            reload: new settings for new requests, the certificate's files read again; bad
                  ones leave the old in force. Addresses and the way of listening stay
"""

import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections.abc import Callable
from typing import Final

import msgspec
from aiohttp import web

from service.adapters import logs, systemd
from service.adapters.logs import log
from service.app import application, draining, runner
from service.boundary import GATEWAY
from service.demo import demo_upstream
from service.gateway import Gateway
from service.greeting import complain, greet, say
from service.listening import (
    BACKLOG,
    certify,
    is_awaited,
    is_idle,
    raise_descriptors,
    sockets,
    tls,
    tune,
)
from service.settings import Server, Settings, SettingsError, Upstream

_LAG_EVERY: Final = 0.5
"""Seconds between two looks at how late the event loop calls back."""
_LAST_WORDS: Final = 1.0
"""Seconds in which a client that was accepted before a drain may still send its first request."""
_LOOK_EVERY: Final = 0.05
"""Seconds between two looks whether all did."""
_MARGIN: Final = 10
"""Seconds in which the process ends after its drain: aiohttp waits twice, the traces once."""

Load = Callable[[], Settings]


def run(settings: Settings, load: Load) -> int:
    """Serve until a signal; return the exit code. `load` reads the settings anew.

    Raises SettingsError for a certificate that cannot be used.
    """
    logs.configure(settings.server.log)
    raise_descriptors(settings.limits.streams)
    with asyncio.Runner(loop_factory=_loop_factory()) as loop:
        return loop.run(_run(settings, load))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415  not on every platform
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _run(settings: Settings, load: Load) -> int:
    async with contextlib.AsyncExitStack() as stack:
        demo: Upstream | None = None
        if not settings.upstream:
            url = await stack.enter_async_context(demo_upstream())
            demo = Upstream(name="demo", url=url)
            say(f"no upstream is configured: the built-in demo answers (from {url})")
        return await Process(_with_demo(settings, demo), lambda: _with_demo(load(), demo)).run()


def _with_demo(settings: Settings, demo: Upstream | None) -> Settings:
    """Return the settings with the demo in the place of an upstream, if there is none."""
    if settings.upstream or demo is None:
        return settings
    return msgspec.structs.replace(settings, upstream=(demo,), pool=())


class Process:
    """One run of the service."""

    def __init__(self, settings: Settings, load: Load) -> None:
        self._settings = settings
        self._load = load
        self._app = application(settings)
        self._runner = runner(self._app)
        self._stop = asyncio.Event()
        self._tls = tls(settings.server)
        self._handed = systemd.listen_fds()
        self._doors: list[web.SockSite] = []
        self._watchdog = systemd.watchdog()
        self._status = ""

    async def run(self) -> int:
        """Serve until a signal; return the exit code."""
        await self._runner.setup()
        watch = asyncio.create_task(self._watch())
        try:
            try:
                await self._listen(self._settings.server)
            except OSError as error:
                complain(f"cannot listen on {error.strerror or error}")
                return 1
            self._handle_signals()
            greet(self._settings, self._runner.addresses, self._app[GATEWAY].admin)
            gc.freeze()  # what the start has made stays: a look for cycles need not go through it
            systemd.notify("READY=1")
            await self._stop.wait()
            await self._drain()
        finally:
            await self._runner.cleanup()
            watch.cancel()
        return 0

    async def _listen(self, server: Server) -> None:
        gateway = self._app[GATEWAY]
        for each in self._handed or sockets(server.host, server.port):
            self._doors.append(await self._site(each))
        if server.admin_at:
            own = sockets(*server.admin_at)
            gateway.admin = frozenset(each.getsockname()[:2] for each in own)
            for each in own:
                await self._site(each)
        gateway.listens_on(self._names())

    async def _site(self, listening: socket.socket) -> web.SockSite:
        tune(listening)
        site = web.SockSite(self._runner, listening, ssl_context=self._tls, backlog=BACKLOG)
        await site.start()
        return site

    def _names(self) -> list[str]:
        return [str(address[0]) for address in self._runner.addresses if isinstance(address, tuple)]

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._on_reload)

    def _on_stop(self, number: int) -> None:
        """Drain; the second time, die as a process does that handles no signals."""
        if self._stop.is_set():
            asyncio.get_running_loop().remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)  # for SIGINT Python's own raises an exception
            os.kill(os.getpid(), number)
        self._stop.set()

    def _on_reload(self) -> None:
        systemd.notify("RELOADING=1")
        try:
            settings = self._load()
            if self._tls is not None and settings.server.tls_cert:
                tls(settings.server)  # what cannot be used leaves the old one whole
                certify(self._tls, settings.server)
            self._app[GATEWAY].adopt(settings)
            logs.configure(settings.server.log)
        except SettingsError as error:
            for line in str(error).splitlines():
                log.error("the new settings are not used", fault=line)
        else:
            self._settings = settings
            log.info("the new settings are in force")
        systemd.notify("READY=1")

    async def _drain(self) -> None:
        seconds = self._settings.server.drain + _MARGIN  # longer than the unit allows, perhaps
        systemd.notify("STOPPING=1", f"EXTEND_TIMEOUT_USEC={round(seconds * 1_000_000)}")
        gateway = self._app[GATEWAY]
        gateway.draining = not self._handed
        for site in self._doors:  # server.admin tells how it goes, to the end
            await site.stop()
        if self._handed:
            await self._hand_back()
        if count := len(gateway.streams):
            text = f"{count} stream{'s' * (count != 1)} may go on for up to"
            say(f"{text} {self._settings.server.drain:g} s; a second signal ends all at once")
        await gateway.streams.ended(gateway.clock, self._settings.server.drain)
        await gateway.streams.close(draining())

    async def _hand_back(self) -> None:
        """Hear out who was accepted; let the others come again, to wait in systemd's socket."""
        server = self._runner.server
        for _ in range(round(_LAST_WORDS / _LOOK_EVERY)):
            await asyncio.sleep(_LOOK_EVERY)
            if server is None or not any(map(is_awaited, server.connections)):
                break
        self._app[GATEWAY].draining = True
        for each in server.connections if server else ():
            (each.force_close if is_idle(each) else each.close)()

    async def _watch(self) -> None:
        """Measure how late the event loop calls back, by its own clock: that is what is late.

        systemd's watchdog is fed here and nowhere else, so that a loop that is stuck starves it.
        """
        loop = asyncio.get_running_loop()
        every = min(_LAG_EVERY, (self._watchdog or 1.0) / 2)
        while True:
            self._tell()
            due = loop.time() + every
            await asyncio.sleep(every)
            self._app[GATEWAY].metrics.lag(max(loop.time() - due, 0.0))

    def _tell(self) -> None:
        """Feed the watchdog; say how things are, if it is not as before."""
        states = ["WATCHDOG=1"] if self._watchdog else []
        if (status := status_line(self._app[GATEWAY])) != self._status:
            self._status = status
            states.append(f"STATUS={status}")
        systemd.notify(*states)


def status_line(gateway: Gateway) -> str:
    """Return what `systemctl status` shows: open streams, and the proxies by their last attempt."""
    streams = len(gateway.streams)
    text = f"{'draining, ' * gateway.draining}{streams} stream{'s' * (streams != 1)} open"
    ways = [f"{way} {'up' if up else 'down'}" for (_, way), up in gateway.metrics.up.items()]
    return "; ".join([text, *ways])
