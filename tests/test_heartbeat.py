"""Heartbeats: a silent stream says that it lives, and a silent upstream does not keep it waiting.

All times are those of a clock that the tests move: 1000.0 at the start.
"""

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import aiohttp
import pytest

from clock import PATIENCE, FakeClock
from fakes import Upstream, Wire, chat, chat_frame, reply, sse
from fakes.frames import DONE
from relaying import Relay, arrived, relaying, settled

CUT = aiohttp.ClientPayloadError
BEAT = b": keep-alive\n\n"
COMMENT = b": PROCESSING\n\n"
ROLE, TOKEN, FINISH, _ = chat(["Hi"])
SSE = {"content_type": "text/event-stream"}
FORMS = [
    ("", BEAT),
    ('form = "auto"', BEAT),
    ('form = "blank"', BEAT),
    ('form = "line"', b": keep-alive\n"),
]
both_doors = pytest.mark.parametrize("door", ["chat", "v1"])


class Line(NamedTuple):
    """One stream: the upstream's end, the client's end, the clock between them."""

    clock: FakeClock
    relay: Relay
    wire: Wire
    response: aiohttp.ClientResponse

    async def silent(self, seconds):
        """Let that time pass, and see that nothing comes until its last millisecond is over."""
        self.clock.advance(seconds - 0.001)
        assert await arrived(self.response) == b""
        self.clock.advance(0.001)

    async def take(self, data):
        """Read as many bytes of the body as these: they must be these."""
        async with asyncio.timeout(PATIENCE):
            assert await self.response.content.readexactly(len(data)) == data

    async def take_token(self):
        """Read to the end of the token, as either door shows it."""
        async with asyncio.timeout(PATIENCE):
            while b'"Hi"' not in await self.response.content.readuntil(b"\n\n"):
                pass


@asynccontextmanager
async def asking(request):
    """Send a request that may have to wait: a task whose result is its response."""
    task = asyncio.create_task(_response(request))
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            (await task).close()


async def _response(request):
    return await request


@asynccontextmanager
async def line(door, clock, toml="", headers=None):
    """Ask at that door, answer with one token, and read it: the Line stands at 1000.0."""
    async with (
        Upstream() as upstream,
        relaying(upstream.url, clock=clock, toml=toml) as relay,
        asking(ask(relay, door, headers)) as task,
    ):
        _, wire = await upstream.next()
        await wire.head(**SSE)
        await wire.chunk(TOKEN)
        async with asyncio.timeout(PATIENCE):
            found = Line(clock, relay, wire, await task)
        await found.take_token()
        yield found


def ask(relay, door, headers=None):
    """Return a request for a stream at that door."""
    if door == "chat":
        return relay.get("/chat", question="Hi?")
    return relay.post("/v1/chat/completions", {"model": "m", "stream": True}, headers)


# --- silence in the middle of a stream


@both_doors
async def test_silence_gets_a_heartbeat(clock, door):
    """A comment and a blank line after 15 s without a byte, not before, and again after 15 more."""
    async with line(door, clock) as stream:
        for _ in range(3):
            await stream.silent(15)
            await stream.take(BEAT)


@both_doors
async def test_traffic_puts_the_heartbeat_off(clock, door):
    """The 15 s count from the last byte that went to the client."""
    async with line(door, clock) as stream:
        for _ in range(3):
            await stream.silent(14.9)
            await stream.wire.chunk(TOKEN)
            await stream.take_token()
        await stream.silent(15)
        await stream.take(BEAT)
        await stream.silent(5)
        await stream.wire.chunk(TOKEN)
        await stream.take_token()
        await stream.silent(15)
        await stream.take(BEAT)


async def test_comments_of_the_upstream_are_traffic_on_v1(clock):
    """They go to the client as they came, so that no heartbeat is due."""
    async with line("v1", clock) as stream:
        await stream.silent(14)
        await stream.wire.chunk(COMMENT)
        await stream.take(COMMENT)
        await stream.silent(15)
        await stream.take(BEAT)


async def test_comments_of_the_upstream_are_no_traffic_on_chat(clock):
    """They do not go to the client, who needs its heartbeat all the same."""
    async with line("chat", clock) as stream:
        await stream.silent(14)
        await stream.wire.chunk(COMMENT)
        await settled()
        await stream.silent(1)
        await stream.take(BEAT)


async def test_a_heartbeat_stands_between_whole_frames(clock):
    """However the upstream dawdles over a frame, its bytes stay together behind the heartbeat."""
    async with line("v1", clock) as stream:
        await stream.wire.chunk(TOKEN[:40])
        await settled()
        await stream.silent(15)
        await stream.take(BEAT)
        await stream.wire.chunk(TOKEN[40:-1])
        await settled()
        await stream.silent(15)
        await stream.take(BEAT)
        await stream.wire.chunk(TOKEN[-1:] + FINISH + DONE)
        await stream.wire.end()
        await stream.take(TOKEN + FINISH + DONE)
        assert await stream.response.content.read() == b""


