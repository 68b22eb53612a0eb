"""The last quarter of an hour: what is counted, for how long, and what is read out of it."""

import pytest

from service.core.events import Ending, Summary
from service.core.history import (
    OUTCOMES,
    SLOT,
    SLOTS,
    Recent,
    Ring,
    even,
    minutes,
    outcome_of,
    percentile,
)
from service.errors import Failure

QUARTER = SLOT * SLOTS
BOUNDS = (0.1, 1.0)
NOW = 5000.0


def column(ring, now):
    """Return the first column, oldest first."""
    return [row[0] for row in ring.rows(now)]


def test_what_happens_now_stands_at_the_end():
    """The newest slot is the last one; another slot begins every ten seconds."""
    ring = Ring(2)
    ring.add(1000)
    ring.add(1009.9, 1, 3)
    ring.add(1010)
    assert ring.rows(1010)[-2:] == [[1, 3], [1, 0]]
    assert ring.total(1010) == [2, 3]
    assert len(ring.rows(1010)) == SLOTS


def test_after_a_quarter_of_an_hour_it_is_forgotten():
    """Not a slot before, not a slot after."""
    ring = Ring(1)
    ring.add(1000)
    assert column(ring, 1000 + QUARTER - SLOT) == [1] + [0] * (SLOTS - 1)
    assert ring.total(1000 + QUARTER) == [0]


@pytest.mark.parametrize("pause", [QUARTER, 10 * QUARTER, 1e6 + 7])
def test_a_long_pause_leaves_nothing_behind(pause):
    """However long nothing happened, the slots that are used again are empty."""
    ring = Ring(1)
    for second in range(0, int(QUARTER), 5):
        ring.add(1000 + second)
    ring.add(1000 + QUARTER + pause)
    assert ring.total(1000 + QUARTER + pause) == [1]


def test_its_memory_does_not_grow():
    """As many rows after a day as at the beginning."""
    ring = Ring(1)
    for hour in range(24):
        ring.add(3600.0 * hour)
    assert len(ring._rows) == SLOTS


def test_a_whole_row_at_once():
    """What a histogram counted is added bucket by bucket; another width is a mistake."""
    ring = Ring(3)
    ring.merge(1000, [1, 0, 2])
    ring.merge(1000, [1, 1, 1])
    assert ring.total(1000) == [2, 1, 3]
    with pytest.raises(ValueError, match="zip"):
        ring.merge(1000, [1])


@pytest.mark.parametrize(
    ("since", "until", "last"),
    [
        (1000, 1030, [0, 10, 10, 10, 0]),
        (1005, 1025, [0, 7.5, 15, 7.5]),
        (1007, 1007, [0, 30]),
        (1009, 1008, [0, 30]),
    ],
)
def test_events_count_as_if_they_came_evenly(since, until, last):
    """Each slot gets its part of the time; what took no time counts at its end."""
    ring = Ring(1)
    ring.spread(since, until, 30)
    assert column(ring, until)[-len(last) :] == pytest.approx(last)


def test_of_a_stream_that_is_older_than_the_window_its_part_counts():
    """A stream of half an hour has half of its events in the last quarter of one."""
    ring = Ring(1)
    ring.spread(10_000 - 2 * QUARTER, 10_000, 1800)
    assert ring.total(10_000)[0] == pytest.approx(900, abs=1800 / QUARTER * SLOT)


