"""Connections through one proxy, a chain of them, or none: which connector, and which credentials.

    direct       ─▶ aiohttp
    http, https  ─▶ aiohttp's own proxy support (CONNECT, or absolute-form for an http:// upstream)
    socks*       ─▶ aiohttp-socks' connector over `hops`
    a chain      ─▶ the same over its hops; a last one that is http or https is left to aiohttp

A dial is all that happens before the request's first byte: names, TCP, handshakes, TLS. What fails
here has cost nothing and may be tried elsewhere; so it is told apart at the one place where it
happens, the connector's `connect`, and leaves it as a Failure of the stage `dial` (`diagnosis`).
"""

import ssl
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Protocol

import aiohttp
import aiohttp_socks
from yarl import URL

from service.adapters.clock import Clock, Deadline
from service.adapters.dial.diagnosis import Shown, explain, timed_out, unverified
from service.adapters.dial.hops import Broken, lay, note, reached
from service.adapters.dial.look import Look
from service.adapters.dial.trust import Trust
from service.core.proxy import DIRECT, Leg, Proxy
from service.errors import Failure

if TYPE_CHECKING:
    import asyncio

    from aiohttp.client import ClientTimeout
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.client_reqrep import ClientRequest, ConnectionKey
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace


class Dialled(Protocol):
    """Called when a request has its connection; `reused`: it served another one before.

    A reused one may have been closed by the other side meanwhile: if it then breaks off before the
    answer's first byte, it says nothing about the upstream.
    """

    def __call__(self, *, reused: bool) -> None: ...  # noqa: D102


dialled: ContextVar[Dialled] = ContextVar("dialled")
"""Called when the connection of the current task's request stands; what it raises closes it."""

# The relay has its own clocks; python-socks would take 60 s for an answer where it is given none.
_NO_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=366 * 86400)
_AUTO_HEADERS: Final = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
_READ_AHEAD: Final = 16 * 1024
"""Bytes of an answer that may wait unread; from twice as many on, aiohttp pauses the socket."""
_HEADER_LIMIT: Final = (
    64 * 1024
)  # bytes of an upstream's header line; chatty CDNs pass aiohttp's 8 KiB
_LOOK: Final = 3.0  # seconds for another look at a certificate that was not accepted
_ERRORS: Final = (
    aiohttp.ClientError,
    aiohttp.http_exceptions.HttpProcessingError,
    OSError,
    EOFError,
    AssertionError,
    ValueError,
)


