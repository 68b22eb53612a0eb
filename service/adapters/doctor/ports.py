"""What a port speaks, found out by a handshake that harms nobody.

SOCKS5: a greeting that offers no authentication; any proxy answers with a method, or with none.
HTTP: CONNECT to the discard port of the proxy's own machine; a proxy grants it, refuses it or
fails, a web server says that it does not understand.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from service.adapters.clock import Clock, Deadline
from service.adapters.dial.line import Line

_WITHIN: Final = 1.0
"""Seconds for a connection and a handshake with it."""
_GREETING: Final = b"\x05\x01\x00"  # RFC 1928, section 3
_METHODS: Final = 2
_CONNECT: Final = b"CONNECT 127.0.0.1:9 HTTP/1.1\r\nHost: 127.0.0.1:9\r\n\r\n"
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3})")
_NO_PROXY_SAYS: Final = frozenset({b"400", b"401", b"404", b"405", b"501"})


async def spoken(host: str, port: int, clock: Clock) -> frozenset[str]:
    """Return which of `http` and `socks5` are spoken there, as a proxy; none if nobody listens."""
    kinds = {"socks5": _socks5, "http": _http}
    heard = await asyncio.gather(*(_heard(kind, host, port, clock) for kind in kinds.values()))
    return frozenset(name for name, yes in zip(kinds, heard, strict=True) if yes)


async def tunnels(host: str, port: int, clock: Clock) -> bool:
    """Tell whether what listens there understands CONNECT, be it that it refuses."""
    return await _heard(_http, host, port, clock)


async def proxies_among(host: str, ports: Iterable[int], clock: Clock) -> dict[int, frozenset[str]]:
    """Return the ports at which a proxy's protocol is spoken, and which; in the order given."""
    ports = tuple(ports)
    found = await asyncio.gather(*(spoken(host, port, clock) for port in ports))
    return {port: kinds for port, kinds in zip(ports, found, strict=True) if kinds}


async def _heard(
    kind: Callable[[Line], Awaitable[bool]], host: str, port: int, clock: Clock
) -> bool:
    try:
        async with Deadline(clock, _WITHIN):
            line = await Line.to(host, port)
            try:
                return await kind(line)
            finally:
                line.abort()
    except (OSError, EOFError, ValueError):  # TimeoutError is an OSError
        return False


async def _socks5(line: Line) -> bool:
    await line.write(_GREETING)
    return (await line.read_exactly(_METHODS)).startswith(b"\x05")


async def _http(line: Line) -> bool:
    await line.write(_CONNECT)
    found = _STATUS.match(await line.read_line())
    return found is not None and found[1] not in _NO_PROXY_SAYS
