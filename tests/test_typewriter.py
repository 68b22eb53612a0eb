"""The typewriter: a token every so many milliseconds, to the millisecond, and reading goes on.

All times are those of a clock that the tests move: 1000.0 at the start.
"""

import asyncio

import aiohttp
import pytest

from clock import PATIENCE
from fakes import Upstream, chat, chat_frame, reply, sse
from fakes.frames import DONE
from relaying import arrived, events, read_events, relaying, settled, until
from service.adapters.replay.unkept import WINDOW
from service.core.chat import TYPEWRITER_MS

CUT = aiohttp.ClientPayloadError
SILENT = "[heartbeat]\nafter = 0\n"
ONE_READ = 512 * 1024
"""Bytes, at most, that come from the upstream's socket at once."""
BEYOND = 2 * (WINDOW + ONE_READ)
"""Bytes beyond the queue: what was taken when it had a byte of room, and what came behind it."""
LARGE = 20_000
CALLS = [{"index": 0, "id": "call_1", "function": {"name": "f", "arguments": "{}"}}]
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


async def take(response, data):
    """Read as many bytes of the body as these: they must be these."""
    async with asyncio.timeout(PATIENCE):
        assert await response.content.readexactly(len(data)) == data


async def after(clock, response, seconds):
    """Let that time pass, and see that nothing comes until its last millisecond is over."""
    await clock.armed(clock.now() + seconds)
    clock.advance(seconds - 0.001)
    assert await arrived(response) == b""
    clock.advance(0.001)


async def typed(response):
    """Return (event stream, start) of a response."""
    stream = events(response)
    return stream, await anext(stream)


async def next_of(stream, *wanted):
    """Read as many events: these must be their names, or the contents of tokens."""
    async with asyncio.timeout(PATIENCE):
        found = [await anext(stream) for _ in wanted]
    assert tuple(event.data.get("content", event.name) for event in found) == wanted
    return found[-1]


# --- the schedule


@pytest.mark.parametrize("delay", [1, 50, 333, 1000, 60_000])
async def test_a_token_every_delay_the_first_at_once(clock, delay):
    """TELEPRINTER_DELAY_MS=n: the first token at once, the next n ms later, not a ms earlier."""
    async with (
        Upstream(sse(*chat(["a", "b", "c"]))) as upstream,
        relaying(upstream.url, clock=clock, toml=SILENT, delay_ms=str(delay)) as relay,
        relay.get("/chat", question="Hi?") as response,
    ):
        stream, _ = await typed(response)
        await next_of(stream, "a")
        await after(clock, response, delay / 1000)
        await next_of(stream, "b")
        await after(clock, response, delay / 1000)
        await next_of(stream, "c", "done")


async def test_many_tokens_do_not_drift(clock):
    """The hundredth token leaves 99 delays after the first, to the millisecond."""
    async with (
        Upstream(sse(*chat(map(str, range(100))))) as upstream,
        relaying(upstream.url, clock=clock, toml=SILENT, delay_ms="70") as relay,
        relay.get("/chat", question="Hi?") as response,
    ):
        stream, _ = await typed(response)
        await until(lambda: not relay.streams)
        clock.advance(98 * 0.07)
        await next_of(stream, *map(str, range(99)))
        clock.advance(0.069)
        assert await arrived(response) == b""
        clock.advance(0.001)
        await next_of(stream, "99", "done")


async def test_a_slow_upstream_is_not_slowed_down(clock):
    """A token that comes later than the delay leaves at once; the delay counts from there."""
    async with (
        Upstream() as upstream,
        relaying(upstream.url, clock=clock, delay_ms="1000") as relay,
        relay.get("/chat", question="Hi?") as response,
    ):
        stream, _ = await typed(response)
        _, wire = await upstream.next()
        await wire.head(content_type="text/event-stream")
        await wire.chunk(chat_frame({"content": "a"}))
        await next_of(stream, "a")
        clock.advance(2.5)
        await wire.chunk(chat_frame({"content": "b"}))
        await next_of(stream, "b")
        await wire.chunk(chat_frame({"content": "c"}))
        await after(clock, response, 1)
        await next_of(stream, "c")
        await wire.chunk(DONE)
        await wire.end()
        await next_of(stream, "done")