async def test_chat_beats_from_its_start_on(clock):
    """Before the upstream has answered, too: the stream is open."""
    async with (
        Upstream() as upstream,
        relaying(upstream.url, clock=clock) as relay,
        relay.get("/chat", question="Hi?") as response,
    ):
        _, wire = await upstream.next()
        stream = Line(clock, relay, wire, response)
        assert b"event: start" in await response.content.readuntil(b"\n\n")
        for _ in range(4):
            await stream.silent(15)
            await stream.take(BEAT)


async def test_tokens_that_wait_are_silence(clock):
    """Heartbeats fill the time between tokens that a pace holds back."""
    async with line("v1", clock, headers={"Teleprinter-Delay": "40000"}) as stream:
        await stream.wire.chunk(TOKEN + FINISH + DONE)
        await stream.wire.end()
        await settled()
        for _ in range(2):
            await stream.silent(15)
            await stream.take(BEAT)
        await stream.silent(10)
        await stream.take(TOKEN + FINISH + DONE)


@both_doors
async def test_nothing_beats_after_the_end(clock, door):
    """A stream that has ended leaves no timer behind."""
    async with line(door, clock) as stream:
        await stream.wire.chunk(FINISH + DONE)
        await stream.wire.end()
        await stream.response.content.read()
        await settled()
        assert clock.pending() == []


# --- settings


@both_doors
@pytest.mark.parametrize(("form", "beat"), FORMS)
async def test_the_form_of_a_heartbeat_can_be_set(clock, door, form, beat):
    """heartbeat.form: `line` ends the comment with one newline, `blank` and `auto` with two."""
    async with line(door, clock, toml=f"[heartbeat]\n{form}") as stream:
        for _ in range(2):
            await stream.silent(15)
            await stream.take(beat)
            assert await arrived(stream.response) == b""


@both_doors
async def test_the_time_of_a_heartbeat_can_be_set(clock, door):
    """heartbeat.after is the seconds of silence."""
    async with line(door, clock, toml="[heartbeat]\nafter = 2.5") as stream:
        await stream.silent(2.5)
        await stream.take(BEAT)


@both_doors
async def test_heartbeats_can_be_switched_off(clock, door):
    """heartbeat.after = 0: never a comment."""
    async with line(door, clock, toml="[heartbeat]\nafter = 0") as stream:
        await stream.silent(110)
        assert await arrived(stream.response) == b""


# --- bodies that are no event streams


async def test_a_plain_body_has_no_heartbeat(clock):
    """Nothing may be added to JSON, however long it takes."""
    async with (
        Upstream() as upstream,
        relaying(upstream.url, clock=clock) as relay,
        asking(relay.post("/v1/chat/completions", {"model": "m"})) as task,
    ):
        _, wire = await upstream.next()
        await wire.head(content_type="application/json")
        await wire.chunk(b'{"a": ')
        async with asyncio.timeout(PATIENCE):
            stream = Line(clock, relay, wire, await task)
        await stream.take(b'{"a": ')
        await stream.silent(100)
        await wire.chunk(b"1}")
        await wire.end()
        assert await stream.response.content.read() == b"1}"


async def test_an_event_stream_that_was_got_beats(clock):
    """What the upstream says is an event stream has heartbeats, whatever the request was."""
    async with (
        Upstream() as upstream,
        relaying(upstream.url, clock=clock) as relay,
        asking(relay.get("/v1/responses/r1", stream="true")) as task,
    ):
        _, wire = await upstream.next()
        await wire.head(**SSE)
        delta = b'data: {"type": "response.output_text.delta", "delta": "Hi"}\n\n'
        await wire.chunk(delta)
        async with asyncio.timeout(PATIENCE):
            stream = Line(clock, relay, wire, await task)
        await stream.take(delta)
        await stream.silent(15)
        await stream.take(BEAT)


# --- open_after: an upstream that takes its time


class Early(NamedTuple):
    """A request that waits for its response."""

    clock: FakeClock
    relay: Relay
    upstream: Upstream
    wire: Wire
    task: "asyncio.Task[aiohttp.ClientResponse]"

    async def waits(self, seconds):
        """Let that time pass, and see that the client gets no status until its end."""
        self.clock.advance(seconds - 0.001)
        await settled()
        assert not self.task.done()
        self.clock.advance(0.001)

    async def opened(self):
        """Wait for the response."""
        async with asyncio.timeout(PATIENCE):
            return Line(self.clock, self.relay, self.wire, await self.task)


