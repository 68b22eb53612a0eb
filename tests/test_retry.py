"""What may be tried again, where, and when.

Course       attempts at one upstream, then the next; what circuits let pass
Rules        which failures, which requests
Retry-After  seconds, dates, milliseconds
In streams   errors that say a status where there is none any more
"""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.circuit import FAILURES, Circuit
from service.core.retry import (
    STATUSES,
    Course,
    Rules,
    Step,
    ails,
    moves_on,
    repeatable,
    retry_after,
    status_of,
)
from service.errors import CODES, Failure

NOW = 1000.0
RULES = Rules(attempts=3, wait=5.0, body=1024)
LONGEST = 12.0
"""Seconds of a back-off: 8, and the jitter."""


def course(upstreams=2, *, rules=RULES, chance=0.5, circuits=None):
    """Return a course over so many upstreams; a chance of 0.5 is no jitter."""
    circuits = circuits or [Circuit() for _ in range(upstreams)]
    return Course(rules, circuits, NOW, lambda: chance)


def opened():
    """Return a circuit that is open."""
    circuit = Circuit()
    for _ in range(FAILURES):
        circuit.failed(NOW)
    return circuit


def dial(code="proxy_unreachable"):
    """Return a dial that failed."""
    return Failure(code, "…", stage="dial")


def refused(status, retry_after=None, *, retryable=True):
    """Return what a status stands for."""
    return Failure(
        "upstream_error",
        "…",
        stage="headers",
        status=status,
        retryable=retryable,
        retry_after=retry_after,
    )


def cut(stage="headers"):
    """Return a connection that broke."""
    return Failure("upstream_cut", "…", stage=stage)


def walk(of, failure, *, stale=False):
    """Go on until nothing is left; return the upstreams that were asked, and the waits."""
    asked, waits = [], []
    while True:
        if failure.stage != "dial":
            of.sent()
        asked.append(of.target)
        step = of.after(failure, NOW, stale=stale)
        if step is None:
            return asked, waits
        waits.append(step.wait)
        of.take(step, NOW)


# --- course


def test_three_attempts_an_upstream_then_the_next():
    """Each has the same number; then there is nothing left."""
    asked, waits = walk(course(3), refused(503))
    assert asked == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert waits == [0.5, 1, 0, 0.5, 1, 0, 0.5, 1]


@pytest.mark.parametrize("attempts", [1, 2, 10])
def test_the_attempts_are_the_settings(attempts):
    """retry.attempts counts the first one too."""
    asked, _ = walk(course(2, rules=RULES._replace(attempts=attempts)), cut())
    assert asked == [0] * attempts + [1] * attempts


@pytest.mark.parametrize(("chance", "waits"), [(0, [0.25, 0.5]), (1, [0.75, 1.5])])
def test_the_wait_doubles_with_jitter(chance, waits):
    """A half either way, so that clients that failed together do not return together."""
    assert walk(course(1, chance=chance), refused(500))[1] == waits


def test_the_wait_has_an_end():
    """8 s before the jitter, however many attempts there may be."""
    _, waits = walk(course(1, rules=RULES._replace(attempts=10), chance=0.5), refused(500))
    assert waits == [0.5, 1, 2, 4, 8, 8, 8, 8, 8]


@pytest.mark.parametrize("code", ["proxy_unreachable", "upstream_unreachable", "upstream_tls"])
def test_a_dial_is_no_attempt_and_is_not_repeated(code):
    """The pool has tried every way already: the next upstream, at once."""
    assert walk(course(2), dial(code)) == ([0, 1], [0])


@pytest.mark.parametrize(
    "code",
    [
        "upstream_timeout_headers",
        "upstream_timeout_first_token",
        "upstream_stalled",
        "upstream_malformed",
    ],
)
def test_what_was_waited_for_once_is_left_to_the_fallback(code):
    """Another two minutes at the same upstream help nobody."""
    assert walk(course(2), Failure(code, "…", stage="headers")) == ([0, 1], [0])


@pytest.mark.parametrize("status", sorted(STATUSES))
def test_statuses_that_pass(status):
    """Those that the official SDKs repeat, and 529."""
    assert walk(course(2), refused(status))[0] == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 451, 501, 505])
def test_other_statuses_never(status):
    """They would say the same again, and elsewhere."""
    assert walk(course(2), refused(status, retryable=status >= 500)) == ([0], [])


def test_an_upstream_that_says_no_is_not_asked_again():
    """`x-should-retry: false` is about this upstream, not about the fallback."""
    assert walk(course(2), refused(429, retryable=False)) == ([0, 1], [0])


@pytest.mark.parametrize(("seconds", "asked"), [(0, [0, 0, 0]), (0.1, [0, 0, 0]), (5, [0, 0, 0])])
def test_a_short_retry_after_is_waited_for(seconds, asked):
    """To the letter: no jitter, no back-off."""
    assert walk(course(1), refused(429, seconds)) == (asked, [seconds, seconds])


