"""The application: settings to web.Application and its runner."""

from collections.abc import AsyncIterator, Callable
from typing import Final

from aiohttp import web

from service.adapters.clock import Clock, LoopClock
from service.boundary import GATEWAY
from service.errors import Failure
from service.gateway import Gateway
from service.settings import Settings
from service.web import routed

_REQUEST_LINE: Final = 64 * 1024 + 256
"""Bytes of a request line: a question of 64 KiB and the rest of the line."""
_FIELD: Final = 32 * 1024
_KEEPALIVE: Final = 75.0
"""Seconds that an idle client connection is kept; front ends keep theirs 60."""
_GRACE: Final = 1.0
"""Seconds that handlers get to notice the end of their streams; aiohttp waits for them twice."""


def application(settings: Settings, *, clock: Callable[[], Clock] = LoopClock) -> web.Application:
    """Return the application; its clock is made when it starts, on its loop."""
    app = web.Application(client_max_size=settings.limits.body)

    async def running(app: web.Application) -> AsyncIterator[None]:
        app[GATEWAY] = gateway = Gateway(settings, clock())
        yield
        await gateway.close()

    async def end_streams(app: web.Application) -> None:
        await app[GATEWAY].streams.close(draining())

    app.cleanup_ctx.append(running)
    app.on_shutdown.append(end_streams)
    return routed(app)


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
