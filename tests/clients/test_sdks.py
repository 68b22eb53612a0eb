"""Every Python SDK against the relay, through a proxy, to an API that speaks its provider's wire.

The ids are the cells of a table, `SDK: case`. What an SDK does wrong by itself stands in the
docstring of the case.
"""

import asyncio
from collections.abc import Iterable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from compare import told
from fakes import HttpProxy, SocksProxy, Upstream, in_turn
from fakes.tunnel import Proxy
from relaying import Relay, relaying, settled, until
from sdks import KEY, PROMPT, SDKS, Sdk, asking
from wires import answers, streams

TOKENS = ["Hel", "lo", " there"]
WIDE = [
    "你好",
    "，世界",
    "🌍",
    "👩‍👩‍👧‍👦",
    "한국어",
    " e\u0301",
    "𝔘",
    "a\u2028b\u0085c",
    "\\n\n",
    "\u202e",
]
BEAT = b": keep-alive\n\n"
OPEN_AFTER = 20
BEAT_AFTER = 15
IDLE = 120
ASYNCHRONOUS = [sdk for sdk in SDKS if sdk.asynchronous]


def each(case: str, sdks: Iterable[Sdk] = SDKS, **variants: Any) -> pytest.MarkDecorator:
    """Run a test with every SDK, and every variant of the case; the ids read `openai: case`."""
    cells = [
        pytest.param(sdk, variant, id=f"{sdk.name}: {case} {name}".strip())
        for sdk in sdks
        for name, variant in (variants or {"": None}).items()
    ]
    return pytest.mark.parametrize(("sdk", "how"), cells)


class Tap(Proxy):
    """What a client connects to instead of the relay, to see the bytes: `down` is what it got."""

    def __init__(self, relay: Relay) -> None:
        super().__init__()
        self.scheme = "http"
        self._port = relay.port

    async def speak(self, connection):
        """Copy both ways."""
        await self.tunnel(connection, await self.dial("127.0.0.1", self._port))


class Line(NamedTuple):
    """All on the way of an SDK's question, and the text that comes back."""

    upstream: Upstream
    proxy: Proxy
    relay: Relay
    tap: Tap
    tokens: Any


@asynccontextmanager
async def line(sdk, script=None, *, clock=None, proxy=HttpProxy, retries=0):
    """Ask through tap, relay and proxy; the relay has no other way out."""
    async with (
        Upstream(script) as upstream,
        proxy() as through,
        relaying(upstream.url, clock=clock, proxy=through.url) as relay,
        Tap(relay) as tap,
        asking(sdk, tap.url, retries) as tokens,
    ):
        yield Line(upstream, through, relay, tap, tokens)
        assert through.targets


async def text(tokens):
    """Return all the text."""
    return [token async for token in tokens]


def up_to(frames, token):
    """Return how many frames it takes until that token has been sent."""
    return next(n for n, frame in enumerate(frames, 1) if f'"{token}"'.encode() in frame)


async def say(wire, *frames):
    """Begin the stream with these frames."""
    await wire.head(content_type="text/event-stream; charset=utf-8")
    await wire.chunk(b"".join(frames))


async def beats(way, clock, *pauses):
    """Let so many seconds pass, several times; after each a heartbeat has come, and one only."""
    for number, seconds in enumerate(pauses, 1):
        await clock.armed(clock.now() + seconds)
        clock.advance(seconds)
        await until(lambda number=number: way.tap.down.count(BEAT) >= number)
    await settled()
    assert way.tap.down.count(BEAT) == len(pauses)


@each("plain", HTTP=HttpProxy, SOCKS=SocksProxy)
async def test_plain(sdk, how):
    """The text comes token by token, and the API is asked as if there were no relay."""
    script = streams(sdk.speech.stream(TOKENS), sdk.speech.headers)
    async with line(sdk, script, proxy=how) as way:
        assert await text(way.tokens) == TOKENS
        async with asking(sdk, way.upstream.url) as direct:
            assert await text(direct) == TOKENS
        relayed, asked = way.upstream.requests
        assert told(relayed) == told(asked)
        assert relayed.target == sdk.speech.path
        assert KEY in (relayed.get("authorization") or relayed.get("x-api-key"))


@each("CJK and emoji", whole=False, torn=True)
async def test_wide(sdk, how):
    """Characters of any width arrive, also when the upstream's reads tear them apart."""
    frames = sdk.speech.stream(WIDE)
    async with line(sdk, streams(frames, torn=how)) as way:
        assert await text(way.tokens) == WIDE
        assert PROMPT in way.upstream.requests[0].body.decode()


@each("heartbeat before the first token")
async def test_early_heartbeat(sdk, how, clock):
    """While the upstream is silent the stream is opened, and heartbeats keep it: no SDK minds."""
    frames = sdk.speech.stream(TOKENS)
    async with line(sdk, clock=clock) as way:
        first = asyncio.create_task(anext(way.tokens))
        _, wire = await way.upstream.next()
        await beats(way, clock, OPEN_AFTER, BEAT_AFTER, BEAT_AFTER)
        await say(wire, *frames)
        await wire.end()
        assert [await first, *await text(way.tokens)] == TOKENS
        assert way.tap.down.index(BEAT) < way.tap.down.index(b"Hel")


