"""Every Python SDK against the relay, through a proxy, to an API that speaks its provider's wire.

The ids are the cells of a table, `SDK: case`. What an SDK does wrong by itself stands in the
docstring of the case. A synchronous SDK that waits for a token cannot be cancelled from outside.
"""

import asyncio

import pytest

from compare import told
from fakes import HttpProxy, SocksProxy, Upstream, in_turn
from relaying import relaying
from sdks import (
    KEY,
    PROMPT,
    SDKS,
    around_the_sdks,  # noqa: F401  a fixture of every test here
    asking,
)
from way import BEAT, BEAT_AFTER, OPEN_AFTER, begin, each, line, up_to
from wires import answers, streams

TOKENS = ["Hel", "lo", " there"]
WIDE = ["你好", "，世界", "🌍", "👩‍👩‍👧‍👦", "한국어", " e\u0301", "𝔘", "a\u2028b\u0085c", "\\n\n"]
IDLE = 120
ASYNCHRONOUS = [sdk for sdk in SDKS if sdk.asynchronous]


@each("plain", HTTP=HttpProxy, SOCKS=SocksProxy)
async def test_plain(sdk, how):
    """The text comes token by token, and the API is asked as if there were no relay."""
    script = streams(sdk.speech.stream(TOKENS), sdk.speech.headers)
    async with line(sdk, script, proxy=how) as way:
        assert await way.rest() == TOKENS
        async with asking(sdk, way.upstream.url) as direct:
            assert [token async for token in direct] == TOKENS
        relayed, asked = way.upstream.requests
        assert told(relayed) == told(asked)
        assert relayed.target == sdk.speech.path
        assert KEY in (relayed.get("authorization") or relayed.get("x-api-key"))


@each("CJK and emoji", whole=False, torn=True)
async def test_wide(sdk, how):
    """Characters of any width arrive, also when the upstream's reads tear them apart."""
    frames = sdk.speech.stream(WIDE)
    async with line(sdk, streams(frames, torn=how)) as way:
        assert await way.rest() == WIDE
        assert PROMPT in way.upstream.requests[0].body.decode()


@each("heartbeat before the first token")
async def test_early_heartbeat(sdk, how, clock):
    """While the upstream is silent the stream is opened, and heartbeats keep it: no SDK minds."""
    frames = sdk.speech.stream(TOKENS)
    async with line(sdk, clock=clock) as way:
        first, wire = await way.ask()
        await way.beats(clock, OPEN_AFTER, BEAT_AFTER, BEAT_AFTER)
        await begin(wire, *frames)
        await wire.end()
        assert [await first, *await way.rest()] == TOKENS
        assert way.tap.down.index(BEAT) < way.tap.down.index(b"Hel")


@each("heartbeat between tokens")
async def test_heartbeat_between(sdk, how, clock):
    """A pause, here within a frame, is filled with heartbeats; the text stays the same."""
    frames = sdk.speech.stream(TOKENS)
    so_far = up_to(frames, TOKENS[0])
    async with line(sdk, clock=clock) as way:
        first, wire = await way.ask()
        await begin(wire, *frames[:so_far], frames[so_far][:9])
        assert await first == TOKENS[0]
        await way.beats(clock, BEAT_AFTER, BEAT_AFTER)
        await wire.chunk(b"".join(frames[so_far:])[9:])
        await wire.end()
        assert await way.rest() == TOKENS[1:]
        assert way.tap.down.index(b"Hel") < way.tap.down.index(BEAT)


async def by_fin(wire, clock):
    """Cut with FIN, as a server that restarts."""
    wire.close()


async def by_rst(wire, clock):
    """Cut with RST, as a server that is killed."""
    wire.reset()


async def by_a_clean_end(wire, clock):
    """End the body as HTTP wants it, before the answer is complete."""
    await wire.end()


async def by_silence(wire, clock):
    """Say nothing until the relay gives up."""
    await clock.armed(clock.now() + IDLE)
    clock.advance(IDLE)


BROKEN = "broke off in the middle of its answer"
EARLY = "ended its stream before it said that the answer was complete"
CUTS = {
    "FIN": (by_fin, "upstream_cut", BROKEN),
    "RST": (by_rst, "upstream_cut", BROKEN),
    "early end": (by_a_clean_end, "upstream_cut", EARLY),
    "silence": (by_silence, "upstream_stalled", f"sent nothing for {IDLE} s"),
}


@each("cut,", **CUTS)
async def test_cut(sdk, how, clock):
    """A stream that is cut, in the middle of a frame, raises the SDK's error and says why.

    By themselves all of these SDKs take an early end for success, and anthropic raises a naked
    httpx2.RemoteProtocolError at a cut (anthropic-sdk-python #1919). What the error frame brings
    there is an APIStatusError of status 200; its `type` and `body` tell (#1258, #1918).
    """
    cut, code, words = how
    frames = sdk.speech.stream(TOKENS)
    so_far = up_to(frames, TOKENS[1])
    async with line(sdk, clock=clock) as way:
        first, wire = await way.ask()
        await begin(wire, *frames[:so_far], frames[so_far][:9])
        assert [await first, await anext(way.tokens)] == TOKENS[:2]
        await cut(wire, clock)
        with pytest.raises(sdk.cut) as caught:
            await anext(way.tokens)
        assert type(caught.value) is sdk.cut
        assert caught.value.body.get("error", caught.value.body)["code"] == code
        assert words in str(caught.value)
        assert not way.tap.down.endswith(b"0\r\n\r\n")


