"""Every way out: a session for each upstream and proxy, and the next proxy when a dial fails.

This is the one door for outbound connections. What could be read from the environment (proxies,
netrc), what would be kept between callers (cookies) and what aiohttp would do by itself (total
time-outs) is off.
"""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import aiohttp

from service.adapters.clock import Clock
from service.adapters.dialling import connector, dialled
from service.adapters.upstream import Answer, Order, attempt
from service.core.proxy import Proxy
from service.errors import Failure, Whose

# The relay has its own clocks; python-socks would take 60 s for an answer where it is given none.
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=366 * 86400)
_READ_AHEAD = 16 * 1024
"""Bytes of an answer that may wait unread; from twice as many on, aiohttp pauses the socket."""
_HEADER_LIMIT = 64 * 1024  # bytes of an upstream's header line; chatty CDNs pass aiohttp's 8 KiB


class Watcher(Protocol):
    """Who is told of every attempt; proxies are shown without credentials."""

    def attempt(self, upstream: str, proxy: str, result: str) -> None: ...  # noqa: D102

    def connected(self, pool: str, proxy: str, seconds: float) -> None: ...  # noqa: D102

    def proxy_up(self, pool: str, proxy: str, *, up: bool) -> None: ...  # noqa: D102


class Route(NamedTuple):
    """An upstream and the ways to it, in order of preference; `origin`: host:port, for messages."""

    upstream: str
    origin: str
    pool: str
    ways: Sequence[Proxy]


class Lane:
    """The ways to one upstream. `connect`: seconds that a dial may take."""

    def __init__(
        self,
        route: Route,
        clock: Clock,
        watcher: Watcher,
        *,
        connect: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._route = route
        self._watcher = watcher
        self._clock = clock
        self._connect = connect
        self._tls = tls
        self._sessions: dict[Proxy, aiohttp.ClientSession] = {}
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def ask(self, order: Order, on_dialled: Callable[[], None]) -> Answer:
        """Send the order through the first proxy that can be dialled; raises the last Failure.

        `on_dialled` is called when the connection stands and the request is about to be sent.
        """
        *first, last = self._route.ways
        for proxy in first:
            try:
                return await self._ask(order, proxy, on_dialled)
            except Failure as failure:
                if failure.stage != "dial":
                    raise
        return await self._ask(order, last, on_dialled)

    async def _ask(self, order: Order, proxy: Proxy, on_dialled: Callable[[], None]) -> Answer:
        """Make one attempt, and tell the watcher what came of it."""
        upstream, pool, shown = self._route.upstream, self._route.pool, str(proxy)
        began = self._clock.now()

        def connected() -> None:
            self._watcher.connected(pool, shown, self._clock.now() - began)
            self._watcher.proxy_up(pool, shown, up=True)
            on_dialled()

        result = "left"
        token = dialled.set(connected)
        try:
            answer = await attempt(self._session(proxy), proxy, order, self._clock)
            result = "ok"
        except Failure as failure:
            result = failure.code
            if failure.whose is Whose.PROXY:
                self._watcher.proxy_up(pool, shown, up=False)
            raise
        finally:
            dialled.reset(token)
            self._watcher.attempt(upstream, shown, result)
        return answer

    def _session(self, proxy: Proxy) -> aiohttp.ClientSession:
        if proxy not in self._sessions:
            self._sessions[proxy] = aiohttp.ClientSession(
                connector=connector(
                    proxy, self._route.origin, self._clock, self._connect, self._tls
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=_NO_TIMEOUT,
                trust_env=False,
                read_bufsize=_READ_AHEAD,
                max_line_size=_HEADER_LIMIT,
                max_field_size=_HEADER_LIMIT,
            )
        return self._sessions[proxy]

    def begin(self) -> None:
        """Count a stream that may ask."""
        self._under_way += 1
        self._idle.clear()

    def end(self) -> None:
        """Count it out: it has no connection any more."""
        self._under_way -= 1
        if not self._under_way:
            self._idle.set()

    async def retire(self) -> None:
        """Close when the last stream has ended; nothing new may begin."""
        await self._idle.wait()
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()
