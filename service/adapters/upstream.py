"""One attempt over one session; the client library's exceptions end here, as Failures."""

import asyncio
import re
import socket
from io import BytesIO
from types import TracebackType
from typing import TYPE_CHECKING, Self

import aiohttp
import msgspec
from yarl import URL

from service.adapters.clock import Clock, Deadline
from service.adapters.dial.connector import native
from service.adapters.dial.diagnosis import unauthenticated
from service.adapters.push import Sink, push
from service.adapters.upload import Upload
from service.core.mask import Mask
from service.core.proxy import Proxy
from service.core.routes import Headers
from service.errors import Failure

if TYPE_CHECKING:
    from collections.abc import Callable

_LINGER = (
    0.1  # seconds for the rest of a body whose end was announced, so that its connection lives
)
_EXCERPT = 64 * 1024  # bytes of a refusal that are read for its message
_PIECE = 16 * 1024  # bytes of an answer that are read at once
_RECEIVE = 32 * 1024  # bytes of a stream that the kernel holds, which the loop reads all at once
_UNGROWN = 128 * 1024  # bytes of that at the beginning, as Linux has it (tcp_rmem)
_AT_ONCE = 64 * 1024  # bytes of a request body that are sent without a turn for other streams
_CONTROL = re.compile(r"[\0-\x08\n-\x1f\x7f]")  # in no header's value: RFC 9110, section 5.5


class Order(msgspec.Struct, frozen=True):
    """What is asked of an upstream.

    `streams`: the client asked for a stream; `secret`: what must not come back in the answer.
    """

    method: str
    url: str
    headers: Headers
    body: bytes | Upload | None
    streams: bool
    model: str | None = None
    secret: str = ""

    @property
    def origin(self) -> str:
        """HOST:PORT of the upstream, for messages."""
        return _origin(self.url)

    def asked(self) -> "Order":
        """Return what is left to know of it when it need not be sent again."""
        return msgspec.structs.replace(self, headers=[], body=None)

    def __repr__(self) -> str:
        return f"Order({self.method} {self.url.partition('?')[0]})"


def _origin(address: str) -> str:
    url = URL(address, encoded=True)
    return f"{url.host_subcomponent}:{url.port}"


class Answer:
    """An upstream's response, from its status line on. Leaving it closes what was not read.

    `on_close`: called when it is left.
    """

    __slots__ = (
        "_clock",
        "_mask",
        "_response",
        "_url",
        "content_type",
        "length",
        "on_close",
        "proxy",
        "reason",
        "status",
    )  # fmt: skip

    def __init__(
        self, response: aiohttp.ClientResponse, proxy: Proxy, order: Order, clock: Clock
    ) -> None:
        self._mask = Mask(order.secret.encode())
        self._response = response
        self._clock = clock
        self._url = order.url
        self.proxy = proxy
        self.on_close: Callable[[], None] | None = None
        self.status = response.status
        self.reason = self._mask.text(response.reason or "")
        self.content_type = response.content_type
        self.length = None if "Content-Encoding" in response.headers else response.content_length

    @property
    def headers(self) -> Headers:
        """The headers as they came, but for the secret."""
        found = list(self._response.headers.items())
        told = "\n".join(self._response.headers.values())
        if self._mask.text(told) == told:
            return found
        return [(name, self._mask.text(value)) for name, value in found]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is None and not self._response.closed:
            await self._linger()
        self._response.close()
        if self.on_close is not None:
            self.on_close()

    def drop(self) -> None:
        """Hang up: what follows does not matter."""
        self._response.close()

    async def read(self) -> bytes:
        """Return what has come of the body, b"" at its end; raises Failure upstream_cut."""
        try:
            while data := await self._response.content.read(_PIECE):
                if told := self._mask.feed(data):
                    return told
            return self._mask.rest()
        except (aiohttp.ClientError, OSError, EOFError) as error:
            raise _cut(error, _where(self._url, self.proxy)) from None

    async def push(self, sink: Sink) -> None:
        """Hand what comes to `sink` at once, until it wants no more; then `read` goes on."""
        try:
            await push(self._response, self._mask.before(sink))
        except (aiohttp.ClientError, OSError, EOFError) as error:
            raise _cut(error, _where(self._url, self.proxy)) from None

    async def excerpt(self) -> bytes:
        """Return the beginning of the body."""
        found = b""
        while len(found) < _EXCERPT and (data := await self.read()):
            found += data
        return found[:_EXCERPT]

    async def _linger(self) -> None:
        """Read on to the end of the body, which frees the connection for the next request."""
        try:
            async with Deadline(self._clock, _LINGER):
                while await self.read():
                    pass
        except (TimeoutError, Failure):
            pass


