"""The way of an SDK's question to the API: tap ─▶ relay ─▶ proxy ─▶ upstream.

async with line(sdk, clock=clock) as way:
    first, wire = await way.ask()           # a task that waits for the first token
    await begin(wire, *frames)
    assert await first == "Hel"
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from clock import FakeClock
from fakes import HttpProxy, Script, Upstream, Wire
from fakes.server import Connection
from fakes.tunnel import Proxy
from relaying import Relay, relaying, settled, until
from sdks import SDKS, Sdk, asking

BEAT = b": keep-alive\n\n"
BEAT_AFTER = 15
"""Seconds without a byte to the client, as by default."""
OPEN_AFTER = 20
"""Seconds without content from the upstream, as by default."""


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

    scheme = "http"

    def __init__(self, relay: Relay) -> None:
        super().__init__()
        self._port = relay.port

    async def speak(self, connection: Connection) -> None:
        """Copy both ways."""
        await self.tunnel(connection, await self.dial("127.0.0.1", self._port))


class Line(NamedTuple):
    """All on the way of an SDK's question, and the text that comes back, piece by piece."""

    upstream: Upstream
    proxy: Proxy
    relay: Relay
    tap: Tap
    tokens: Any

    async def ask(self) -> tuple[asyncio.Task[str], Wire]:
        """Ask; return the task that waits for the first token, and the upstream's way back."""
        first = asyncio.create_task(anext(self.tokens))
        _, wire = await self.upstream.next()
        return first, wire

    async def rest(self) -> list[str]:
        """Return all text that is still to come."""
        return [token async for token in self.tokens]

    async def beats(self, clock: FakeClock, *pauses: float) -> None:
        """Let so many seconds pass, several times; after each one heartbeat has come, no more."""
        for number, seconds in enumerate(pauses, 1):
            await clock.armed(clock.now() + seconds)
            clock.advance(seconds)
            await until(lambda number=number: self.tap.down.count(BEAT) >= number)
        await settled()
        assert self.tap.down.count(BEAT) == len(pauses)


@asynccontextmanager
async def line(
    sdk: Sdk,
    script: Script | None = None,
    *,
    clock: FakeClock | None = None,
    proxy: type[Proxy] = HttpProxy,
    retries: int = 0,
) -> AsyncIterator[Line]:
    """Build the way; the relay has no other way out than the proxy."""
    async with (
        Upstream(script) as upstream,
        proxy() as through,
        relaying(upstream.url, clock=clock, proxy=through.url) as relay,
        Tap(relay) as tap,
        asking(sdk, tap.url, retries) as tokens,
    ):
        yield Line(upstream, through, relay, tap, tokens)
        assert through.targets


async def begin(wire: Wire, *frames: bytes) -> None:
    """Begin the stream with these bytes."""
    await wire.head(content_type="text/event-stream; charset=utf-8")
    await wire.chunk(b"".join(frames))


def up_to(frames: list[bytes], token: str) -> int:
    """Return how many frames it takes until that token has been sent."""
    return next(n for n, frame in enumerate(frames, 1) if f'"{token}"'.encode() in frame)
