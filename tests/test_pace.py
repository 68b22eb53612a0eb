"""The pace `smooth` through the whole relay: who is paced, what an SDK makes of it, who leaves.

All times are those of a clock that the tests move: 1000.0 at the start.
"""

import asyncio
import json
from contextlib import asynccontextmanager

import aiohttp
import pytest

from clock import PATIENCE, FakeClock
from fakes import Upstream, chat_frame, sse
from fakes.frames import DONE
from pace_table import CHINESE, EMOJI, say, words
from relaying import arrived, events, read_events, relaying, settled, until
from sdks import (
    ASKED,
    CLAUDE,
    around_the_sdks,  # noqa: F401  a fixture of every test here
    async_anthropic_client,
    async_openai_client,
    connected,
)
from service.adapters.outlet import Outlet
from service.adapters.replay.unkept import WINDOW
from service.core.dialect import Chat
from service.core.events import Ending, Frame, Summary
from service.core.pacing import Smooth
from service.core.view import ChatView, RawView
from wires import anthropic as messages

CUT = aiohttp.ClientPayloadError
STREAMED = {"content_type": "text/event-stream"}
SMOOTH = {"Teleprinter-Pace": "smooth"}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
QUIET = "[heartbeat]\nafter = 0\n[clocks]\nidle = 0\n[limits]\nsend_timeout = 0\n"
LUMP = b"".join(words(40))
SENTENCES = f"The sky is blue because of the air. {CHINESE} {EMOJI}\r\n\r\n    return 'blue'"
ONE_READ = 512 * 1024
"""Bytes, at most, that come from the upstream's socket at once."""


@asynccontextmanager
async def answering(clock, toml="", **variables):
    """Yield a relay, the upstream's end of its one stream, and the stream's events."""
    async with (
        Upstream() as upstream,
        relaying(upstream.url, clock=clock, toml=toml, **variables) as relay,
        relay.get("/chat", question="Hi?", pace="smooth") as response,
    ):
        stream = events(response)
        assert (await anext(stream)).name == "start"
        _, wire = await upstream.next()
        await wire.head(**STREAMED)
        yield relay, wire, response


async def passing(clock, task, step=0.05):
    """Move the clock until the task is done; return its result."""
    async with asyncio.timeout(PATIENCE):
        while not task.done():
            await settled()
            clock.advance(step)
    return await task


def ask(relay, headers=SMOOTH):
    """Ask /v1 for a stream."""
    return relay.post("/v1/chat/completions", {"model": "m", "stream": True}, headers)


async def contents(response):
    """Return how many events have come that nobody has read."""
    return (await arrived(response)).count(b"\n\n")


# --- the schedule


@pytest.mark.both_loops
async def test_a_lump_is_spread(clock):
    """40 tokens in one packet: the first at once, the last within 600 ms, one after the other."""
    async with answering(clock) as (_, wire, response):
        await wire.chunk(LUMP)
        await until(clock.pending)
        found = [await contents(response)]
        for _ in range(60):
            clock.advance(0.01)
            found.append(await contents(response))
        assert found[0] == 1
        assert sum(found) == 40
        assert max(found) == 1
        assert sum(found[:30]) in {19, 20, 21}


async def test_a_steady_stream_is_not_held(clock):
    """A token that comes by itself leaves by itself, and nobody sets a timer for it."""
    async with answering(clock, QUIET) as found:
        _, wire, response = found
        for _ in range(20):
            clock.advance(0.05)
            await wire.chunk(say(" word"))
            async with asyncio.timeout(PATIENCE):
                await response.content.readuntil(b"\n\n")
            assert clock.next_due() > clock.now() + 10


async def test_the_end_comes_with_the_last_token(clock):
    """`done` waits for the text before it: 600 ms at most after the upstream has ended."""
    async with answering(clock) as (relay, wire, response):
        await wire.chunk(LUMP + chat_frame({}, finish="stop") + DONE)
        await wire.end()
        await until(lambda: not relay.streams)
        clock.advance(0.5)
        assert b"event: done" not in await arrived(response)
        clock.advance(0.1)
        rest = await response.content.read()
    assert rest.count(b"event: answer") < 10
    assert rest.endswith(b"\n\n")
    assert b"event: done" in rest


