"""Time, injected: the only place that asks what time it is, or waits for a moment."""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, Self

_NEVER: Final = float("inf")


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
        loop = asyncio.get_running_loop()
        self.now = loop.time
        self.call_at = loop.call_at


async def sleep(clock: Clock, seconds: float) -> None:
    """Wait that long by this clock."""
    woken = asyncio.Event()
    timer = clock.call_at(clock.now() + seconds, woken.set)
    try:
        await woken.wait()
    finally:
        timer.cancel()


class Deadline:
    """`async with Deadline(clock, seconds)`: TimeoutError after so long by that clock; 0 = never.

    It is asyncio.timeout with somebody else's clock and at a third of its cost: cancellation from
    outside stays cancellation. To put it off costs no timer, so that it may be done at every read.
    """

    __slots__ = (
        "_cancelling", "_clock", "_expired", "_expiry", "_heard", "_left", "_seconds", "_task",
        "_timer", "_timer_at", "_when",
    )  # fmt: skip

    def __init__(self, clock: Clock, seconds: float = 0) -> None:
        self._clock = clock
        self._seconds = seconds
        self._when = self._left = self._timer_at = _NEVER
        self._heard: Callable[[], float] | None = None
        self._timer: Timer | None = None
        self._expiry: asyncio.Handle | None = None
        self._expired = False

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a Deadline needs a task that it can interrupt")
        self._task, self._cancelling = task, task.cancelling()
        if self._seconds > 0:
            self.restart(self._seconds)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        self._heard = None  # its owner may keep this, and would be kept by it
        if self._timer is not None:
            self._timer.cancel()
        if self._expiry is None:
            return
        self._expiry.cancel()  # in the last moment it has been made
        if not self._expired:
            return
        others = self._task.uncancel() > self._cancelling
        if not others and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise TimeoutError from error

    def restart(self, seconds: float, heard: Callable[[], float] | None = None) -> None:
        """Count from now again, that long; 0 stops the clock.

        `heard`: returns a moment to count from if it is later; it is asked when time is up, so that
        what happens very often costs nothing here.
        """
        self._seconds, self._heard = seconds, heard
        self._when = when = self._clock.now() + seconds if seconds > 0 else _NEVER
        if when < self._timer_at:
            self._arm(when)

    def stop(self) -> None:
        """Never expire, until restarted."""
        self._when = _NEVER

    def pause(self) -> None:
        """Stop; `resume` counts what is left."""
        self._left = self._when - self._clock.now()
        self.stop()

    def resume(self) -> None:
        """Go on where `pause` stopped it."""
        if self._left < _NEVER:
            self.restart(max(self._left, 1e-6))  # 0 would be never

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._clock.call_at(when, self._ring)

    def _ring(self) -> None:
        self._timer_at = _NEVER
        if self._heard is not None:
            self._when = max(self._when, self._heard() + self._seconds)
        if self._when <= self._clock.now():
            self._expiry = asyncio.get_running_loop().call_soon(self._expire)
        elif self._when < _NEVER:
            self._arm(self._when)

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()
