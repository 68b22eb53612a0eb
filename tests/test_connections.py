"""What the drain asks of aiohttp's connections: it has no public word for it."""

import asyncio

import pytest
from aiohttp import web

from clock import PATIENCE
from line import dial
from service.listening import is_awaited, is_idle


async def until(true):
    """Let the loop turn until that is so."""
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110  aiohttp tells nobody
            await asyncio.sleep(0)


@pytest.mark.both_loops
async def test_the_life_of_a_connection():
    """Awaited until its first request, then busy; between two requests idle, not awaited."""
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_):
        inside.set()
        await go_on.wait()
        return web.Response(text="done")

    app = web.Application()
    app.router.add_get("/", slow)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        async with dial(runner.addresses[0][1]) as line:
            await until(lambda: runner.server.connections)
            (connection,) = runner.server.connections
            await until(lambda: is_idle(connection))
            assert is_awaited(connection)
            await line.send("GET", "/", ("Connection", "keep-alive"))
            await until(lambda: inside.is_set() or not is_awaited(connection))
            assert inside.is_set(), "on its way to the handler it was taken for nothing"
            assert (is_awaited(connection), is_idle(connection)) == (False, False)
            go_on.set()
            await line.until(b"done")
            await until(lambda: is_idle(connection))
            assert not is_awaited(connection)
    finally:
        await runner.cleanup()
