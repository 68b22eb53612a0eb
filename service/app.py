"""The composition root: settings to a running application; the only module that knows them all."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final

import msgspec
from aiohttp import web

from service.adapters import logs
from service.adapters.clock import Clock, LoopClock
from service.core.access import Doors, Keys
from service.demo import demo_upstream
from service.errors import Failure
from service.gateway import Gateway
from service.settings import Settings, Upstream
from service.web import DOORS, GATEWAY, KEYS, routed

_REQUEST_LINE: Final = 64 * 1024 + 256
"""Bytes of a request line: a question of 64 KiB and the rest of the line."""
_FIELD: Final = 32 * 1024
_BACKLOG: Final = 4096
_KEEPALIVE: Final = 75.0
"""Seconds that an idle client connection is kept; front ends keep theirs 60."""
_GRACE: Final = 1.0
"""Seconds that handlers get to notice the end of their streams; aiohttp waits for them twice."""


def application(
    settings: Settings,
    *,
    clock: Callable[[], Clock] = LoopClock,
    listening: Iterable[str] | None = None,
) -> web.Application:
    """Return the application; `listening`: the addresses of its sockets, if not the settings'."""
    server = settings.server
    app = web.Application(client_max_size=settings.limits.body)
    app[KEYS] = Keys((key.name, key.key.reveal()) for key in server.keys)
    app[DOORS] = Doors(listening or [server.host], server.hosts, server.origins)

    async def running(app: web.Application) -> AsyncIterator[None]:
        app[GATEWAY] = gateway = Gateway(settings, clock())
        yield
        await gateway.streams.close(_draining())
        await gateway.close()

    async def end_streams(app: web.Application) -> None:
        await app[GATEWAY].streams.close(_draining())

    app.cleanup_ctx.append(running)
    app.on_shutdown.append(end_streams)
    return routed(app)


def _draining() -> Failure:
    return Failure("draining", "the relay is shutting down: ask again", stage="stream")


def runner(app: web.Application) -> web.AppRunner:
    """Return the application's runner, with what production needs and tests must have too."""
    return web.AppRunner(
        app,
        handler_cancellation=True,  # a client that leaves is noticed at once
        access_log=None,
        keepalive_timeout=_KEEPALIVE,
        shutdown_timeout=_GRACE,
        max_line_size=_REQUEST_LINE,
        max_field_size=_FIELD,
    )


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code."""
    logs.configure(settings.server.log)
    with asyncio.Runner(loop_factory=_loop_factory()) as loop:
        return loop.run(_run(settings))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415  not on every platform
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _run(settings: Settings) -> int:
    async with contextlib.AsyncExitStack() as stack:
        if not settings.upstream:
            url = await stack.enter_async_context(demo_upstream())
            demo = Upstream(name="demo", url=url)
            settings = msgspec.structs.replace(settings, upstream=(demo,), pool=())
            _say(f"no upstream is configured: the built-in demo answers (from {url})")
        return await _serve(settings)


async def _serve(settings: Settings) -> int:
    server = settings.server
    serving = runner(application(settings))
    await serving.setup()
    try:
        try:
            await web.TCPSite(serving, server.host, server.port, backlog=_BACKLOG).start()
        except OSError as error:
            _say(f"cannot listen on {server.host}:{server.port}: {error.strerror or error}")
            return 1
        _announce(settings, serving.addresses)
        await _stopped()
    finally:
        await serving.cleanup()
    return 0


def _announce(settings: Settings, addresses: list[Any]) -> None:
    host, port, *_ = addresses[0]
    name = f"[{host}]" if ":" in host else host
    _say(f"listening on http://{name}:{port}/ (the page), /chat and /v1")
    for upstream in settings.upstream:
        ways = ", ".join(str(way) for way in settings.ways(upstream))
        _say(f"upstream {upstream.name}: {upstream.url} through {ways}")


async def _stopped() -> None:
    """Wait for the signal to stop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()


def _say(text: str) -> None:
    sys.stderr.write(f"teleprinter: {text}\n")
    sys.stderr.flush()
