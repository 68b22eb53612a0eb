"""The floor: a relay of the same libraries that looks at nothing.

    python -m benchmarks.bare PORT UPSTREAM

It hands the upstream's bytes on within the callback that brings them, as the relay's hot path does,
and has no frames, endings, clocks, heartbeats, limits, keys, metrics or log. What the relay costs
beyond it is the price of those; what it costs itself no Python over aiohttp can save.
"""

import sys
from collections.abc import AsyncIterator
from typing import Final

import aiohttp
import uvloop
from aiohttp import web

from service.adapters.push import Direct, push

_SESSION: Final = web.AppKey("session", aiohttp.ClientSession)
_UPSTREAM: Final = web.AppKey("upstream", str)
_LIMIT: Final = 1 << 20


async def relay(request: web.Request) -> web.StreamResponse:
    """Ask the upstream the same, and hand on what it says."""
    kept = {"Content-Type": request.headers.get("Content-Type", "application/json")}
    body = await request.read()
    session = request.app[_SESSION]
    async with session.request(request.method, request.path_qs, data=body, headers=kept) as answer:
        response = web.StreamResponse(status=answer.status)
        response.content_type = answer.content_type
        response.content_length = answer.content_length
        await response.prepare(request)
        await push(answer, Direct(request, response, _LIMIT).write)
        async for rest in answer.content.iter_any():
            await response.write(rest)
        await response.write_eof()
    return response


async def _session(app: web.Application) -> AsyncIterator[None]:
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(
        app[_UPSTREAM], connector=connector, timeout=timeout, auto_decompress=False
    ) as session:
        app[_SESSION] = session
        yield


def main() -> None:
    """Serve on a port of 127.0.0.1 until a signal comes."""
    app = web.Application()
    app[_UPSTREAM] = sys.argv[2]
    app.cleanup_ctx.append(_session)
    app.router.add_route("*", "/{path:.*}", relay)
    loop = uvloop.new_event_loop()
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, loop=loop)


if __name__ == "__main__":
    main()
