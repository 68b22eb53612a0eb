"""What may be tried again, where, and when.

    failure ─┬─ dial: nothing was sent ───────────────────────────────▶ the next upstream
             ├─ reset, 408, 429, 5xx that pass ──▶ the same upstream, after a while ──▶ the next
             ├─ overdue before anything went out, an answer that is none ──▶ the next upstream
             └─ anything else, or something of the answer has gone out ──▶ the client hears of it

Once a request was sent only those that make nothing are sent again: completions, embeddings,
messages, responses; never files, batches, fine-tuning, or a job in the background. The statuses are
those that the official SDKs send again, and 529 (Anthropic's `overloaded_error`).
"""

import re
from collections.abc import Callable, Iterable, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, Final, NamedTuple

from service.core.circuit import Circuit
from service.errors import Failure, Whose

STATUSES: Final = frozenset({408, 429, 500, 502, 503, 504, 529})
_REPEATABLE: Final = frozenset(
    {"chat/completions", "completions", "embeddings", "messages", "responses"}
)
_ELSEWHERE: Final = frozenset(
    {
        "upstream_timeout_headers",
        "upstream_timeout_first_token",
        "upstream_stalled",
        "upstream_malformed",
    }
)
_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 8.0
"""Seconds, as the official SDKs wait; before the jitter, which is a half of it either way."""
_STATUS: Final = re.compile(r"[45][0-9][0-9]", re.ASCII)
_SAID: Final = {
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "overloaded_error": 529,
    "timeout_error": 504,
    "api_error": 500,
    "server_error": 500,
    "internal_server_error": 500,
    "service_unavailable": 503,
}
"""Types and codes of errors in a stream that has begun with 200, and the status they stand for."""


class Rules(NamedTuple):
    """`attempts` an upstream; `wait`: seconds of a Retry-After; `body`: bytes that are kept."""

    attempts: int
    wait: float
    body: int


class Step(NamedTuple):
    """Ask that upstream, the number of it in the list, after so many seconds."""

    target: int
    wait: float


class Course:
    """The attempts of one request over a list of upstreams, each with its circuit.

    `now`: seconds; `chance`: returns a number from 0 to 1. If no circuit lets it pass, the first
    upstream is asked all the same; one without a fallback always is.
    """

    __slots__ = ("_attempts", "_chance", "_circuits", "_rules", "target")

    def __init__(
        self, rules: Rules, circuits: Sequence[Circuit], now: float, chance: Callable[[], float]
    ) -> None:
        self._rules = rules
        self._circuits = circuits
        self._chance = chance
        self._attempts = 0
        self.target = self._following(0, now) or 0
        circuits[self.target].entered(now)

    def _following(self, first: int, now: float) -> int | None:
        for number in range(first, len(self._circuits)):
            if self._circuits[number].lets_pass(now):
                return number
        return None

    @property
    def exhausted(self) -> bool:
        """Whether there is nothing to try after this."""
        last = self.target + 1 == len(self._circuits)
        return last and self._attempts >= self._rules.attempts

    def sent(self) -> None:
        """Count an attempt: the request goes out."""
        self._attempts += 1

    def after(self, failure: Failure, now: float, *, stale: bool = False) -> Step | None:
        """Return what to try next, None if nothing.

        `stale`: the connection was a kept one, which had been closed while nobody used it.
        """
        wait = self._wait(failure, stale=stale)
        if wait is not None and self._attempts < self._rules.attempts:
            return Step(self.target, wait)
        following = self._following(self.target + 1, now) if moves_on(failure) else None
        return None if following is None else Step(following, 0)

    def take(self, step: Step, now: float) -> None:
        """Do as the step says."""
        if step.target != self.target:
            self.target, self._attempts = step.target, 0
            self._circuits[self.target].entered(now)

    def _wait(self, failure: Failure, *, stale: bool) -> float | None:
        """Return the seconds before the same upstream is asked again, None if it is not."""
        never = failure.stage == "dial" or failure.code in _ELSEWHERE
        if never or not (failure.retryable and moves_on(failure)):
            return None
        if failure.retry_after is not None:
            return failure.retry_after if failure.retry_after <= self._rules.wait else None
        if stale and self._attempts == 1:  # nothing is wrong
            return 0
        wait = min(_FIRST_WAIT * 2.0 ** (self._attempts - 1), _LONGEST_WAIT)
        return wait * (0.5 + self._chance())


def ails(failure: Failure) -> bool:
    """Tell whether it is a sign that the upstream, or the way to it, does not work."""
    if failure.code == "upstream_error":
        return failure.status in STATUSES
    return failure.code == "no_proxy" or failure.whose in {Whose.UPSTREAM, Whose.PROXY}


def moves_on(failure: Failure) -> bool:
    """Tell whether another upstream could do better."""
    if failure.stage == "dial":
        return True
    if failure.code == "upstream_error":
        return failure.status in STATUSES
    return failure.code in _ELSEWHERE or failure.code == "upstream_cut"


def repeatable(method: str, endpoint: str, *, background: bool = False) -> bool:
    """Tell whether a request to this endpoint of an API may be sent twice."""
    return method == "POST" and endpoint in _REPEATABLE and not background


def retry_after(headers: Iterable[tuple[str, str]]) -> float | None:
    """Return the seconds that an upstream asks to wait; RFC 9110, section 10.2.3.

    A date counts from the answer's own `Date`; `retry-after-ms` is OpenAI's and Azure's.
    """
    given = {name.lower(): value.strip() for name, value in headers}
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?", given.get("retry-after-ms", "")):
        return float(given["retry-after-ms"]) / 1000
    value = given.get("retry-after", "")
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?", value):
        return float(value)
    try:
        until, since = (parsedate_to_datetime(text) for text in (value, given.get("date", "")))
        return max((until - since).total_seconds(), 0.0)
    except (ValueError, TypeError, OverflowError):  # no date, or only one of them with a zone
        return None


def status_of(error: Any) -> int | None:
    """Return the status that an error in a stream stands for, None if it says none."""
    if not isinstance(error, dict):
        return None
    for name in ("code", "status", "type"):
        value = str(error.get(name))
        if value in _SAID:
            return _SAID[value]
        if _STATUS.fullmatch(value):
            return int(value) if int(value) in STATUSES else None
    return None