class _Direct(aiohttp.TCPConnector):
    """Direct, or through one HTTP proxy: it knows its clock and its trust, and fails in one way."""

    def __init__(
        self,
        proxy: Proxy,
        origin: str,
        clock: Clock,
        seconds: float,
        trust: Trust | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(limit=0, ssl=True if trust is None else trust.upstream, **kwargs)
        self._way = proxy
        self._native = native(proxy) is not None
        self._to = origin
        self._time = clock
        self._within = seconds
        self._trust = trust

    async def connect(
        self,
        req: "ClientRequest",
        traces: "list[Trace]",
        timeout: "ClientTimeout",  # noqa: ASYNC109  aiohttp's signature
    ) -> "Connection":
        """Return a connection, pooled or new; raises Failure of the stage dial."""
        if self._trust is not None:
            req.server_hostname = self._trust.server_name or None
        end = self._time.now() + (self._within or _LOOK)
        try:
            connection = await super().connect(req, traces, timeout)
        except TimeoutError:
            raise timed_out(reached.get(), self._to, self._within) from None
        except Broken as broken:
            raise await self._failure(broken.error, broken.leg, req, end) from None
        except _ERRORS as error:
            raise await self._failure(error, Leg(self._way), req, end) from None
        return self._handed_over(connection)

    async def _create_connection(
        self,
        req: "ClientRequest",
        traces: "list[Trace]",
        timeout: "ClientTimeout",  # noqa: ASYNC109  aiohttp's signature
    ) -> "ResponseHandler":
        """Dial, for there was no kept connection."""
        reached.set(Leg(self._way))
        async with Deadline(self._time, self._within):
            return await super()._create_connection(req, traces, timeout)

    async def _get(self, key: "ConnectionKey", traces: "list[Trace]") -> "Connection | None":
        """Return a kept connection, None if there is none.

        Not one on which an answer has come to nobody's question: it would be the next one's.
        """
        while (connection := await super()._get(key, traces)) is not None:
            if connection.protocol is not None and not connection.protocol.should_close:
                return connection
            connection.close()
        return None

    def _handed_over(self, connection: "Connection") -> "Connection":
        """Tell whoever asked, who may still refuse the connection."""
        reused = getattr(connection.protocol, "used", False)
        connection.protocol.used = True  # type: ignore[union-attr]
        try:
            dialled.get(_unheard)(reused=reused)
        except BaseException:
            transport = connection.transport
            connection.close()
            if transport is not None:  # whose TLS would wait for the other side to close
                self._loop.call_soon(transport.abort)
            raise
        return connection

    async def _failure(
        self, error: Exception, leg: Leg, req: "ClientRequest", end: float
    ) -> Failure:
        """Say what the error means; a certificate that was not accepted is looked at again."""
        whose = unverified(error, leg.proxy)
        if whose == "proxy":
            through, host, port = leg.proxy.via or DIRECT, leg.proxy.host, leg.proxy.port
            name = host
        elif whose == "upstream":
            through, host, port = leg.proxy, str(req.host), int(req.port or 0)
            name = req.server_hostname or host
        else:
            return explain(error, leg, self._to)
        seconds = min(end - self._time.now(), _LOOK)
        look = Look(through, host, port, name, self._trust and self._trust.proxies)
        return explain(error, leg, self._to, Shown(name, await look.at(self._time, seconds)))

    def _get_ssl_context(self, req: "ClientRequest") -> ssl.SSLContext | None:
        """Show the client's certificate to the upstream only."""
        to_proxy = self._native and req.proxy is None
        if to_proxy and req.is_ssl() and self._trust is not None:
            return self._trust.proxies
        return super()._get_ssl_context(req)

    async def _wrap_create_connection(
        self, *args: Any, **kwargs: Any
    ) -> "tuple[asyncio.Transport, ResponseHandler]":
        made = await super()._wrap_create_connection(*args, **kwargs)
        note("tcp" if self._native or not kwargs.get("ssl") else "tls")
        return made

    async def _start_tls_connection(
        self, underlying_transport: "asyncio.Transport", req: "ClientRequest", *args: Any, **kw: Any
    ) -> "tuple[asyncio.BaseTransport, ResponseHandler]":
        to_proxy = self._native and req.proxy is None
        if self._native and not to_proxy:
            note(f"proxy {self._way.address}")  # it has granted the tunnel
        made = await super()._start_tls_connection(underlying_transport, req, *args, **kw)
        if not to_proxy:
            note("tls")
        return made


class _Tunnel(_Direct, aiohttp_socks.ChainProxyConnector):
    """Through hops, the last of which may be aiohttp's business.

    aiohttp-socks' own chain knows no https hop, and waits for the end of a connection that was
    reset; so the line is laid by `hops`, and TLS behind it is aiohttp's, as behind an HTTP proxy.
    """

    def __init__(self, proxy: Proxy, *args: Any) -> None:
        super().__init__(proxy, *args, proxy_infos=())
        self._through = proxy if proxy.via is None or not self._native else proxy.via
        self._onward = proxy if self._native else None

    async def _connect_via_proxy(
        self,
        host: str,
        port: int,
        ssl: ssl.SSLContext | None = None,  # noqa: ARG002  comes later
        timeout: float | None = None,  # noqa: ARG002, ASYNC109  the relay has its own clock
    ) -> "tuple[asyncio.Transport, ResponseHandler]":
        tls = self._trust and self._trust.proxies
        line = await lay(self._through, host, port, tls, self._onward)
        reached.set(Leg(self._way))
        protocol = self._factory()
        line.transport.set_protocol(protocol)
        protocol.connection_made(line.transport)
        return line.transport, protocol

    async def _wrap_create_connection(
        self, *args: Any, **kwargs: Any
    ) -> "tuple[asyncio.Transport, ResponseHandler]":
        tls = kwargs.pop("ssl", None)
        wrap = aiohttp_socks.ChainProxyConnector._wrap_create_connection  # noqa: SLF001
        made = await wrap(self, *args, **kwargs)
        if tls is None:
            return made
        start = {n: kwargs[n] for n in ("req", "timeout", "client_error") if n in kwargs}
        return await self._start_tls_connection(made[0], **start)  # type: ignore[return-value]


def native(proxy: Proxy) -> URL | None:
    """Return the URL by which aiohttp goes through that proxy; None if the connector does.

    It is the last hop's, towards which the connector has gone through those before it.
    """
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
    tls: Trust | None = None,
) -> aiohttp.BaseConnector:
    """Return a pool of connections to `origin` (host:port, for messages) through this proxy.

    `seconds`: the clock `connect`, over all of a dial; `tls`: None = the system's trust.
    """
    alone = proxy.via is None and (proxy == DIRECT or native(proxy) is not None)
    return (_Direct if alone else _Tunnel)(proxy, origin, clock, seconds, tls)


def session(
    proxy: Proxy,
    origin: str,
    clock: Clock,
    seconds: float,
    tls: Trust | None = None,
) -> aiohttp.ClientSession:
    """Return a client that goes that way and no other; the arguments are those of `connector`.

    What could be read from the environment (proxies, netrc), what would be kept between callers
    (cookies) and what aiohttp would do by itself (total time-outs) is off.
    """
    return aiohttp.ClientSession(
        connector=connector(proxy, origin, clock, seconds, tls),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=_NO_TIMEOUT,
        trust_env=False,
        skip_auto_headers=_AUTO_HEADERS,
        read_bufsize=_READ_AHEAD,
        max_line_size=_HEADER_LIMIT,
        max_field_size=_HEADER_LIMIT,
    )


def _unheard(*, reused: bool) -> None:
    pass
