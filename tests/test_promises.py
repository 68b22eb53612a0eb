"""Each promise to users has its proof, and the proof is there."""

import pytest

from promises import PROMISES, functions, proofs

ALL = {promise: named for rows in PROMISES.values() for promise, named in rows.items()}


@pytest.mark.parametrize("promise", ALL)
def test_each_promise_has_its_proof(promise):
    """The tests that are named exist."""
    named = proofs(ALL[promise])
    assert named
    assert [f"{file}::{test}" for file, test in named if test not in functions(file)] == []


def test_no_promise_is_made_twice():
    """Neither in two sections."""
    assert len(ALL) == sum(map(len, PROMISES.values()))
