"""What a failed dial means: whose fault it was, and what a user can do.

    what a connector raised ──explain──▶ Failure of the stage `dial`

No text of a library is handed on: some of them quote the proxy's password.
"""

import asyncio
import errno
import os
import socket
import ssl
from typing import Final

import aiohttp
import aiohttp_socks

from service.core.proxy import Proxy
from service.errors import Failure

_PROXY_AUTHENTICATION: Final = 407
_NO_PROXY_SAYS: Final = frozenset({400, 404, 405, 501})  # but web servers do, to CONNECT
_SOCKS5_FORBIDS: Final = 0x02  # RFC 1928, section 6: connection not allowed by ruleset
_SOCKS4_REJECTS: Final = 0x5B  # SOCKS4.protocol: request rejected or failed
_SOCKS4_IDENTITY: Final = frozenset({0x5C, 0x5D})  # no identd, or it names another user
_REFUSED: Final = f"[Errno {errno.ECONNREFUSED}]"
_ALERTS: Final = ("TLSV1", "SSLV3", "UNSUPPORTED")  # OpenSSL's names for what a TLS server says


def explain(error: Exception, proxy: Proxy, origin: str) -> Failure:
    """Return what the error of a dial through that proxy to HOST:PORT means."""
    if (cause := _tls(error)) is not None:
        return _tls_failure(error, cause, proxy, origin)
    if proxy.scheme == "direct":
        return _dial("upstream_unreachable", f"{origin} {_reason(error)}")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return _http_refusal(error.status, proxy, origin)
    if isinstance(error, aiohttp_socks.ProxyError | asyncio.IncompleteReadError):
        return _socks_refusal(error, proxy, origin)
    if isinstance(error, _NO_WAY_TO_PROXY):
        return _dial("proxy_unreachable", f"proxy {proxy.address} {_reason(error)}")
    return _beyond(error, proxy, origin)


def timed_out(proxy: Proxy, origin: str, seconds: float) -> Failure:
    """Return the failure of a dial that took longer than that."""
    if proxy.scheme == "direct":
        text = f"{origin} did not answer within {seconds:g} s"
        return Failure("upstream_unreachable", text, stage="dial", status=504)
    text = f"proxy {proxy.address} did not connect to {origin} within {seconds:g} s"
    return Failure("proxy_timeout", text, stage="dial")


def unauthenticated(proxy: Proxy) -> Failure:
    """Return the failure of a proxy that wants other credentials than it got."""
    if proxy.username or proxy.password:
        text = f"proxy {proxy.address} did not accept the user name and password in its URL"
    else:
        text = f"proxy {proxy.address} wants a user name and password: put them into its URL"
    return _dial("proxy_refused", text)


def _dial(code: str, message: str) -> Failure:
    return Failure(code, message, stage="dial")


# An HTTP proxy's connector resolves no name but the proxy's.
_NO_WAY_TO_PROXY: Final = (
    aiohttp.ClientProxyConnectionError,
    aiohttp.ClientConnectorDNSError,
    aiohttp_socks.ProxyConnectionError,
)


def _beyond(error: Exception, proxy: Proxy, origin: str) -> Failure:
    """Read what happened once there was a connection to the proxy."""
    if isinstance(error, socket.gaierror):
        text = f"{origin} {_reason(error)}: a socks5h:// proxy resolves names itself"
        return _dial("upstream_unreachable", text)
    if isinstance(error, aiohttp.ClientConnectorError):  # in the TLS handshake with the upstream:
        # proxies that grant a tunnel before they have dialled, as a local Clash does, fail there
        text = f"proxy {proxy.address} broke off the connection to {origin}: can it reach it?"
        return _dial("upstream_unreachable", text)
    return _dial(
        "proxy_protocol",
        f"what listens at {proxy.address} does not answer as {proxy.scheme} proxies do:"
        f" is it a port for {'SOCKS' if proxy.scheme in {'http', 'https'} else 'HTTP'}?",
    )


