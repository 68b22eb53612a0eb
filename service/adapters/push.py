"""The hot path: from the upstream's socket to the client's within one callback of the event loop.

    socket ─▶ aiohttp's parser ─▶ tap ─▶ stream ─▶ replay ─▶ outlet ─▶ Direct ─▶ socket

To await each read and each write costs two switches of tasks and as much again in aiohttp, for
every token. So, once an answer flows, the parser's bytes are handed on as they come, and what they
become is written to the client's transport at once; the tasks on both sides only wait for what is
rare: the end, an error, a client that does not keep up. Then they go on by `read` and `write`.

Built on what aiohttp does not promise: a body is a StreamReader whose `feed_data` the parser calls.
`test_push` fails when that changes; everything works without it, through the tasks.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import aiohttp
from aiohttp import web
from aiohttp.streams import StreamReader

_LUMP: Final = 16 * 1024
"""Bytes; more at once are read in pieces, so that a slow client does not cost their sum."""

Sink = Callable[[bytes], bool]
"""Takes bytes; returns whether it wants more."""


class _Tapped(StreamReader):
    """A body that keeps nothing: the sink of `_protocol.tap` gets it."""

    __slots__ = ()

    def feed_data(self, data: bytes, size: int = 0) -> bool:  # noqa: ARG002  aiohttp's signature
        tap: _Tap = self._protocol.tap  # type: ignore[attr-defined]
        if len(data) > _LUMP:
            tap.end()
            return self.feed_data(data)  # StreamReader's
        try:
            if not data or tap.sink(data):
                return False
        except Exception as error:  # noqa: BLE001  raised by `push`, not into the parser
            tap.over.set_exception(error)
        tap.end()
        return False


class _Tap:
    """Where a body's bytes go, until `sink` wants no more; `over`: then, or when none can come."""

    __slots__ = ("_body", "over", "sink")

    def __init__(self, body: StreamReader, sink: Sink) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sink = sink
        self._body = body

    def end(self, _: object = None) -> None:
        """Let the body keep what comes, as ever."""
        self._body.__class__ = StreamReader
        if not self.over.done():
            self.over.set_result(None)


async def push(response: aiohttp.ClientResponse, sink: Sink) -> None:
    """Hand the body's bytes to `sink` as they arrive, until it wants no more or no more come.

    What it raises, this raises. Afterwards the body may be read as ever.
    """
    body, connection = response.content, response.connection
    protocol = connection.protocol if connection is not None else None
    closed = protocol.closed if protocol is not None else None
    if type(body) is not StreamReader or closed is None:
        return
    while waiting := body.read_nowait(_LUMP):
        if not sink(waiting):
            return
    if body.is_eof() or closed.done():
        return
    tap = protocol.tap = _Tap(body, sink)  # type: ignore[union-attr]
    body.__class__ = _Tapped
    body.on_eof(tap.end)
    closed.add_done_callback(tap.end)
    try:
        await tap.over
    finally:
        tap.end()
        closed.remove_done_callback(tap.end)
        if protocol.tap is tap:  # type: ignore[union-attr]
            protocol.tap = None  # type: ignore[union-attr]  # a kept connection holds no stream


class Direct:
    """Writes to a client's transport without a task, as long as the client keeps up.

    `limit`: bytes that may wait for the kernel; with more, `write` leaves it to who can wait.
    """

    __slots__ = ("_chunked", "_limit", "_transport")

    def __init__(self, request: web.BaseRequest, response: web.StreamResponse, limit: int) -> None:
        self._transport = request.transport
        self._chunked = response.headers.get("Transfer-Encoding") == "chunked"
        self._limit = limit

    def write(self, data: bytes) -> bool:
        """Write bytes of a prepared response; return False, and nothing is, if it has to wait."""
        transport = self._transport
        size = len(data)
        if transport is None or not size or transport.is_closing():
            return False
        if transport.get_write_buffer_size() + size > self._limit:
            return False
        transport.write(b"%x\r\n%b\r\n" % (size, data) if self._chunked else data)
        return True
