"""A stream of bytes that becomes the way to an upstream, before aiohttp takes it over.

It is no asyncio.StreamWriter, which closes its transport when it is let go: here the transport
outlives the line that laid it.
"""

import asyncio
import ssl
from typing import Any, Self


class Line:
    """A stream as python-socks takes it; closing it never waits for the other end."""

    def __init__(self, transport: asyncio.Transport, reader: asyncio.StreamReader) -> None:
        self.transport = transport
        self._reader = reader

    @classmethod
    async def to(cls, host: str, port: int) -> Self:
        """Connect to that address; raises OSError."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: asyncio.StreamReaderProtocol(reader), host, port
        )
        return cls(transport, reader)

    async def start_tls(self, context: ssl.SSLContext, name: str) -> None:
        """Speak TLS from here on, with a server of that name; raises OSError."""
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport = await asyncio.get_running_loop().start_tls(
            self.transport, protocol, context, server_hostname=name
        )
        if transport is None:  # it was closing
            raise ConnectionResetError
        protocol.connection_made(transport)
        self.transport, self._reader = transport, reader

    async def connect(self, **_: Any) -> Self:
        """Return itself: python-socks asks what lies before a proxy for a stream to it."""
        return self

    async def write(self, data: bytes) -> None:
        """Send the few bytes of a handshake."""
        self.transport.write(data)

    async def read(self, max_bytes: int = 65536) -> bytes:
        """Return what has come, b"" at the end."""
        return await self._reader.read(max_bytes)

    async def read_exactly(self, n: int) -> bytes:
        """Return so many bytes; raises IncompleteReadError."""
        return await self._reader.readexactly(n)

    async def read_line(self) -> bytes:
        """Return a line with its end; raises IncompleteReadError, ValueError if it is too long."""
        line = await self._reader.readline()
        if not line.endswith(b"\n"):
            raise asyncio.IncompleteReadError(line, None)
        return line

    def certificate(self) -> bytes:
        """Return the DER of the certificate that was shown; b"" if there was none."""
        tls = self.transport.get_extra_info("ssl_object")
        return (tls and tls.getpeercert(binary_form=True)) or b""

    async def close(self) -> None:
        """Close at once, as `abort`."""
        self.abort()

    def abort(self) -> None:
        """Close at once."""
        self.transport.abort()
