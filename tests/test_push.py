"""The hot path: bytes are handed on in the callback that brings them, and the way back works.

What it takes from aiohttp without a promise is checked first: where aiohttp changes it, these fail.
"""

import asyncio
import gc
import weakref

import aiohttp
import pytest
from aiohttp.streams import StreamReader

from clock import PATIENCE
from fakes import Upstream, chat
from relaying import relaying, settled, until
from service.adapters import push as pushing
from service.adapters import upstream as upstreams
from service.adapters.push import Direct, push

pytestmark = pytest.mark.both_loops
ROLE, HI, YOU, FINISH, DONE = chat(["Hi ", "you"])


async def asked(upstream, session):
    """Ask an upstream; return the response and its wire, at its head."""
    asking = asyncio.create_task(session.get(upstream.url))
    _, wire = await upstream.next()
    await wire.head()
    return await asking, wire


async def pushed(do):
    """Let a test do something with a response, its wire, and what the sink got."""
    async with Upstream() as upstream, aiohttp.ClientSession() as session:
        response, wire = await asked(upstream, session)
        async with response:
            await do(response, wire)


def test_a_body_can_be_given_another_class():
    """The tap has the slots of aiohttp's StreamReader and none of its own."""
    assert pushing._Tapped.__slots__ == ()
    assert "__dict__" not in dir(StreamReader)


async def test_bytes_are_handed_on_as_they_come():
    """Without a task in between: the sink is called before the loop turns again."""

    async def do(response, wire):
        got = []
        going = asyncio.create_task(push(response, lambda data: got.append(data) or True))
        for data in (b"one", b"two"):
            await wire.chunk(data)
            await settled()
            assert response.content._size == 0
        await wire.end()
        await going
        assert got == [b"one", b"two"]
        assert await response.read() == b""

    await pushed(do)


async def test_what_has_come_before_is_handed_on_first():
    """Bytes that wait in the body when the pushing begins are not lost, nor late."""

    async def do(response, wire):
        await wire.chunk(b"early")
        await settled()
        got = []
        going = asyncio.create_task(push(response, lambda data: got.append(data) or True))
        await settled()
        await wire.chunk(b"late")
        await wire.end()
        await going
        assert got == [b"early", b"late"]

    await pushed(do)


async def test_a_sink_that_wants_no_more_leaves_the_rest():
    """What comes then is read as ever, in order."""

    async def do(response, wire):
        got = []
        going = asyncio.create_task(push(response, got.append))
        await settled()
        await wire.chunk(b"one")
        await going
        await wire.chunk(b"two")
        await wire.end()
        assert (got, await response.read()) == ([b"one"], b"two")

    await pushed(do)


async def test_a_lump_is_left_to_be_read():
    """More than a window at once is not for one callback."""

    async def do(response, wire):
        got = []
        going = asyncio.create_task(push(response, lambda data: got.append(data) or True))
        await settled()
        await wire.chunk(b"x" * 20_000)
        await going
        await wire.end()
        assert (got, len(await response.read())) == ([], 20_000)

    await pushed(do)


async def test_what_a_sink_raises_is_raised():
    """Not into aiohttp's parser, which would take it for broken HTTP."""

    async def do(response, wire):
        def sink(_):
            raise ValueError("no")

        going = asyncio.create_task(push(response, sink))
        await settled()
        await wire.chunk(b"one")
        with pytest.raises(ValueError, match="no"):
            await going
        await wire.chunk(b"two")
        await wire.end()
        assert await response.read() == b"two"

    await pushed(do)


@pytest.mark.parametrize("how", ["close", "reset", "garbage"])
async def test_a_cut_ends_it_and_is_told_by_reading(how):
    """The pushing returns, and the next read raises what reading would have."""

    async def do(response, wire):
        going = asyncio.create_task(push(response, lambda _: True))
        await settled()
        await wire.chunk(b"one")
        if how == "garbage":
            await wire.send(b"\x00{ no chunk\r\n")
        else:
            getattr(wire, how)()
        await going
        if how != "garbage":
            with pytest.raises(aiohttp.ClientError):
                await response.content.read(1)

    await pushed(do)


