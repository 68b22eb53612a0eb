"""What a failed dial means: whose fault it was, and what a user can do.

    what a connector or a hop raised ──explain──▶ Failure of the stage `dial`

No text of a library is handed on: some of them quote the proxy's password.
"""

import asyncio
import errno
import os
import socket
import ssl
from typing import Final, Literal, NamedTuple

import aiohttp
import python_socks

from service.core.certificate import Certificate
from service.core.proxy import Leg, Proxy
from service.errors import Failure

_PROXY_AUTHENTICATION: Final = 407
_NO_PROXY_SAYS: Final = frozenset({400, 404, 405, 501})  # but web servers do, to CONNECT
_SOCKS5_FORBIDS: Final = 0x02  # RFC 1928, section 6: connection not allowed by ruleset
_SOCKS4_REJECTS: Final = 0x5B  # SOCKS4.protocol: request rejected or failed
_SOCKS4_IDENTITY: Final = frozenset({0x5C, 0x5D})  # no identd, or it names another user
_REFUSED: Final = f"[Errno {errno.ECONNREFUSED}]"
_ALERTS: Final = ("TLSV1", "SSLV3", "UNSUPPORTED")  # OpenSSL's names for what a TLS server says


_MISMATCH: Final = frozenset({62, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, …_IP_ADDRESS_MISMATCH
_SELF_SIGNED: Final = 18  # X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT
_UNKNOWN: Final = frozenset({19, 20, 21})  # …_SELF_SIGNED_CERT_IN_CHAIN, …_GET_ISSUER_CERT_LOCALLY
_OUT_OF_TIME: Final = frozenset({9, 10})  # X509_V_ERR_CERT_NOT_YET_VALID, …_HAS_EXPIRED


class Shown(NamedTuple):
    """A certificate that was not accepted, None if it could not be read, and the name it lacks."""

    expected: str
    certificate: Certificate | None


def explain(error: Exception, leg: Leg, origin: str, shown: Shown | None = None) -> Failure:
    """Return what the error means: of a dial to HOST:PORT that came as far as that leg."""
    proxy = leg.proxy
    if leg.onward is None:
        return _explain(error, proxy, origin, shown)
    failure = _explain(error, proxy, f"proxy {leg.onward.address}", shown)
    if failure.code != "upstream_unreachable":
        return failure
    return _dial("proxy_unreachable", failure.message)


def _explain(error: Exception, proxy: Proxy, target: str, shown: Shown | None) -> Failure:
    if (cause := _tls(error)) is not None:
        return _tls_failure(error, cause, (proxy, target), shown)
    if proxy.scheme == "direct":
        return _dial("upstream_unreachable", f"{target} {_reason(error)}")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return _http_refusal(error.status, proxy, target)
    if isinstance(error, python_socks.ProxyError | asyncio.IncompleteReadError):
        return _refusal(error, proxy, target)
    if isinstance(error, _NO_WAY_TO_PROXY):
        return _dial("proxy_unreachable", f"{proxy.title} {_reason(error)}")
    return _beyond(error, proxy, target)


def unverified(error: Exception, proxy: Proxy) -> Literal["upstream", "proxy"] | None:
    """Tell whose certificate was not accepted; None if that is not what the error says."""
    if not isinstance(_tls(error), ssl.SSLCertVerificationError):
        return None
    return "proxy" if _of_proxy(error, proxy) else "upstream"


def timed_out(leg: Leg, origin: str, seconds: float) -> Failure:
    """Return the failure of a dial that took longer than that, and came as far as that leg."""
    if leg.proxy.scheme == "direct":
        text = f"{origin} did not answer within {seconds:g} s"
        return Failure("upstream_unreachable", text, stage="dial", status=504)
    target = origin if leg.onward is None else f"proxy {leg.onward.address}"
    text = f"{leg.proxy.title} did not connect to {target} within {seconds:g} s"
    return Failure("proxy_timeout", text, stage="dial")


def unauthenticated(proxy: Proxy) -> Failure:
    """Return the failure of a proxy that wants other credentials than it got."""
    if proxy.username or proxy.password:
        text = f"{proxy.title} did not accept the user name and password in its URL"
    else:
        text = f"{proxy.title} wants a user name and password: put them into its URL"
    return _dial("proxy_refused", text)


def _dial(code: str, message: str) -> Failure:
    return Failure(code, message, stage="dial")


# An HTTP proxy's connector resolves no name but the proxy's.
_NO_WAY_TO_PROXY: Final = (
    aiohttp.ClientProxyConnectionError,
    aiohttp.ClientConnectorDNSError,
    python_socks.ProxyConnectionError,
)


def _beyond(error: Exception, proxy: Proxy, origin: str) -> Failure:
    """Read what happened once there was a connection to the proxy."""
    if isinstance(error, socket.gaierror):
        text = f"{origin} {_reason(error)}: a socks5h:// proxy resolves names itself"
        return _dial("upstream_unreachable", text)
    if proxy.via is not None and _hung_up(error):  # or the hop before granted too much
        text = f"{proxy.title} broke off the connection: is it running, and a {proxy.scheme} proxy?"
        return _dial("proxy_unreachable", text)
    if isinstance(error, aiohttp.ClientConnectorError):  # in the TLS handshake with the upstream:
        # proxies that grant a tunnel before they have dialled, as a local Clash does, fail there
        text = f"{proxy.title} broke off the connection to {origin}: can it reach it?"
        return _dial("upstream_unreachable", text)
    other = "SOCKS" if proxy.scheme in {"http", "https"} else "HTTP"
    text = f"what listens at {_where(proxy)} does not answer as {proxy.scheme} proxies do"
    return _dial("proxy_protocol", f"{text}: is it a port for {other}?")


def _where(proxy: Proxy) -> str:
    """Return its title, where it may be no proxy at all."""
    return proxy.title.removeprefix("proxy ")


def _hung_up(error: Exception) -> bool:
    """Tell whether a connection ended before the first byte of an answer."""
    if isinstance(error, asyncio.IncompleteReadError):
        return not error.partial
    return isinstance(error, ConnectionError | aiohttp.ServerDisconnectedError)


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
        text = f"{_where(proxy)} refused to connect to {origin} (it answered {status})"
        return _dial("proxy_protocol", f"{text}: is it an HTTP proxy?")
    if status >= 500:  # noqa: PLR2004
        text = f"{proxy.title} could not reach {origin} (it answered {status})"
        return _dial("upstream_unreachable", text)
    text = f"{proxy.title} refused to connect to {origin} (it answered {status})"
    return _dial("proxy_refused", text)


def _refusal(
    error: python_socks.ProxyError | asyncio.IncompleteReadError, proxy: Proxy, origin: str
) -> Failure:
    """Read what a hop of a chain or a SOCKS proxy answered."""
    if isinstance(error, python_socks.ProxyError):
        code = error.error_code
    else:  # sing-box sends half of a SOCKS4 refusal: 0, the code, and no port and address
        code = error.partial[1] if error.partial[:2] == bytes([0, _SOCKS4_REJECTS]) else None
    if code is not None and not proxy.scheme.startswith("socks"):
        return _http_refusal(code, proxy, origin)
    if code == _SOCKS5_FORBIDS:
        return _dial("proxy_refused", f"{proxy.title} does not allow {origin}")
    if code == _SOCKS4_REJECTS:
        text = f"{proxy.title} refused {origin}, or could not reach it"
        return _dial("upstream_unreachable", f"{text} (SOCKS4 does not tell which)")
    if code in _SOCKS4_IDENTITY or (code is None and "auth" in str(error).lower()):
        return unauthenticated(proxy)
    if code is not None:
        return _dial("upstream_unreachable", f"{proxy.title} could not reach {origin}")
    return _beyond(error, proxy, origin)


def _tls(error: Exception) -> ssl.SSLError | None:
    """Return the TLS error itself: aiohttp's have one inside, and are no good by themselves."""
    inner: BaseException | None = getattr(error, "os_error", error)
    if isinstance(error.__cause__, TypeError):  # asyncio stumbles over TLS that fails within TLS
        inner = error.__cause__.__context__
    return inner if isinstance(inner, ssl.SSLError) else None


def _of_proxy(error: Exception, proxy: Proxy) -> bool:
    """Tell whether the TLS is that of the hop to an https proxy."""
    hop = getattr(error, "host", None), getattr(error, "port", None)
    return proxy.scheme == "https" and hop == (proxy.host, proxy.port)


def _tls_failure(
    error: Exception, cause: ssl.SSLError, way: tuple[Proxy, str], shown: Shown | None
) -> Failure:
    proxy, origin = way
    if _of_proxy(error, proxy):
        text = _tls_text(cause, proxy.title, "is it an http:// one?", shown)
        return _dial("proxy_protocol", text)
    whose = origin if proxy.scheme == "direct" else f"{origin} (through {proxy})"
    return _dial("upstream_tls", _tls_text(cause, whose, "is its URL an http:// one?", shown))


def _tls_text(cause: ssl.SSLError, whose: str, otherwise: str, shown: Shown | None) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        text = f"the certificate of {whose} was not accepted: {cause.verify_message.rstrip('.')}"
        seen = f"; {_described(shown, cause.verify_code)}" if shown is not None else ""
        return f"{text}{seen}: {_advice(cause.verify_code)}"
    reason = cause.reason or ""
    if reason.startswith(_ALERTS):
        return f"{whose} refused the TLS handshake ({reason.replace('_', ' ').lower()})"
    return f"{whose} does not speak TLS: {otherwise}"


def _described(shown: Shown, code: int) -> str:
    """Say for whom it should be, for whom it is, and who issued it."""
    if shown.certificate is None:
        return f"expected one for {shown.expected}"
    issuer, names = shown.certificate
    by = "signed by itself" if code == _SELF_SIGNED else f"issued by '{issuer or 'nobody'}'"
    trust = ", whom this machine does not trust" if code in _UNKNOWN else ""
    whose = ", ".join(names) or "nobody"
    return f"expected one for {shown.expected}, shown was one for {whose} {by}{trust}"


def _advice(code: int) -> str:
    if code in _OUT_OF_TIME:
        return "is the date of this machine right? What you trust instead goes into ca_file"
    if code in _MISMATCH:
        return (
            "does something on the way intercept it?"
            " If it is the right server, name the certificate's in server_name"
        )
    if code == _SELF_SIGNED:
        return "is it your own server's? Then put that certificate itself into ca_file"
    return (
        "does a firewall on the way intercept it?"
        " If it may, put the certificate of its issuer into ca_file"
    )
