"""A line that breaks in the middle of an answer, and a client that comes back each time.

    Follower ─▶ Dropper ─▶ one of the relays, by chance
       └── again, with Last-Event-ID ──┘

The client is one that speaks bytes: what was on its way when the line broke is in its hands up to
the last byte, be that half an event or half a chunk's length.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from random import Random
from ssl import SSLContext
from typing import Any, NamedTuple

from clock import PATIENCE
from fakes import Upstream, chat_frame
from fakes.frames import DONE
from fakes.server import Connection
from fakes.tunnel import Proxy, Stream, end
from replaying import until
from service.core import ids

WORDS = (
    "the ",
    "line",
    " is\n",
    "dropped, ",
    "été ",
    "断线重连",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 ",
    "`x`",
)


class Dropper(Proxy):
    """A line to relays that breaks after so many bytes of an answer.

    cuts     the bytes of each answer to a request whose line holds one of `marks`; when none is
             left, it holds. Through TLS, where no line can be seen: of each connection, marks b""
    dropped  how often it broke
    """

    scheme = "http"

    def __init__(
        self, ports: Sequence[int], cuts: Iterable[int], chance: Random, *marks: bytes
    ) -> None:
        super().__init__()
        self.dropped = 0
        self._ports = ports
        self._cuts = iter(cuts)
        self._chance = chance
        self._marks = marks

    async def speak(self, connection: Connection) -> None:
        """Hand on what goes to a relay, and so many bytes of what comes."""
        relay = await self.dial("127.0.0.1", self._chance.choice(self._ports))
        left: list[int] = []
        ways = [self._ask(connection, relay, left), self._answer(connection, relay, left)]
        copies = [asyncio.create_task(way) for way in ways]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(relay[1], *copies)

    async def _ask(self, connection: Connection, relay: Stream, left: list[int]) -> None:
        with suppress(OSError):
            while data := await connection.reader.read(1 << 16):
                if not left and any(mark in data.partition(b"\r\n")[0] for mark in self._marks):
                    left += [cut for cut in [next(self._cuts, 0)] if cut]
                relay[1].write(data)
                await relay[1].drain()

    async def _answer(self, connection: Connection, relay: Stream, left: list[int]) -> None:
        with suppress(OSError):
            while data := await relay[0].read(1 << 16):
                if left:
                    data = data[: left[0]]
                    left[0] -= len(data)
                await connection.send(data)
                if left and not left[0]:
                    self.dropped += 1
                    return self._break(connection)
        return None

    def _break(self, connection: Connection) -> None:
        """End as lines do: mostly with RST, as often with FIN."""
        if self._chance.random() < 1 / 2:
            connection.reset()
        else:
            connection.close()


class Follower:
    """A client that reads a stream to its end, however often it has to come back.

    blocks   the events as they came, without their `id:` lines
    ids      of those events, no one twice
    visits   how often it asked
    tls      what it trusts, if it speaks TLS
    """

    def __init__(self, port: int, tls: SSLContext | None = None) -> None:
        self.blocks: list[bytes] = []
        self.ids: list[str] = []
        self.name = ""
        self.visits = 0
        self.over = False
        self._port = port
        self._tls = tls

    @property
    def frame(self) -> int:
        """The number of the last frame of which it has anything."""
        return ids.parse(self.ids[-1]).frame if self.ids else 0

    async def follow(self, first: bytes, again: str) -> None:
        """Ask by `first`, then by `again`, with {id} and {name} in it, until the stream is over."""
        while not self.over:
            self.visits += 1
            last = self.ids[-1] if self.ids else f"{self.name}.0"
            head = again.format(id=last, name=self.name).encode() if self.name else first
            with suppress(OSError):
                await self._visit(head)

    async def _visit(self, head: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, ssl=self._tls)
        try:
            writer.write(head)
            await self._read(reader)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        received, taken = b"", 0
        async with asyncio.timeout(3 * PATIENCE):
            while data := await reader.read(1 << 16):
                received += data
                head, _, tail = received.partition(b"\r\n\r\n")
                if not tail:
                    continue
                assert head.startswith(b"HTTP/1.1 200 "), head
                self.name = head.partition(b"Teleprinter-Stream: ")[2].split(b"\r")[0].decode()
                blocks = b"".join(chunks(tail)).split(b"\n\n")[:-1]
                for block in blocks[taken:]:
                    self._take(block)
                taken = len(blocks)
        self.over = self.over and received.endswith(b"\r\n0\r\n\r\n")

    def _take(self, block: bytes) -> None:
        if block.startswith(b":"):
            return
        assert not self.over, f"{block!r} behind the end"
        line, _, rest = block.partition(b"\n")
        mark = line.removeprefix(b"id: ").decode()
        assert mark not in self.ids, f"{mark} twice"
        self.ids.append(mark)
        self.blocks.append(rest)
        self.over = rest == DONE.strip() or rest.startswith(b"event: done\n")


def chunks(tail: bytes) -> Iterator[bytes]:
    """Yield what there is of the chunks of a body, the last one as far as it came."""
    while tail:
        size, crlf, tail = tail.partition(b"\r\n")
        if crlf:
            length = int(size, 16)
            yield tail[:length]
            tail = tail[length + 2 :]


def tokens(chance: Random, count: int) -> list[str]:
    """Return words of several scripts, some of them so long that a pace cuts them."""
    longs = [30, *[1] * 5]
    return ["".join(chance.choices(WORDS, k=chance.choice(longs))) for _ in range(count)]


def answer(thought: Sequence[str], said: Sequence[str]) -> list[bytes]:
    """Return the frames of an answer that was thought about."""
    frames = [chat_frame({"role": "assistant", "content": ""})]
    frames += [chat_frame({"reasoning_content": token}) for token in thought]
    frames += [chat_frame({"content": token}) for token in said]
    return [*frames, chat_frame({}, finish="stop"), DONE]


class Come(NamedTuple):
    """How an answer comes.

    `lump`: frames that come together, at most; `lead`: frames that it is ahead of its reader, so
    that the line breaks in mid-stream and not after; `gap`: seconds between lumps.
    """

    lump: int = 8
    lead: int = 16
    gap: float = 0


async def feed(
    upstream: Upstream,
    frames: list[bytes],
    chance: Random,
    reached: Callable[[], int],
    come: Come = Come(),  # noqa: B008  immutable
) -> None:
    """Answer the next request, never far ahead of the frame that a reader has reached."""
    _, wire = await upstream.next()
    await wire.head(content_type="text/event-stream")
    sent = 0
    while sent < len(frames):
        some = frames[sent : sent + chance.randint(1, come.lump)]
        await wire.chunk(b"".join(some), pieces=chance.choice([None, 700]))
        sent += len(some)
        await asyncio.sleep(come.gap)
        awaited = min(sent, len(frames) - 2) - come.lead
        await until(lambda awaited=awaited: reached() >= awaited, 3 * PATIENCE)
    await wire.end()


async def together(*work: Coroutine[Any, Any, None]) -> None:
    """Do all at the same time; what fails ends the others, and is what is raised."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for each in work:
                tasks.create_task(each)
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
