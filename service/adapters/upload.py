"""The body of a client's request: bounded in bytes, and in the time that the client takes for it.

read       all of it, for what has to be looked into and may be sent again
async for  piece by piece, for what goes upstream once; nothing of it is kept
"""

from collections.abc import Callable
from typing import Protocol, Self

from aiohttp.web import RequestPayloadError

from service.adapters.clock import Clock, Deadline
from service.errors import Failure

Hook = Callable[[], object]


class Body(Protocol):
    """What there is of a body, and whether that is all; b"" is its end."""

    def is_eof(self) -> bool: ...  # noqa: D102

    def read_nowait(self) -> bytes: ...  # noqa: D102

    async def readany(self) -> bytes: ...  # noqa: D102


class Upload:
    """A request's body on its way, to be read once.

    `size`: as announced, None = unknown; `most`: bytes; `seconds`: how long the client may keep
    the relay waiting, 0 = for ever.
    Reading it raises Failure too_large, request_timeout, bad_request; `failure` keeps it, for who
    wraps exceptions. `on_wait`, `on_piece`: called when the client is waited for, when it has sent.
    """

    __slots__ = (
        "_body", "_bytes", "_clock", "_most", "_seconds", "_waited", "failure", "on_piece",
        "on_wait", "size",
    )  # fmt: skip

    def __init__(
        self,
        body: Body,
        clock: Clock,
        *,
        size: int | None,
        most: int,
        seconds: float,
    ) -> None:
        self.size = size
        self.failure: Failure | None = None
        self.on_wait: Hook = _nothing
        self.on_piece: Hook = _nothing
        self._body = body
        self._clock = clock
        self._most = most
        self._seconds = seconds
        self._waited = 0.0
        self._bytes = 0
        if size is not None and size > most:
            raise self._fail("too_large")

    async def read(self) -> bytes:
        """Return all of it; the client's time is all that passes meanwhile."""
        pieces = []
        try:
            if self._body.is_eof():  # it has come: there is nothing to wait for
                pieces.append(self._body.read_nowait())
                self._count(pieces[0])
            else:
                async with Deadline(self._clock, self._seconds):
                    while piece := await self._body.readany():
                        pieces.append(piece)
                        self._count(piece)
        except TimeoutError:
            raise self._fail("request_timeout") from None
        except RequestPayloadError:
            raise self._fail("bad_request") from None
        return b"".join(pieces)

    def __aiter__(self) -> Self:
        """Begin; what was sent is gone, so that nobody can begin again."""
        if self._bytes:
            raise self._fail("upstream_cut")
        return self

    async def __anext__(self) -> bytes:
        self.on_wait()
        data = await self._next()
        self.on_piece()
        if not data:
            raise StopAsyncIteration
        self._count(data)
        return data

    def _count(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._bytes > self._most:
            raise self._fail("too_large")

    async def _next(self) -> bytes:
        """Return the next piece; only the time that the client takes for it counts."""
        began = self._clock.now()
        left = max(self._seconds - self._waited, 0.001) if self._seconds else 0
        try:
            async with Deadline(self._clock, left):
                return await self._body.readany()
        except TimeoutError:
            raise self._fail("request_timeout") from None
        except RequestPayloadError:
            raise self._fail("bad_request") from None
        finally:
            self._waited += self._clock.now() - began

    def _fail(self, code: str) -> Failure:
        texts = {
            "too_large": "the request's body is larger than this relay takes (limits.body)",
            "request_timeout": "the request's body did not arrive within"
            f" {self._seconds:g} s (limits.body_timeout)",
            "bad_request": "the request's body cannot be read: its chunks, or its Content-Encoding,"
            " are not what HTTP says",
            "upstream_cut": "the connection to the upstream broke off in the middle of the request",
        }
        self.failure = Failure(code, texts[code])
        return self.failure


def _nothing() -> None:
    """Nobody wants to know."""
