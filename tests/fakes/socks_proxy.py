"""A SOCKS proxy: versions 4, 4a and 5 on one port (RFC 1928, RFC 1929)."""

import asyncio
import ipaddress
from ssl import SSLContext
from typing import Any, NamedTuple

from fakes.server import Connection
from fakes.tunnel import Proxy, Stream

NO_AUTH, PASSWORD, NONE_FITS = 0, 2, 0xFF
IPV4, NAME, IPV6 = 1, 3, 4
REFUSED = 5
V4_GRANTED, V4_FAILED = 90, 91


class Dial(NamedTuple):
    """What a client asked for: version "4", "4a" or "5"; kind "ipv4", "ipv6" or "name"."""

    version: str
    kind: str
    host: str
    port: int


class SocksProxy(Proxy):
    """A SOCKS proxy; the options are those of Proxy, `refuse` is a reply code (SOCKS5: 1 to 8).

    With `auth`, SOCKS5 asks for user and password, SOCKS4 for the user only.

    targets    every Dial that came, the host as the client gave it
    """

    scheme = "socks5"

    def __init__(self, *, ssl: SSLContext | None = None, **options: Any) -> None:
        super().__init__(ssl=ssl, **options)
        self.targets: list[Dial] = []

    async def speak(self, connection: Connection) -> None:
        """Speak the version that the client's first byte names; close on any other."""
        version = await connection.reader.readexactly(1)
        if version == b"\x05":
            await self._speak_5(connection)
        elif version == b"\x04":
            await self._speak_4(connection)

    async def _speak_5(self, connection: Connection) -> None:
        if not await self._let_in_5(connection):
            return
        reader = connection.reader
        _version, _command, _, kind = await reader.readexactly(4)
        name, host = await _read_host(reader, kind)
        stream = await self._dial(Dial("5", name, host, await _read_port(reader)))
        code = 0 if isinstance(stream, tuple) else stream
        reply = bytes([5, code, 0, IPV4, 127, 0, 0, 1, 0, 0])
        await self._reply(connection, stream, reply)

    async def _let_in_5(self, connection: Connection) -> bool:
        reader = connection.reader
        offered = await reader.readexactly((await reader.readexactly(1))[0])
        wanted = NO_AUTH if self.auth is None else PASSWORD
        method = wanted if wanted in offered else NONE_FITS
        await self.answer(connection, bytes([5, method]))
        if method != PASSWORD:
            return method == NO_AUTH
        await reader.readexactly(1)
        user, password = [await _read_text(reader), await _read_text(reader)]
        right = (user, password) == self.auth
        await self.answer(connection, bytes([1, not right]))
        return right

    async def _speak_4(self, connection: Connection) -> None:
        reader = connection.reader
        await reader.readexactly(1)
        port = await _read_port(reader)
        host = str(ipaddress.IPv4Address(await reader.readexactly(4)))
        user = await _read_zero_ended(reader)
        dial = Dial("4", "ipv4", host, port)
        if host.startswith("0.0.0."):
            dial = Dial("4a", "name", await _read_zero_ended(reader), port)
        right = self.auth is None or user == self.auth[0]
        stream = await self._dial(dial) if right else V4_FAILED
        code = V4_GRANTED if isinstance(stream, tuple) else self.refuse or V4_FAILED
        reply = bytes([0, code, 0, 0, 127, 0, 0, 1])
        await self._reply(connection, stream, reply)

    async def _reply(self, connection: Connection, stream: Stream | int, reply: bytes) -> None:
        if isinstance(stream, tuple):
            await self.grant(connection, stream, reply)
        else:
            await self.answer(connection, reply)

    async def _dial(self, dial: Dial) -> Stream | int:
        """Connect; or return the reply code of SOCKS5 that says why not."""
        self.targets.append(dial)
        self.notify()
        if self.refuse:
            return self.refuse
        try:
            return await self.dial(dial.host, dial.port)
        except OSError:
            return REFUSED


async def _read_host(reader: asyncio.StreamReader, kind: int) -> tuple[str, str]:
    if kind == NAME:
        return "name", await _read_text(reader)
    if kind == IPV4:
        return "ipv4", str(ipaddress.IPv4Address(await reader.readexactly(4)))
    return "ipv6", str(ipaddress.IPv6Address(await reader.readexactly(16)))


async def _read_text(reader: asyncio.StreamReader) -> str:
    return (await reader.readexactly((await reader.readexactly(1))[0])).decode()


async def _read_zero_ended(reader: asyncio.StreamReader) -> str:
    return (await reader.readuntil(b"\0"))[:-1].decode()


async def _read_port(reader: asyncio.StreamReader) -> int:
    return int.from_bytes(await reader.readexactly(2), "big")
