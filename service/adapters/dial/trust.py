"""Whom TLS believes on the way to one upstream, and what it shows of itself.

ca_file, client_cert, client_key, server_name ──trust──▶ Trust
"""

import ssl
from functools import cache
from typing import NamedTuple

from service.core.tables import Rejected, Upstream


class Trust(NamedTuple):
    """The TLS of one upstream.

    upstream      the context towards it, with the client's certificate
    proxies       the context towards https proxies, which are shown no certificate
    server_name   sent as SNI and verified instead of the URL's host; "" = the host
    """

    upstream: ssl.SSLContext
    proxies: ssl.SSLContext
    server_name: str = ""


def trust(upstream: Upstream) -> Trust | None:
    """Read an upstream's files; None = nothing but the system's trust.

    Raises Rejected, with the name of the field, for a file that is none.
    """
    if not (upstream.ca_file or upstream.client_cert or upstream.server_name):
        return None
    proxies = believing(upstream.ca_file)
    if not upstream.client_cert:
        return Trust(proxies, proxies, upstream.server_name)
    own = believing(upstream.ca_file)
    _show(own, upstream.client_cert, upstream.client_key)
    return Trust(own, proxies, upstream.server_name)


def believing(ca_file: str = "") -> ssl.SSLContext:
    """Return the context of a client that trusts the authorities of that file, or the system's."""
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        reason = "not PEM" if isinstance(error, ssl.SSLError) else error.strerror
        text = f"{reason}: expected a PEM file of certificates"
        raise Rejected("ca_file", text) from None
    context.set_alpn_protocols(["http/1.1"])
    return context


@cache
def system() -> ssl.SSLContext:
    """Return the context that trusts the system's authorities."""
    return believing()


def blind() -> ssl.SSLContext:
    """Return a context that believes anybody: to look at a certificate, and to send nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


def _show(context: ssl.SSLContext, cert: str, key: str) -> None:
    """Load the certificate that is shown to a server which asks for one."""
    _readable("client_cert", cert)
    _readable("client_key", key or cert)
    try:
        context.load_cert_chain(cert, key or None, password=_unasked)
    except _Encrypted:
        text = "expected a private key without a passphrase"
        raise Rejected("client_key" if key else "client_cert", text) from None
    except (OSError, ValueError) as error:
        raise _fault(error, cert, key) from None


def _fault(error: Exception, cert: str, key: str) -> Rejected:
    if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
        return Rejected(
            "client_key" if key else "client_cert", "expected the certificate's own key"
        )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cert)
    except OSError:
        return Rejected("client_cert", "not PEM: expected a PEM file of a certificate")
    if key:
        return Rejected("client_key", "not PEM: expected a PEM file of a private key")
    text = "expected the private key in the same file, or client_key beside it"
    return Rejected("client_cert", text)


def _readable(field: str, path: str) -> None:
    try:
        with open(path, "rb"):  # noqa: PTH123  only to learn why not
            pass
    except OSError as error:
        raise Rejected(field, f"{error.strerror}: expected a PEM file") from None


class _Encrypted(Exception):  # noqa: N818
    """The key has a passphrase; OpenSSL would ask the terminal for it."""


def _unasked() -> str:
    raise _Encrypted
