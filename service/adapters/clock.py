"""Time, injected: the only place that asks what time it is, or waits for a moment."""

import asyncio
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A callback that was put off; `cancel` may be called at any time, also twice."""

    def cancel(self) -> None: ...  # noqa: D102


class Clock(Protocol):
    """Seconds on a monotonic clock, and callbacks at a moment of it."""

    def now(self) -> float: ...  # noqa: D102

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer: ...  # noqa: D102


class LoopClock:
    """The running event loop's own clock."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Call back at that time, from the loop."""
        return self._loop.call_at(when, callback)


class Deadline:
    """`async with Deadline(clock, seconds)`: TimeoutError after so long by that clock; 0 = never.

    It is asyncio.timeout with somebody else's clock: cancellation from outside stays cancellation.
    """

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._timer: Timer | None = None
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> "Deadline":
        await self._timeout.__aenter__()
        self.restart(self._seconds)
        return self

    async def __aexit__(self, *error: object) -> bool | None:
        self.stop()
        return await self._timeout.__aexit__(*error)  # type: ignore[arg-type]

    def restart(self, seconds: float) -> None:
        """Count from now again, that long; 0 stops the clock."""
        self.stop()
        if seconds > 0:
            self._timer = self._clock.call_at(self._clock.now() + seconds, self._expire)

    def stop(self) -> None:
        """Never expire, until restarted."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timeout.reschedule(asyncio.get_running_loop().time())
