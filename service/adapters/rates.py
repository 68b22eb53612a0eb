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
from typing import TYPE_CHECKING, Any, Final, TypeVar

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


class Memory:
    """What limits calls a storage, by its rules, and without the tasks and locks of its own one.

    Its methods are those of RedisStorage, but for `add`. A key stays, for callers with a budget
    have a name in the settings.
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}
        """When it ends, and what it comes to."""
        self._windows: dict[str, tuple[float, int, int]] = {}
        """Number of the window, what it counts, and what the one before has counted."""

    async def get(self, key: str) -> int:
        """Return a sum; 0 when it has ended."""
        end, amount = self._sums.get(key, (0.0, 0))
        return amount if time.time() < end else 0

    async def get_expiry(self, key: str) -> float:
        """Return when a sum ends, by the wall clock."""
        return self._sums[key][0]

    def add(self, key: str, expiry: float, amount: int) -> None:
        """Add to a sum; the first amount begins it, for so many seconds. limits calls it incr."""
        now = time.time()
        end, sofar = self._sums.get(key, (0.0, 0))
        if end <= now:
            end, sofar = now + expiry, 0
        self._sums[key] = end, sofar + amount

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Return what `wait` takes."""
        _, last, left, this = self._window(key, expiry)
        return last, left, this, left + expiry

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int) -> bool:
        """Count one more, if it fits."""
        number, last, left, this = self._window(key, expiry)
        fits = floor(last * left / expiry) + this < limit
        if fits:
            self._windows[key] = number, this + 1, last
        return fits

    def _window(self, key: str, expiry: int) -> tuple[float, int, float, int]:
        """Return this window's number, the last one's count, seconds left, this one's count."""
        now = time.time()
        number = now // expiry
        seen, this, last = self._windows.get(key, (number, 0, 0))
        if seen != number:
            this, last = 0, this if seen == number - 1 else 0
        return number, last, expiry * (number + 1) - now, this


class Rates:
    """What callers have asked for and spent; `storage_uri`: `memory` or `redis[s]://…`.

    `now`: seconds on a monotonic clock. Raises ValueError, without the URI, if it is neither of
    the two or the redis extra is not installed. Nothing is sent to Redis before the first request.
    """

    def __init__(
        self, storage_uri: str = "memory", now: Callable[[], float] = time.monotonic
    ) -> None:
        self._now = now
        self._away = False
        self._again = 0.0
        self._place = ""
        self._pool: Any = None
        self._storage: Memory | RedisStorage = Memory()
        self._away_by: tuple[type[Exception], ...] = ()
        if storage_uri != "memory":
            self._place = place(storage_uri)
            self._pool = connections_of(storage_uri, CONNECTIONS, ANSWER_WITHIN, tries=1)
            self._storage, self._away_by = _in_redis(self._pool)

    async def request(self, caller: str, per_minute: int) -> float | None:
        """Count a request; return None if it is let in, else the seconds until one more is."""
        if per_minute <= 0:
            return None

        async def ask() -> float | None:
            key = f"requests/{caller}"
            if await self._storage.acquire_sliding_window_entry(key, per_minute, MINUTE):
                return None
            return wait(await self._storage.get_sliding_window(key, MINUTE), per_minute)

        return await self._ask(ask, None)

    async def exhausted(self, caller: str, per_day: int) -> float | None:
        """Return None if tokens are left of the day's, else the seconds until the next day's."""
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
        """Count the tokens that a stream has cost; the first ones begin the day.

        Returns what is to be awaited, None where it is done: in memory.
        """
        if per_day <= 0 or tokens <= 0:
            return None
        key, storage = f"tokens/{caller}", self._storage
        if isinstance(storage, Memory):
            storage.add(key, DAY, tokens)
            return None
        return self._ask(lambda: storage.incr(key, DAY, tokens), 0)

    async def close(self) -> None:
        """Close the connections; nothing runs on afterwards."""
        if self._pool is not None:
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
