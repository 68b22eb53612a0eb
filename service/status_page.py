"""The status as HTTP: once, and live to whoever watches.

    /status.json ─────▶ Board.look
    /status/events ───▶ Board.look, every second, as the event `status`, until drain

Nothing is computed while nobody watches, nor for a watcher that has not taken the last event; one
that takes nothing for `limits.send_timeout` is cut off.
"""

import asyncio
import contextlib
from typing import Final

import msgspec
from aiohttp import web
from aiohttp_sse import EventSourceResponse

from service.adapters.clock import Deadline
from service.boundary import CALLER, GATEWAY, NOTE
from service.status import Board

EVERY: Final = 1.0
"""Seconds between two events."""
_STALE: Final = 0.5
"""Seconds: so old may be what several watchers share."""
_NEVER: Final = float("inf")
_LEAVING: Final = web.AppKey("leaving", asyncio.Event)
_BOARD: Final = web.AppKey("board", Board)


def add_status(app: web.Application) -> None:
    """Give the application the status's data; its page is one of the pages."""
    app.on_startup.append(_begin)
    app.on_shutdown.append(_leave)
    app.router.add_get("/status.json", status)
    app.router.add_get("/status/events", watch)


async def _begin(app: web.Application) -> None:
    app[_LEAVING] = asyncio.Event()
    app[_BOARD] = Board(app[GATEWAY])


async def _leave(app: web.Application) -> None:
    app[_LEAVING].set()


def _look(request: web.Request, stale: float = 0.0) -> bytes:
    return msgspec.json.encode(request.app[_BOARD].look(request[CALLER], stale))


async def status(request: web.Request) -> web.Response:
    """Return the status as JSON."""
    headers = {"Cache-Control": "no-store"}
    return web.Response(body=_look(request), content_type="application/json", headers=headers)


async def watch(request: web.Request) -> web.StreamResponse:
    """Send the status every second, the last time when the relay shuts down."""
    response = EventSourceResponse(ping_interval=_NEVER, send_timeout=None)
    del response.headers["Connection"]  # aiohttp knows what the client asked for
    response.headers["Teleprinter-Request-Id"] = request[NOTE]["id"]
    await response.prepare(request)
    request[NOTE]["status"] = response.status
    try:
        await _tell(request, response)
    except TimeoutError:
        request[NOTE]["outcome"] = "slow"
        if request.transport is not None:
            request.transport.abort()
    finally:
        response.stop_streaming()
    return response


async def _tell(request: web.Request, response: EventSourceResponse) -> None:
    """Send what is to be seen until there is no more of it; raises TimeoutError if it is not taken.

    A small event is in the transport at once, where it may stay: then none is made.
    """
    gateway, leaving, transport = request.app[GATEWAY], request.app[_LEAVING], request.transport
    patience = gateway.settings.limits.send_timeout
    taken, stale = gateway.clock.now(), 0.0  # who comes now sees what is now
    while transport is not None and not transport.is_closing():
        over = gateway.draining or leaving.is_set()
        if not transport.get_write_buffer_size():
            async with Deadline(gateway.clock, patience):
                await response.send(_look(request, stale).decode(), event="status")
            taken, stale = gateway.clock.now(), _STALE
        elif over or 0 < patience <= gateway.clock.now() - taken:
            raise TimeoutError
        if over:
            return
        with contextlib.suppress(TimeoutError):
            async with Deadline(gateway.clock, EVERY):
                await leaving.wait()
