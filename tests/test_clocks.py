"""The five clocks: each upstream's own, on the test's clock and once on the real one.

Per upstream    connect · headers · first_token · idle · total, each by its table
Total           the whole stream, whatever it is doing; what the relay waits for does not count
Real            the same codes where seconds are seconds
"""

import asyncio
import json

import pytest

from fakes import HttpProxy, Upstream, chat_frame, frame
from faults import (
    ANTHROPIC,
    JSON,
    OPENAI,
    PLAIN,
    QUIET,
    WAYS,
    alone,
    ask,
    begins,
    events_of,
    moved,
    says,
    silent,
    upstream,
)
from line import dial
from relaying import relaying, settled, until

STREAM, WHOLE, CHAT, MESSAGES = (
    WAYS[name] for name in ("/v1 streamed", "/v1 plain", "/chat", "/v1/messages")
)
TOKEN = chat_frame({"content": "Hi"})
OWN = "clocks = {{ connect = {0}, headers = {0}, first_token = {0}, idle = {0}, total = {1} }}\n"
ROLE, HEL, LO = OPENAI[:3]


def error_of(answer):
    """Return the error of a response, be it a status or the last frame of a stream."""
    if answer.status != 200:
        return answer.error
    return json.loads(answer.body.rpartition(b"data: ")[2])["error"]


# --- per upstream

CODES = {
    "connect": "upstream_unreachable",
    "headers": "upstream_timeout_headers",
    "first_token": "upstream_timeout_first_token",
    "idle": "upstream_stalled",
    "total": "too_long",
}
SILENT = {
    "headers": lambda way: silent,
    "first_token": lambda way: begins(way, way.role, then="silence"),
    "idle": lambda way: begins(way, way.begun, then="silence"),
    "total": lambda way: begins(way, way.begun, then="silence"),
}


@pytest.mark.parametrize("way", [STREAM, MESSAGES], ids=["chat/completions", "messages"])
@pytest.mark.parametrize("name", CODES)
async def test_each_upstream_has_its_own(name, way, clock):
    """Two upstreams, two tables, neither the common one: 3 s and 5 s, not 7."""
    async with (
        HttpProxy(silent=True) as wall,
        Upstream(SILENT.get(name, SILENT["idle"])(way)) as api,
    ):
        url = f"https://127.0.0.1:{wall.port}" if name == "connect" else api.url
        toml = f"{QUIET}[clocks]\n{name} = 7\n"
        for prefix, seconds in [("/three", 3), ("/five", 5)]:
            own = f'prefix = "{prefix}"\nclocks = {{ {name} = {seconds} }}\n'
            toml += upstream(prefix[1:], url, own)
        async with relaying(toml=toml, clock=clock) as relay:
            for prefix, seconds in [("/three", 3), ("/five", 5)]:
                there = way._replace(path=prefix + way.path)
                asking = asyncio.create_task(ask(relay, there))
                await clock.armed(clock.now() + seconds)
                if name in {"idle", "total"}:
                    await until(lambda: relay.streams and relay.streams[0].began)
                clock.advance(seconds - 0.001)
                await settled()
                assert not asking.done()
                clock.advance(0.001)
                error = error_of(await asking)
                assert error["code"] == CODES[name]
                assert f"{seconds} s" in error["message"]
                await until(lambda: not relay.streams)


async def test_the_first_token_is_waited_for_less_long_where_there_is_a_fallback(clock):
    """300 s, by default; 600 s at the last one."""
    async with Upstream() as first, Upstream() as second:
        toml = upstream("a", first.url, 'fallback = ["b"]') + upstream("b", second.url)
        async with relaying(toml=QUIET + toml, clock=clock) as relay:
            asking = asyncio.create_task(ask(relay, CHAT))
            for server, seconds in [(first, 300), (second, 600)]:
                _, wire = await server.next()
                await wire.head(content_type="text/event-stream")
                await until(lambda: relay.streams[0].framed)
                clock.advance(seconds - 0.001)
                await settled()
                assert not wire.closed.is_set()
                clock.advance(0.001)
                await wire.closed.wait()
            event, data = events_of(await asking)[-1]
    assert (event, data["code"]) == ("error", "upstream_timeout_first_token")
    assert "600 s" in data["message"]


