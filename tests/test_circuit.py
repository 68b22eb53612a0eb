"""A circuit opens on failures in a row, lets one try, and closes within seconds of a recovery."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.circuit import FAILURES, Circuit

NOW = 1000.0
LONGEST = 8.0
"""Seconds after which one may try, at the latest."""


def opened(now=NOW):
    """Return a circuit that has just opened."""
    circuit = Circuit()
    for _ in range(FAILURES):
        circuit.entered(now)
        circuit.failed(now)
    return circuit


def test_it_opens_with_the_fifth_failure_in_a_row():
    """Four are bad luck."""
    circuit = Circuit()
    for _ in range(FAILURES - 1):
        circuit.failed(NOW)
    assert (circuit.open, circuit.lets_pass(NOW)) == (False, True)
    circuit.failed(NOW)
    assert (circuit.open, circuit.lets_pass(NOW)) == (True, False)


def test_a_success_between_failures_keeps_it_closed():
    """In a row means in a row."""
    circuit = Circuit()
    for _ in range(10):
        for _ in range(FAILURES - 1):
            circuit.failed(NOW)
        circuit.succeeded()
    assert not circuit.open


def test_after_a_second_one_may_try():
    """One: the others go on past it until they know what came of it."""
    circuit = opened()
    assert not circuit.lets_pass(NOW + 0.999)
    assert circuit.lets_pass(NOW + 1)
    circuit.entered(NOW + 1)
    assert not circuit.lets_pass(NOW + 1)
    assert not circuit.lets_pass(NOW + 5)


def test_a_trial_that_succeeds_closes_it():
    """All may pass at once, and the next opening begins with a second again."""
    circuit = opened()
    circuit.entered(NOW + 1)
    circuit.succeeded()
    assert not circuit.open
    assert circuit.lets_pass(NOW + 1)
    for _ in range(FAILURES):
        circuit.failed(NOW + 2)
    assert circuit.lets_pass(NOW + 3)


def test_trials_that_fail_come_1_2_4_and_8_seconds_apart():
    """Never further apart, so that a recovery is noticed within seconds."""
    circuit, now, pauses = opened(), NOW, []
    for _ in range(6):
        pause = next(s for s in range(100) if circuit.lets_pass(now + s))
        pauses.append(pause)
        now += pause
        circuit.entered(now)
        circuit.failed(now)
    assert pauses == [1, 2, 4, 8, 8, 8]


def test_stragglers_put_nothing_off():
    """Requests that were under way when it opened fail too: the trial comes as soon as ever."""
    circuit = opened()
    for _ in range(50):
        circuit.failed(NOW + 0.9)
    assert circuit.lets_pass(NOW + 1)


def test_a_straggler_that_succeeds_closes_it():
    """The upstream answers: that is all one wants to know."""
    circuit = opened()
    circuit.succeeded()
    assert circuit.lets_pass(NOW)


def test_a_trial_that_tells_nothing_is_replaced():
    """Its client left, or it waits for its headers: after 8 s the next one tries."""
    circuit = opened()
    circuit.entered(NOW + 1)
    assert not circuit.lets_pass(NOW + 1 + LONGEST - 0.001)
    assert circuit.lets_pass(NOW + 1 + LONGEST)


@pytest.mark.parametrize("failures", [0, FAILURES])
def test_it_says_what_it_is(failures):
    """For the log, and whoever looks."""
    circuit = opened() if failures else Circuit()
    state = "open" if failures else "closed"
    assert repr(circuit) == f"Circuit({state}, {failures} failures)"


@given(
    st.lists(
        st.tuples(st.sampled_from(["enter", "fail", "succeed", "wait"]), st.floats(0, 20)),
        max_size=80,
    )
)
def test_whatever_happened_one_may_try_within_8_seconds(history):
    """There is no state that lasts, and a success opens the way at once."""
    circuit, now = Circuit(), NOW
    for kind, seconds in history:
        if kind == "enter" and circuit.lets_pass(now):
            circuit.entered(now)
        elif kind == "fail":
            circuit.failed(now)
        elif kind == "succeed":
            circuit.succeeded()
            assert circuit.lets_pass(now)
        else:
            now += seconds
        assert circuit.lets_pass(now) or circuit.open
        assert circuit.lets_pass(now + LONGEST)
