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

    def __init__(self, server: "Server") -> None:
        self.reader = asyncio.StreamReader(limit=HEAD_LIMIT)
        self.gone = asyncio.Event()
        self.lost = asyncio.Event()
        self._server = server
        super().__init__(self.reader, self._begin)

    def _begin(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._server.accept(self)

    def eof_received(self) -> bool | None:
        """Note the FIN."""
        self._leave()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end."""
        self.lost.set()
        self._leave()
        super().connection_lost(exc)

    def _leave(self) -> None:
        self.gone.set()
        self._server.notify()

    async def send(self, data: bytes, pieces: int | None = None) -> None:
        """Write, at most `pieces` bytes at a time; return when the kernel took it all.

        The loop turns after each write, so that a reader on this loop gets each by itself.
        """
        step = pieces or len(data) or 1
        for start in range(0, len(data), step):
            if self.lost.is_set():  # writing then: asyncio logs, uvloop raises RuntimeError
                raise ConnectionResetError("the peer left")
            self.writer.write(data[start : start + step])
            await self.writer.drain()
            await asyncio.sleep(0)  # the loop sees that the peer can read
            await asyncio.sleep(0)  # the peer has read

    def reset(self) -> None:
        """Send RST; what the kernel has not delivered yet is lost."""
        sock = self.writer.get_extra_info("socket")
        if not self.lost.is_set():
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
    open_connections   how many peers have not left yet (FIN and RST count as leaving)
    """

    scheme = "tcp"

    def __init__(self, *, ssl: SSLContext | None = None) -> None:
        self.connections = 0
        self.port = 0
        self._ssl = ssl
        self._open: dict[Connection, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._failure: Exception | None = None

    @property
    def open_connections(self) -> int:
        """How many peers have not left yet."""
        return sum(not connection.gone.is_set() for connection in self._open)

    @property
    def url(self) -> str:
        """SCHEME://127.0.0.1:PORT, no slash at the end."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def reset_connections(self) -> None:
        """Break all open connections with RST, as a process that is killed does."""
        for connection in self._open:
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

    def accept(self, connection: Connection) -> None:
        """Begin to serve a new connection."""
        if not self._server.is_serving():  # it came while the server closed
            return connection.writer.transport.abort()
        self.connections += 1
        connection.writer.transport.set_write_buffer_limits(1)  # drain() = the kernel has it
        self._open[connection] = asyncio.create_task(self._run(connection))
        return self.notify()

    def notify(self) -> None:
        """Let `until` look again."""
        self._changed.set()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self), "127.0.0.1", 0, ssl=self._ssl
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._server.close()  # not wait_closed(): in 3.12 it waits for what is ended below
        tasks = list(self._open.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in list(self._open):  # whose task had not begun
            connection.writer.transport.abort()
            await connection.lost.wait()
        if self._failure is not None and kind is None:
            raise self._failure

    async def _run(self, connection: Connection) -> None:
        try:
            await self._serve(connection)
            connection.close()
            await connection.lost.wait()
        finally:  # also when the test ends and the peer reads nothing
            connection.writer.transport.abort()
            await connection.lost.wait()
            del self._open[connection]
            self.notify()

    async def _serve(self, connection: Connection) -> None:
        try:
            await self.serve(connection)
        except (OSError, EOFError):
            pass  # the peer left
        except Exception as failure:  # noqa: BLE001  an assertion of the test's: raised at the end
            self._failure = self._failure or failure
