r"""A client that speaks bytes: what it sends is on the wire as it is, and so is what it reads.

    answer = await exchange(relay.port, "GET", "/v1/files/a%2Fb?x=%20+", ("X-One", "1"))
    answer.status, answer.body, answer.whole

    async with dial(relay.port) as line:
        await line.send("POST", "/v1/chat/completions", body=b"{…}")
        await line.until(b"first token")        # what came so far is line.received
        answer = await line.answer()            # at the end of the connection

Waits end after PATIENCE, which fails the test.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any, NamedTuple

from canaries import look
from clock import PATIENCE

BODILESS = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
LAST_CHUNK = b"0\r\n\r\n"


class Answer(NamedTuple):
    """A response as it came.

    headers   in the order and the spelling of the wire
    body      without the chunk framing; of a body that was cut, the whole chunks
    whole     it ended as HTTP says: with the last chunk, the announced length, or no body
    tail      the bytes after the head, as they were
    """

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes
    whole: bool
    tail: bytes

    def get_all(self, name: str) -> list[str]:
        """Return every header of that name, in any case."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        """Return the first header of that name, in any case."""
        return next(iter(self.get_all(name)), None)

    def names(self) -> set[str]:
        """Return the lower-case names of all headers."""
        return {key.lower() for key, _ in self.headers}

    def json(self) -> Any:
        """Return the body, parsed."""
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        """The `error` of a JSON body."""
        return self.json()["error"]


class Line:
    """One connection to the relay; `received`: all bytes that came."""

    def __init__(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.received = b""
        self._port = port
        self._reader = reader
        self._writer = writer
        self._method = ""

    async def send(
        self, method: str, target: str, *pairs: tuple[str, str], body: bytes = b""
    ) -> None:
        """Send a request; Host, `Connection: close` and the body's length unless `pairs` say."""
        names = {name.lower() for name, _ in pairs}
        own = [("Host", f"127.0.0.1:{self._port}"), ("Connection", "close")]
        if body and "transfer-encoding" not in names:
            own.append(("Content-Length", str(len(body))))
        fields = [*(pair for pair in own if pair[0].lower() not in names), *pairs]
        lines = [f"{method} {target} HTTP/1.1", *(f"{n}: {v}" for n, v in fields), "", ""]
        self._method = method
        await self.write("\r\n".join(lines).encode("latin-1") + body)

    async def write(self, data: bytes) -> None:
        """Send bytes."""
        self._writer.write(data)
        await self._writer.drain()

    async def until(self, text: bytes) -> None:
        """Read until that text came; EOFError if the connection ends before."""
        async with asyncio.timeout(PATIENCE):
            while text not in self.received:
                if not (data := await self._reader.read(1 << 16)):
                    raise EOFError(f"{text!r} never came, but {self.received!r}")
                self.received += data

    async def answer(self) -> Answer:
        """Read to the end of the connection; return the last request's response."""
        async with asyncio.timeout(PATIENCE):
            self.received += await self._reader.read()
        return parse(self.received, self._method)

    async def close(self) -> None:
        """Leave."""
        look("a response", self.received)
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


@asynccontextmanager
async def dial(port: int) -> AsyncIterator[Line]:
    """Connect to the relay at that port of 127.0.0.1."""
    line = Line(port, *await asyncio.open_connection("127.0.0.1", port))
    try:
        yield line
    finally:
        await line.close()


async def exchange(
    port: int, method: str, target: str, *pairs: tuple[str, str], body: bytes = b""
) -> Answer:
    """Send one request on a connection of its own; return the response."""
    async with dial(port) as line:
        await line.send(method, target, *pairs, body=body)
        return await line.answer()


def parse(data: bytes, method: str = "GET") -> Answer:
    """Take one response apart."""
    head, blank, tail = data.partition(b"\r\n\r\n")
    assert blank, f"no head came, but {data!r}"
    line, *fields = head.decode("latin-1").split("\r\n")
    _version, status, reason = line.split(" ", 2)
    headers = [(n, v.strip()) for n, _, v in (text.partition(":") for text in fields)]
    named = {name.lower(): value for name, value in headers}
    body, whole = tail, True
    if method == "HEAD" or int(status) in BODILESS:
        whole = not tail
    elif named.get("transfer-encoding") == "chunked":
        body, whole = _dechunked(tail)
    elif "content-length" in named:
        whole = len(tail) == int(named["content-length"])
    return Answer(int(status), reason, headers, body, whole, tail)


def _dechunked(data: bytes) -> tuple[bytes, bool]:
    """Return the bytes of the whole chunks, and whether the last chunk followed."""
    body = b""
    while data and data != LAST_CHUNK:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        if length == 0 or len(data) < length + 2:
            return body, False
        assert data[length : length + 2] == b"\r\n", "a chunk without its end"
        body, data = body + data[:length], data[length + 2 :]
    return body, data == LAST_CHUNK
