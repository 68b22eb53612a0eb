"""What callers may ask for and spend, counted in memory: by the rules of limits, to the request."""

import asyncio
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from limits.aio.storage import MemoryStorage

from service.core.budgets import DAY, GRAIN, MINUTE, Budgets

NOW = 1_000_000_000.0
STEPS = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 0.25, 7, 29.5, 60, 61, 119, 121, 300]),
        st.sampled_from(["alice", "bob"]),
        st.integers(1, 4),
    ),
    max_size=40,
)
"""Seconds that pass, who asks then, and so many a minute may be asked."""


async def _as_limits(steps):
    """Return whom limits lets in."""
    storage, now, let_in = MemoryStorage(), NOW, []
    with patch("time.time", lambda: now):
        for seconds, caller, limit in steps:
            now += seconds
            let_in.append(await storage.acquire_sliding_window_entry(caller, limit, MINUTE))
    return let_in


@given(STEPS)
@example([(20, "alice", 2), (0, "alice", 2), (120, "alice", 2)])  # on the minute, and two later
def test_lets_in_whom_limits_lets_in(steps):
    """Several instances count with limits in Redis; one alone counts the same."""
    budgets, now, let_in = Budgets(), NOW, []
    for seconds, caller, limit in steps:
        now += seconds
        let_in.append(budgets.request(caller, limit, now) is None)
    assert let_in == asyncio.run(_as_limits(steps))


@given(STEPS)
def test_who_waits_as_told_is_let_in(steps):
    """The seconds that a refused caller is told are enough."""
    budgets, now = Budgets(), NOW
    for seconds, caller, limit in steps:
        now += seconds
        if (wait := budgets.request(caller, limit, now)) is not None:
            now += wait
            assert budgets.request(caller, limit, now) is None


def test_a_day_begins_with_the_first_token_and_ends():
    """What was spent counts for 24 hours from the first token; then nothing does."""
    budgets = Budgets()
    budgets.spend("alice", 6, NOW)
    budgets.spend("alice", 4, NOW + 100)
    assert budgets.exhausted("alice", 11, NOW + 100) is None
    assert budgets.exhausted("alice", 10, NOW + 100) == DAY - 100 + GRAIN
    assert budgets.exhausted("alice", 10, NOW + DAY) is None
    budgets.spend("alice", 1, NOW + DAY)
    assert budgets.exhausted("alice", 2, NOW + DAY) is None
    assert budgets.exhausted("alice", 1, NOW + DAY) == pytest.approx(DAY + GRAIN)


def test_a_clock_that_is_set_back_shuts_nobody_out():
    """After a jump to an earlier minute the count begins again."""
    budgets = Budgets()
    assert [budgets.request("alice", 1, NOW) is None for _ in range(2)] == [True, False]
    assert budgets.request("alice", 1, NOW - 10 * MINUTE) is None