async def test_an_error_after_a_cut_comes_behind_the_text(clock):
    """The tokens that came are all told, then what cut them."""
    async with answering(clock) as (relay, wire, response):
        await wire.chunk(LUMP)
        wire.close()
        await until(lambda: not relay.streams)
        clock.advance(0.6)
        told = await arrived(response)
        with pytest.raises(CUT):
            await response.content.read()
    assert told.count(b"event: answer") == 40
    assert told.partition(b"event: error")[2].count(b"event:") == 0
    assert b"upstream_cut" in told


async def test_what_is_no_text_keeps_its_place(clock):
    """Tool calls come between the words where the upstream had them."""
    call = chat_frame({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f"}}]})
    frames = [*words(10), call, *words(10), chat_frame({}, finish="stop"), DONE]
    async with (
        Upstream(sse(b"".join(frames))) as upstream,
        relaying(upstream.url, clock=clock, pace="smooth") as relay,
        relay.get("/chat", question="Hi?") as response,
    ):
        names = [e.name for e in await passing(clock, asyncio.create_task(read_events(response)))]
    assert names == ["start", *["answer"] * 10, "tool_calls", *["answer"] * 10, "done"]


async def test_long_texts_come_in_parts_with_ids(clock):
    """Each part is an event; its id says how much of the frame has gone, the last has the plain."""
    async with (
        Upstream(sse(say(SENTENCES), chat_frame({}, finish="stop"), DONE)) as upstream,
        relaying(upstream.url, clock=clock, pace="smooth") as relay,
        relay.get("/chat", question="Hi?") as response,
    ):
        found = await passing(clock, asyncio.create_task(read_events(response)))
    answers = [event for event in found if event.name == "answer"]
    assert len(answers) > 10
    assert "".join(event.data["content"] for event in answers) == SENTENCES
    told, frame = 0, answers[-1].id
    for event in answers[:-1]:
        told += len(event.data["content"])
        assert event.id == f"{frame}+{told}"


# --- who is paced, and for how long


async def released(clock, relay, request):
    """Return how many of 40 tokens that came together a request gets without waiting."""
    async with request as response:
        await until(lambda: not relay.streams)
        return (await arrived(response)).count(b'"content":')


@pytest.mark.parametrize(
    ("variables", "query", "at_once"),
    [
        ({}, {}, 40),
        ({}, {"pace": "smooth"}, 1),
        ({"pace": "smooth"}, {}, 1),
        ({"pace": "smooth"}, {"pace": "off"}, 40),
        ({"pace": "smooth"}, {"delay_ms": "0"}, 40),
        ({"delay_ms": "50"}, {"pace": "smooth"}, 1),
    ],
)
async def test_who_asks_for_it_at_chat(clock, variables, query, at_once):
    """The request, else the settings."""
    async with (
        Upstream(sse(LUMP + DONE)) as upstream,
        relaying(upstream.url, clock=clock, **variables) as relay,
    ):
        request = relay.get("/chat", question="Hi?", **query)
        assert await released(clock, relay, request) == at_once


@pytest.mark.parametrize(
    ("own", "headers", "at_once"),
    [
        ("", {}, 40),
        ("", SMOOTH, 1),
        ('pace = "smooth"', {}, 1),
        ('pace = "smooth"', {"Teleprinter-Pace": "off"}, 40),
        ('pace = "typewriter"', {}, 1),
        ('pace = "off"', SMOOTH, 1),
    ],
)
async def test_who_asks_for_it_at_v1(clock, own, headers, at_once):
    """The request's header, else the upstream's own setting; never that of /chat."""
    async with Upstream(sse(LUMP + DONE)) as upstream:
        toml = f'[chat]\npace = "smooth"\n[[upstream]]\nname = "a"\nurl = "{upstream.url}"\n{own}'
        async with relaying(clock=clock, toml=toml) as relay:
            assert await released(clock, relay, ask(relay, headers)) == at_once


async def test_a_delay_contradicts_it():
    """400 that names both, for a query and for headers; the upstream is not asked."""
    both = {**SMOOTH, "Teleprinter-Delay": "50"}
    async with Upstream() as upstream, relaying(upstream.url) as relay:
        chatting = relay.get("/chat", question="x", pace="smooth", delay_ms="50")
        for request in (chatting, ask(relay, both)):
            async with request as response:
                error = (await response.json())["error"]
            assert (response.status, error["code"]) == (400, "bad_request")
            assert "typewriter, not smooth" in error["message"]
        assert upstream.connections == 0


@pytest.mark.parametrize("lag", [100, 2000])
async def test_max_lag_is_a_setting(clock, lag):
    """chat.max_lag_ms holds for /v1 as well: all has left by then, and not long before."""
    async with (
        Upstream(sse(LUMP)) as upstream,
        relaying(upstream.url, clock=clock, toml=f"[chat]\nmax_lag_ms = {lag}\n") as relay,
        ask(relay) as response,
    ):
        await until(clock.pending)
        clock.advance(lag * 0.9 / 1000)
        early = (await arrived(response)).count(b'"content":')
        clock.advance(lag * 0.1 / 1000)
        assert 30 < early < 40
        assert early + (await arrived(response)).count(b'"content":') == 40


# --- what the SDKs make of it


async def spoken(client):
    """Return what the openai SDK gets of a stream, chunk by chunk."""
    asked = {"model": "m", "messages": ASKED, "stream": True}
    async with await client.chat.completions.create(**asked) as stream:
        return [chunk async for chunk in stream]


async def collected(client):
    """Return what the openai SDK adds up."""
    async with client.chat.completions.stream(model="m", messages=ASKED) as stream:
        async for _ in stream:
            pass
        return await stream.get_final_completion()


def lumpy():
    """Return an answer in lumps and long chunks; logprobs, finish and usage ride on text."""
    probs = {"content": [{"token": "x", "logprob": -0.5, "bytes": None, "top_logprobs": []}]}
    long = json.loads(chat_frame({"content": SENTENCES}, finish="stop")[6:])
    long["choices"][0]["logprobs"] = probs
    last = b"data: %s\n\n" % json.dumps(long).encode()
    role = chat_frame({"role": "assistant", "content": SENTENCES})
    return [role + LUMP, say(SENTENCES) + last, chat_frame(usage=USAGE), DONE]


WHOLE = SENTENCES + "".join(json.loads(f[6:])["choices"][0]["delta"]["content"] for f in words(40))
WHOLE += SENTENCES * 2


@pytest.fixture(params=[None, "s"], ids=["without ids", "with ids"])
def ids(request, monkeypatch):
    """Let /v1 streams carry ids, as those that are kept do."""
    if request.param:
        named = lambda dialect, _, **more: RawView(dialect, request.param, **more)  # noqa: E731
        monkeypatch.setattr("service.resuming.RawView", named)
    return request.param


async def test_openai_chunk_by_chunk(clock, ids):
    """The text is exact; role, finish, logprobs and usage come once; all chunks are of one kind."""
    async with (
        Upstream(sse(*lumpy())) as upstream,
        relaying(upstream.url, clock=clock) as relay,
        connected(async_openai_client(relay.url)) as client,
    ):
        paced = client.with_options(default_headers=SMOOTH)
        chunks = await passing(clock, asyncio.create_task(spoken(paced)))
        plain = await passing(clock, asyncio.create_task(spoken(client)))
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert len(chunks) > 2 * len(plain)
    assert "".join(choice.delta.content or "" for choice in choices) == WHOLE
    assert [choice.delta.role for choice in choices if choice.delta.role] == ["assistant"]
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    assert [len(c.logprobs.content) for c in choices if c.logprobs] == [1]
    assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == [3]
    assert {(c.id, c.model, c.created, c.object) for c in chunks} == {
        (c.id, c.model, c.created, c.object) for c in plain
    }


async def test_openai_adds_it_up(clock, ids):
    """What the SDK's own accumulator makes of it is what it makes of the unpaced stream."""
    async with (
        Upstream(sse(*lumpy())) as upstream,
        relaying(upstream.url, clock=clock) as relay,
        connected(async_openai_client(relay.url)) as client,
    ):
        paced = client.with_options(default_headers=SMOOTH)
        smooth = await passing(clock, asyncio.create_task(collected(paced)))
        plain = await passing(clock, asyncio.create_task(collected(client)))
    assert smooth == plain
    assert smooth.choices[0].message.content == WHOLE


@pytest.mark.parametrize("ids", ["s"], indirect=True)
@pytest.mark.parametrize("headers", [{}, SMOOTH], ids=["off", "smooth"])
async def test_openai_among_ids_and_comments(clock, ids, headers):
    """Comments, retry, the upstream's own ids and frames without data do no harm beside our ids.

    openai-python 3.54 takes any blank line behind an id for an event, and fails to read it.
    """
    noise = b": PROCESSING\n\n: two\r\n: lines\r\n\r\n"
    frames = [noise, say("one "), noise, b"id: 7\n" + say("two "), noise, b"retry: 5\n\n"]
    frames += [b"event: nothing\n\n", b"id: 8\n\n", say("three ") * 20, noise]
    frames += [chat_frame({}, finish="stop"), noise, DONE]
    async with (
        Upstream(sse(*frames)) as upstream,
        relaying(upstream.url, clock=clock) as relay,
        connected(async_openai_client(relay.url)) as client,
    ):
        asking = spoken(client.with_options(default_headers=headers))
        chunks = await passing(clock, asyncio.create_task(asking))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == "one two " + "three " * 20


async def test_openai_behind_a_heartbeat(clock, ids):
    """A comment of the relay's between chunks with ids has one newline: the SDK reads on."""
    async with (
        Upstream() as upstream,
        relaying(upstream.url, clock=clock) as relay,
        connected(async_openai_client(relay.url)) as client,
    ):
        task = asyncio.create_task(spoken(client))
        _, wire = await upstream.next()
        await wire.head(**STREAMED)
        await wire.chunk(say("one "))
        await clock.armed(1015.0)
        await settled()
        clock.advance(16)
        await wire.chunk(say("two") + chat_frame({}, finish="stop") + DONE)
        await wire.end()
        async with asyncio.timeout(PATIENCE):
            chunks = await task
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two"


async def test_anthropic(clock):
    """Deltas of the Messages API are cut; its SDK adds up the exact text."""
    frames = messages.stream([SENTENCES, "and ", SENTENCES])
    async with (
        Upstream(sse(b"".join(frames))) as upstream,
        relaying(upstream.url, clock=clock) as relay,
        connected(async_anthropic_client(relay.url)) as client,
    ):

        async def ask_it():
            asked = {"model": CLAUDE, "max_tokens": 9, "messages": ASKED, "extra_headers": SMOOTH}
            async with client.messages.stream(**asked) as stream:
                texts = [text async for text in stream.text_stream]
                return texts, await stream.get_final_text()

        texts, final = await passing(clock, asyncio.create_task(ask_it()))
    assert len(texts) > 10
    assert final == "".join(texts) == SENTENCES + "and " + SENTENCES


# --- leaving, silence, slow clients


@pytest.mark.both_loops
@pytest.mark.parametrize("door", ["chat", "v1"])
async def test_who_leaves_is_let_go_at_once(clock, door):
    """Tokens that wait keep nobody: the upstream is hung up on, and no timer is left."""
    async with (
        Upstream() as upstream,
        relaying(upstream.url, clock=clock) as relay,
    ):
        request = relay.get("/chat", question="x", pace="smooth") if door == "chat" else ask(relay)
        task = asyncio.create_task(_response(request))
        _, wire = await upstream.next()
        await wire.head(**STREAMED)
        await wire.chunk(LUMP)
        response = await task
        await until(lambda: (clock.next_due() or 9999) < 1001)
        response.close()
        async with asyncio.timeout(PATIENCE):
            await wire.closed.wait()
        await until(lambda: not relay.streams)
        assert clock.pending() == []
        assert clock.now() == 1000.0


async def _response(request):
    return await request


async def test_heartbeats_stand_between_held_events(clock):
    """While the next part is far off a comment is sent: between two events, never inside one."""
    toml = "[chat]\nmax_lag_ms = 20000\n[heartbeat]\nafter = 1\n[clocks]\nidle = 0\n"
    async with answering(clock, toml) as (_, wire, response):
        await wire.chunk(say("one ") + say("two ") + say("three"))
        await until(lambda: len(clock.pending()) > 1)
        data = bytearray(await arrived(response))
        for _ in range(40):
            clock.advance(0.5)
            data += await arrived(response)
    blocks = bytes(data).removesuffix(b"\n\n").split(b"\n\n")
    assert [block[:5] for block in blocks].count(b": kee") >= 15
    assert {block for block in blocks if block[:1] == b":"} == {b": keep-alive"}
    said = [json.loads(b.partition(b"data: ")[2])["content"] for b in blocks if b[:1] != b":"]
    assert said == ["one ", "two ", "three"]


async def test_the_upstream_is_read_on_while_tokens_wait(clock):
    """All is read, and the upstream's connection free again, with one token out."""
    async with (
        Upstream(sse(*words(300), DONE)) as upstream,
        relaying(upstream.url, clock=clock) as relay,
        ask(relay) as response,
    ):
        await until(lambda: not relay.streams)
        assert clock.now() == 1000.0
        assert (await arrived(response)).count(b"data:") < 5


async def test_a_full_queue_pauses_the_upstream(clock):
    """limits.queue bytes may wait; then it is no longer read, until tokens have left."""
    large, queue = "x" * 20_000, 100_000
    async with (
        Upstream(sse(*[say(large)] * 200, DONE)) as upstream,
        relaying(upstream.url, clock=clock, toml=f"[limits]\nqueue = {queue}\n") as relay,
        ask(relay) as response,
    ):
        (reading,) = relay.streams
        await until(lambda: reading.replay.full)
        await settled()
        assert reading.frames * len(large) <= queue + 2 * (WINDOW + ONE_READ)
        data = await passing(clock, asyncio.create_task(response.content.read()))
    chunks = [json.loads(frame[6:]) for frame in data.split(b"\n\n")[:-2]]
    assert "".join(c["choices"][0]["delta"]["content"] for c in chunks) == large * 200


# --- the outlet


class Reader:
    """A reader of the frames of a stream, so many of which had come before it did."""

    def __init__(self, found, live_from):
        self.live_from = live_from
        self.ending = None
        self._left = found

    @property
    def behind(self):
        """What it has not taken."""
        return len(self._left)

    def follow(self, callback):
        """Nothing more comes."""

    def take(self):
        """Return ten frames; behind the last of them the ending is known."""
        taken, self._left = self._left[:10], self._left[10:]
        if not self._left:
            self.ending = Ending(101, "ok", Summary())
        return taken


class Response:
    """What the outlet writes to."""

    def __init__(self):
        self.data = b""

    async def write(self, data):
        """Take bytes."""
        self.data += data


@pytest.mark.parametrize(("live_from", "at_once"), [(0, 1), (41, 41), (101, 100)])
async def test_catching_up_is_not_paced(clock, live_from, at_once):
    """What came before the reader goes straight out; the first live lump is spread."""
    dialect = Chat()
    raw = words(100)
    found = [Frame(number, frame, dialect.read(frame)) for number, frame in enumerate(raw, 1)]
    outlet = Outlet(
        Reader(found, live_from), ChatView("s"), Smooth(0.6), clock,
        heartbeat=b"", every=0, queue=1 << 20, patience=0,
    )  # fmt: skip
    response = Response()
    task = asyncio.create_task(outlet.run(response))
    await settled()
    assert response.data.count(b"event: answer") == at_once
    clock.advance(0.6)
    await task
    assert response.data.count(b"event: answer") == 100
    assert response.data.endswith(b"\n\n")


class Coarse(FakeClock):
    """A clock like uvloop's: its timers ring at whole milliseconds, up to one too soon."""

    rings = 0

    def call_at(self, when, callback):
        """Call back a little too soon."""
        self.rings += 1
        return super().call_at(int(when * 1000) / 1000, callback)


async def test_a_timer_that_rings_too_soon_is_not_set_again():
    """One timer for each release, also where the loop's timers are coarse: nothing spins."""
    dialect, clock, response = Chat(), Coarse(), Response()
    found = [Frame(number, frame, dialect.read(frame)) for number, frame in enumerate(words(40), 1)]
    outlet = Outlet(
        Reader(found, 0), ChatView("s"), Smooth(0.6), clock,
        heartbeat=b"", every=0, queue=1 << 20, patience=0,
    )  # fmt: skip
    task = asyncio.create_task(outlet.run(response))
    await settled()
    clock.advance(0.6)
    await task
    assert response.data.count(b"event: answer") == 40
    assert clock.rings <= 41