@asynccontextmanager
async def early(clock, toml="", path="/v1/chat/completions", **body: Any):
    """Ask an upstream that has the request and says nothing yet."""
    async with (
        Upstream() as upstream,
        relaying(upstream.url, clock=clock, toml=toml) as relay,
        asking(relay.post(path, {"model": "m", "stream": True} | body)) as task,
    ):
        _, wire = await upstream.next()
        yield Early(clock, relay, upstream, wire, task)


@pytest.mark.parametrize("path", ["chat/completions", "responses", "messages", "x/unknown"])
async def test_a_silent_upstream_is_waited_for_in_an_open_stream(clock, path):
    """After 20 s a POST with stream: true is answered 200, with a heartbeat; more go on from there.

    What the upstream says in the end goes through as it is, up to the end.
    """
    async with early(clock, path=f"/v1/{path}") as request:
        await request.waits(20)
        stream = await request.opened()
        assert stream.response.status == 200
        assert stream.response.headers["Content-Type"] == "text/event-stream"
        assert stream.response.headers["Teleprinter-Stream"]
        await stream.take(BEAT)
        for _ in range(3):
            await stream.silent(15)
            await stream.take(BEAT)
        delta = b'data: {"type": "content_block_delta", "delta": {"text": "Hi"}}\n\n'
        end = b'data: {"type": "response.completed"}\n\ndata: {"type": "message_stop"}\n\n'
        await stream.wire.head(**SSE)
        await stream.wire.chunk(delta + end + DONE)
        await stream.wire.end()
        await stream.take(delta + end[: end.index(b"\n\n") + 2])
        await stream.response.content.read()


async def test_tokens_follow_the_heartbeats_byte_for_byte(clock):
    """Role, tokens, finish and [DONE] come as sent; the stream ends whole."""
    async with early(clock) as request:
        await request.waits(20)
        stream = await request.opened()
        await stream.take(BEAT)
        await stream.wire.head(**SSE)
        await stream.wire.chunk(ROLE + TOKEN + FINISH + DONE)
        await stream.wire.end()
        assert await stream.response.content.read() == ROLE + TOKEN + FINISH + DONE


async def test_the_time_until_a_stream_is_opened_can_be_set(clock):
    """heartbeat.open_after is that time in seconds."""
    async with early(clock, toml="[heartbeat]\nopen_after = 3") as request:
        await request.waits(3)
        await (await request.opened()).take(BEAT)


async def test_opening_early_can_be_switched_off(clock):
    """heartbeat.open_after = 0: the status waits for the upstream, or for the clock `headers`."""
    async with early(clock, toml="[heartbeat]\nopen_after = 0") as request:
        await request.waits(120)
        stream = await request.opened()
        error = (await stream.response.json())["error"]
        assert (stream.response.status, error["code"]) == (504, "upstream_timeout_headers")


async def test_without_heartbeats_a_stream_is_opened_without_one(clock):
    """heartbeat.after = 0: the head goes out after open_after, and no comment with it."""
    async with early(clock, toml="[heartbeat]\nafter = 0") as request:
        await request.waits(20)
        stream = await request.opened()
        await stream.silent(90)
        assert await arrived(stream.response) == b""


@pytest.mark.parametrize("body", [{"stream": False}, {"stream": None}, {"stream": "true"}])
async def test_a_request_for_no_stream_is_never_opened_early(clock, body):
    """Without `stream: true` the status is the upstream's, however late."""
    async with early(clock, **body) as request:
        await request.waits(500)
        await request.wire.reply(418, '{"a": 1}', content_type="application/json")
        stream = await request.opened()
        assert stream.response.status == 418
        assert await stream.response.read() == b'{"a": 1}'


async def test_a_get_is_never_opened_early(clock):
    """Only a POST asks for a stream by its body."""
    async with (
        Upstream() as upstream,
        relaying(upstream.url, clock=clock) as relay,
        asking(relay.get("/v1/models", stream="true")) as task,
    ):
        _, wire = await upstream.next()
        request = Early(clock, relay, upstream, wire, task)
        await request.waits(500)
        await wire.reply(200, "{}")
        assert (await request.opened()).response.status == 200


# --- failures before and after


async def failing(stream):
    """Read the error frame at the end of an opened stream, which must then be cut."""
    text = await stream.response.content.readuntil(b"\n\n")
    with pytest.raises(CUT):
        await stream.response.content.read()
    return text


async def test_a_refusal_after_the_opening_is_an_error_frame(clock):
    """What could have been a status is told in the stream; it ends cut, without [DONE]."""
    async with early(clock) as request:
        await request.waits(20)
        stream = await request.opened()
        await stream.take(BEAT)
        await stream.wire.reply(429, '{"error": {"message": "Slow down"}}')
        text = await failing(stream)
    assert text.startswith(b'data: {"error":{"message":"')
    assert b"429" in text
    assert b"Slow down" in text
    assert b'"code":"upstream_error"' in text