async def test_large_tokens_are_not_split(clock):
    """A token is one upstream event with text, whatever its length."""
    large = "你好 " * 30_000
    async with (
        Upstream(sse(*chat([large, "b", large]))) as upstream,
        relaying(upstream.url, clock=clock, delay_ms="1000") as relay,
        relay.get("/chat", question="Hi?") as response,
    ):
        stream, _ = await typed(response)
        await next_of(stream, large)
        await after(clock, response, 1)
        await next_of(stream, "b")
        await after(clock, response, 1)
        await next_of(stream, large, "done")


async def test_reasoning_is_typed_too(clock):
    """Reasoning is text: it has its own turn, also where the same frame has an answer."""
    frames = [
        chat_frame({"reasoning_content": "Hm"}),
        chat_frame({"reasoning_content": "so", "content": "a"}),
        DONE,
    ]
    async with (
        Upstream(sse(*frames)) as upstream,
        relaying(upstream.url, clock=clock, delay_ms="1000") as relay,
        relay.get("/chat", question="Hi?") as response,
    ):
        stream, _ = await typed(response)
        await next_of(stream, "Hm")
        await after(clock, response, 1)
        await next_of(stream, "so")
        await after(clock, response, 1)
        await next_of(stream, "a", "done")


async def test_what_is_no_token_waits_for_the_text_before_it_and_no_longer(clock):
    """Tool calls and the end keep their place, and leave together with the token before them."""
    calls = chat_frame({"tool_calls": CALLS})
    role, a, b, finish, usage, done = chat(["a", "b"], usage=USAGE)
    async with (
        Upstream(sse(role, calls, a, calls, calls, b, calls, finish, usage, done)) as upstream,
        relaying(upstream.url, clock=clock, delay_ms="1000") as relay,
        relay.get("/chat", question="Hi?") as response,
    ):
        stream, _ = await typed(response)
        await next_of(stream, "tool_calls", "a", "tool_calls", "tool_calls")
        await after(clock, response, 1)
        end = await next_of(stream, "b", "tool_calls", "done")
    assert end.data["usage"] == USAGE


# --- who is paced, and how fast


async def test_a_request_may_choose_its_own_pace(clock):
    """`delay_ms` and `pace` of the request win over the settings, by GET and by POST."""
    async with (
        Upstream(sse(*chat(["a", "b"]))) as upstream,
        relaying(upstream.url, clock=clock, delay_ms="1000") as relay,
    ):
        for query in ({"pace": "off"}, {"delay_ms": 0}):
            async with relay.get("/chat", question="Hi?", **query) as response:
                assert len(await read_events(response)) == 4
            async with relay.post("/chat", {"question": "Hi?", **query}) as response:
                assert len(await read_events(response)) == 4
        for query in ({"delay_ms": 200}, {"delay_ms": 200, "pace": "typewriter"}):
            async with relay.post("/chat", {"question": "Hi?", **query}) as response:
                stream, _ = await typed(response)
                await next_of(stream, "a")
                await after(clock, response, 0.2)
                await next_of(stream, "b", "done")
        async with relay.get("/chat", question="Hi?", pace="typewriter") as response:
            stream, _ = await typed(response)
            await next_of(stream, "a")
            await after(clock, response, 1)
            await next_of(stream, "b", "done")


async def test_a_typewriter_has_a_speed_of_its_own(clock):
    """`pace` without a delay anywhere: the speed that TYPEWRITER_MS says."""
    async with (
        Upstream(sse(*chat(["a", "b"]))) as upstream,
        relaying(upstream.url, clock=clock) as relay,
        relay.get("/chat", question="Hi?", pace="typewriter") as response,
    ):
        stream, _ = await typed(response)
        await next_of(stream, "a")
        await after(clock, response, TYPEWRITER_MS / 1000)
        await next_of(stream, "b", "done")


PACED = [
    ({"Teleprinter-Delay": "1000"}, 1),
    ({"Teleprinter-Pace": "typewriter", "Teleprinter-Delay": "1000"}, 1),
    ({"Teleprinter-Pace": "typewriter"}, TYPEWRITER_MS / 1000),
]


