"""What callers have asked for and spent, in this process's memory.

    request    a sliding minute: the requests of this minute of the clock, and a share of the last's
    exhausted  ─┐ a day that begins with the first token spent
    spend      ─┘

The rules are those of the library limits, which counts for several instances in Redis: here is
nothing to wait for, so that a request costs no tasks and no locks. A caller takes a line of each,
and callers with a budget have a name in the settings.
"""

from math import floor
from typing import Final

MINUTE: Final = 60
DAY: Final = 24 * 60 * 60
GRAIN: Final = 0.001  # seconds; Redis counts in milliseconds, and an end must be past


class Budgets:
    """What each caller has asked for and spent. `now`: seconds of the wall clock, as in Redis."""

    def __init__(self) -> None:
        self._minutes: dict[str, tuple[float, int, int]] = {}
        """Minute of the clock, its requests, those of the minute before."""
        self._days: dict[str, tuple[float, int]] = {}
        """When the day ends, and the tokens spent in it."""

    def request(self, caller: str, per_minute: int, now: float) -> float | None:
        """Count a request; return None if it is let in, else the seconds until one more is."""
        minute = now // MINUTE
        seen, this, last = self._minutes.get(caller, (minute, 0, 0))
        if seen != minute:
            this, last = 0, this if seen == minute - 1 else 0
        left = MINUTE * (minute + 1) - now
        if floor(last * left / MINUTE) + this >= per_minute:
            return wait((last, left, this, left + MINUTE), per_minute)
        self._minutes[caller] = minute, this + 1, last
        return None

    def exhausted(self, caller: str, per_day: int, now: float) -> float | None:
        """Return None if tokens are left of the day's, else the seconds until the next day's."""
        end, spent = self._days.get(caller, (now, 0))
        return None if end <= now or spent < per_day else end - now + GRAIN

    def spend(self, caller: str, tokens: int, now: float) -> None:
        """Count tokens; the first ones begin the day."""
        end, spent = self._days.get(caller, (now, 0))
        self._days[caller] = (end, spent + tokens) if now < end else (now + DAY, tokens)


def wait(window: tuple[int, float, int, float], limit: int) -> float:
    """Return the seconds until one more request fits; it holds if nobody asks meanwhile.

    `window` as limits has it: requests of the last window, seconds that they still weigh; requests
    of this one, seconds until they weigh nothing, that is a minute more than it lasts.
    The rule of limits: floor(last · weighing / 60) + this < limit.
    """
    last, weighing, this, left = window
    if this < limit:
        seconds = weighing - MINUTE * (limit - this) / last if last else 0.0
    else:
        seconds = left - MINUTE * limit / this
    return max(seconds, 0.0) + GRAIN
