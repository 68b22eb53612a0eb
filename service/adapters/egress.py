"""Every way out: a session for each upstream and proxy, and the next proxy when a dial fails.

    Lane.ask ─▶ Pool.order ─▶ dial ─┬─ ok ─────▶ succeeded ─▶ the request
                    ▲               └─ failed ─▶ failed ─▶ the next proxy
                    └── back ◀── probe, every 5 s ◀── down

This is the one door for what clients ask; what a session may do is said in `dial.connector`.
"""

import asyncio
import contextvars
import math
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Final, NamedTuple, Protocol

import aiohttp

from service.adapters.clock import Clock, sleep
from service.adapters.dial.connector import dialled, native, session
from service.adapters.dial.probe import probe
from service.adapters.dial.trust import Trust
from service.adapters.logs import log
from service.adapters.upstream import Answer, Order, attempt
from service.core.pool import Pool
from service.core.proxy import DIRECT, Proxy
from service.errors import Failure, Whose

PROBE_EVERY: Final = 5.0
"""Seconds between the probes of a proxy that is down."""
REMEASURE_EVERY: Final = 60.0
"""Seconds between the probes of the proxies of a `fastest` pool."""


OnDialled = Callable[[Proxy, bool], None]
"""Takes the way, and whether the connection stood before."""


class Watcher(Protocol):
    """Who is told of every attempt; proxies are shown without credentials."""

    def attempt(self, upstream: str, proxy: str, result: str) -> None: ...  # noqa: D102

    def connected(self, pool: str, proxy: str, seconds: float) -> None: ...  # noqa: D102

    def proxy_up(self, pool: str, proxy: str, *, up: bool) -> None: ...  # noqa: D102


class Route(NamedTuple):
    """An upstream, its base URL, and HOST:PORT for messages."""

    upstream: str
    url: str
    origin: str


