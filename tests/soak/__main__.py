"""`make soak`: an hour of streams, a line a minute, the ledger, and 1 if a rule is broken."""

import argparse
import asyncio
import sys
import tempfile
from collections import Counter, deque
from contextlib import suppress
from itertools import count
from pathlib import Path
from random import Random
from time import monotonic
from typing import NamedTuple

import aiohttp

from soak import rig
from soak.gauge import Gauge, longest_lag, outcomes
from soak.kinds import KINDS, kind_of
from soak.ledger import Ledger, Seen
from soak.loop import run
from soak.visitors import Visitor, gone

SETTLING = 120.0
"""Seconds after which the relay's memory is what it should stay …"""
GROWTH = 1.1
"""… but for this factor."""
MINUTE = 60.0
THINKING = 0.5, 4.0
"""Seconds between two streams of a client."""
TO_END = 60.0
"""Seconds in which the last streams end."""
KEPT = 30
"""Of the last kept streams that are asked for at the end."""


class State(NamedTuple):
    """What the relay has at a moment: MiB, descriptors, tasks and objects."""

    rss: float
    descriptors: int
    held: dict[str, int]


class Soak:
    """One run."""

    def __init__(self, clients: int, seconds: float, seed: int) -> None:
        self._clients = clients
        self._seconds = seconds
        self._seed = seed
        self._chance = Random(seed)  # noqa: S311
        self._numbers = count(1)
        self._stopping = False
        self.ledger = Ledger()
        self.kills: Counter[str] = Counter()
        self.kept: deque[str] = deque(maxlen=KEPT)

    async def run(self) -> list[str]:
        """Run all; return the broken rules."""
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
        began, self._began = self.gauge.seconds(), monotonic()
        clients = [asyncio.create_task(self._client(n)) for n in range(self._clients)]
        watching = asyncio.create_task(self._watch())
        try:
            await asyncio.sleep(self._seconds)
            self.last_rss = self.gauge.rss()
            self._stopping = True
            shaking.cancel()
            async with asyncio.timeout(TO_END):
                await asyncio.gather(*clients)
        except TimeoutError:
            self.ledger.fault(f"every stream ends: some are open {TO_END:g} s after the last began")
        finally:
            for task in (shaking, watching, *clients):
                task.cancel()
            await asyncio.gather(shaking, watching, *clients, return_exceptions=True)
        self.load = (self.gauge.seconds() - began) / (monotonic() - self._began)
        await self._close(before)

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
        self.settled_rss = 0.0
        for minute in count(1):
            await asyncio.sleep(self._began + minute * MINUTE - monotonic())
            await self._tell(minute)
            if not self.settled_rss and minute * MINUTE >= SETTLING:
                self.settled_rss = self.gauge.rss()

    async def _tell(self, minute: int) -> None:
        metrics = await self.gauge.metrics()
        ledger, gauge = self.ledger, self.gauge
        say(
            f"{minute:3} min  {ledger.begun} begun, {sum(ledger.counts.values())} settled,"
            f" {await gauge.open_streams()} open, {gauge.rss():.1f} MiB,"
            f" {gauge.descriptors()} descriptors, {gauge.seconds():.0f} s of CPU,"
            f" longest lag {longest_lag(metrics)}, {ledger.faults} rules broken"
        )

    async def _state(self) -> State:
        held = await self.relay.look()
        del held["event"]
        return State(self.gauge.rss(), self.gauge.descriptors(), held)

    async def _close(self, before: State) -> None:
        """Wait until nothing should be left; compare, and print."""
        await asyncio.sleep(rig.RETAIN + 6)
        ledger, fault = self.ledger, self.ledger.fault
        ledger.settle_all()
        after = await self._state()
        metrics = await self.gauge.metrics()
        counted = outcomes(metrics)
        if left := ledger.unsettled:
            fault(f"every stream begun has one outcome: {len(left)} have none: {left[:5]}")
        if counted.total() != ledger.begun or counted != ledger.counts:
            fault(f"the sum of outcomes equals the streams: /metrics {dict(counted)}")
        if opened := await self.gauge.open_streams():
            fault(f"no stream is left open: {opened} are")
        if readable := [name async for name in gone(self.relay.url, self.session, list(self.kept))]:
            fault(f"no kept stream is left: {len(readable)} of {len(self.kept)} can be read")
        if after.descriptors > before.descriptors:
            fault(f"no descriptor is left: {before.descriptors} before, {after.descriptors} after")
        for what, many in after.held.items():
            if many > before.held[what]:
                fault(f"no {what} is left: {before.held[what]} before, {many} after")
        if self.settled_rss and self.last_rss > GROWTH * self.settled_rss:
            fault(f"memory stays: {self.settled_rss:.1f} MiB, then {self.last_rss:.1f}")
        for line in self.relay.odd[:5]:
            fault(f"nothing odd in the log: {line}")
        self._print(before, after, counted, longest_lag(metrics))

    def _print(self, before: State, after: State, counted: Counter[str], lag: str) -> None:
        ledger = self.ledger
        rows = {
            "streams begun": ledger.begun,
            "settled, client and log": f"{sum(ledger.counts.values())} {_pairs(ledger.counts)}",
            "/metrics": f"{counted.total()} {_pairs(counted)}",
            "by kind": _pairs(ledger.kinds),
            "came back": ledger.resumed,
            "proxies killed": _pairs(self.kills) or "none",
            "memory, MiB": f"{before.rss:.1f} idle, {self.settled_rss:.1f} after"
            f" {SETTLING / MINUTE:g} min, {self.last_rss:.1f} at the end, {after.rss:.1f} idle",
            "descriptors": f"{before.descriptors} before, {after.descriptors} after",
            "held": f"{_pairs(before.held)} before; {_pairs(after.held)} after",
            "processor": f"{self.load:.2f} cores (the relay)",
            "longest loop lag": lag,
        }
        say(f"\nThe ledger of {self._seconds / MINUTE:g} minutes, {self._clients} clients")
        for name, row in rows.items():
            say(f"  {name:<24} {row}")


def _pairs(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {many}" for name, many in sorted(counts.items()))


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    """Run as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="how long (60)")
    parser.add_argument("--clients", type=int, default=500, help="at a time (500)")
    parser.add_argument("--seed", type=int, default=9, help="of what happens when (9)")
    given = parser.parse_args(arguments)
    soak = Soak(given.clients, given.minutes * MINUTE, given.seed)
    broken: list[str] = []
    with suppress(KeyboardInterrupt):
        broken = run(soak.run())
    for rule in broken:
        say(f"BROKEN  {rule}")
    say("every rule holds" if not broken else f"{soak.ledger.faults} times a rule was broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
