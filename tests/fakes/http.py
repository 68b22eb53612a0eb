"""HTTP/1.1 requests, read byte by byte as a server sees them."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Request:
    """A request as it came: nothing decoded but latin-1, nothing sorted, nothing left out."""

    method: str
    target: str
    """As on the request line: path and query, an absolute URL, or HOST:PORT of a CONNECT."""
    headers: list[tuple[str, str]]
    """In the order and the spelling of the wire."""
    body: bytes = b""
    """Without the chunk framing."""
    head: bytes = field(default=b"", repr=False)
    """The bytes up to the blank line, which is included."""

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the first header of that name, in any case."""
        return next(iter(self.get_all(name)), default)

    def get_all(self, name: str) -> list[str]:
        """Return every header of that name, in any case."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def names(self) -> set[str]:
        """Return the lower-case names of all headers."""
        return {key.lower() for key, _ in self.headers}

    def json(self) -> Any:
        """Return the body, parsed."""
        return json.loads(self.body)


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """Read one request with its whole body; None when the peer ended before its first byte."""
    head = await _read_head(reader)
    if head is None:
        return None
    line, *fields = head[:-4].decode("latin-1").split("\r\n")
    method, target, _version = line.split(" ")
    pairs = [(name, value.strip()) for name, _, value in (text.partition(":") for text in fields)]
    request = Request(method, target, pairs, head=head)
    if "chunked" in (request.get("transfer-encoding") or ""):
        request.body = await _read_chunks(reader)
    else:
        request.body = await reader.readexactly(int(request.get("content-length") or 0))
    return request


async def _read_head(reader: asyncio.StreamReader) -> bytes | None:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as cut:
        if not cut.partial:
            return None
        raise


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int((await reader.readuntil(b"\n")).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    while await reader.readline() not in (b"\r\n", b""):
        pass  # trailers
    return body
