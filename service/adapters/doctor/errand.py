"""A few requests beside the relay's, through one proxy: what the doctor asks of an upstream."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import aiohttp

from service.adapters.clock import Clock, Deadline
from service.adapters.dial.connector import session
from service.adapters.dial.trust import Trust
from service.adapters.upstream import Answer, Order, attempt
from service.core.dialect import Dialect
from service.core.doctor.lumps import Read
from service.core.proxy import Proxy
from service.core.sse import Framer

_FRAME: Final = 1024 * 1024


class Errand(NamedTuple):
    """A way out for requests, with the seconds that each answer may take to its end."""

    session: aiohttp.ClientSession
    proxy: Proxy
    clock: Clock
    seconds: float

    async def ask(self, order: Order) -> tuple[Answer, bytes]:
        """Return the answer and the beginning of its body; raises Failure, TimeoutError."""
        async with (
            Deadline(self.clock, self.seconds),
            await attempt(self.session, self.proxy, order, self.clock) as answer,
        ):
            return answer, await answer.excerpt()

    async def listen(self, order: Order, dialect: Dialect) -> tuple[Answer, list[Read], bytes]:
        """Return the answer, the reads that its stream came in, and its first bytes.

        Raises Failure, TimeoutError; the reads are to the end, or as far as the dialect says.
        """
        began, reads, framer, first = self.clock.now(), list[Read](), Framer(_FRAME), b""
        async with (
            Deadline(self.clock, self.seconds),
            await attempt(self.session, self.proxy, order, self.clock) as answer,
        ):
            while not dialect.over and (data := await answer.read()):
                first = first or data
                tokens = sum(_is_token(dialect, frame) for frame in framer.feed(data))
                reads.append(Read(self.clock.now() - began, tokens))
            return answer, reads, first


def _is_token(dialect: Dialect, frame: bytes) -> bool:
    event = dialect.read(frame)
    return bool(event.text or event.reasoning)


@asynccontextmanager
async def errand(  # noqa: PLR0913  what a way consists of
    proxy: Proxy,
    origin: str,
    clock: Clock,
    *,
    connect: float,
    seconds: float,
    tls: Trust | None,
) -> AsyncIterator[Errand]:
    """Open a way to `origin`; a dial may take `connect` seconds, an answer `seconds`."""
    async with session(proxy, origin, clock, connect, tls) as client:
        yield Errand(client, proxy, clock, seconds)
