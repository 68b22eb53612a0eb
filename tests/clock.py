"""A clock that stands still until a test moves it."""

import asyncio
import heapq
from collections.abc import Callable
from itertools import count

PATIENCE = 10.0
"""Real seconds after which a wait that cannot end fails the test; never a measure of anything."""

_HALF_A_MICROSECOND = 5e-7


class FakeTimer:
    """A callback that was put off; `cancel` may be called at any time, also twice."""

    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        """Never call back."""
        self.cancelled = True


class FakeClock:
    """service.adapters.clock.Clock, moved by hand.

        clock = FakeClock()             # now() == 1000.0
        await clock.armed(1001.0)       # wait until the code under test waits for that moment
        clock.advance(1)                # fires what is due, in order, before it returns

    Moments are exact to the microsecond: ten times `advance(0.1)` fires what is due in one second.
    """

    def __init__(self, start: float = 1000.0) -> None:
        self._now = start
        self._timers: list[tuple[float, int, FakeTimer]] = []
        self._order = count()
        self._changed = asyncio.Event()

    def now(self) -> float:
        """Seconds; inside a callback exactly the moment that it asked for, if that is not past."""
        return self._now

    def call_at(self, when: float, callback: Callable[[], object]) -> FakeTimer:
        """Call back from inside the `advance` that reaches `when`; a past moment: from the next."""
        timer = FakeTimer(when, callback)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        self._changed.set()
        return timer

    def advance(self, seconds: float) -> None:
        """Move on; call what falls due, each at its own time, also what those calls put off.

        What a callback raises, this raises.
        """
        end = round(self._now + seconds, 6)
        while (due := self.next_due()) is not None and due <= end + _HALF_A_MICROSECOND:
            timer = heapq.heappop(self._timers)[2]
            self._now = max(self._now, due)
            timer.callback()
        self._now = max(self._now, end)

    def next_due(self) -> float | None:
        """Return the moment of the earliest timer, None if nobody waits."""
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def pending(self) -> list[float]:
        """Return the moments that somebody waits for, earliest first."""
        return sorted(when for when, _, timer in self._timers if not timer.cancelled)

    async def armed(self, when: float | None = None) -> float:
        """Wait until somebody waits for `when` (None: for any moment); return that moment."""
        async with asyncio.timeout(PATIENCE):
            while (found := self._find(when)) is None:
                self._changed.clear()
                await self._changed.wait()
        return found

    def _find(self, when: float | None) -> float | None:
        if when is None:
            return self.next_due()
        near = (due for due in self.pending() if abs(due - when) <= _HALF_A_MICROSECOND)
        return next(near, None)
