"""The end of a run: what is left, the rules that hold for all streams together, and the ledger."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from soak.ledger import Ledger

GROWTH = 1.1
"""Of the memory after the first minutes: more at the end is a leak."""


class State(NamedTuple):
    """What the relay has at a moment: MiB, descriptors, tasks and objects."""

    rss: float
    descriptors: int
    held: Mapping[str, int]


class Closing(NamedTuple):
    """What was found at the end.

    before, after    idle, before the first stream and after the last
    settled, loaded  MiB under load, after the first minutes (0: it ended before) and at the end
    counted          outcomes by /metrics; `opened`: streams still open, by /status.json
    readable, kept   of so many streams that were kept, those that can still be read
    load             cores that the relay took
    """

    before: State
    after: State
    settled: float
    loaded: float
    counted: Counter[str]
    opened: int
    readable: int
    kept: int
    lag: str
    load: float


def broken(ledger: Ledger, found: Closing) -> Iterator[str]:
    """Yield the rules that do not hold for all streams together."""
    before, after = found.before, found.after
    if left := ledger.unsettled:
        yield f"every stream begun has one outcome: {len(left)} have none: {left[:5]}"
    if found.counted.total() != ledger.begun or _told(found.counted) != _told(ledger.counts):
        yield f"the sum of outcomes equals the streams: /metrics {dict(found.counted)}"
    if found.opened:
        yield f"no stream is left open: {found.opened} are"
    if found.readable:
        yield f"no kept stream is left: {found.readable} of {found.kept} can be read"
    if after.descriptors > before.descriptors:
        yield f"no descriptor is left: {before.descriptors} before, {after.descriptors} after"
    for what, many in after.held.items():
        if many > before.held[what]:
            yield f"no {what} is left: {before.held[what]} before, {many} after"
    if found.settled and found.loaded > GROWTH * found.settled:
        yield f"memory stays: {found.settled:.1f} MiB, then {found.loaded:.1f}"


def _told(counts: Counter[str]) -> Counter[str]:
    """Take `left` for `ok`: an answer may have come to its end when its client leaves."""
    told = counts.copy()
    told["ok"] += told.pop("left", 0)
    return +told


def rows(ledger: Ledger, found: Closing, kills: Mapping[str, int]) -> Iterator[tuple[str, object]]:
    """Yield what the ledger says, line by line."""
    before, after = found.before, found.after
    yield "streams begun", ledger.begun
    yield "settled, client and log", f"{ledger.counts.total()} {_pairs(ledger.counts)}"
    yield "/metrics", f"{found.counted.total()} {_pairs(found.counted)}"
    yield "by kind", _pairs(ledger.kinds)
    yield "came back", ledger.resumed
    yield "left unheard", ledger.unheard
    yield "proxies killed", _pairs(kills) or "none"
    settled = f"{found.settled:.1f} settled, " if found.settled else ""
    idle = f"{before.rss:.1f} idle before, {after.rss:.1f} after"
    yield "memory, MiB", f"{settled}{found.loaded:.1f} at the end; {idle}"
    yield "descriptors", f"{before.descriptors} before, {after.descriptors} after"
    yield "held", f"{_pairs(before.held)} before; {_pairs(after.held)} after"
    yield "processor", f"{found.load:.2f} cores (the relay)"
    yield "longest loop lag", found.lag


def _pairs(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {many}" for name, many in sorted(counts.items()))
