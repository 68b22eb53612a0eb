"""The scene that a client works in, and what the two kinds of API stream.

client ─▶ Tap ─▶ the relay ─▶ HttpProxy ─▶ Upstream, played byte by byte

async with scene() as at, client.run(at.url) as program:
    request, wire = await at.upstream.next()
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Self
from unittest import mock

from clock import FakeClock
from fakes import HttpProxy, Script, SocksProxy, Upstream, Wire, chat_frame, frame
from fakes.frames import DONE
from fakes.server import Connection
from fakes.tunnel import Proxy
from relaying import Relay, relaying
from service import responses

KEY = "sk-client"


class Record(bytearray):
    """Bytes that tell when they grow."""

    def __init__(self, notify: Callable[[], None]) -> None:
        super().__init__()
        self._notify = notify

    def __iadd__(self, data: bytes) -> Self:
        super().__iadd__(data)
        self._notify()
        return self


class Tap(Proxy):
    """Stands before the relay and keeps what its clients send (`up`) and get (`down`)."""

    scheme = "http"

    def __init__(self, port: int) -> None:
        super().__init__()
        self.up, self.down = Record(self.notify), Record(self.notify)
        self._target = port

    async def speak(self, connection: Connection) -> None:
        """Hand everything on."""
        await self.tunnel(connection, await self.dial("127.0.0.1", self._target))

    async def passed(self, data: bytes, times: int = 1) -> None:
        """Wait until the relay has sent these bytes so many times."""
        await self.until(lambda: self.down.count(data) >= times)


class Scene(NamedTuple):
    """The parts that a client's request meets; `url` is where the client finds the relay.

    heard       set it when the client knows why: only then the relay cuts the client's body
    last_words  counts how often the relay waited for that
    """

    url: str
    upstream: Upstream
    proxy: HttpProxy | SocksProxy
    relay: Relay
    tap: Tap
    clock: FakeClock
    heard: asyncio.Event
    last_words: mock.AsyncMock


@asynccontextmanager
async def scene(
    script: Script | None = None,
    *,
    way: type[HttpProxy | SocksProxy] = HttpProxy,
    **variables: str,
) -> AsyncIterator[Scene]:
    """Set the scene; time stands still until the test moves `clock`."""
    clock, heard = FakeClock(), asyncio.Event()
    with mock.patch.object(responses, "_last_words", side_effect=heard.wait) as last_words:
        async with (
            Upstream(script) as upstream,
            way() as proxy,
            relaying(upstream.url, clock=clock, proxy=proxy.url, **variables) as relay,
            Tap(relay.port) as tap,
        ):
            yield Scene(tap.url, upstream, proxy, relay, tap, clock, heard, last_words)


class Api(NamedTuple):
    """What an upstream streams: the frames before, of, and after the answer's text."""

    path: str
    opening: bytes
    token: Callable[[str], bytes]
    closing: bytes
    finish: str
    refusal: Callable[[str], dict[str, Any]]

    def frames(self, *tokens: str) -> list[bytes]:
        """Return the frames of a whole answer."""
        return [self.opening, *map(self.token, tokens), self.closing]


def event(kind: str, **fields: Any) -> bytes:
    """Return one frame of Anthropic's."""
    return frame({"type": kind, **fields}, kind)


def block(number: int, kind: str, *deltas: dict[str, Any], **start: Any) -> bytes:
    """Return the frames of one of Anthropic's content blocks."""
    began = event("content_block_start", index=number, content_block={"type": kind, **start})
    pieces = (event("content_block_delta", index=number, delta=delta) for delta in deltas)
    return began + b"".join(pieces) + event("content_block_stop", index=number)


def message_end(reason: str) -> bytes:
    """Return the frames that end Anthropic's stream."""
    ending = {"stop_reason": reason, "stop_sequence": None}
    return event("message_delta", delta=ending, usage={"output_tokens": 2}) + event("message_stop")


MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
MESSAGE_START = event("message_start", message=MESSAGE)

COMPLETIONS = Api(
    path="/v1/chat/completions",
    opening=chat_frame({"role": "assistant", "content": ""}),
    token=lambda text: chat_frame({"content": text}),
    closing=chat_frame({}, finish="stop") + DONE,
    finish="stop",
    refusal=lambda text: {"error": {"message": text, "type": "t", "param": None, "code": "c"}},
)
MESSAGES = Api(
    path="/v1/messages",
    opening=MESSAGE_START
    + event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    + event("ping"),
    token=lambda text: event(
        "content_block_delta", index=0, delta={"type": "text_delta", "text": text}
    ),
    closing=event("content_block_stop", index=0) + message_end("end_turn"),
    finish="end_turn",
    refusal=lambda text: {"type": "error", "error": {"type": "t", "message": text}},
)


async def answer(wire: Wire, *frames: bytes) -> None:
    """Send a whole event stream."""
    await wire.head(content_type="text/event-stream")
    for data in frames:
        await wire.chunk(data)
    await wire.end()
