"""Tickets: how EventSource, which can send no key, is let in.

    POST /tickets ─▶ issue ─▶ open ──start──▶ used for one stream ──resume──▶ its reconnects
                               └─ 60 s: gone                       └─ forget: gone

A ticket travels in a URL, which histories and logs of others may keep: it opens one stream, soon,
and afterwards nothing but that stream. Only digests are held, so that neither the time of a look-up
nor a dump of the memory tells a ticket.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from hashlib import sha256
from hmac import compare_digest
from typing import Final, NamedTuple, NoReturn

from service.core.access import Caller
from service.errors import Failure

LIFETIME: Final = 60.0
"""Seconds in which a ticket must start its stream: a page opens it at once, on a slow line too."""
OPEN_LIMIT: Final = 1000
"""Tickets of one caller that can be open: the last ones issued. It bounds the memory (0.3 MB), and
a site with one key still starts 16 streams a second with pages that take the whole minute."""


class _Open(NamedTuple):
    caller: Caller
    until: float


class _Used(NamedTuple):
    opened: _Open
    stream: str


class Tickets:
    """The tickets that are open, and those of the streams that are kept.

    `token`: returns a new unguessable text, fit for a URL. Times are seconds of one monotonic
    clock.
    """

    def __init__(self, token: Callable[[], str]) -> None:
        self._token = token
        self._open: OrderedDict[bytes, _Open] = OrderedDict()  # oldest first
        self._recent: dict[str, deque[bytes]] = {}  # by the caller's name
        self._used: dict[bytes, _Used] = {}
        self._of_stream: dict[str, bytes] = {}

    def issue(self, caller: Caller, now: float) -> str:
        """Return a new ticket of this caller; beyond OPEN_LIMIT its oldest one is void."""
        self._sweep(now)
        ticket = self._token()
        digest = digest_of(ticket)
        recent = self._recent.setdefault(caller.name, deque(maxlen=OPEN_LIMIT))
        if len(recent) == OPEN_LIMIT:
            self._open.pop(recent[0], None)
        recent.append(digest)
        self._open[digest] = _Open(caller._replace(key_header=None), now + LIFETIME)
        return ticket

    def start(self, ticket: str, stream: str, now: float) -> Caller:
        """Use up a ticket for this stream and return its caller; raises Failure unauthorized.

        The caller's `key_header` is None: no header of the request carries the relay's key.
        """
        digest = digest_of(ticket)
        opened = self._open.pop(digest, None)
        if opened is None or opened.until <= now:
            self._refuse(digest)
        self._used[digest] = _Used(opened, stream)
        self._of_stream[stream] = digest
        return opened.caller

    def resume(self, ticket: str, stream: str) -> Caller:
        """Return the caller of the ticket that started this stream; raises Failure unauthorized."""
        digest = digest_of(ticket)
        if not compare_digest(digest, self._of_stream.get(stream, b"")):
            self._refuse(digest)
        return self._used[digest].opened.caller

    def digest(self, stream: str) -> bytes | None:
        """Return the digest of the ticket that has started this stream, None if none has."""
        return self._of_stream.get(stream)

    def forget(self, stream: str) -> None:
        """Void the ticket of a stream that is no longer kept; does nothing if there is none."""
        digest = self._of_stream.pop(stream, None)
        if digest is not None:
            del self._used[digest]

    def release(self, stream: str) -> None:
        """Give the ticket back of a stream that did not begin; does nothing if there is none."""
        digest = self._of_stream.pop(stream, None)
        if digest is not None:
            self._open[digest] = self._used.pop(digest).opened

    def __contains__(self, stream: str) -> bool:
        """Tell whether a ticket has started that stream."""
        return stream in self._of_stream

    def __len__(self) -> int:
        """How many tickets are held, open and used."""
        return len(self._open) + len(self._used)

    def _sweep(self, now: float) -> None:
        """Drop what has expired: all live equally long, so that it is at the front."""
        while self._open and next(iter(self._open.values())).until <= now:
            self._open.popitem(last=False)

    def _refuse(self, digest: bytes) -> NoReturn:
        if digest in self._used:
            why = "this ticket has started a stream and is good for the reconnects of that one only"
        elif digest in self._open:
            why = "this ticket has started no stream yet, so that there is none to go on with"
        else:
            why = f"this ticket is unknown, older than {LIFETIME:g} s, or its stream is gone"
        raise Failure("unauthorized", f"{why}: get a new one with POST /tickets")


def digest_of(ticket: str) -> bytes:
    """Return what is kept of a ticket, here or with the stream that it has started."""
    return sha256(ticket.encode(errors="replace")).digest()