PINGS = {
    "comments": (STREAM, b": OPENROUTER PROCESSING\n\n"),
    "bare comments": (STREAM, b":\n\n"),
    "Anthropic's pings": (MESSAGES, frame({"type": "ping"}, "ping")),
}


@pytest.mark.parametrize("name", PINGS)
@pytest.mark.parametrize("begun", [False, True])
async def test_pings_re_arm_nothing(name, begun, clock):
    """However many come, the clock goes on; before the first content as after it."""
    way, ping = PINGS[name]
    async with Upstream() as api, relaying(toml=alone(api.url), clock=clock) as relay:
        asking = asyncio.create_task(ask(relay, way))
        _, wire = await api.next()
        await wire.head(content_type="text/event-stream")
        await wire.chunk(way.begun if begun else way.role)
        seen = (way.begun if begun else way.role).count(b"\n\n")
        [stream] = relay.streams
        await until(lambda: stream.frames == seen)
        for number in range(1, 20 + begun * 5):
            clock.advance(1)
            await wire.chunk(ping)
            await until(lambda number=number: stream.frames == seen + number)
        assert not asking.done()
        clock.advance(1)
        code = "upstream_stalled" if begun else "upstream_timeout_first_token"
        assert error_of(await asking)["code"] == code


# --- total

TOTAL = "[clocks]\nconnect = 0\nheaders = 0\nfirst_token = 0\nidle = 0\ntotal = 8\n"


@pytest.mark.parametrize(
    ("way", "script", "stage"),
    [
        (STREAM, silent, "headers"),
        (STREAM, begins(STREAM, ROLE, then="silence"), "first_token"),
        (STREAM, begins(STREAM, ROLE + HEL, then="silence"), "stream"),
        (WHOLE, silent, "headers"),
        (WHOLE, begins(WHOLE, PLAIN[:9], then="silence"), "stream"),
        (CHAT, begins(CHAT, ROLE + HEL, then="silence"), "stream"),
        (MESSAGES, begins(MESSAGES, ANTHROPIC[0], then="silence"), "first_token"),
    ],
    ids=["headers", "role", "text", "plain", "plain body", "chat", "messages"],
)
async def test_total_ends_whatever_is_going_on(way, script, stage, clock):
    """8 s from the request on: too_long, which no retry helps."""
    async with Upstream(script) as api:
        toml = QUIET + TOTAL + "[retry]\nattempts = 3\n" + upstream("a", api.url)
        async with relaying(toml=toml, clock=clock) as relay:
            asking = asyncio.create_task(ask(relay, way))
            await clock.armed(clock.now() + 8)
            await until(lambda: relay.streams and relay.streams[0]._stage == stage)
            clock.advance(7.999)
            await settled()
            assert not asking.done()
            clock.advance(0.001)
            answer = await asking
            await api.until(lambda: api.open_connections == 0)
    assert len(api.requests) == 1
    if way is CHAT:
        event, error = events_of(answer)[-1]
        assert (event, error["partial"]) == ("error", True)
    else:
        error = error_of(answer)
        assert answer.status == (200 if b"Hel" in answer.body else 504)
    assert (error["code"], error["stage"], error["retryable"]) == ("too_long", stage, False)
    assert "8 s" in error["message"]


async def test_total_is_not_re_armed_by_tokens(clock):
    """A stream that never falters is ended in the middle, and says so."""
    async with Upstream() as api:
        toml = QUIET + TOTAL + upstream("a", api.url)
        async with relaying(toml=toml, clock=clock) as relay, dial(relay.port) as line:
            await line.send("POST", STREAM.path, JSON, body=STREAM.sent)
            _, wire = await api.next()
            await wire.head(content_type="text/event-stream")
            for number in range(8):
                await wire.chunk(TOKEN)
                await until(lambda number=number: relay.streams[0].frames == number + 1)
                clock.advance(1)
            answer = await line.answer()
    assert answer.body.startswith(TOKEN * 8)
    assert error_of(answer)["code"] == "too_long"
    assert not answer.whole