@pytest.mark.parametrize("status", [429, 503])
def test_a_long_retry_after_is_the_fallbacks(status):
    """From 5 s on nobody is kept waiting; without a fallback the client is told."""
    assert walk(course(2), refused(status, 5.001)) == ([0, 1], [0])
    assert walk(course(1), refused(status, 86400)) == ([0], [])


def test_a_stale_connection_is_replaced_at_once():
    """Once: what breaks a second time was no accident."""
    assert walk(course(1), cut(), stale=True) == ([0, 0, 0], [0, 1])


def test_the_fallback_has_its_own_attempts_and_back_off():
    """It begins as the first one began."""
    one = course(2)
    for _ in range(3):
        one.sent()
    one.take(Step(1, 0), NOW)
    one.sent()
    assert one.after(refused(503), NOW) == Step(1, 0.5)


def test_exhausted_is_the_last_attempt_at_the_last_upstream():
    """What then goes wrong has no remedy."""
    one = course(2, rules=RULES._replace(attempts=1))
    assert not one.exhausted
    one.sent()
    assert not one.exhausted
    one.take(Step(1, 0), NOW)
    assert not one.exhausted
    one.sent()
    assert one.exhausted


# --- circuits


def test_an_upstream_whose_circuit_is_open_is_passed_by():
    """The first, or one in the middle."""
    assert course(circuits=[opened(), Circuit()]).target == 1
    one = course(circuits=[Circuit(), opened(), Circuit()])
    assert walk(one, dial())[0] == [0, 2]


def test_where_all_circuits_are_open_the_first_is_asked():
    """Somebody has to be: a request without a fallback is never refused by a circuit."""
    assert course(circuits=[opened(), opened()]).target == 0
    assert course(circuits=[opened()]).target == 0


def test_one_request_tries_and_the_others_go_past():
    """The trial has a fallback, so that nobody pays for it."""
    first, second = opened(), Circuit()
    trial = Course(RULES, [first, second], NOW + 1, lambda: 0.5)
    others = [Course(RULES, [first, second], NOW + 1, lambda: 0.5) for _ in range(5)]
    assert trial.target == 0
    assert {other.target for other in others} == {1}


def test_a_step_to_the_fallback_is_its_trial():
    """An upstream that is reached by falling back counts as entered too."""
    second = opened()
    one = Course(RULES, [Circuit(), second], NOW, lambda: 0.5)
    assert one.after(dial(), NOW + 0.5) is None
    step = one.after(dial(), NOW + 1)
    assert step == Step(1, 0)
    one.take(step, NOW + 1)
    assert not second.lets_pass(NOW + 1)


@given(
    upstreams=st.integers(1, 3),
    attempts=st.integers(1, 4),
    chance=st.floats(0, 1),
    failures=st.lists(
        st.one_of(
            st.builds(dial, st.sampled_from(["proxy_timeout", "upstream_unreachable", "no_proxy"])),
            st.builds(refused, st.integers(400, 599), st.none() | st.floats(0, 1e9)),
            st.builds(cut, st.sampled_from(["headers", "first_token", "stream"])),
            st.sampled_from(["upstream_timeout_headers", "upstream_malformed"]).map(
                lambda code: Failure(code, "…", stage="headers")
            ),
        ),
        min_size=13,
        max_size=13,
    ),
    stale=st.booleans(),
)
def test_attempts_and_waits_are_bounded(upstreams, attempts, chance, failures, stale):
    """At most `attempts` an upstream, none twice in turn, no wait above the bound."""
    rules = RULES._replace(attempts=attempts)
    one = course(upstreams, rules=rules, chance=chance)
    asked = []
    for failure in failures:
        if failure.stage != "dial":
            one.sent()
        asked.append(one.target)
        step = one.after(failure, NOW, stale=stale)
        if step is None:
            break
        assert 0 <= step.wait <= max(LONGEST, rules.wait)
        assert step.target >= one.target
        one.take(step, NOW)
    else:
        pytest.fail("it never ends")
    assert all(asked.count(target) <= attempts for target in range(upstreams))
    assert len(asked) <= attempts * upstreams


# --- rules


@pytest.mark.parametrize(
    "endpoint", ["chat/completions", "completions", "embeddings", "messages", "responses"]
)
def test_what_may_be_sent_twice(endpoint):
    """POST to what makes nothing."""
    assert repeatable("POST", endpoint)
    assert not repeatable("GET", endpoint)
    assert not repeatable("DELETE", endpoint)
    assert not repeatable("POST", endpoint, background=True)


@pytest.mark.parametrize(
    "endpoint",
    [
        "files",
        "batches",
        "fine_tuning/jobs",
        "uploads",
        "uploads/1/parts",
        "messages/batches",
        "responses/r_1/cancel",
        "chat/completions/c_1",
        "images/generations",
        "audio/speech",
        "vector_stores",
        "threads",
        "agents/run",
        "",
    ],
)
def test_what_is_sent_once(endpoint):
    """All else: it may make something, or make it twice."""
    assert not repeatable("POST", endpoint)


