"""Connections through one proxy, or none: which connector, and what its errors mean.

    http, https ─▶ aiohttp's own proxy support (CONNECT, or absolute-form for an http:// upstream)
    socks*      ─▶ aiohttp-socks
    direct      ─▶ aiohttp

A dial is all that happens before the request's first byte: names, TCP, handshakes, TLS. What fails
here has cost nothing and may be tried elsewhere; so it is told apart at the one place where it
happens, the connector's `connect`, and leaves it as a Failure of the stage `dial`.
"""

import ssl
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import aiohttp
import aiohttp_socks
from python_socks import ProxyType

from service.adapters.clock import Clock, Deadline
from service.core.proxy import Proxy
from service.errors import Failure

if TYPE_CHECKING:
    from aiohttp.client import ClientTimeout
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

dialled: ContextVar[Callable[[], None]] = ContextVar("dialled")
"""Called when the connection of the current task's request stands."""

_SOCKS = {
    "socks4": (ProxyType.SOCKS4, False),
    "socks4a": (ProxyType.SOCKS4, True),
    "socks5": (ProxyType.SOCKS5, False),
    "socks5h": (ProxyType.SOCKS5, True),
}
_SOCKS_FORBIDS = 0x02  # RFC 1928, section 6: connection not allowed by ruleset
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
            raise _timed_out(self._via, self._to, self._seconds) from None
        except _ERRORS as error:
            raise explain(error, self._via, self._to) from None
        dialled.get(lambda: None)()
        return connection


class _Direct(_Dial, aiohttp.TCPConnector):
    """Direct, or through an HTTP proxy."""


class _Socks(_Dial, aiohttp_socks.ProxyConnector):
    """Through a SOCKS proxy."""


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
    return _Socks(
        proxy,
        origin,
        clock,
        seconds,
        ssl=trust,
        host=proxy.host,
        port=proxy.port,
        proxy_type=kind,
        username=proxy.username or None,
        password=proxy.password.reveal() or None,
        rdns=remote_dns,
    )


def _timed_out(proxy: Proxy, origin: str, seconds: float) -> Failure:
    if proxy.scheme == "direct":
        text = f"{origin} did not answer within {seconds:g} s"
        return Failure("upstream_unreachable", text, stage="dial", status=504)
    text = f"proxy {proxy.address} did not connect to {origin} within {seconds:g} s"
    return Failure("proxy_timeout", text, stage="dial")


def explain(  # noqa: PLR0911  one return for each kind of failure
    error: Exception, proxy: Proxy, origin: str
) -> Failure:
    """Return what a failed dial means: whose fault, and what a user can do."""
    cause = _tls(error)
    if cause is not None:
        return _tls_failure(cause, proxy, origin)
    if proxy.scheme == "direct":
        return _dial("upstream_unreachable", f"{origin} {_reason(error)}")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return _http_refusal(error.status, proxy, origin)
    if isinstance(error, aiohttp_socks.ProxyError):
        return _socks_refusal(error, proxy, origin)
    if isinstance(error, (aiohttp.ClientProxyConnectionError, aiohttp_socks.ProxyConnectionError)):
        return _dial("proxy_unreachable", f"proxy {proxy.address} {_reason(error)}")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return _dial("upstream_unreachable", f"{origin} {_reason(error)}")
    return _dial(
        "proxy_protocol",
        f"what listens at {proxy.address} does not answer as {proxy.scheme} proxies do:"
        f" is it a port for {_other(proxy)}?",
    )


def _dial(code: str, message: str) -> Failure:
    return Failure(code, message, stage="dial")


def _other(proxy: Proxy) -> str:
    return "SOCKS" if proxy.scheme in {"http", "https"} else "HTTP"


def _reason(error: Exception) -> str:
    """Say why no connection came about, without quoting the library: it may quote a password."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "has a name that cannot be resolved here"
    inner = getattr(error, "os_error", None) or error.__cause__ or error
    if isinstance(inner, aiohttp_socks.ProxyConnectionError | OSError) and inner.__cause__:
        inner = inner.__cause__
    if isinstance(inner, ConnectionRefusedError) or "refused" in str(inner).lower():
        return "refused the connection: is it running?"
    if isinstance(inner, ConnectionResetError):
        return "reset the connection"
    strerror = getattr(inner, "strerror", None)
    return f"cannot be reached ({strerror})" if strerror else "cannot be reached"


def _http_refusal(status: int, proxy: Proxy, origin: str) -> Failure:
    """Read a status other than 200 after CONNECT."""
    if status == 407:  # noqa: PLR2004  Proxy Authentication Required
        return unauthenticated(proxy)
    if status >= 500:  # noqa: PLR2004
        text = f"proxy {proxy.address} could not reach {origin} (it answered {status})"
        return _dial("upstream_unreachable", text)
    text = f"proxy {proxy.address} refused to connect to {origin} (it answered {status})"
    if status == 400:  # noqa: PLR2004  what HTTP servers say to CONNECT
        return _dial("proxy_protocol", f"{text}: is it an HTTP proxy?")
    return _dial("proxy_refused", text)


def unauthenticated(proxy: Proxy) -> Failure:
    """Return the failure of a proxy that wants other credentials than it got."""
    if proxy.username:
        text = f"proxy {proxy.address} did not accept the user name and password in its URL"
    else:
        text = f"proxy {proxy.address} wants a user name and password: put them into its URL"
    return _dial("proxy_refused", text)


def _socks_refusal(error: aiohttp_socks.ProxyError, proxy: Proxy, origin: str) -> Failure:
    text = str(error).lower()
    if error.error_code == _SOCKS_FORBIDS:
        return _dial("proxy_refused", f"proxy {proxy.address} does not allow {origin}")
    if error.error_code is not None:
        return _dial("upstream_unreachable", f"proxy {proxy.address} could not reach {origin}")
    if "auth" in text:
        return unauthenticated(proxy)
    return explain(EOFError(), proxy, origin)


def _tls(error: Exception) -> ssl.SSLError | None:
    """Return the TLS error behind this one."""
    for found in (error, getattr(error, "os_error", None), error.__cause__):
        if isinstance(found, ssl.SSLError):
            return found
        inner = getattr(found, "certificate_error", None)
        if isinstance(inner, ssl.SSLError):
            return inner
    return None


def _tls_failure(error: ssl.SSLError, proxy: Proxy, origin: str) -> Failure:
    if isinstance(error, ssl.SSLCertVerificationError):
        text = f"the certificate of {origin} was not accepted: {error.verify_message}"
        through = f" (through {proxy})" if proxy.scheme != "direct" else ""
        return _dial("upstream_tls", f"{text}{through}: does something on the way intercept it?")
    return _dial("upstream_tls", f"{origin} does not speak TLS: is its URL an http:// one?")
