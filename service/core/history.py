"""The last quarter of an hour, in memory that does not grow.

    a stream ends ─▶ Recent ─▶ Ring: 90 slots of 10 s, each a row of counts ─▶ minutes, percentiles

Nothing is done for a token: a stream hands its counts over when it ends. Its events then count as
if they had come evenly from the first to the last one.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise, starmap
from operator import add
from typing import Final, get_args

from service.core.events import Ending, Outcome, Summary
from service.errors import Whose

SLOT: Final = 10.0
"""Seconds of a slot."""
SLOTS: Final = 90
MINUTE: Final = 6
"""Slots of a minute."""
OUTCOMES: Final[tuple[str, ...]] = get_args(Outcome)
_FAILED: Final = frozenset({"cut", "stalled", "error"})
"""What is an upstream's fault, or that of the way to it."""
_BAD_REQUEST: Final = 400
_PASSING: Final = frozenset({408, 429})
_OWN: Final = 500
"""From this status on a refusal is the upstream's own fault, and with 408 and 429 one that passes;
any other is the client's."""

Row = list[float]


class Ring:
    """Counts of the last SLOTS slots, `width` of them a slot; seconds on any one clock."""

    def __init__(self, width: int) -> None:
        self._rows = [[0.0] * width for _ in range(SLOTS)]
        self._newest = 0

    def add(self, now: float, column: int = 0, count: float = 1) -> None:
        """Count something that happens now."""
        self._row(int(now // SLOT))[column] += count

    def merge(self, now: float, counts: Iterable[float]) -> None:
        """Count a whole row of things."""
        row = self._row(int(now // SLOT))
        row[:] = starmap(add, zip(row, counts, strict=True))

    def spread(self, since: float, now: float, count: float) -> None:
        """Count in the first column what happened evenly between then and now."""
        newest = int(now // SLOT)
        row = self._row(newest)
        if since // SLOT == newest:  # as nearly all
            row[0] += count
            return
        for slot, share in enumerate(even([(since, now, count)], newest), newest - SLOTS + 1):
            if share:
                self._rows[slot % SLOTS][0] += share

    def rows(self, now: float) -> list[Row]:
        """Return what each slot counted, the oldest first; the last one is not over yet."""
        self._row(int(now // SLOT))
        return [list(self._row(slot)) for slot in _window(self._newest)]

    def total(self, now: float) -> Row:
        """Return the sums of all slots."""
        return [sum(column) for column in zip(*self.rows(now), strict=True)]

    def _row(self, slot: int) -> Row:
        """Return the row of a slot that is not older than the window, new ones empty."""
        if slot <= self._newest:  # as nearly always
            return self._rows[slot % SLOTS]
        for stale in range(max(self._newest + 1, slot - SLOTS + 1), slot + 1):
            row = self._rows[stale % SLOTS]
            row[:] = [0.0] * len(row)
        self._newest = slot
        return self._rows[slot % SLOTS]


def even(spans: Iterable[tuple[float, float, float]], newest: int) -> Row:
    """Return how much falls into each slot up to the newest, the oldest first.

    A span is (since, until, count): so much happened evenly between the two. However long it is,
    it costs the same, for it is only added where it begins and where it ends.
    """
    oldest = newest - SLOTS + 1
    parts, steps = [0.0] * SLOTS, [0.0] * (SLOTS + 1)
    for since, until, count in spans:
        first, last = int(since // SLOT), int(until // SLOT)
        if last < oldest:
            continue
        if first >= last:
            parts[last - oldest] += count
            continue
        rate = count / (until - since)
        parts[last - oldest] += rate * (until - last * SLOT)
        if first >= oldest:
            parts[first - oldest] += rate * ((first + 1) * SLOT - since)
        steps[max(first + 1 - oldest, 0)] += rate * SLOT
        steps[last - oldest] -= rate * SLOT
    return [part + whole for part, whole in zip(parts, accumulate(steps), strict=False)]


def _window(newest: int) -> range:
    return range(newest - SLOTS + 1, newest + 1)


def minutes(rows: Sequence[Row], column: int) -> list[int]:
    """Return a column's counts by the minute, the oldest first; the last minute ends now."""
    counts = [row[column] for row in rows]
    return [round(sum(counts[n : n + MINUTE])) for n in range(0, SLOTS, MINUTE)]


def percentile(bounds: Sequence[float], counts: Sequence[float], part: float) -> float | None:
    """Return the value that `part` of all values do not exceed; None if there are no values.

    Linear within a bucket, and the highest bound for what lies beyond it: histogram_quantile of
    Prometheus.
    """
    rank = part * sum(counts)
    if not rank:
        return None
    for (low, high), count in zip(pairwise((0.0, *bounds)), counts, strict=False):
        if rank <= count:
            return low + (high - low) * rank / count
        rank -= count
    return bounds[-1]


def outcome_of(ending: Ending, status: int | None) -> Outcome:
    """Return what came of a stream, as people see it; `status`: the upstream's.

    An API's refusal that was handed on as it came was handed on well, but no answer.
    """
    failure = ending.failure
    if failure is not None and failure.code == "upstream_error":
        status = failure.status
    if status is None or status < _BAD_REQUEST or ending.outcome not in {"ok", "error"}:
        return ending.outcome
    return "error" if status >= _OWN or status in _PASSING else "refused"


class Tally:
    """What the streams of one upstream came to. `first_token`, `gaps`: counts of buckets."""

    def __init__(self, first_token: int, gaps: int) -> None:
        self.outcomes = Ring(len(OUTCOMES))
        self.first_token = Ring(first_token)
        self.gaps = Ring(gaps)

    def judged(self, now: float) -> tuple[int, int]:
        """Return how many of its streams went well, and how many failed by no client's doing."""
        total = dict(zip(OUTCOMES, self.outcomes.total(now), strict=True))
        return round(total["ok"]), round(sum(total[name] for name in _FAILED))


class Recent:
    """What the streams of the last quarter of an hour came to.

    `first_token`, `gaps`: the upper bounds of the buckets, in seconds.
    """

    def __init__(self, first_token: Sequence[float], gaps: Sequence[float]) -> None:
        self.outcomes = Ring(len(OUTCOMES))
        self.events = Ring(1)
        self.faults = Ring(1)
        """Streams that failed by a fault of the relay."""
        self._bounds = first_token, gaps
        self._tallies: dict[str, Tally] = {}

    def of(self, upstream: str) -> Tally:
        """Return what an upstream's streams came to."""
        if upstream not in self._tallies:
            self._tallies[upstream] = Tally(*(len(bounds) + 1 for bounds in self._bounds))
        return self._tallies[upstream]

    def ended(
        self, summary: Summary, ending: Ending, gaps: Sequence[int], status: int | None, now: float
    ) -> None:
        """Count a stream that has ended now; `gaps`: its own buckets, `status`: the upstream's."""
        column = OUTCOMES.index(outcome_of(ending, status))
        tally = self.of(summary.upstream or "")
        self.outcomes.add(now, column)
        if ending.failure is None or ending.failure.whose is not Whose.PROXY:
            tally.outcomes.add(now, column)
        if any(gaps):
            tally.gaps.merge(now, gaps)
        if ending.failure is not None and ending.failure.code == "internal":
            self.faults.add(now)
        if summary.first_token_ms is not None:
            first = summary.first_token_ms / 1000
            tally.first_token.add(now, bisect_left(self._bounds[0], first))
            self.events.spread(now - summary.elapsed_ms / 1000 + first, now, ending.number - 1)

    def refused(self, now: float) -> None:
        """Count a request that never became a stream."""
        self.outcomes.add(now, OUTCOMES.index("refused"))

    def percentiles(self, upstream: str, now: float) -> tuple[dict[str, float | None], ...]:
        """Return `p50` and `p95` in seconds of an upstream's first tokens, and of its gaps."""
        tally = self.of(upstream)
        counted = tally.first_token.total(now), tally.gaps.total(now)
        return tuple(
            {"p50": percentile(bounds, counts, 0.5), "p95": percentile(bounds, counts, 0.95)}
            for bounds, counts in zip(self._bounds, counted, strict=True)
        )
