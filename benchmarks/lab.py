"""The lab: one upstream, targets in front of it, and one measurement of one target.

Nothing is believed that was not checked: every run adds to the checks of the whole benchmark.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import relay, rig
from benchmarks.peers import ALL, Peer
from benchmarks.rig import Ask, Held, Load, Upstream
from benchmarks.target import KEY, Target


@dataclass
class Checks:
    """What was checked so far, and what was wrong with it.

    `busiest`: the most of its core that the rig needed at a given rate, 0 to 1.
    """

    answers: int = 0
    tokens: int = 0
    faults: list[str] = field(default_factory=list)
    busiest: float = 0.0

    def add(self, name: str, found: dict[str, Any]) -> None:
        """Count a load's report."""
        self.answers += found.get("answers", 0)
        self.tokens += found["tokens"]
        if found["bad"] or found["disorder"]:
            wrong = f"{found['bad']} answers not whole, {found['disorder']} tokens out of order"
            self.faults.append(f"{name}: {wrong}: {found.get('first_bad', '')}")


@dataclass(frozen=True)
class Sample:
    """One run against one target: the load's report, and processor seconds that it cost whom."""

    found: dict[str, Any]
    cpu: float
    rig_cpu: float

    @property
    def busy(self) -> float:
        """Cores that the target kept busy."""
        return float(self.cpu / self.found["seconds"])


class Lab:
    """A running benchmark. `say`: tells the person who waits."""

    def __init__(self, folder: Path, upstream: Upstream, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.upstream = upstream
        self.say = say
        self.checks = Checks()
        self.skipped: list[str] = []

    def direct(self) -> Target:
        """Return the upstream itself: what the rig alone costs and can."""
        return Target("direct", self.upstream.port, KEY, [], self.folder / "direct")

    @contextmanager
    def relay(self, name: str = "teleprinter", **how: Any) -> Iterator[Target]:
        """Run a relay; raises RuntimeError if it does not answer. `how`: see relay.start."""
        upstream = how.pop("upstream", self.upstream.url)
        target = relay.start(self.folder / name, upstream, name, **how)
        try:
            if not target.answers():
                raise RuntimeError(f"the relay does not answer: {target.why()}")
            yield target
        finally:
            target.stop()

    @contextmanager
    def peers(self, wanted: Sequence[str]) -> Iterator[list[Target]]:
        """Run those that are there; the others are skipped, with a line."""
        with ExitStack() as stack:
            targets = []
            for peer in ALL:
                if peer.name in wanted and (target := self._start(peer)):
                    stack.callback(target.stop)
                    if target.answers():
                        targets.append(target)
                    else:
                        target.stop()
                        self.skip(f"{peer.name}: does not answer: {target.why()}")
            yield targets

    def _start(self, peer: Peer) -> Target | None:
        if peer.path is None:
            self.skip(f"{peer.name}: not installed: make bench-peers, or {peer.how}")
            return None
        self.say(f"starting {peer.name}")
        return peer.start(self.folder / peer.name, self.upstream)

    def skip(self, line: str) -> None:
        """Note what is not measured, once."""
        if line not in self.skipped:
            self.skipped.append(line)
            self.say(f"skipped: {line}")

    def sample(self, target: Target, ask: Ask, load: Load) -> Sample:
        """Measure a run from its first connection to its last byte."""
        share = target.share
        load = Load(
            max(round(load.streams * share), 1),
            max(round(load.answers * share), 1) if load.answers else 0,
            load.ramp,
            load.keep,
            load.leave,
        )
        before, rig_before = target.cpu(), self.upstream.program.cpu()
        found = rig.run(self.folder / "load" / target.name, target.port, target.key, ask, load)
        sample = Sample(
            found,
            target.cpu() - before,
            self.upstream.program.cpu() - rig_before + found["cpu_s"],
        )
        self.checks.add(target.name, found)
        if ask.every:  # else it is meant to go as fast as it can
            self.checks.busiest = max(self.checks.busiest, sample.rig_cpu / found["seconds"])
        return sample

    @contextmanager
    def holding(self, target: Target, ask: Ask, load: Load) -> Iterator[Held]:
        """Hold streams at a target; what came of them is checked at the end."""
        folder = self.folder / "load" / target.name
        with rig.holding(folder, target.port, target.key, ask, load) as held:
            yield held
            self.checks.add(target.name, held.look())


def interleaved(
    rounds: int, names: Sequence[str], measure: Callable[[str], Any]
) -> dict[str, list[Any]]:
    """Measure each by turns, every round from another one on; return what came of each."""
    found: dict[str, list[Any]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in [*names[first:], *names[:first]]:
            found[name].append(measure(name))
    return found