@pytest.mark.parametrize(("headers", "delay"), PACED)
async def test_v1_is_paced_by_its_headers(clock, headers, delay):
    """Frames stay byte for byte; a frame with text waits its turn, any other for the text only."""
    role, a, b, c, finish, usage, done = chat(["a", "b", "c"], usage=USAGE)
    comment = b": PROCESSING\n\n"
    async with (
        Upstream(sse(role, a, comment, b, c, finish, usage, done)) as upstream,
        relaying(upstream.url, clock=clock) as relay,
        relay.post("/v1/chat/completions", {"model": "m", "stream": True}, headers) as response,
    ):
        await take(response, role + a + comment)
        await after(clock, response, delay)
        await take(response, b)
        await after(clock, response, delay)
        await take(response, c + finish + usage + done)
        assert await response.content.read() == b""
    names = {name for request in upstream.requests for name in request.names()}
    assert not [name for name in names if name.startswith("teleprinter-")]


async def test_v1_is_not_paced_by_the_settings(clock):
    """TELEPRINTER_DELAY_MS is the pace of /chat alone."""
    frames = chat(["a", "b", "c"])
    async with (
        Upstream(sse(*frames)) as upstream,
        relaying(upstream.url, clock=clock, delay_ms="1000") as relay,
        relay.stream() as response,
    ):
        assert await response.content.read() == b"".join(frames)


async def test_a_body_that_is_no_stream_is_not_paced(clock):
    """A pace has nothing to type in a plain body."""
    async with (
        Upstream(reply(200, '{"a": 1}', content_type="application/json")) as upstream,
        relaying(upstream.url, clock=clock) as relay,
        relay.post("/v1/chat/completions", {}, {"Teleprinter-Delay": "1000"}) as response,
    ):
        assert await response.json() == {"a": 1}


BAD_HEADERS = [
    ("Teleprinter-Delay", "soon"),
    ("Teleprinter-Delay", "-1"),
    ("Teleprinter-Delay", "60001"),
    ("Teleprinter-Delay", ""),
    ("Teleprinter-Pace", "fast"),
]


@pytest.mark.parametrize(("name", "value"), BAD_HEADERS)
async def test_a_header_that_makes_no_sense_is_refused(name, value):
    """400 bad_request names the header; the upstream is not asked."""
    async with (
        Upstream(sse(*chat(["a"]))) as upstream,
        relaying(upstream.url) as relay,
        relay.post("/v1/chat/completions", {"stream": True}, {name: value}) as response,
    ):
        error = (await response.json())["error"]
    assert (response.status, error["code"]) == (400, "bad_request")
    assert name in error["message"]
    assert upstream.connections == 0


# --- the upstream meanwhile


async def test_the_upstream_is_read_on_while_tokens_wait(clock):
    """With one token out, all frames are read and the upstream's connection is free again."""
    async with (
        Upstream(sse(*chat(["token"] * 100))) as upstream,
        relaying(upstream.url, clock=clock, delay_ms="1000") as relay,
        relay.get("/chat", question="Hi?") as response,
    ):
        stream, _ = await typed(response)
        await next_of(stream, "token")
        await until(lambda: not relay.streams)
        assert await arrived(response) == b""
        assert clock.now() == 1000.0


async def test_a_full_queue_pauses_the_upstream_and_room_resumes_it(clock):
    """limits.queue bytes may wait, and not much more; then the upstream is no longer read.

    Whatever has been released makes room for as much again; in the end every token has come.
    """
    queue, tokens = 200_000, [f"{number:0{LARGE}}" for number in range(300)]
    most = (queue + BEYOND) // LARGE
    async with (
        Upstream(sse(*chat(tokens, role=False))) as upstream,
        relaying(
            upstream.url, clock=clock, delay_ms="1000", toml=f"{SILENT}[limits]\nqueue = {queue}"
        ) as relay,
        relay.get("/chat", question="Hi?") as response,
    ):
        stream, _ = await typed(response)
        (reading,) = relay.streams
        await until(lambda: reading.replay.full)
        await settled()
        paused_at = reading.frames
        await settled()
        assert queue // LARGE <= paused_at == reading.frames <= most
        for number, token in enumerate(tokens):
            await next_of(stream, token)
            assert reading.frames - number <= most
            clock.advance(1)
        await next_of(stream, "done")


