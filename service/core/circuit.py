"""Whether an upstream that has a fallback is asked at all.

    closed ──5 failures in a row──▶ open 1, 2, 4, 8 s ──▶ one request tries it ──▶ closed
                                          ▲────────────────────────┘ it failed

Seconds are on the caller's clock. The one who tries has a fallback, so that no client pays for it.
"""

from typing import Final, NamedTuple

FAILURES: Final = 5
"""In a row, before the circuit opens."""
_FIRST: Final = 1.0
_LONGEST: Final = 8.0
"""Seconds: an upstream that works again is used again so soon."""
_TRIAL: Final = 8.0
"""Seconds after which a trial that has told nothing yet counts as none."""


class Trouble(NamedTuple):
    """A failure's code and status, and when it was, in seconds."""

    code: str
    status: int
    at: float


class Circuit:
    """What became of the last requests to an upstream.

    `trouble`: what went wrong with the last one, for who looks at it; None if nothing did.
    """

    def __init__(self) -> None:
        self.trouble: Trouble | None = None
        self._failures = 0
        self._openings = 0
        self._until = 0.0
        self._trial = False

    @property
    def open(self) -> bool:
        """Whether it has opened, and no request has succeeded since."""
        return self._failures >= FAILURES

    @property
    def failures(self) -> int:
        """How many have failed in a row."""
        return self._failures

    def rest(self, now: float) -> float:
        """Return the seconds until a request may go this way, 0 if one may."""
        return max(self._until - now, 0.0) if self.open else 0.0

    def lets_pass(self, now: float) -> bool:
        """Tell whether a request may go this way."""
        return not self.open or now >= self._until

    def entered(self, now: float) -> None:
        """Let a request go this way; the first after a pause is the trial."""
        if self.open:
            self._trial = True
            self._until = now + _TRIAL  # the others wait for what comes of it

    def succeeded(self) -> None:
        """Close: the upstream has answered."""
        self.trouble = None
        self._failures = self._openings = 0
        self._trial = False

    def failed(self, now: float) -> None:
        """Count a failure; open, or open again for longer."""
        straggler = self.open and not self._trial  # it was under way before the circuit opened
        self._failures += 1
        if self.open and not straggler:
            self._trial = False
            self._until = now + min(_FIRST * 2.0 ** min(self._openings, 16), _LONGEST)
            self._openings += 1

    def __repr__(self) -> str:
        return f"Circuit({'open' if self.open else 'closed'}, {self._failures} failures)"