async def test_total_covers_the_waits_between_attempts(clock):
    """A back-off is a part of the whole."""
    async with Upstream(says(429, ("Retry-After", "5"))(STREAM)) as api:
        toml = QUIET + TOTAL + "[retry]\nattempts = 3\n" + upstream("a", api.url)
        async with relaying(toml=toml, clock=clock) as relay:
            asking = asyncio.create_task(ask(relay, STREAM))
            await moved(clock, 5)
            await api.until(lambda: len(api.requests) == 2)
            await clock.armed(clock.now() + 5)
            await moved(clock, 3)
            answer = await asking
    assert (answer.status, answer.error["code"]) == (504, "too_long")
    assert len(api.requests) == 2


async def test_total_is_that_of_the_upstream_that_was_asked_for(clock, dead_port):
    """The fallback's is for those who ask it; the message names the one that counted."""
    async with Upstream(silent) as backup:
        toml = upstream(
            "a", f"http://127.0.0.1:{dead_port}", 'fallback = ["b"]\n' + OWN.format(0, 4)
        )
        toml += upstream("b", backup.url, OWN.format(0, 2))
        async with relaying(toml=QUIET + toml, clock=clock) as relay:
            asking = asyncio.create_task(ask(relay, STREAM))
            await backup.until(lambda: len(backup.requests) == 1)
            clock.advance(3)
            await settled()
            assert not asking.done()
            clock.advance(1)
            answer = await asking
    assert (answer.error["code"], "the 4 s" in answer.error["message"]) == ("too_long", True)


LARGE = 110
"""Frames of 60 kB: more than the kernel takes of what nobody reads."""


async def poured(wire):
    """Send so many frames, as fast as they are taken."""
    for _ in range(LARGE):
        await wire.chunk(chat_frame({"content": "x" * 60_000}))


async def test_total_does_not_count_what_the_client_delays(clock):
    """While the relay waits for its reader the clock stands."""
    async with Upstream() as api:
        toml = QUIET + TOTAL + "[limits]\nsend_timeout = 0\n" + upstream("a", api.url)
        async with relaying(toml=toml, clock=clock) as relay, dial(relay.port) as line:
            line._reader._limit = 1 << 10  # so that it takes little by itself
            await line.send("POST", STREAM.path, JSON, body=STREAM.sent)
            _, wire = await api.next()
            await wire.head(content_type="text/event-stream")
            clock.advance(5)
            pouring = asyncio.create_task(poured(wire))
            await until(lambda: relay.streams[0].replay._room is not None)
            await until(lambda: relay.streams[0]._total._when == float("inf"))
            clock.advance(3600)
            await settled()
            assert relay.streams[0].replay.ending is None
            line._reader._limit = 1 << 26
            asking = asyncio.create_task(line.answer())
            await pouring
            await until(lambda: relay.streams[0].frames == LARGE)
            await wire.chunk(b"data: [DONE]\n\n")
            await wire.end()
            answer = await asking
    assert (answer.status, answer.whole) == (200, True)
    assert answer.body.count(b"x" * 60_000) == LARGE