async def test_the_queue_has_a_megabyte_unless_told_otherwise(clock):
    """By default 1 MiB may wait before the upstream is paused."""
    async with (
        Upstream(sse(*chat(["x" * LARGE] * 500))) as upstream,
        relaying(upstream.url, clock=clock, delay_ms="1000") as relay,
        relay.get("/chat", question="Hi?"),
    ):
        (reading,) = relay.streams
        await until(lambda: reading.replay.full)
        await settled()
        assert (1 << 20) <= reading.frames * LARGE <= (1 << 20) + BEYOND


async def test_a_pause_of_the_relay_s_is_not_the_upstream_s_silence(clock):
    """Tokens a minute apart and `idle` of 10 s: the upstream, paused, is never called stalled."""
    toml = f"{SILENT}[limits]\nqueue = 1\n[clocks]\nidle = 10"
    tokens = [f"{number:0{LARGE}}" for number in range(40)]
    async with (
        Upstream(sse(*chat(tokens))) as upstream,
        relaying(upstream.url, clock=clock, delay_ms="60000", toml=toml) as relay,
        relay.get("/chat", question="Hi?") as response,
    ):
        stream, _ = await typed(response)
        (reading,) = relay.streams
        paused = 0
        for token in tokens[:-1]:
            await next_of(stream, token)
            await until(lambda: reading.replay.full or reading.task.done())
            paused += reading.replay.full
            clock.advance(59.999)
            assert await arrived(response) == b""
            clock.advance(0.001)
        await next_of(stream, tokens[-1], "done")
    assert paused


async def test_silence_counts_while_tokens_wait(clock):
    """An upstream that is read and says nothing is stalled, however much waits to be typed.

    Its error comes behind the text, not before.
    """
    toml = f"{SILENT}[clocks]\nidle = 10"
    async with (
        Upstream() as upstream,
        relaying(upstream.url, clock=clock, delay_ms="6000", toml=toml) as relay,
        relay.get("/chat", question="Hi?") as response,
    ):
        stream, _ = await typed(response)
        _, wire = await upstream.next()
        await wire.head(content_type="text/event-stream")
        await wire.chunk(b"".join(chat(["a", "b", "c"], done=False, finish=None)))
        await next_of(stream, "a")
        clock.advance(6)
        await next_of(stream, "b")
        clock.advance(4)
        await upstream.until(lambda: upstream.open_connections == 0)
        assert await arrived(response) == b""
        clock.advance(2)
        error = await next_of(stream, "c", "error")
        with pytest.raises(CUT):
            await anext(stream)
    assert (error.data["code"], error.data["partial"]) == ("upstream_stalled", True)


async def test_an_error_after_a_cut_comes_behind_the_text(clock):
    """The tokens that came are typed to the last one, then `error`, then the body is cut."""
    frames = chat(["a", "b", "c"], done=False, finish=None)
    async with (
        Upstream(sse(*frames, end=False)) as upstream,
        relaying(upstream.url, clock=clock, delay_ms="1000") as relay,
        relay.get("/chat", question="Hi?") as response,
    ):
        stream, _ = await typed(response)
        await until(lambda: not relay.streams)
        await next_of(stream, "a")
        await after(clock, response, 1)
        await next_of(stream, "b")
        await after(clock, response, 1)
        error = await next_of(stream, "c", "error")
        with pytest.raises(CUT):
            await anext(stream)
    assert error.data["code"] == "upstream_cut"


async def test_an_error_on_v1_comes_behind_the_text(clock):
    """The same on /v1: the last frame, then the error frame, then the cut."""
    role, a, b = chat(["a", "b"], done=False, finish=None)
    headers = {"Teleprinter-Delay": "1000"}
    async with (
        Upstream(sse(role, a, b, end=False)) as upstream,
        relaying(upstream.url, clock=clock) as relay,
        relay.post("/v1/chat/completions", {"model": "m", "stream": True}, headers) as response,
    ):
        await take(response, role + a)
        await until(lambda: not relay.streams)
        await after(clock, response, 1)
        await take(response, b + b'data: {"error":')
        with pytest.raises(CUT):
            await response.content.read()