class Lane:
    """The ways to one upstream. `connect`: seconds that a dial may take."""

    def __init__(  # noqa: PLR0913  what a way out is made of
        self,
        route: Route,
        pool: Pool,
        clock: Clock,
        watcher: Watcher,
        *,
        connect: float,
        tls: Trust | None = None,
    ) -> None:
        self.pool = pool
        self._route = route
        self._watcher = watcher
        self._clock = clock
        self._connect = connect
        self._tls = tls
        self._sessions: dict[Proxy, aiohttp.ClientSession] = {}
        self._probes: dict[Proxy | None, asyncio.Task[None]] = {}
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def ask(self, order: Order, on_dialled: OnDialled, avoid: Proxy | None = None) -> Answer:
        """Send the order through the first proxy that can be dialled; raises the last Failure.

        `on_dialled` is called when the connection stands and the request is about to be sent;
        `avoid`: the proxy that did no good just now, to be tried after the others. If all rest and
        none can be dialled, that is Failure no_proxy.
        """
        if self.pool.policy == "fastest":
            self._begin(None, self._measure)
        resting = self.pool.wait(self._clock.now()) is not None
        refused: list[tuple[Proxy, Failure]] = []
        for proxy in self.pool.order(self._clock.now(), avoid):

            def on_connection(reused: bool, proxy: Proxy = proxy) -> None:  # noqa: FBT001
                self._blame(refused)
                on_dialled(proxy, reused)

            try:
                return await self._ask(order, proxy, on_connection)
            except Failure as failure:
                if failure.stage != "dial":
                    raise
                refused.append((proxy, failure))
                if _own_fault(proxy, failure):
                    self._strike(proxy, failure)
        _, last = refused[-1]
        raise self._no_proxy(last) if resting else last

    async def _ask(
        self, order: Order, proxy: Proxy, on_connection: Callable[[bool], None]
    ) -> Answer:
        """Make one attempt, and tell the watcher what came of it."""
        began = self._clock.now()
        took: float | None = None
        tunnels = self._tunnels(proxy)

        def connected(*, reused: bool) -> None:
            nonlocal took
            took = None if reused else self._clock.now() - began
            if tunnels:
                self._succeeded(proxy, took)
            on_connection(reused)

        result = "left"
        token = dialled.set(connected)
        self.pool.opened(proxy)
        try:
            answer = await attempt(self._session(proxy), proxy, order, self._clock)
            result = "ok"
        except Failure as failure:
            result = failure.code
            raise
        finally:
            dialled.reset(token)
            on_connection = _nobody  # a new connection lives in this context: it holds no stream
            self._watcher.attempt(self._route.upstream, str(proxy), result)
            if result != "ok":
                self.pool.closed(proxy)
        if not tunnels:
            self._succeeded(proxy, took)
        answer.on_close = lambda: self.pool.closed(proxy)
        return answer

    def _tunnels(self, proxy: Proxy) -> bool:
        """Tell whether a connection proves the way; else the proxy's 407 comes as an answer."""
        return native(proxy) is None or self._route.url.startswith("https:")

    def _succeeded(self, proxy: Proxy, seconds: float | None) -> None:
        pool, shown = self.pool.name, str(proxy)
        if seconds is not None:
            self._watcher.connected(pool, shown, seconds)
        self._watcher.proxy_up(pool, shown, up=True)
        if self.pool.succeeded(proxy, seconds, self._clock.now()):
            log.info("proxy is back", pool=pool, proxy=shown)

    def _blame(self, refused: list[tuple[Proxy, Failure]]) -> None:
        """Another proxy got through: what the ones before it said of the upstream was their own."""
        for proxy, failure in refused:
            if not _own_fault(proxy, failure):
                self._strike(proxy, failure)
        refused.clear()

    def _strike(self, proxy: Proxy, failure: Failure) -> None:
        pool, shown = self.pool.name, str(proxy)
        was_down = self.pool.member(proxy).down
        rest = self.pool.failed(proxy, failure.code, self._clock.now(), failure.message)
        self._watcher.proxy_up(pool, shown, up=not self.pool.member(proxy).down)
        if rest is None:
            return
        if not was_down:
            log.warning("proxy is down", pool=pool, proxy=shown, why=failure.message)
        self._begin(proxy, partial(self._revive, proxy))

    def _no_proxy(self, last: Failure) -> Failure:
        wait = self.pool.wait(self._clock.now()) or 0
        text = f"every proxy of the pool {self.pool.name} rests after failures; the last one said:"
        text = f"{text} {last.message}"
        return Failure("no_proxy", text, stage="dial", retry_after=max(math.ceil(wait), 1))

    def _begin(self, of: Proxy | None, probing: Callable[[], Coroutine[None, None, None]]) -> None:
        """Let it go on beside the requests, once."""
        if of not in self._probes:
            nothing = contextvars.Context()  # of the request, such as `dialled`
            task = asyncio.create_task(probing(), name=f"probe {of}", context=nothing)
            self._probes[of] = task
            task.add_done_callback(lambda _: self._probes.pop(of, None))

    async def _revive(self, proxy: Proxy) -> None:
        """Probe a proxy that is down until it is up again."""
        while self.pool.member(proxy).down:
            await sleep(self._clock, PROBE_EVERY)
            if self.pool.member(proxy).down:
                await self._probe(proxy)

    async def _measure(self) -> None:
        """Keep the connect times of a pool fresh."""
        while True:
            for member in self.pool.members:
                stale = self._clock.now() - member.measured >= REMEASURE_EVERY
                if stale and not member.down:
                    await self._probe(member.proxy)
            await sleep(self._clock, REMEASURE_EVERY)

    async def _probe(self, proxy: Proxy) -> None:
        """Dial and hang up: nothing is asked of the upstream, so that it costs nothing."""
        began = self._clock.now()
        try:
            await probe(proxy, self._route.url, self._clock, self._connect, self._tls)
        except Failure as failure:
            if _own_fault(proxy, failure) or failure.code == self.pool.member(proxy).why:
                self._strike(proxy, failure)
            else:  # it does what a proxy does; the upstream is another matter
                self._succeeded(proxy, None)
        else:
            self._succeeded(proxy, self._clock.now() - began)

    def _session(self, proxy: Proxy) -> aiohttp.ClientSession:
        client = self._sessions.get(proxy)
        if client is None:
            client = self._sessions[proxy] = session(
                proxy, self._route.origin, self._clock, self._connect, self._tls
            )
        return client

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
        """Close every connection, and probe no more."""
        probes = list(self._probes.values())
        for task in probes:
            task.cancel()
        await asyncio.gather(*probes, return_exceptions=True)
        for client in self._sessions.values():
            await client.close()
        self._sessions.clear()


def _nobody(reused: bool) -> None:  # noqa: FBT001
    """Hear of a connection when nobody asks any more."""


def _own_fault(proxy: Proxy, failure: Failure) -> bool:
    """Tell whether a dial that failed is the way's fault for sure."""
    return failure.whose is Whose.PROXY or proxy == DIRECT
