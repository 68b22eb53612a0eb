"""The API behind the relay, played byte by byte."""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from ssl import SSLContext

from clock import PATIENCE
from fakes.http import Request, read_request
from fakes.server import Connection, Server


class Wire:
    """The way back to one request's client. Every method raises OSError when the client left.

    closed     event: the client sent FIN or RST; seen at once, also while the script waits
    finished   event: the response is complete (`end`, `reply`) or was cut (`close`, `reset`)
    """

    def __init__(self, connection: Connection, method: str) -> None:
        self.closed = connection.gone
        self.finished = asyncio.Event()
        self.keep_alive = True
        self._connection = connection
        self._method = method

    async def send(self, data: bytes, pieces: int | None = None) -> None:
        """Send bytes as they are, cut into `pieces` of so many if given; wait for the kernel.

        When the client reads no more and the kernel's buffers are full, this waits: back-pressure.
        """
        await self._connection.send(data, pieces)

    async def head(
        self, status: int = 200, *pairs: tuple[str, str], chunked: bool = True, **headers: str
    ) -> None:
        """Send the status line and the headers: `pairs` as they are, then `content_type="…"`.

        chunked=True adds `Transfer-Encoding: chunked`, unless a length is given or no body allowed.
        chunked=False without a length: the body ends where the connection does.
        """
        named = [(name.replace("_", "-").title(), value) for name, value in headers.items()]
        fields = [*pairs, *named]
        names = {name.lower() for name, _ in fields}
        sized = "content-length" in names or _no_body(status)
        if chunked and not sized and "transfer-encoding" not in names:
            fields.append(("Transfer-Encoding", "chunked"))
        self.keep_alive = sized  # a chunked body must see its end()
        lines = [f"HTTP/1.1 {status} {_reason(status)}", *(f"{k}: {v}" for k, v in fields)]
        await self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    async def chunk(self, data: bytes, pieces: int | None = None) -> None:
        """Send one HTTP chunk."""
        await self.send(b"%x\r\n%s\r\n" % (len(data), data), pieces)

    async def end(self) -> None:
        """Send the last chunk; the connection stays open for the next request."""
        await self.send(b"0\r\n\r\n")
        self.keep_alive = True
        self.finished.set()

    async def reply(
        self, status: int = 200, body: bytes | str = b"", *pairs: tuple[str, str], **headers: str
    ) -> None:
        """Send a whole response, with its Content-Length; no body to HEAD."""
        data = body.encode() if isinstance(body, str) else body
        size = [] if _no_body(status) else [("Content-Length", str(len(data)))]
        await self.head(status, *pairs, *size, chunked=False, **headers)
        await self.send(b"" if self._method == "HEAD" else data)
        self.finished.set()

    def reset(self) -> None:
        """Cut with RST."""
        self._connection.reset()
        self.finished.set()

    def close(self) -> None:
        """Cut with FIN: without `end` before it the body is incomplete."""
        self._connection.close()
        self.finished.set()


Script = Callable[[Request, Wire], Awaitable[None]]
"""Answers one request. A chunked body that it leaves without its end is cut with FIN."""


class Upstream(Server):
    r"""An HTTP/1.1 server; a script makes its responses, or the test when there is none.

        async with Upstream(sse(*chat(["Hi"]))) as upstream: ...

        async with Upstream() as upstream:
            request, wire = await upstream.next()
            await wire.head(content_type="text/event-stream")
            await wire.chunk(b"data: 1\n\n")

    requests   every request, in the order of arrival
    ssl        speaks TLS (ca.server)
    """

    def __init__(self, script: Script | None = None, *, ssl: SSLContext | None = None) -> None:
        super().__init__(ssl=ssl)
        self.scheme = "https" if ssl else "http"
        self.requests: list[Request] = []
        self._script = script or self._hand_over
        self._waiting: asyncio.Queue[tuple[Request, Wire]] = asyncio.Queue()

    async def next(self) -> tuple[Request, Wire]:
        """Return the next request for the test to answer; only without a script."""
        async with asyncio.timeout(PATIENCE):
            return await self._waiting.get()

    async def serve(self, connection: Connection) -> None:
        """Answer requests until one side closes."""
        while (request := await read_request(connection.reader)) is not None:
            self.requests.append(request)
            self.notify()
            wire = Wire(connection, request.method)
            await self._script(request, wire)
            wire.finished.set()
            if not wire.keep_alive or connection.writer.is_closing():
                return

    async def _hand_over(self, request: Request, wire: Wire) -> None:
        self._waiting.put_nowait((request, wire))
        await wire.finished.wait()


async def begun(upstream: Upstream, *frames: bytes) -> Wire:
    """Begin to stream an answer to the next request with these frames; return the way for more."""
    _, wire = await upstream.next()
    await wire.head(content_type="text/event-stream")
    for data in frames:
        await wire.chunk(data)
    return wire


def reply(
    status: int = 200, body: bytes | str = b"", *pairs: tuple[str, str], **headers: str
) -> Script:
    """Return a script that answers every request with that."""

    async def script(_request: Request, wire: Wire) -> None:
        await wire.reply(status, body, *pairs, **headers)

    return script


def sse(*frames: bytes, split: int | None = None, status: int = 200, end: bool = True) -> Script:
    """Return a script that streams the frames as text/event-stream, one HTTP chunk each.

    split     the frames' bytes in HTTP chunks of so many bytes instead
    end       False: cut with FIN after the last frame, without the last chunk
    """

    async def script(_request: Request, wire: Wire) -> None:
        await wire.head(status, content_type="text/event-stream")
        for data in frames if split is None else _cut(b"".join(frames), split):
            await wire.chunk(data)
        if end:
            await wire.end()

    return script


def in_turn(*scripts: Script) -> Script:
    """Return a script that answers the first request by the first script, the last by the last.

    One request more is a failure of the test.
    """
    left = iter(scripts)

    async def script(request: Request, wire: Wire) -> None:
        now = next(left, None)
        assert now is not None, f"{len(scripts)} requests were expected, then came {request}"
        await now(request, wire)

    return script


def _cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def _no_body(status: int) -> bool:
    return status < HTTPStatus.OK or status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)


def _reason(status: int) -> str:
    return HTTPStatus(status).phrase if status in list(HTTPStatus) else "Unknown"