@pytest.mark.parametrize("code", CODES)
def test_whose_failures_are_signs(code):
    """Of an upstream that does not work, or of no way to it; never a client's, never the relay's.

    An upstream's own status: only those that pass.
    """
    signs = code == "no_proxy" or code.startswith(("proxy_", "upstream_"))
    assert ails(Failure(code, "…", status=503)) is signs
    if code == "upstream_error":
        assert not ails(Failure(code, "…", status=404))


@pytest.mark.parametrize("code", sorted(set(CODES) - {"upstream_cut", "upstream_error"}))
def test_what_another_upstream_could_do_better(code):
    """Overdue answers and such that are none; and whatever happened in a dial."""
    better = code.startswith("upstream_timeout") or code in {
        "upstream_malformed",
        "upstream_stalled",
    }
    assert moves_on(Failure(code, "…", stage="stream")) is better
    assert moves_on(Failure(code, "…", stage="dial"))


# --- Retry-After

THEN = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def http_date(seconds=0):
    """Return a date as HTTP writes it."""
    return format_datetime(THEN + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "3"}, 3),
        ({"retry-after": " 120 "}, 120),
        ({"Retry-After": "0"}, 0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "1500.5", "Retry-After": "60"}, 1.5005),
        ({"retry-after-ms": "soon", "Retry-After": "2"}, 2),
        ({"Retry-After": http_date(7), "Date": http_date()}, 7),
        ({"Retry-After": http_date(-7), "Date": http_date()}, 0),
        ({"Retry-After": "Sunday, 01-Mar-26 12:00:04 GMT", "Date": http_date()}, 4),
        ({"Retry-After": "Sun Mar  1 12:00:04 2026", "Date": http_date()}, None),
        ({"Retry-After": http_date(7)}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "1e3"}, None),
        ({"Retry-After": "٣"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "9" * 400}, None),
        ({"Retry-After": "Sun, 99999999999999999999 Mar 2026 12:00:00 GMT"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers, seconds):
    """Seconds, dates by the answer's own Date, OpenAI's milliseconds; what is none is none."""
    assert retry_after(headers.items()) == seconds


@given(
    st.sampled_from(["Retry-After", "retry-after-ms"]),
    st.text(max_size=60) | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d\d:\d\d:\d\d .*"),
)
def test_no_text_in_retry_after_is_a_fault(name, text):
    """An upstream may send what it likes: seconds that are not negative, or nothing."""
    found = retry_after([(name, text), ("Date", http_date())])
    assert found is None or found >= 0


# --- errors in streams

SAID = {
    "OpenAI, rate": ({"message": "…", "type": "requests", "code": "rate_limit_exceeded"}, 429),
    "OpenAI, server": ({"message": "…", "type": "server_error", "code": None}, 500),
    "OpenAI, quota": ({"type": "insufficient_quota", "code": "insufficient_quota"}, None),
    "OpenAI, key": ({"type": "invalid_request_error", "code": "invalid_api_key"}, None),
    "Responses, failed": ({"code": "server_error", "message": "…"}, 500),
    "Responses, prompt": ({"code": "invalid_prompt", "message": "…"}, None),
    "Anthropic, busy": ({"type": "overloaded_error", "message": "Overloaded"}, 529),
    "Anthropic, rate": ({"type": "rate_limit_error", "message": "…"}, 429),
    "Anthropic, fault": ({"type": "api_error", "message": "…"}, 500),
    "Anthropic, late": ({"type": "timeout_error", "message": "…"}, 504),
    "Anthropic, asked": ({"type": "invalid_request_error", "message": "…"}, None),
    "OpenRouter": ({"code": 502, "message": "…", "metadata": {"provider_name": "x"}}, 502),
    "OpenRouter, moderated": ({"code": 403, "message": "…"}, None),
    "OpenRouter, text": ({"code": "429", "message": "…"}, 429),
    "a number wins": ({"code": 400, "type": "api_error"}, None),
    "vLLM": ({"message": "…", "type": "InternalServerError", "code": 500}, 500),
    "status": ({"status": 503}, 503),
    "vendor's numbers": ({"code": "1302", "type": "rate_limit_error"}, 429),
    "true": ({"code": True, "status": 1.5}, None),
    "no object": ("overloaded_error", None),
    "nothing": (None, None),
    "a list": ([{"code": 429}], None),
    "deep": ({"code": {"code": 429}, "type": ["server_error"]}, None),
}


@pytest.mark.parametrize("name", SAID)
def test_the_status_of_an_error_in_a_stream(name):
    """By code, status or type, whichever says one; only those that pass."""
    error, status = SAID[name]
    assert status_of(error) == status


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values | st.dictionaries(st.sampled_from(["code", "status", "type"]), json_values))
def test_no_error_in_a_stream_is_a_fault(error):
    """Whatever an upstream says: a status that passes, or none."""
    found = status_of(error)
    assert found is None or found in STATUSES
