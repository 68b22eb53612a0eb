"""A line to a host and port, through one proxy after another.

    TCP ─▶ hop ─▶ hop ─▶ HOST:PORT        at each: its TLS if it is https, then its handshake

Each hop dials the next by its name, where its kind resolves names. SOCKS handshakes are those of
python-socks; CONNECT is spoken here, as python-socks takes the first read for the whole answer.

Credentials go out as UTF-8 (RFC 7617 for HTTP; RFC 1929 has no rule), where the library knows ASCII
only.
"""

import re
import ssl
from base64 import b64encode
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

import python_socks
from python_socks.async_.asyncio.v2 import Proxy as SocksClient

from service.adapters.dial.line import Line
from service.adapters.dial.trust import system
from service.core.proxy import Leg, Proxy

reached: ContextVar[Leg] = ContextVar("reached")
"""The part of the way that the current task has come to: who is silent when the time is up."""

step: ContextVar[Callable[[str], None]] = ContextVar("step")
"""Called when the current task's dial has come so far: `tcp`, `proxy HOST:PORT`, `tls`."""

SOCKS: Final = {
    "socks4": (python_socks.ProxyType.SOCKS4, False),
    "socks4a": (python_socks.ProxyType.SOCKS4, True),
    "socks5": (python_socks.ProxyType.SOCKS5, False),
    "socks5h": (python_socks.ProxyType.SOCKS5, True),
}
"""The kinds of SOCKS: the version, and whether the proxy resolves names."""

_FOREVER: Final = 366 * 86400.0  # python-socks would take 60 s where it is given no time
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?![0-9])")
_HEADERS: Final = 200
_ERRORS: Final = (OSError, EOFError, ValueError, AssertionError, python_socks.ProxyError)


class Broken(Exception):  # noqa: N818
    """A way that ended at one of its hops: `error` is what was met on that `leg`."""

    def __init__(self, error: Exception, leg: Leg) -> None:
        super().__init__(str(leg.proxy))
        self.error = error
        self.leg = leg


class _TlsError(OSError):
    """A TLS handshake that failed, with the fields that aiohttp's errors of that kind have."""

    def __init__(self, hop: Proxy, error: ssl.SSLError) -> None:
        super().__init__(error.reason)
        self.host = hop.host
        self.port = hop.port
        self.os_error = error


def note(name: str) -> None:
    """Tell who asked for them of a step that is done."""
    step.get(_unheard)(name)


def _unheard(_: str) -> None:
    pass


async def lay(
    proxy: Proxy,
    host: str,
    port: int,
    tls: ssl.SSLContext | None = None,
    onward: Proxy | None = None,
) -> Line:
    """Return a line to that address through all hops of the proxy, through none if it is `direct`.

    `tls` is for https hops, None = the system's trust; `onward`: the proxy that listens at the
    address, if it is one. Raises Broken; OSError for an address that is dialled directly.
    """
    if not proxy.hops:
        return await Line.to(host, port)
    first, *rest = proxy.hops
    legs = [Leg(*pair) for pair in zip(proxy.hops, [*rest, onward], strict=True)]
    targets = [*((hop.host, hop.port) for hop in rest), (host, port)]
    reached.set(legs[0])
    try:
        line = await Line.to(first.host, first.port)
    except OSError as error:
        raise Broken(_unreachable(error), legs[0]) from None
    note("tcp")
    try:
        for leg, target in zip(legs, targets, strict=True):
            await _pass(line, leg, *target, tls)
    except BaseException:
        line.abort()
        raise
    return line


async def _pass(line: Line, leg: Leg, host: str, port: int, tls: ssl.SSLContext | None) -> None:
    """Let the proxy that listens at the end of the line prolong it to that address."""
    reached.set(leg)
    hop = leg.proxy
    try:
        if hop.scheme == "https":
            await _secure(line, hop, tls or system())
        await (_socks if hop.scheme in SOCKS else _connect)(line, hop, host, port)
    except _ERRORS as error:
        raise Broken(error, leg) from error
    note(f"proxy {hop.address}")


async def _secure(line: Line, hop: Proxy, tls: ssl.SSLContext) -> None:
    try:
        await line.start_tls(tls, hop.host)
    except ssl.SSLError as error:
        raise _TlsError(hop, error) from error
    except OSError as error:
        raise _unreachable(error) from error


async def _socks(line: Line, hop: Proxy, host: str, port: int) -> None:
    kind, remote_dns = SOCKS[hop.scheme]
    known = bool(hop.username)
    client = SocksClient(
        kind,
        hop.host,
        hop.port,
        username=_Field(hop.username) if known else None,
        password=_Field(hop.password.reveal()) if known else None,
        rdns=remote_dns,
        forward=line,  # type: ignore[arg-type]  # all of it that is used
    )
    await client.connect(host, port, timeout=_FOREVER)


async def _connect(line: Line, hop: Proxy, host: str, port: int) -> None:
    """Ask for a tunnel (RFC 9110, section 9.3.6)."""
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if hop.username or hop.password:
        login = b64encode(f"{hop.username}:{hop.password.reveal()}".encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {login}")
    await line.write("\r\n".join([*lines, "", ""]).encode())
    while (status := await _status(line)) < 200:  # noqa: PLR2004  not its answer yet
        pass
    if not 200 <= status < 300:  # noqa: PLR2004
        raise python_socks.ProxyError("no tunnel", error_code=status)


async def _status(line: Line) -> int:
    """Read the head of an answer, however it is cut into pieces."""
    found = _STATUS.match(await line.read_line())
    if not found:
        raise ValueError("not HTTP")
    for _ in range(_HEADERS):
        if not (await line.read_line()).strip():
            return int(found[1])
    raise ValueError("too many headers")


def _unreachable(error: OSError) -> python_socks.ProxyConnectionError:
    """Return what python-socks raises for a proxy that cannot be connected to."""
    unreachable = python_socks.ProxyConnectionError(error.errno, error.strerror)
    unreachable.__cause__ = error
    return unreachable


class _Field(str):
    """A field of a SOCKS request as python-socks takes it: counted and written in UTF-8 bytes.

    It is true though it is empty: a user name alone is sent with an empty password, as curl does.
    """

    __slots__ = ()

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        return len(self.encode())

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:  # noqa: ARG002
        return super().encode()
