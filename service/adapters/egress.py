"""Every way out: a session for each upstream and proxy, and the next proxy when a dial fails.

This is the one door for outbound connections. What could be read from the environment (proxies,
netrc), what would be kept between callers (cookies) and what aiohttp would do by itself (total
time-outs) is off.
"""

import asyncio
import ssl
from collections.abc import Callable, Sequence

import aiohttp

from service.adapters.clock import Clock
from service.adapters.dialling import connector, dialled
from service.adapters.upstream import Answer, Order, attempt
from service.core.proxy import Proxy
from service.errors import Failure

# The relay has its own clocks; python-socks would take 60 s for an answer where it is given none.
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=366 * 86400)
_HEADER_LIMIT = 64 * 1024  # bytes of an upstream's header line; chatty CDNs pass aiohttp's 8 KiB


class Lane:
    """The ways to one upstream, in order of preference. `origin`: host:port, for messages."""

    def __init__(
        self,
        origin: str,
        ways: Sequence[Proxy],
        clock: Clock,
        connect: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._origin = origin
        self._ways = ways
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
        token = dialled.set(on_dialled)
        try:
            for proxy in self._ways[:-1]:
                try:
                    return await self._ask(order, proxy)
                except Failure as failure:
                    if failure.stage != "dial":
                        raise
            return await self._ask(order, self._ways[-1])
        finally:
            dialled.reset(token)

    async def _ask(self, order: Order, proxy: Proxy) -> Answer:
        return await attempt(self._session(proxy), proxy, order, self._clock)

    def _session(self, proxy: Proxy) -> aiohttp.ClientSession:
        if proxy not in self._sessions:
            self._sessions[proxy] = aiohttp.ClientSession(
                connector=connector(proxy, self._origin, self._clock, self._connect, self._tls),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=_NO_TIMEOUT,
                trust_env=False,
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