@each("heartbeat between tokens")
async def test_heartbeat_between(sdk, how, clock):
    """A pause in the middle is filled with heartbeats, between frames; the text is the same."""
    frames = sdk.speech.stream(TOKENS)
    so_far = up_to(frames, TOKENS[0])
    async with line(sdk, clock=clock) as way:
        first = asyncio.create_task(anext(way.tokens))
        _, wire = await way.upstream.next()
        await say(wire, *frames[:so_far])
        assert await first == TOKENS[0]
        await beats(way, clock, BEAT_AFTER, BEAT_AFTER)
        await wire.chunk(b"".join(frames[so_far:]))
        await wire.end()
        assert await text(way.tokens) == TOKENS[1:]
        assert way.tap.down.index(b"Hel") < way.tap.down.index(BEAT)


def by_fin(wire, clock):
    """Cut in the middle of a frame."""
    wire.close()


def by_rst(wire, clock):
    """Cut by an upstream that is killed."""
    wire.reset()


async def by_a_clean_end(wire, clock):
    """End the body as HTTP wants it, before the answer is complete."""
    await wire.end()


async def by_silence(wire, clock):
    """Say nothing until the relay gives up."""
    await clock.armed(clock.now() + IDLE)
    clock.advance(IDLE)


@each("cut", FIN=by_fin, RST=by_rst, early=by_a_clean_end, stalled=by_silence)
async def test_cut(sdk, how, clock):
    """A stream that is cut raises the SDK's own error, in words that say why.

    By itself openai-python takes an end without [DONE] for success, as do all others: the error
    frame is what tells it.
    """
    frames = sdk.speech.stream(TOKENS)
    so_far = up_to(frames, TOKENS[1])
    async with line(sdk, clock=clock) as way:
        first = asyncio.create_task(anext(way.tokens))
        _, wire = await way.upstream.next()
        await say(wire, *frames[:so_far], frames[so_far][:9])
        assert [await first, await anext(way.tokens)] == TOKENS[:2]
        if (cutting := how(wire, clock)) is not None:
            await cutting
        with pytest.raises(sdk.cut) as caught:
            await anext(way.tokens)
        assert type(caught.value) is sdk.cut
        code, words = ("upstream_stalled", "sent nothing for 120 s") if how is by_silence else (
            "upstream_cut", "upstream")  # fmt: skip
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
            await text(way.tokens)
        async with asking(sdk, way.upstream.url) as direct:
            with pytest.raises(kind) as told_directly:
                await text(direct)
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
        assert await text(way.tokens) == TOKENS
        assert len(way.upstream.requests) == 3


@each("cut before content, tried again", [sdk for sdk in SDKS if "(" not in sdk.name])
async def test_cut_before_content(sdk, how):
    """Until there was content a cut is a status, so that the question can be asked again."""
    frames = sdk.speech.stream(TOKENS)

    async def cut(request, wire):
        await say(wire, frames[0])
        wire.close()

    async with line(sdk, in_turn(cut, streams(frames)), retries=1) as way:
        assert await text(way.tokens) == TOKENS
        assert len(way.upstream.requests) == 2


@each("error after heartbeats")
async def test_late_status(sdk, how, clock):
    """A status that comes when the stream is open is an error in it, in the API's words."""
    error = sdk.speech.error(429)
    async with line(sdk, clock=clock) as way:
        first = asyncio.create_task(anext(way.tokens))
        _, wire = await way.upstream.next()
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
            await text(tokens)
        assert f"proxy 127.0.0.1:{dead_port}" in str(caught.value)
        assert caught.value.status_code == 502
        assert upstream.connections == 0


@each("cancel")
async def test_cancel(sdk, how, clock):
    """Breaking out of the stream closes the upstream's connection at once: no clock moves."""
    frames = sdk.speech.stream(TOKENS)
    async with line(sdk, clock=clock) as way:
        first = asyncio.create_task(anext(way.tokens))
        _, wire = await way.upstream.next()
        await say(wire, *frames[: up_to(frames, TOKENS[0])])
        assert await first == TOKENS[0]
        assert not wire.closed.is_set()
        await way.tokens.aclose()
        await way.upstream.until(wire.closed.is_set)


async def before(way, wire, first, frames):
    """Let nothing come; the client waits for the status line."""
    return first


async def between(way, wire, first, frames):
    """Let a token come; the client waits for the next."""
    await say(wire, *frames)
    assert await first == TOKENS[0]
    return asyncio.create_task(anext(way.tokens))


@each("cancel of the task", ASYNCHRONOUS, before=before, between=between)
async def test_cancelled_task(sdk, how, clock):
    """A task that is cancelled while it waits for a token takes the upstream's request along."""
    frames = sdk.speech.stream(TOKENS)
    async with line(sdk, clock=clock) as way:
        first = asyncio.create_task(anext(way.tokens))
        _, wire = await way.upstream.next()
        waiting = await how(way, wire, first, frames[: up_to(frames, TOKENS[0])])
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await way.upstream.until(wire.closed.is_set)
