"""Requests a minute and tokens a day, counted in memory or in a Redis that several instances share.

    request    a sliding minute: limits' counter of this window and a share of the last one
    exhausted  ─┐ a day that begins with the first token spent. What a stream costs is known when
    spend      ─┘ it ends, so that streams under way may go beyond the budget; then nothing starts

Fail-open: while Redis is away nothing is counted and everybody is let in, for a relay that answers
nobody costs more than a limit that slips. It is said once in the log, and once when it is over.
A budget of 0 is none: everybody is let in, and Redis is not asked.
"""

import time
from collections.abc import Awaitable, Callable, Coroutine
from math import floor
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from service.adapters.logs import log
from service.adapters.redis_client import NO_EXTRA, connections_of, place

if TYPE_CHECKING:
    from limits.aio.storage import RedisStorage

MINUTE: Final = 60
DAY: Final = 24 * 60 * 60
ANSWER_WITHIN: Final = 2.0
"""Seconds that Redis may take, and that a request may wait for one of the connections: with less, a
burst of some 1000 requests is taken for an outage."""
CONNECTIONS: Final = 4
"""Connections to Redis: one asks some 1000 times a second, and to open one takes as long."""
PAUSE: Final = 5.0
"""Seconds until a Redis that was away is asked again, by one request while the others go on."""
_GRAIN: Final = 0.001  # seconds; Redis counts in milliseconds, and an end must be past

T = TypeVar("T")


class Rates(Protocol):
    """What callers have asked for and spent; a bound of 0 is none."""

    async def request(self, caller: str, per_minute: int) -> float | None:
        """Count a request; return None if it is let in, else the seconds until one more is."""

    async def exhausted(self, caller: str, per_day: int) -> float | None:
        """Return None if tokens are left of the day's, else the seconds until the next day's."""

    def spend(self, caller: str, per_day: int, tokens: int) -> Coroutine[Any, Any, object] | None:
        """Count the tokens that a stream has cost; the first ones begin the day.

        Returns what is to be awaited, None where it is done.
        """

    async def close(self) -> None:
        """Close the connections; nothing runs on afterwards."""


def rates_of(storage_uri: str = "memory", now: Callable[[], float] = time.monotonic) -> Rates:
    """Return rates that are counted there; `storage_uri`: `memory` or `redis[s]://…`.

    `now`: seconds on a monotonic clock. Raises ValueError, without the URI, if it is neither of
    the two or the redis extra is not installed.
    """
    return LocalRates() if storage_uri == "memory" else SharedRates(storage_uri, now)


class LocalRates:
    """Rates in this process's memory, by the rules of limits without its tasks and locks.

    A caller stays, for those with a bound have a name in the settings.
    """

    def __init__(self) -> None:
        self._days: dict[str, tuple[float, int]] = {}
        """When it ends, and what it comes to."""
        self._windows: dict[str, tuple[float, int, int]] = {}
        """Number of the window, what it counts, and what the one before has counted."""

    async def request(self, caller: str, per_minute: int) -> float | None:
        """See Rates."""
        if per_minute <= 0:
            return None
        now = time.time()
        number = now // MINUTE
        seen, this, last = self._windows.get(caller, (number, 0, 0))
        if seen != number:
            this, last = 0, this if seen == number - 1 else 0
        left = MINUTE * (number + 1) - now
        if floor(last * left / MINUTE) + this < per_minute:
            self._windows[caller] = number, this + 1, last
            return None
        return wait((last, left, this, left + MINUTE), per_minute)

    async def exhausted(self, caller: str, per_day: int) -> float | None:
        """See Rates."""
        end, spent = self._days.get(caller, (0.0, 0))
        if per_day <= 0 or spent < per_day:
            return None
        left = end - time.time()
        return left + _GRAIN if left > 0 else None

    def spend(self, caller: str, per_day: int, tokens: int) -> None:
        """See Rates; it is done at once."""
        if per_day <= 0 or tokens <= 0:
            return
        now = time.time()
        end, spent = self._days.get(caller, (0.0, 0))
        if end <= now:
            end, spent = now + DAY, 0
        self._days[caller] = end, spent + tokens

    async def close(self) -> None:
        """See Rates."""


class SharedRates:
    """Rates in a Redis; nothing is sent to it before the first request."""

    def __init__(self, storage_uri: str, now: Callable[[], float]) -> None:
        self._now = now
        self._away = False
        self._again = 0.0
        self._place = place(storage_uri)
        self._pool = connections_of(storage_uri, CONNECTIONS, ANSWER_WITHIN, tries=1)
        self._storage, self._away_by = _in_redis(self._pool)

    async def request(self, caller: str, per_minute: int) -> float | None:
        """See Rates."""
        if per_minute <= 0:
            return None

        async def ask() -> float | None:
            key = f"requests/{caller}"
            if await self._storage.acquire_sliding_window_entry(key, per_minute, MINUTE):
                return None
            return wait(await self._storage.get_sliding_window(key, MINUTE), per_minute)

        return await self._ask(ask, None)

    async def exhausted(self, caller: str, per_day: int) -> float | None:
        """See Rates."""
        if per_day <= 0:
            return None

        async def ask() -> float | None:
            key = f"tokens/{caller}"
            if await self._storage.get(key) < per_day:
                return None
            # limits tells the end in seconds of the wall clock
            return max(await self._storage.get_expiry(key) - time.time(), 0) + _GRAIN

        return await self._ask(ask, None)

    def spend(self, caller: str, per_day: int, tokens: int) -> Coroutine[Any, Any, object] | None:
        """See Rates."""
        if per_day <= 0 or tokens <= 0:
            return None
        return self._ask(lambda: self._storage.incr(f"tokens/{caller}", DAY, tokens), 0)

    async def close(self) -> None:
        """See Rates."""
        await self._pool.aclose()

    async def _ask(self, question: Callable[[], Awaitable[T]], otherwise: T) -> T:
        """Return the storage's answer; while it is away the other one."""
        if self._away:
            if self._now() < self._again:
                return otherwise
            self._again = self._now() + PAUSE
        try:
            answer = await question()
        except self._away_by as error:
            self._lost(error.__cause__ or error)
            return otherwise
        if self._away:
            self._away = False
            log.info("Redis is back: rates and budgets count again", store=self._place)
        return answer

    def _lost(self, error: BaseException) -> None:
        self._again = self._now() + PAUSE
        if not self._away:
            self._away = True
            text = "Redis does not answer (TELEPRINTER_STORE): nobody's rate or budget is limited"
            log.warning(text, store=self._place, error=str(error))


def _in_redis(pool: Any) -> "tuple[RedisStorage, tuple[type[Exception], ...]]":
    """Return limits' storage over these connections, and what it raises while Redis is away."""
    try:
        from limits.aio.storage import RedisStorage  # noqa: PLC0415  an extra, slow to import
        from limits.errors import StorageError  # noqa: PLC0415
    except ImportError:
        raise ValueError(NO_EXTRA) from None
    storage = RedisStorage(
        "async+redis://",
        wrap_exceptions=True,
        implementation="redispy",
        key_prefix="teleprinter:rates",
        connection_pool=pool,
    )
    return storage, (StorageError,)


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
    return max(seconds, 0.0) + _GRAIN
