"""What the relay listens with: sockets, their options, its own TLS, descriptors; who is connected.

aiohttp does not say what a connection is about: `is_awaited` and `is_idle` look inside.
"""

import contextlib
import errno
import socket
import ssl
from collections.abc import Sequence
from typing import Final

from aiohttp.web_protocol import RequestHandler

from service.adapters.logs import log
from service.settings import Server, SettingsError

BACKLOG: Final = 4096  # aiohttp's 128 would also shrink the queue of a socket from systemd
_SEND_BUFFER: Final = 64 * 1024
"""Bytes that the kernel holds for a client that does not read; its own choice is up to 4 MB."""
_KEEPALIVE_IDLE: Final = 60
"""Seconds until the kernel asks whether a silent client is still there; its own choice is 7200."""
_DESCRIPTORS: Final = 64
"""Descriptors that the process needs besides two for each stream."""


def sockets(host: str, port: int) -> Sequence[socket.socket]:
    """Return a listening socket for each address of the host; raises OSError, with the address."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return [
            socket.create_server(address[:2], family=family, backlog=BACKLOG)
            for family, _, _, _, address in found
        ]
    except OSError as error:
        why = (error.strerror or str(error)).partition(" (while attempting")[0]
        if error.errno == errno.EADDRINUSE:
            why = f"{why.lower()}: another port is set by --port or TELEPRINTER_PORT"
        raise OSError(error.errno, f"{host}:{port}: {why}") from None


def tune(listening: socket.socket) -> None:
    """Set what accepted connections inherit."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE)


def tls(server: Server) -> ssl.SSLContext | None:
    """Return the relay's own TLS, None for plain HTTP; raises SettingsError for bad files."""
    if not server.tls_cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certify(context, server)
    return context


def certify(context: ssl.SSLContext, server: Server) -> None:
    """Read certificate and key; connections from now on show them."""
    try:
        context.load_cert_chain(server.tls_cert, server.tls_key or None, password="")
    except OSError as error:
        why = "they do not fit each other" if isinstance(error, ssl.SSLError) else error.strerror
        text = f"server.tls_cert, server.tls_key: {why}: expected PEM files of a certificate and"
        raise SettingsError(f"{text} its key") from None


def raise_descriptors(streams: int) -> None:
    """Allow as many descriptors as the system lets us; say so where they cannot be enough."""
    try:
        import resource  # noqa: PLC0415  not on every platform
    except ImportError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS takes no "infinity"
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed != resource.RLIM_INFINITY and allowed < 2 * streams + _DESCRIPTORS:
        text = "too few descriptors for limits.streams: raise LimitNOFILE or ulimit -n"
        log.warning(text, allowed=allowed, needed=2 * streams + _DESCRIPTORS)


def is_idle(connection: RequestHandler) -> bool:
    """Tell whether a connection waits for a request, and none has come yet."""
    waiter = connection._waiter  # noqa: SLF001
    return waiter is not None and not waiter.done()


def is_awaited(connection: RequestHandler) -> bool:
    """Tell whether a connection's first request is still to come, or one has just come.

    Between a request's coming and its handler the loop turns more than once.
    """
    if is_idle(connection):
        return not connection._request_count  # noqa: SLF001
    return connection._current_request is None  # noqa: SLF001
