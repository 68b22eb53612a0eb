"""A TCP server that closes everything it opened, and knows at once when a peer leaves."""

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from ssl import SSLContext
from typing import Self

from clock import PATIENCE

HEAD_LIMIT = 1 << 20
"""Bytes of the longest request head that a fake reads."""


class Connection(asyncio.StreamReaderProtocol):
    """One accepted connection: `reader`, `writer`, and events for its end.

    `gone` is set when the peer sent FIN or RST (or TLS close), even while nobody reads;
    `lost` when the socket is closed.
    """

    writer: asyncio.StreamWriter

    def __init__(self, accepted: Callable[["Connection"], None]) -> None:
        self.reader = asyncio.StreamReader(limit=HEAD_LIMIT)
        self.gone = asyncio.Event()
        self.lost = asyncio.Event()
        self._accepted = accepted
        super().__init__(self.reader, self._begin)

    def _begin(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._accepted(self)

    def eof_received(self) -> bool | None:
        """Note the FIN."""
        self.gone.set()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end."""
        self.gone.set()
        self.lost.set()
        super().connection_lost(exc)

    async def send(self, data: bytes, pieces: int | None = None) -> None:
        """Write; return when the kernel took it all. `pieces`: at most so many bytes a segment.

        Between pieces the loop turns, so that a reader on this loop gets each one by itself.
        """
        step = pieces or len(data) or 1
        for start in range(0, len(data), step):
            self.writer.write(data[start : start + step])
            await self.writer.drain()
            if pieces:
                await asyncio.sleep(0)
                await asyncio.sleep(0)

    def reset(self) -> None:
        """Send RST; what the kernel has not delivered yet is lost."""
        sock = self.writer.get_extra_info("socket")
        if sock is not None and not self.lost.is_set():
            with socket.socket(fileno=os.dup(sock.fileno())) as same:
                same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self) -> None:
        """Send FIN after what was written."""
        self.writer.close()


class Server:
    """The base of the fakes: listens on 127.0.0.1 while its `async with` lasts.

    port               where it listens
    connections        how many were accepted so far
    open_connections   how many of them are open now
    """

    scheme = "tcp"

    def __init__(self, *, ssl: SSLContext | None = None) -> None:
        self.connections = 0
        self.port = 0
        self._ssl = ssl
        self._open: dict[Connection, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._failure: BaseException | None = None

    @property
    def open_connections(self) -> int:
        """How many peers are connected now."""
        return len(self._open)

    @property
    def url(self) -> str:
        """SCHEME://127.0.0.1:PORT, no slash at the end."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def reset_connections(self) -> None:
        """Break all open connections with RST, as a process that is killed does."""
        for connection in list(self._open):
            connection.reset()

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until that is true of this server; TimeoutError if it never comes true.

            await upstream.until(lambda: upstream.open_connections == 0)
        """
        async with asyncio.timeout(PATIENCE):
            while not true():
                self._changed.clear()
                await self._changed.wait()

    async def serve(self, connection: Connection) -> None:
        """Talk to one peer; the connection is closed when this returns."""
        raise NotImplementedError

    def notify(self) -> None:
        """Let `until` look again."""
        self._changed.set()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self._accept), "127.0.0.1", 0, ssl=self._ssl
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._server.close()
        while self._open:  # a connection may still come in while the others end
            for task in self._open.values():
                task.cancel()
            await asyncio.wait(self._open.values())
        if self._failure is not None and kind is None:
            raise self._failure

    def _accept(self, connection: Connection) -> None:
        self.connections += 1
        connection.writer.transport.set_write_buffer_limits(0)  # drain() = the kernel has it
        self._open[connection] = asyncio.create_task(self._run(connection))
        self.notify()

    async def _run(self, connection: Connection) -> None:
        try:
            await self.serve(connection)
        except (OSError, EOFError):
            pass  # the peer left
        except Exception as failure:  # noqa: BLE001  a script's assertion, raised at the end
            self._failure = self._failure or failure
        finally:
            await self._finish(connection)

    async def _finish(self, connection: Connection) -> None:
        """Close; if that takes part in no end (the peer reads nothing), or when cancelled, abort."""
        connection.close()
        try:
            await connection.lost.wait()
        finally:
            connection.writer.transport.abort()
            await connection.lost.wait()
            del self._open[connection]
            self.notify()
