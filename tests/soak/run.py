"""One run: 500 clients, each after its stream the next, until the time is up."""

import asyncio
import signal
import sys
import tempfile
from collections import Counter, deque
from itertools import count
from pathlib import Path
from random import Random
from time import monotonic

import aiohttp

from soak import rig
from soak.closing import Closing, State, broken, rows
from soak.gauge import Gauge, longest_lag, outcomes
from soak.kinds import KINDS, kind_of
from soak.ledger import Ledger, Seen
from soak.visitors import Visitor, gone

SETTLING = 120.0
"""Seconds after which the relay's memory is what it should stay."""
MINUTE = 60.0
THINKING = 1.0, 8.0
"""Seconds between two streams of a client."""
TO_END = 120.0
"""Seconds in which the last streams end."""
IDLE = 40
"""Seconds in which connections to upstreams are closed that nobody uses."""
KEPT = 30
"""Of the last kept streams that are asked for at the end."""


class Soak:
    """One run."""

    def __init__(self, clients: int, seconds: float, seed: int) -> None:
        self._clients = clients
        self._seconds = seconds
        self._seed = seed
        self._chance = Random(seed)  # noqa: S311
        self._numbers = count(1)
        self._stopping = False
        self._settled = 0.0
        self._told = 0
        self.ledger = Ledger()
        self.kills: Counter[str] = Counter()
        self.kept: deque[str] = deque(maxlen=KEPT)

    async def run(self) -> list[str]:
        """Run all; return the broken rules. SIGTERM ends what it has started, too."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
        with tempfile.TemporaryDirectory() as name, rig.real_proxies(Path(name)) as proxies:
            folder = Path(name)
            ways = [proxy.url(scheme) for proxy, scheme in proxies.values()]
            async with (
                rig.peers(folder) as ports,
                rig.relay(folder, rig.settings(ports, ways), self.ledger.read) as relay,
                aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=0, force_close=True),
                    timeout=aiohttp.ClientTimeout(total=None),
                ) as session,
            ):
                self.relay, self.session = relay, session
                self.gauge = Gauge(relay.process.pid, relay.url, session)
                shaking = rig.trouble([p for p, _ in proxies.values()], self.kills, self._chance)
                await self._load(asyncio.create_task(shaking))
                return self.ledger.broken

    async def _load(self, shaking: asyncio.Task[None]) -> None:
        await self._warm_up()
        before = await self._state()
        spent, self._began = self.gauge.seconds(), monotonic()
        clients = [asyncio.create_task(self._client(n)) for n in range(self._clients)]
        watching = asyncio.create_task(self._watch())
        try:
            await asyncio.sleep(self._seconds)
            loaded = self.gauge.rss()
            self._stopping = True
            shaking.cancel()
            async with asyncio.timeout(TO_END):
                await asyncio.gather(*clients)
        except TimeoutError:
            self.ledger.fault(f"every stream ends: some are open {TO_END:g} s after the last began")
        finally:
            for task in (shaking, watching, *clients):
                task.cancel()
            ends = await asyncio.gather(shaking, watching, *clients, return_exceptions=True)
            for end in ends:
                if isinstance(end, Exception):
                    self.ledger.fault(f"the run itself works: {end!r}")
        load = (self.gauge.seconds() - spent) / (monotonic() - self._began)
        await self._close(before, loaded, load)

    async def _warm_up(self) -> None:
        """Use once what is loaded at its first use."""
        for kind in ("chat", "raw", "plain", "returns"):
            await self._one(f"{kind}-{next(self._numbers)}", Random(0))  # noqa: S311
        await asyncio.sleep(rig.RETAIN + 1)

    async def _client(self, number: int) -> None:
        chance = Random(self._seed + number)  # noqa: S311
        weights = [kind.weight for kind in KINDS.values()]
        while not self._stopping:
            await asyncio.sleep(chance.uniform(*THINKING))
            [kind] = chance.choices(list(KINDS), weights)
            await self._one(f"{kind}-{next(self._numbers)}", chance)

    async def _one(self, name: str, chance: Random) -> None:
        self.ledger.begin(name)
        try:
            seen = await Visitor(self.relay.url, self.session, chance).visit(name)
        except Exception as error:  # noqa: BLE001  whatever it is, it is told in the ledger
            self.ledger.fault(f"a client fails: {name}: {error!r}")
            seen = Seen()
        if kind_of(name).act in ("returns", "stops"):
            self.kept.append(seen.stream)
        self.ledger.saw(name, seen)

    async def _watch(self) -> None:
        for minute in count(1):
            await asyncio.sleep(self._began + minute * MINUTE - monotonic())
            await self._tell(minute)
            if not self._settled and minute * MINUTE >= SETTLING:
                self._settled = self.gauge.rss()

    async def _tell(self, minute: int) -> None:
        self.ledger.settle_all()
        for rule in self.ledger.broken[self._told :]:
            say(f"BROKEN  {rule}")
        self._told = len(self.ledger.broken)
        metrics = await self.gauge.metrics()
        ledger, gauge = self.ledger, self.gauge
        say(
            f"{minute:3} min  {ledger.begun} begun, {ledger.counts.total()} settled,"
            f" {await gauge.open_streams()} open, {gauge.rss():.1f} MiB,"
            f" {gauge.descriptors()} descriptors, {gauge.seconds():.0f} s of CPU,"
            f" longest lag {longest_lag(metrics)}, a rule broken {ledger.faults.total()} times"
        )

    async def _state(self) -> State:
        held = await self.relay.look()
        del held["event"]
        return State(self.gauge.rss(), self.gauge.descriptors(), held)

    async def _close(self, before: State, loaded: float, load: float) -> None:
        """Wait until nothing should be left; look what is."""
        gauge, ledger = self.gauge, self.ledger
        await asyncio.sleep(rig.RETAIN + 1)
        for _ in range(IDLE):
            after = await self._state()  # before anything is asked of it over a new connection
            if after.descriptors <= before.descriptors:
                break
            await asyncio.sleep(1)
        ledger.settle_all()
        ledger.pass_over_unheard()
        metrics = await gauge.metrics()
        found = Closing(
            before,
            after,
            self._settled,
            loaded,
            outcomes(metrics),
            await gauge.open_streams(),
            len([name async for name in gone(self.relay.url, self.session, [*self.kept])]),
            len(self.kept),
            longest_lag(metrics),
            load,
        )
        for rule in [*broken(ledger, found), *(f"odd: {line}" for line in self.relay.odd)]:
            ledger.fault(rule)
        say(f"\nThe ledger of {self._seconds / MINUTE:g} minutes, {self._clients} clients")
        for name, row in rows(ledger, found, self.kills):
            say(f"  {name:<24} {row}")


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