@each("error", **{"401": 401, "429": 429})
async def test_status(sdk, how):
    """An error of the API is the exception that the SDK raises without a relay, word for word."""
    retry = [("retry-after", "7"), ("x-should-retry", "true")]
    script = answers(sdk.speech.error(how), how, [*sdk.speech.headers, *retry])
    kind = sdk.house.AuthenticationError if how == 401 else sdk.house.RateLimitError
    async with line(sdk, script) as way:
        with pytest.raises(kind) as relayed:
            await way.rest()
        async with asking(sdk, way.upstream.url) as direct:
            with pytest.raises(kind) as told_directly:
                await anext(direct)
        seen, meant = relayed.value, told_directly.value
        assert type(seen) is type(meant)
        assert (str(seen), seen.body, seen.request_id) == (str(meant), meant.body, meant.request_id)
        assert seen.request_id is not None
        ours = {"teleprinter-request-id", "teleprinter-upstream", "date", "server"}
        there = {n: v for n, v in seen.response.headers.items() if n not in ours}
        assert there == dict(meant.response.headers)


@each("error, tried again")
async def test_retry(sdk, how):
    """The SDK tries again when the API asks for that, as often as the API says no."""
    busy = answers(sdk.speech.error(429), 429, [("retry-after-ms", "1")])
    script = in_turn(busy, busy, streams(sdk.speech.stream(TOKENS)))
    async with line(sdk, script, retries=2) as way:
        assert await way.rest() == TOKENS
        assert len(way.upstream.requests) == 3


@each("cut before content, tried again", [sdk for sdk in SDKS if "(" not in sdk.name])
async def test_cut_before_content(sdk, how):
    """Until there was content a cut is a status, so that the question can be asked again."""
    frames = sdk.speech.stream(TOKENS)

    async def cut(request, wire):
        await begin(wire, frames[0])
        wire.close()

    async with line(sdk, in_turn(cut, streams(frames)), retries=1) as way:
        assert await way.rest() == TOKENS
        assert len(way.upstream.requests) == 2


@each("error after heartbeats")
async def test_late_status(sdk, how, clock):
    """A status that comes when the stream is open is an error in it, in the API's words."""
    error = sdk.speech.error(429)
    async with line(sdk, clock=clock) as way:
        first, wire = await way.ask()
        await clock.armed(clock.now() + OPEN_AFTER)
        clock.advance(OPEN_AFTER)
        await answers(error, 429)(None, wire)
        with pytest.raises(sdk.cut) as caught:
            await first
        assert error["error"]["message"] in str(caught.value)


@each("no way out")
async def test_no_way(sdk, how, dead_port):
    """A proxy that is down is said in the SDK's exception, so that its user knows what to do."""
    async with (
        Upstream() as upstream,
        relaying(upstream.url, proxy=f"http://127.0.0.1:{dead_port}") as relay,
        asking(sdk, relay.url) as tokens,
    ):
        with pytest.raises(sdk.house.InternalServerError) as caught:
            await anext(tokens)
        assert f"proxy 127.0.0.1:{dead_port}" in str(caught.value)
        assert caught.value.status_code == 502
        assert upstream.connections == 0


@each("cancel")
async def test_cancel(sdk, how, clock):
    """Breaking out of the stream closes the upstream's connection at once: no clock moves."""
    frames = sdk.speech.stream(TOKENS)
    async with line(sdk, clock=clock) as way:
        first, wire = await way.ask()
        await begin(wire, *frames[: up_to(frames, TOKENS[0])])
        assert await first == TOKENS[0]
        assert not wire.closed.is_set()
        await way.tokens.aclose()
        await way.upstream.until(wire.closed.is_set)


async def before(way, wire, first, frames):
    """Let nothing come; the client waits for the status line."""
    return first


async def between(way, wire, first, frames):
    """Let a token come; the client waits for the next."""
    await begin(wire, *frames)
    assert await first == TOKENS[0]
    return asyncio.create_task(anext(way.tokens))


@each("cancel of the task", ASYNCHRONOUS, before=before, between=between)
async def test_cancelled_task(sdk, how, clock):
    """A task that is cancelled while it waits for a token takes the upstream's request along."""
    frames = sdk.speech.stream(TOKENS)
    async with line(sdk, clock=clock) as way:
        first, wire = await way.ask()
        waiting = await how(way, wire, first, frames[: up_to(frames, TOKENS[0])])
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await way.upstream.until(wire.closed.is_set)