async def test_a_broken_connection_after_the_opening_is_an_error_frame(clock):
    """The upstream that breaks off has cut the stream."""
    async with early(clock) as request:
        await request.waits(20)
        stream = await request.opened()
        await stream.take(BEAT)
        stream.wire.reset()
        assert b'"code":"upstream_cut"' in await failing(stream)


async def test_a_clock_that_runs_out_after_the_opening_is_an_error_frame(clock):
    """Heartbeats at 20, 35, … 110 s; at 120 s the clock `headers` ends the stream."""
    async with early(clock) as request:
        await request.waits(20)
        stream = await request.opened()
        await stream.take(BEAT)
        for _ in range(6):
            await stream.silent(15)
            await stream.take(BEAT)
        await stream.silent(10)
        assert b'"code":"upstream_timeout_headers"' in await failing(stream)


async def test_a_refusal_before_the_opening_is_the_upstream_s_own(clock):
    """Status and body as the upstream sent them, also in the last millisecond."""
    body = '{"error": {"message": "Slow down"}}'
    async with early(clock) as request:
        clock.advance(19.999)
        await request.wire.reply(429, body, content_type="application/json")
        response = (await request.opened()).response
        assert response.status == 429
        assert await response.text() == body


async def test_a_broken_connection_before_the_opening_is_a_status(clock):
    """Also when a role has come: until there is content, nothing has been said."""
    async with early(clock) as request:
        await request.wire.head(**SSE)
        await request.wire.chunk(ROLE)
        clock.advance(19.999)
        await settled()
        request.wire.reset()
        response = (await request.opened()).response
        assert (response.status, (await response.json())["error"]["code"]) == (502, "upstream_cut")


# --- what is held back


async def test_what_is_no_content_is_held_back_until_there_is_some(clock):
    """Comments and the role wait for the first token, and come before it, as they were sent."""
    async with early(clock) as request:
        await request.wire.head(**SSE)
        await request.wire.chunk(COMMENT + ROLE)
        await settled()
        await request.waits(19)
        await request.wire.chunk(COMMENT + TOKEN)
        stream = await request.opened()
        await stream.take(COMMENT + ROLE + COMMENT + TOKEN)
        await stream.silent(15)
        await stream.take(BEAT)


async def test_what_is_held_back_waits_no_longer_than_open_after(clock):
    """After 20 s comments and role go out; the upstream's headers are the response's."""
    async with early(clock) as request:
        await request.wire.head(**SSE, x_request_id="r-1")
        await request.wire.chunk(COMMENT + ROLE)
        await settled()
        await request.waits(20)
        stream = await request.opened()
        assert stream.response.headers["x-request-id"] == "r-1"
        assert (await arrived(stream.response)).replace(BEAT, b"") == COMMENT + ROLE
        await stream.silent(15)
        await stream.take(BEAT)
        await stream.wire.chunk(TOKEN)
        await stream.take(TOKEN)


async def test_the_same_for_an_event_stream_that_was_got(clock):
    """A GET that is answered by an event stream waits for content no longer either."""
    created = b'event: response.created\ndata: {"type": "response.created"}\n\n'
    async with (
        Upstream() as upstream,
        relaying(upstream.url, clock=clock) as relay,
        asking(relay.get("/v1/responses/r1", stream="true")) as task,
    ):
        _, wire = await upstream.next()
        await wire.head(**SSE)
        await wire.chunk(created)
        await settled()
        request = Early(clock, relay, upstream, wire, task)
        await request.waits(20)
        stream = await request.opened()
        assert (await arrived(stream.response)).replace(BEAT, b"") == created


async def test_an_answer_without_content_has_no_heartbeat(clock):
    """A stream that is complete before anything was sent is its own bytes, nothing more."""
    frames = [COMMENT, ROLE, chat_frame({}, finish="content_filter"), DONE]
    async with (
        Upstream(sse(*frames)) as upstream,
        relaying(upstream.url, clock=clock) as relay,
        relay.stream() as response,
    ):
        assert await response.content.read() == b"".join(frames)


async def test_a_plain_answer_to_a_request_for_a_stream_is_handed_on_at_once(clock):
    """JSON where a stream was asked for is the upstream's answer; no comment is added."""
    async with (
        Upstream(reply(200, '{"a": 1}', content_type="application/json")) as upstream,
        relaying(upstream.url, clock=clock) as relay,
        relay.stream() as response,
    ):
        assert (response.status, await response.read()) == (200, b'{"a": 1}')
