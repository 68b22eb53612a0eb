"""Connections through one proxy, or none: which connector, with which credentials.

    http, https ─▶ aiohttp's own proxy support (CONNECT, or absolute-form for an http:// upstream)
    socks*      ─▶ aiohttp-socks
    direct      ─▶ aiohttp

A dial is all that happens before the request's first byte: names, TCP, handshakes, TLS. What fails
here has cost nothing and may be tried elsewhere; so it is told apart at the one place where it
happens, the connector's `connect`, and leaves it as a Failure of the stage `dial` (`diagnosis`).

Credentials go out as UTF-8 (RFC 7617 for HTTP; RFC 1929 has no rule), where the libraries know
Latin-1 and ASCII only.
"""

import ssl
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import aiohttp
import aiohttp_socks
from python_socks import ProxyType
from yarl import URL

from service.adapters.clock import Clock, Deadline
from service.adapters.diagnosis import explain, timed_out
from service.core.proxy import Proxy

if TYPE_CHECKING:
    import asyncio

    from aiohttp.client import ClientTimeout
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

dialled: ContextVar[Callable[[bool], None]] = ContextVar("dialled")
"""Called when the connection of the current task's request stands; True: it stood before."""

_SOCKS = {
    "socks4": (ProxyType.SOCKS4, False),
    "socks4a": (ProxyType.SOCKS4, True),
    "socks5": (ProxyType.SOCKS5, False),
    "socks5h": (ProxyType.SOCKS5, True),
}
_ERRORS = (aiohttp.ClientError, OSError, EOFError, aiohttp_socks.ProxyError,
           aiohttp_socks.ProxyConnectionError, aiohttp_socks.ProxyTimeoutError,
           aiohttp.http_exceptions.HttpProcessingError, AssertionError, ValueError)  # fmt: skip


class _Dial:
    """A connector that knows its proxy and its clock, and fails in one way."""

    def __init__(
        self, proxy: Proxy, origin: str, clock: Clock, seconds: float, **kwargs: Any
    ) -> None:
        super().__init__(limit=0, **kwargs)  # type: ignore[call-arg]  # a mixin
        self._via = proxy
        self._to = origin
        self._time = clock
        self._seconds = seconds

    async def connect(
        self,
        req: "ClientRequest",
        traces: "list[Trace]",
        timeout: "ClientTimeout",  # noqa: ASYNC109  aiohttp's signature
    ) -> "Connection":
        """Return a connection, pooled or new; raises Failure of the stage dial."""
        try:
            async with Deadline(self._time, self._seconds):
                connection: Connection = await super().connect(req, traces, timeout)  # type: ignore[misc]
        except TimeoutError:
            raise timed_out(self._via, self._to, self._seconds) from None
        except _ERRORS as error:
            raise explain(error, self._via, self._to) from None
        dialled.get(lambda _: None)(False)
        return connection


class _Direct(_Dial, aiohttp.TCPConnector):
    """Direct, or through an HTTP proxy."""


class _Socks(_Dial, aiohttp_socks.ProxyConnector):
    """Through a SOCKS proxy; TLS behind it is aiohttp's, as behind an HTTP proxy.

    python-socks would wait for the end of a connection that was reset in the TLS handshake, and its
    errors do not tell one handshake from the other.
    """

    async def _wrap_create_connection(
        self, *args: Any, **kwargs: Any
    ) -> "tuple[asyncio.Transport, ResponseHandler]":
        tls = kwargs.pop("ssl", None)
        transport, protocol = await super()._wrap_create_connection(*args, **kwargs)
        if tls is None:
            return transport, protocol
        req, timeout = kwargs["req"], kwargs["timeout"]
        over, end = await self._start_tls_connection(transport, req=req, timeout=timeout)
        end.hop = protocol  # type: ignore[attr-defined]  # whose stream closes when it is let go
        return over, end  # type: ignore[return-value]


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


def native(proxy: Proxy) -> URL | None:
    """Return the URL by which aiohttp goes through that proxy; None if the connector does."""
    if proxy.scheme not in {"http", "https"}:
        return None
    user, password = (
        text.encode().decode("latin-1") or None
        for text in (proxy.username, proxy.password.reveal())
    )
    return URL.build(
        scheme=proxy.scheme, user=user, password=password, host=proxy.host, port=proxy.port
    )


def connector(
    proxy: Proxy,
    origin: str,
    clock: Clock,
    seconds: float,
    tls: ssl.SSLContext | None = None,
) -> aiohttp.BaseConnector:
    """Return a pool of connections to `origin` (host:port, for messages) through this proxy."""
    trust = True if tls is None else tls
    if proxy.scheme not in _SOCKS:
        return _Direct(proxy, origin, clock, seconds, ssl=trust)
    kind, remote_dns = _SOCKS[proxy.scheme]
    known = bool(proxy.username)
    return _Socks(
        proxy,
        origin,
        clock,
        seconds,
        ssl=trust,
        host=proxy.host,
        port=proxy.port,
        proxy_type=kind,
        username=_Field(proxy.username) if known else None,
        password=_Field(proxy.password.reveal()) if known else None,
        rdns=remote_dns,
    )


async def probe(session: aiohttp.ClientSession, proxy: Proxy, url: str) -> None:
    raise NotImplementedError