async def test_a_pause_that_the_client_causes_ends(clock):
    """From then on the idle clock is re-armed by events again."""
    async with Upstream() as api:
        toml = QUIET + "[clocks]\nidle = 8\n[limits]\nsend_timeout = 0\n" + upstream("a", api.url)
        async with relaying(toml=toml, clock=clock) as relay, dial(relay.port) as line:
            line._reader._limit = 1 << 10  # so that it takes little by itself
            await line.send("POST", STREAM.path, JSON, body=STREAM.sent)
            _, wire = await api.next()
            await wire.head(content_type="text/event-stream")
            pouring = asyncio.create_task(poured(wire))
            await until(lambda: relay.streams[0].replay._room is not None)
            line._reader._limit = 1 << 26
            asking = asyncio.create_task(line.answer())
            await pouring
            for number in range(LARGE, LARGE + 4):
                await until(lambda number=number: relay.streams[0].frames == number)
                clock.advance(6)
                await settled()
                await wire.chunk(TOKEN)
            await wire.chunk(b"data: [DONE]\n\n")
            await wire.end()
            answer = await asking
    assert (answer.status, answer.whole) == (200, True)
    assert answer.body.count(TOKEN) == 4


async def test_off(clock):
    """By default there is no total: a day later the stream is still on."""
    async with Upstream() as api:
        toml = QUIET + "[clocks]\nheaders = 0\nfirst_token = 0\nidle = 0\n" + upstream("a", api.url)
        async with relaying(toml=toml, clock=clock) as relay:
            asking = asyncio.create_task(ask(relay, STREAM))
            _, wire = await api.next()
            await moved(clock)
            clock.advance(86_400)
            await settled()
            await wire.reply(200, b"data: [DONE]\n\n", content_type="text/event-stream")
            assert (await asking).status == 200


# --- real

SOON = 0.2
"""Seconds; nothing is said about how long it took."""


def trickle(way, *begun, each):
    """Return a script that begins so, and then sends that for ever."""

    async def script(_request, wire):
        await wire.head(content_type="text/event-stream")
        for data in begun:
            await wire.chunk(data)
        while True:
            await wire.chunk(each)
            await asyncio.sleep(SOON / 8)

    return script


COMMENT = b": keep-alive\n\n"
PING = frame({"type": "ping"}, "ping")
REAL = {
    "headers": ("headers", STREAM, silent),
    "first token": ("first_token", STREAM, trickle(STREAM, ROLE, each=COMMENT)),
    "first token, pings": ("first_token", MESSAGES, trickle(MESSAGES, ANTHROPIC[0], each=PING)),
    "idle": ("idle", STREAM, trickle(STREAM, ROLE, HEL, each=COMMENT)),
    "idle, pings": ("idle", MESSAGES, trickle(MESSAGES, MESSAGES.begun, each=PING)),
    "total": ("total", STREAM, trickle(STREAM, each=TOKEN)),
    "total, plain": ("total", WHOLE, silent),
}


@pytest.mark.both_loops
@pytest.mark.parametrize("name", REAL)
async def test_on_real_sockets(name):
    """The clock that is short ends it, while comments, pings or tokens go on and on."""
    clock_name, way, script = REAL[name]
    async with Upstream(script) as api:
        toml = QUIET + f"[clocks]\n{clock_name} = {SOON}\n" + upstream("a", api.url)
        async with relaying(toml=toml) as relay:
            answer = await ask(relay, way)
            await api.until(lambda: api.open_connections == 0)
    assert error_of(answer)["code"] == CODES[clock_name]
    assert answer.whole is (answer.status != 200)


@pytest.mark.both_loops
@pytest.mark.parametrize("through", ["direct", "http", "socks5h"])
async def test_connect_on_real_sockets(through):
    """What takes the connection and stays silent is left, whatever it is."""
    async with HttpProxy(silent=True) as wall:
        url = f"https://127.0.0.1:{wall.port}"
        way = through if through == "direct" else wall.url_as(through)
        pool = f'[[pool]]\nname = "p"\nproxies = ["{way}"]\n'
        toml = QUIET + f"[clocks]\nconnect = {SOON}\n" + upstream("a", url) + pool
        async with relaying(toml=toml) as relay:
            answer = await ask(relay, WHOLE)
            await wall.until(lambda: wall.open_connections == 0)
    code = "upstream_unreachable" if through == "direct" else "proxy_timeout"
    assert (answer.status, answer.error["code"]) == (504, code)
