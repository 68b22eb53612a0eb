"""The application: settings to web.Application and its runner."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

from aiohttp import web

from service.adapters.clock import Clock, LoopClock
from service.adapters.tracing import NoTraces, Traces
from service.boundary import GATEWAY
from service.errors import Failure
from service.gateway import Gateway
from service.settings import Settings, SettingsError
from service.web import routed

_REQUEST_LINE: Final = 64 * 1024 + 256
"""Bytes of a request line: a question of 64 KiB and the rest of the line."""
_FIELD: Final = 32 * 1024
_KEEPALIVE: Final = 75.0
"""Seconds that an idle client connection is kept; front ends keep theirs 60."""
_GRACE: Final = 1.0
"""Seconds that handlers get to notice the end of their streams; aiohttp waits for them twice."""


def application(
    settings: Settings,
    *,
    clock: Callable[[], Clock] = LoopClock,
    traces: NoTraces | None = None,
) -> web.Application:
    """Return the application; its clock is made when it starts, on its loop.

    `traces`: None = as the settings say. Raises SettingsError if they cannot be made.
    """
    app = web.Application(client_max_size=settings.limits.body)
    traced = traces or _traces(settings)

    async def running(app: web.Application) -> AsyncIterator[None]:
        app[GATEWAY] = gateway = Gateway(settings, clock(), traced)
        yield
        await gateway.close()
        await asyncio.to_thread(traced.close)  # it may wait for the collector

    async def end_streams(app: web.Application) -> None:
        await app[GATEWAY].streams.close(draining())

    app.cleanup_ctx.append(running)
    app.on_shutdown.append(end_streams)
    return routed(app)


def _traces(settings: Settings) -> NoTraces:
    if not settings.server.traces:
        return NoTraces()
    try:
        return Traces()
    except ImportError:
        text = "server.traces needs the extra otel: pip install 'teleprinter[otel]'"
        raise SettingsError(text) from None


def draining() -> Failure:
    """Return what streams are told that the end of the process ends."""
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