async def test_who_waits_may_be_cancelled():
    """The body is as before."""

    async def do(response, wire):
        going = asyncio.create_task(push(response, lambda _: True))
        await settled()
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going
        await wire.chunk(b"one")
        await wire.end()
        assert await response.read() == b"one"

    await pushed(do)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("path", ["/chat", "/v1/chat/completions"])
async def test_both_ways_send_the_same_bytes(monkeypatch, fast, path):
    """With the hot path and without it, chunked and whole."""
    if not fast:
        monkeypatch.setattr(Direct, "write", lambda *_: False)
        monkeypatch.setattr("service.adapters.upstream.push", nothing)
    async with Upstream() as upstream, relaying(upstream.url) as relay:
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        asking = asyncio.create_task(relay.post(path, body).__aenter__())
        _, wire = await upstream.next()
        await wire.head(content_type="text/event-stream")
        for frame in (ROLE, HI, YOU, FINISH, DONE):
            await wire.chunk(frame)
            await settled()
        await wire.end()
        async with await asking as response:
            got = await response.read()
    if path == "/chat":
        assert got.count(b"event: answer") == 2
        assert b'data: {"content":"you"}\n\n' in got
    else:
        assert got == b"".join([ROLE, HI, YOU, FINISH, DONE])


async def nothing(_response, _sink):
    """Push nothing: the tasks do it all."""


async def typing(_request, wire):
    """Send one frame after the other."""
    await wire.head(content_type="text/event-stream")
    for data in (ROLE, HI, FINISH, DONE):
        await wire.chunk(data)
        await settled()
    await wire.end()


@pytest.mark.parametrize("keep", [0, 60])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat"])
async def test_an_ended_stream_is_gone(path, keep):
    """At once, for nothing of it holds itself; of one that may be read again, the log is left."""
    toml = f"[chat]\nkeep = {keep}\n"
    async with Upstream(typing) as upstream, relaying(upstream.url, toml=toml) as relay:
        gc.collect()
        gc.disable()
        try:
            async with relay.stream(path) as response:
                streams = [weakref.ref(stream) for stream in relay.streams]
                await response.read()
            await until(lambda: not relay.streams)
            await settled()
            assert [each() for each in streams] == [None]
        finally:
            gc.enable()


async def test_a_kept_connection_holds_nothing_of_what_it_brought(monkeypatch):
    """Neither streams nor bodies gather at a connection to the upstream that is used again."""
    monkeypatch.setattr(upstreams, "_LINGER", PATIENCE)  # the connection is kept, however busy

    async with Upstream(typing) as upstream, relaying(upstream.url) as relay:
        streams, bodies = [], []
        for _ in range(4):
            async with relay.stream() as response:
                streams += map(weakref.ref, relay.streams)
                await response.read()
            await until(lambda: not relay.streams)
            await settled()
            gc.collect()
            bodies.append(sum(type(each) is StreamReader for each in gc.get_objects()))
        assert upstream.connections == 1
    assert streams
    assert [each() for each in streams if each() is not None] == []
    assert bodies[-1] <= bodies[0]


async def test_a_stream_under_way_lets_go_of_its_question():
    """From the first content on nobody asks again, and the answer may take long."""
    async with Upstream() as upstream, relaying(upstream.url) as relay:
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(relay.stream().__aenter__())
            request, wire = await upstream.next()
            await wire.head(content_type="text/event-stream")
            [stream] = relay.streams
            assert stream._order.body == request.body
            await wire.chunk(HI)
        response = await asking
        assert (stream._order.body, stream._order.headers, stream._legs) == (None, [], ())
        await wire.chunk(FINISH + DONE)
        await wire.end()
        assert (await response.read()).endswith(DONE)


async def test_a_kept_connection_that_breaks_is_nobodys_error():
    """When no answer is under way: asyncio finds no exception that nobody has looked at."""

    async def typing(_request, wire):
        await wire.head(content_type="text/event-stream")
        for data in (HI, FINISH, DONE):
            await wire.chunk(data)
            await settled()
        await wire.end()

    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with Upstream(typing) as upstream, relaying(upstream.url) as relay:
        for _ in range(2):
            async with relay.stream() as response:
                assert (await response.read()).endswith(DONE)
            await until(lambda: not relay.streams)
            upstream.reset_connections()
            await upstream.until(lambda: upstream.open_connections == 0)
            await settled()
        gc.collect()
        assert told == []