async def attempt(
    session: aiohttp.ClientSession, proxy: Proxy, order: Order, clock: Clock
) -> Answer:
    """Send the order and wait for the status line; raises Failure."""
    via = native(proxy)
    try:
        response = await session.request(
            order.method,
            URL(order.url, encoded=True),
            headers=order.headers,
            data=_payload(order.body),
            proxy=via,
            allow_redirects=False,
        )
    except (aiohttp.ClientError, OSError, EOFError, asyncio.LimitOverrunError) as error:
        if isinstance(order.body, Upload) and order.body.failure is not None:
            raise order.body.failure from None
        raise _broken(error, _where(order.url, proxy)) from None
    if via is not None and response.status == 407:  # noqa: PLR2004  only a proxy says this
        response.close()
        raise unauthenticated(proxy)
    if not _is_fit(response):
        response.close()
        raise _malformed(_where(order.url, proxy))
    _tell_of_the_end(response)
    if order.streams:
        _narrow(response)
    return Answer(response, proxy, order, clock)


def _where(url: str, proxy: Proxy) -> str:
    """Return the upstream and the way to it, for messages."""
    origin = _origin(url)
    return origin if proxy.scheme == "direct" else f"{origin} (through {proxy})"


def _tell_of_the_end(response: aiohttp.ClientResponse) -> None:
    """Let who reads the body hear that the connection is gone.

    aiohttp 3.14 forgets the reader when it closes a connection for a chunk that is none.
    """
    body = response.content
    protocol = response.connection.protocol if response.connection is not None else None
    closed = protocol.closed if protocol is not None else None

    def tell(_: asyncio.Future[None]) -> None:
        if not body.is_eof() and body.exception() is None:
            body.set_exception(aiohttp.ClientPayloadError())

    if closed is not None:
        closed.remove_done_callback(_heard)
        closed.add_done_callback(_heard)  # once, however many answers come over it
        closed.add_done_callback(tell)
        body.on_eof(lambda: _forget(closed, tell))  # the connection may live for long


def _heard(connection: asyncio.Future[None]) -> None:
    """Look why a connection ended, or asyncio complains that nobody did."""
    if not connection.cancelled():
        connection.exception()


def _forget(closed: asyncio.Future[None], tell: "Callable[[asyncio.Future[None]], None]") -> None:
    closed.remove_done_callback(tell)


def _narrow(response: aiohttp.ClientResponse) -> None:
    """Let a stream that nobody reads wait with the upstream, and not in our kernel.

    Not over a connection whose buffer has grown: what is under way already would find no room, and
    come again after half a minute.
    """
    transport = response.connection.transport if response.connection is not None else None
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is not None and sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) <= _UNGROWN:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE)


def _payload(body: bytes | Upload | None) -> bytes | BytesIO | Upload | None:
    """Return a large body as a file: aiohttp sends files in pieces, and warns of large bytes."""
    return BytesIO(body) if isinstance(body, bytes) and len(body) > _AT_ONCE else body


def _broken(error: Exception, where: str) -> Failure:
    """Return what went wrong between the request and the status line."""
    if isinstance(error, aiohttp.ServerDisconnectedError | OSError):
        text = f"the connection to the upstream {where} broke off before it answered"
        return Failure("upstream_cut", text, stage="headers")
    return _malformed(where)


def _is_fit(response: aiohttp.ClientResponse) -> bool:
    """Tell whether a head can be handed on; the parser of answers lets more pass than it should.

    A status is 2xx to 5xx, as nobody asked for another protocol (101).
    """
    values = " ".join([response.reason or "", *response.headers.values()])
    return 200 <= response.status < 600 and not _CONTROL.search(values)  # noqa: PLR2004


def _malformed(where: str) -> Failure:
    text = f"the answer of the upstream {where} is not HTTP that can be understood"
    return Failure("upstream_malformed", text, stage="headers")


def _cut(error: Exception, where: str) -> Failure:
    if "decompress" in str(error).lower() or "content-encoding" in str(error).lower():
        text = f"the answer of the upstream {where} cannot be decompressed"
        return Failure("upstream_malformed", text, stage="stream")
    text = f"the connection to the upstream {where} broke off in the middle of its answer"
    return Failure("upstream_cut", text, stage="stream")