def _reason(error: Exception) -> str:
    """Say why no connection came about."""
    inner: BaseException = getattr(error, "os_error", None) or error
    while inner.__cause__ is not None:
        inner = inner.__cause__
    if isinstance(error, aiohttp.ClientConnectorDNSError) or isinstance(inner, socket.gaierror):
        return "has a name that cannot be resolved here"
    if isinstance(inner, ConnectionRefusedError) or _REFUSED in str(inner):
        return "refused the connection: is it running?"
    if isinstance(inner, ConnectionResetError):
        return "broke off the connection"
    number = getattr(inner, "errno", None)
    return f"cannot be reached ({os.strerror(number)})" if number else "cannot be reached"


def _http_refusal(status: int, proxy: Proxy, origin: str) -> Failure:
    """Read a status other than 200 after CONNECT."""
    if status == _PROXY_AUTHENTICATION:
        return unauthenticated(proxy)
    if status in _NO_PROXY_SAYS:
        text = f"{proxy.address} refused to connect to {origin} (it answered {status})"
        return _dial("proxy_protocol", f"{text}: is it an HTTP proxy?")
    if status >= 500:  # noqa: PLR2004
        text = f"proxy {proxy.address} could not reach {origin} (it answered {status})"
        return _dial("upstream_unreachable", text)
    text = f"proxy {proxy.address} refused to connect to {origin} (it answered {status})"
    return _dial("proxy_refused", text)


def _socks_refusal(
    error: aiohttp_socks.ProxyError | asyncio.IncompleteReadError, proxy: Proxy, origin: str
) -> Failure:
    if isinstance(error, aiohttp_socks.ProxyError):
        code = error.error_code
    else:  # sing-box sends half of a SOCKS4 refusal: 0, the code, and no port and address
        code = error.partial[1] if error.partial[:2] == bytes([0, _SOCKS4_REJECTS]) else None
    if code == _SOCKS5_FORBIDS:
        return _dial("proxy_refused", f"proxy {proxy.address} does not allow {origin}")
    if code == _SOCKS4_REJECTS:
        text = f"proxy {proxy.address} refused {origin}, or could not reach it"
        return _dial("upstream_unreachable", f"{text} (SOCKS4 does not tell which)")
    if code in _SOCKS4_IDENTITY or (code is None and "auth" in str(error).lower()):
        return unauthenticated(proxy)
    if code is not None:
        return _dial("upstream_unreachable", f"proxy {proxy.address} could not reach {origin}")
    return _beyond(error, proxy, origin)


def _tls(error: Exception) -> ssl.SSLError | None:
    """Return the TLS error itself: aiohttp's have one inside, and are no good by themselves."""
    inner: BaseException | None = getattr(error, "os_error", error)
    if isinstance(error.__cause__, TypeError):  # asyncio stumbles over TLS that fails within TLS
        inner = error.__cause__.__context__
    return inner if isinstance(inner, ssl.SSLError) else None


def _tls_failure(error: Exception, cause: ssl.SSLError, proxy: Proxy, origin: str) -> Failure:
    hop = getattr(error, "host", None), getattr(error, "port", None)
    if proxy.scheme == "https" and hop == (proxy.host, proxy.port):
        text = _tls_text(cause, f"proxy {proxy.address}", "is it an http:// one?")
        return _dial("proxy_protocol", text)
    through = "" if proxy.scheme == "direct" else f" (through {proxy})"
    return _dial("upstream_tls", _tls_text(cause, origin + through, "is its URL an http:// one?"))


def _tls_text(cause: ssl.SSLError, whose: str, otherwise: str) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        text = f"the certificate of {whose} was not accepted: {cause.verify_message.rstrip('.')}"
        hint = "does something on the way intercept it? What you trust instead goes into ca_file"
        return f"{text}: {hint}"
    reason = cause.reason or ""
    if reason.startswith(_ALERTS):
        return f"{whose} refused the TLS handshake ({reason.replace('_', ' ').lower()})"
    return f"{whose} does not speak TLS: {otherwise}"