def test_many_spans_at_once():
    """Each counts where it lies; one that was over before the window does not."""
    row = even([(1000, 1020, 4), (1015, 1015, 1), (0, 900, 9), (100, 105, 7)], 110)
    assert row[-11:] == pytest.approx([2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    assert sum(row[:-11]) == pytest.approx(6.9)
    assert even([], 110) == [0] * SLOTS


def test_minutes_end_now():
    """Six slots are a minute; the last minute is the one that ends now."""
    ring = Ring(2)
    ring.add(1000)
    ring.add(1050, 0, 2)
    ring.add(1060, 1, 5)
    rows = ring.rows(1060)
    assert minutes(rows, 0) == [0] * 13 + [1, 2]
    assert minutes(rows, 1) == [0] * 14 + [5]


@pytest.mark.parametrize(
    ("counts", "part", "value"),
    [
        ([0, 0, 0], 0.5, None),
        ([4, 0, 0], 0.5, 0.05),
        ([4, 0, 0], 1, 0.1),
        ([2, 2, 0], 0.5, 0.1),
        ([2, 2, 0], 0.75, 0.55),
        ([0, 10, 0], 0.95, 0.955),
        ([1, 0, 9], 0.95, 1.0),
    ],
)
def test_percentiles(counts, part, value):
    """Linear within a bucket; beyond the last bound that bound; of nothing, none."""
    assert percentile(BOUNDS, counts, part) == (None if value is None else pytest.approx(value))


@pytest.mark.parametrize(
    ("outcome", "status", "failure", "seen"),
    [
        ("ok", 200, None, "ok"),
        ("ok", None, None, "ok"),
        ("ok", 400, None, "refused"),
        ("ok", 401, None, "refused"),
        ("ok", 404, None, "refused"),
        ("ok", 408, None, "error"),
        ("ok", 429, None, "error"),
        ("ok", 500, None, "error"),
        ("ok", 529, None, "error"),
        ("left", 500, None, "left"),
        ("error", None, Failure("upstream_error", "no", status=400), "refused"),
        ("error", None, Failure("upstream_error", "no", status=429), "error"),
        ("error", 200, Failure("upstream_error", "no"), "error"),
        ("error", None, Failure("proxy_unreachable", "no"), "error"),
        ("cut", 200, Failure("upstream_cut", "no"), "cut"),
    ],
)
def test_an_apis_refusal_is_no_success(outcome, status, failure, seen):
    """One that was handed on well is refused if the client has to mend it, else an error."""
    assert outcome_of(Ending(1, outcome, Summary(), failure), status) == seen


def ended(recent, outcome="ok", now=NOW, **more):
    """Let a stream end: 40 events, in two seconds of which the first half was for the first."""
    summary = Summary(upstream="up", first_token_ms=1000, elapsed_ms=2000)
    for name, value in more.items():
        setattr(summary, name, value)
    recent.ended(summary, Ending(41, outcome, summary), [0, 8, 2], 200, now)


def test_a_stream_counts_once_everywhere():
    """Its outcome in all and for its upstream, its first token, its gaps, its events."""
    recent = Recent(BOUNDS, BOUNDS)
    ended(recent)
    ended(recent, "cut")
    ended(recent, "left", first_token_ms=None)
    total = dict(zip(OUTCOMES, recent.outcomes.total(NOW), strict=True))
    assert (total["ok"], total["cut"], total["left"], sum(total.values())) == (1, 1, 1, 3)
    assert recent.of("up").judged(NOW) == (1, 1)
    assert recent.of("up").first_token.total(NOW) == [0, 2, 0]
    assert recent.of("up").gaps.total(NOW) == [0, 24, 6]
    assert recent.events.total(NOW)[0] == pytest.approx(80)
    first_token, gap = recent.percentiles("up", NOW)
    assert first_token == {"p50": pytest.approx(0.55), "p95": pytest.approx(0.955)}
    assert gap == {"p50": pytest.approx(0.6625), "p95": 1.0}


def test_who_left_tells_nothing_of_the_upstream():
    """Neither for nor against it: left, stopped, slow, draining, refused."""
    recent = Recent(BOUNDS, BOUNDS)
    for outcome in ("left", "stopped", "slow", "draining", "refused"):
        ended(recent, outcome)
    assert recent.of("up").judged(NOW) == (0, 0)


def test_a_request_that_was_refused_has_no_upstream():
    """It counts among the streams, and for none of the upstreams."""
    recent = Recent(BOUNDS, BOUNDS)
    recent.refused(NOW)
    assert recent.outcomes.total(NOW)[OUTCOMES.index("refused")] == 1
    assert recent._tallies == {}


def test_the_relays_own_faults_are_counted_apart():
    """A stream that ended with `internal` is the relay's fault."""
    recent = Recent(BOUNDS, BOUNDS)
    summary = Summary(upstream="up")
    failure = Failure("internal", "a fault")
    recent.ended(summary, Ending(1, "error", summary, failure), [0, 0, 0], None, NOW)
    assert recent.faults.total(NOW) == [1]
    ended(recent)
    assert recent.faults.total(NOW) == [1]


def test_a_proxys_fault_is_not_its_upstreams():
    """A stream that no proxy could dial says nothing of the API behind it."""
    recent = Recent(BOUNDS, BOUNDS)
    summary = Summary(upstream="up")
    failure = Failure("proxy_unreachable", "refused", stage="dial")
    recent.ended(summary, Ending(1, "error", summary, failure), [0, 0, 0], None, NOW)
    assert recent.of("up").judged(NOW) == (0, 0)
    assert recent.outcomes.total(NOW)[OUTCOMES.index("error")] == 1
