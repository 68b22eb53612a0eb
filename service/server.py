"""The process: sockets, signals, drain, reload.

SIGTERM, SIGINT   drain: stop listening, let open streams end, cut them after `drain` seconds;
                  a second one ends the process at once
SIGHUP            reload: new settings for new requests, the certificate's files read again; bad
                  ones leave the old in force. Addresses and the way of listening stay
"""

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from aiohttp import web

from service.adapters import logs, systemd
from service.adapters.logs import log
from service.adapters.metrics import Metrics
from service.app import application, draining, runner
from service.boundary import GATEWAY
from service.demo import demo_upstream
from service.settings import Server, Settings, SettingsError, Upstream

_BACKLOG: Final = 4096  # aiohttp's 128 would also shrink the queue of a socket from systemd
_SEND_BUFFER: Final = 64 * 1024
"""Bytes that the kernel holds for a client that does not read; its own choice is up to 4 MB."""
_KEEPALIVE_IDLE: Final = 60
"""Seconds until the kernel asks whether a silent client is still there; its own choice is 7200."""

_LAG_EVERY: Final = 0.5
"""Seconds between two looks at how late the event loop calls back."""
_DESCRIPTORS: Final = 64
"""Descriptors that the process needs besides two for each stream."""

Load = Callable[[], Settings]


def run(settings: Settings, load: Load) -> int:
    """Serve until a signal; return the exit code. `load` reads the settings anew.

    Raises SettingsError for a certificate that cannot be used.
    """
    logs.configure(settings.server.log)
    _raise_descriptors(settings.limits.streams)
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
        self._tls = _tls(settings.server)

    async def run(self) -> int:
        """Serve until a signal; return the exit code."""
        await self._runner.setup()
        try:
            try:
                await self._listen(self._settings.server)
            except OSError as error:
                server = self._settings.server
                say(f"cannot listen on {server.host}:{server.port}: {error.strerror or error}")
                return 1
            self._handle_signals()
            self._announce()
            lag = asyncio.create_task(_watch(self._app[GATEWAY].metrics))
            await self._stop.wait()
            await self._drain()
            lag.cancel()
        finally:
            await self._runner.cleanup()
        return 0

    async def _listen(self, server: Server) -> None:
        for each in systemd.listen_fds() or _sockets(server.host, server.port):
            _tune(each)
            site = web.SockSite(self._runner, each, ssl_context=self._tls, backlog=_BACKLOG)
            await site.start()
        self._app[GATEWAY].listens_on(self._names())

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
                _tls(settings.server)  # what cannot be used leaves the old one whole
                _certify(self._tls, settings.server)
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
        systemd.notify("STOPPING=1")
        gateway = self._app[GATEWAY]
        gateway.draining = True
        for site in list(self._runner.sites):
            await site.stop()
        await gateway.streams.ended(gateway.clock, self._settings.server.drain)
        await gateway.streams.close(draining())

    def _announce(self) -> None:
        scheme = "https" if self._settings.server.tls_cert else "http"
        for address in self._runner.addresses:
            if isinstance(address, tuple):
                host = f"[{address[0]}]" if ":" in address[0] else address[0]
                say(f"listening on {scheme}://{host}:{address[1]}/ (the page), /chat and /v1")
        for upstream in self._settings.upstream:
            ways = ", ".join(str(way) for way in self._settings.ways(upstream))
            say(f"upstream {upstream.name}: {upstream.url} through {ways}")
        systemd.notify("READY=1")


def _sockets(host: str, port: int) -> Sequence[socket.socket]:
    """Return a listening socket for each address of the host; raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [
        socket.create_server(address[:2], family=family, backlog=_BACKLOG)
        for family, _, _, _, address in found
    ]


def _tune(listening: socket.socket) -> None:
    """Set what accepted connections inherit."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE)


def _tls(server: Server) -> ssl.SSLContext | None:
    """Return the relay's own TLS, None for plain HTTP; raises SettingsError for bad files."""
    if not server.tls_cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _certify(context, server)
    return context


def _certify(context: ssl.SSLContext, server: Server) -> None:
    """Read certificate and key; connections from now on show them."""
    try:
        context.load_cert_chain(server.tls_cert, server.tls_key or None, password="")
    except OSError as error:
        why = "they do not fit each other" if isinstance(error, ssl.SSLError) else error.strerror
        text = f"server.tls_cert, server.tls_key: {why}: expected PEM files of a certificate and"
        raise SettingsError(f"{text} its key") from None


def _raise_descriptors(streams: int) -> None:
    """Allow as many descriptors as the system lets us; say so where they cannot be enough."""
    try:
        import resource  # noqa: PLC0415  not on every platform
    except ImportError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS takes no "infinity"
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed != resource.RLIM_INFINITY and allowed < 2 * streams + _DESCRIPTORS:
        text = "too few descriptors for limits.streams: raise LimitNOFILE or ulimit -n"
        log.warning(text, allowed=allowed, needed=2 * streams + _DESCRIPTORS)


async def _watch(metrics: Metrics) -> None:
    """Measure how late the event loop calls back; by its own clock, for that is what is late."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _LAG_EVERY
        await asyncio.sleep(_LAG_EVERY)
        metrics.lag(max(loop.time() - due, 0.0))


def say(text: str) -> None:
    """Tell the person who started the process."""
    sys.stderr.write(f"teleprinter: {text}\n")
    sys.stderr.flush()
