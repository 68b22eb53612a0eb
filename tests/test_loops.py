"""The loop that the tests run on: debug mode's checks, without the stacks that it would note."""

import asyncio

import pytest


async def test_a_call_from_another_thread_is_refused():
    """The loop is nobody else's; `call_soon_threadsafe` is the door."""
    loop = asyncio.get_running_loop()
    with pytest.raises(RuntimeError, match="other than the current one"):
        await asyncio.to_thread(loop.call_soon, print)


async def test_a_forgotten_coroutine_tells_where_it_was_made():
    """The warning that fails a test names the line."""

    async def forgotten():
        pass

    with pytest.warns(RuntimeWarning, match=r"(?s)never awaited.*created at.*test_loops\.py"):
        forgotten()
