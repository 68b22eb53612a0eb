"""Rules of the pace: pieces keep their order, tokens their distance, and nothing else is held."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.core.pacing import Smooth, Typewriter, strategy
from service.core.view import Piece

ARRIVALS = st.lists(st.tuples(st.integers(0, 40), st.booleans(), st.integers(0, 3)), max_size=30)
DELAYS = st.integers(1, 30)


def piece(text, *, token=True):
    """Return a piece."""
    return Piece(text.encode(), token)


def arriving(arrivals):
    """Return (moment, piece) of arrivals that are given as (gap, token, size)."""
    now, found = 0, []
    for number, (gap, token, size) in enumerate(arrivals):
        now += gap
        found.append((now, Piece(b"<%d>" % number + b"." * size, token)))
    return found


def play(pace, timed):
    """Put each piece at its moment; return (moment, bytes) of all that leaves, at its due time."""
    left = []
    for now, item in [*timed, (float("inf"), None)]:
        while (due := pace.due()) is not None and due < now:
            left.append((due, pace.take(due)))
        if item is not None:
            pace.put(item, now)
            left.append((now, pace.take(now)))
    return left


def leaving(timed, left):
    """Return the moment at which each piece left."""
    return [
        next(when for when, data in left if item.data.partition(b">")[0] + b">" in data)
        for _, item in timed
    ]


@settings(deadline=None)
@given(ARRIVALS, DELAYS)
def test_order_is_kept_and_nothing_lost(arrivals, delay):
    """What leaves, joined, is what came, joined."""
    timed = arriving(arrivals)
    left = play(Typewriter(delay), timed)
    assert b"".join(data for _, data in left) == b"".join(item.data for _, item in timed)


@settings(deadline=None)
@given(ARRIVALS, DELAYS)
@example([(0, True, 0), (0, False, 0), (0, True, 0), (0, False, 0)], 10)
def test_each_piece_leaves_as_soon_as_it_may(arrivals, delay):
    """A token: `delay` after the last one. Anything else: with what is before it. No later."""
    timed = arriving(arrivals)
    moments = leaving(timed, play(Typewriter(delay), timed))
    before, next_token = 0, 0
    for (came, item), left in zip(timed, moments, strict=True):
        expected = max(came, before, next_token if item.token else 0)
        assert left == expected
        before = left
        next_token = left + delay if item.token else next_token


@settings(deadline=None)
@given(ARRIVALS, DELAYS)
def test_size_is_what_is_held(arrivals, delay):
    """The bytes that came and have not left; none at the end, and then nothing is due."""
    pace, held = Typewriter(delay), 0
    for now, item in arriving(arrivals):
        pace.put(item, now)
        held += len(item.data) - len(pace.take(now))
        assert pace.size == held
        assert (pace.due() is None) == (held == 0)
    pace.take(float("inf"))
    assert (pace.size, pace.due()) == (0, None)


def test_the_first_token_leaves_at_once():
    """Nobody waits before there is anything to wait for."""
    pace = Typewriter(1.0)
    pace.put(piece("a"), 1000.0)
    assert pace.due() == 1000.0
    assert pace.take(1000.0) == b"a"


def test_a_token_a_second():
    """Tokens that came together leave a second apart, to the moment."""
    pace = Typewriter(1.0)
    for text in "abc":
        pace.put(piece(text), 1000.0)
    assert pace.take(1000.999) == b"a"
    assert pace.due() == 1001.0
    assert pace.take(1001.0) == b"b"
    assert pace.take(1001.999) == b""
    assert pace.take(1002.0) == b"c"
    assert pace.due() is None


def test_what_is_no_token_leaves_with_the_token_before_it():
    """Tool calls, usage, finish and errors wait for the text before them, and for no more."""
    pace = Typewriter(1.0)
    pace.put(piece("a"), 0.0)
    pace.put(piece("!", token=False), 0.0)
    pace.put(piece("b"), 0.0)
    pace.put(piece("done", token=False), 0.0)
    assert pace.take(0.0) == b"a!"
    assert pace.take(1.0) == b"bdone"


def test_what_is_no_token_takes_no_turn():
    """A token after it waits as if it were not there."""
    pace = Typewriter(1.0)
    pace.put(piece("a"), 0.0)
    pace.put(piece("!", token=False), 0.5)
    pace.put(piece("b"), 0.5)
    assert pace.take(0.5) == b"a!"
    assert pace.due() == 1.0


def test_a_slow_upstream_is_not_slowed():
    """A token that comes later than its turn leaves when it comes, and the next counts from it."""
    pace = Typewriter(1.0)
    pace.put(piece("a"), 0.0)
    pace.take(0.0)
    pace.put(piece("b"), 5.5)
    assert pace.take(5.5) == b"b"
    pace.put(piece("c"), 5.6)
    assert pace.due() == 6.5


def test_a_large_token_is_not_split():
    """One text event of the upstream's is one token."""
    pace = Typewriter(1.0)
    pace.put(piece("a long text " * 100), 0.0)
    assert len(pace.take(0.0)) == 1200


KINDS = [("off", type(None)), ("typewriter", Typewriter), ("smooth", Smooth)]


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_strategy(name, kind):
    """A pace by its name; `off` is none."""
    assert type(strategy(name, 1.0, 0.6)) is kind


def test_strategy_takes_its_delay_in_seconds():
    """The delay of the typewriter is the one that was asked for."""
    pace = strategy("typewriter", 0.25, 0.6)
    pace.put(piece("a"), 0.0)
    pace.put(piece("b"), 0.0)
    pace.take(0.0)
    assert pace.due() == 0.25
