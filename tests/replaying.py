"""Stores of kept streams to try, frames to keep in them, and one who reads.

async with stores("elsewhere", redis, clock) as place:
    log = place.writes.open("s1", "alice", Facts())
    log.append(frames(1, 3))
    follower = Follower((await place.reads.find("s1", "alice")).reader())
    await follower.has(3)
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from clock import PATIENCE, FakeClock
from relaying import settled
from service.adapters.clock import LoopClock
from service.adapters.replay.memory import MemoryStore, Store
from service.adapters.replay.redis import RedisStore
from service.core.dialect import Chat
from service.core.events import Ending, Frame, Summary
from service.core.keeping import Caps
from service.errors import Failure

KINDS = ["memory", "redis", "elsewhere"]
"""Where a stream is read: memory, the instance that writes it to Redis, another instance."""
SHORT = {"beat": 0.05, "lease": 1.5}
"""Signs of life that no test has to wait long for, and that a busy machine gives in time."""
RETAIN = 300.0
NO_CAPS = Caps()
BETWEEN_LOOKS = 0.005
"""Seconds; so long that who waits for another process leaves it the core."""


def frame(number: int, text: str | None = None) -> Frame:
    """Return a frame of a chat completion."""
    words = f"w{number} " if text is None else text
    raw = b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % words.encode()
    return Frame(number, raw, Chat().read(raw))


def frames(first: int, last: int) -> list[Frame]:
    """Return the frames of these numbers."""
    return [frame(number) for number in range(first, last + 1)]


def ending(number: int, failure: Failure | None = None) -> Ending:
    """Return the ending behind so many frames."""
    return Ending(number + 1, "ok" if failure is None else "cut", Summary(model="m"), failure)


class Follower:
    """Reads all that comes."""

    def __init__(self, reader: Any) -> None:
        self.reader = reader
        self.frames: list[Frame] = []
        self.ending: Ending | None = None
        reader.follow(self._pull)
        self._pull()

    def _pull(self) -> None:
        while found := self.reader.take():
            assert self.ending is None
            self.frames += found
        self.ending = self.reader.ending

    @property
    def numbers(self) -> list[int]:
        """The numbers of the frames that came."""
        return [one.number for one in self.frames]

    async def has(self, number: int) -> None:
        """Wait until it has the frame of that number."""
        await until(lambda: self.frames and self.frames[-1].number >= number)

    async def ended(self) -> Ending:
        """Wait for the ending."""
        await until(lambda: self.ending is not None)
        return self.ending


class Place:
    """Where a stream is written and read; the same store, or two instances of one."""

    def __init__(self, writes: Store, reads: Store, clock: FakeClock | None) -> None:
        self.writes = writes
        self.reads = reads
        self.clock = clock

    async def later(self, seconds: float) -> None:
        """Let time pass: on Redis it really does."""
        if self.clock is not None:
            self.clock.advance(seconds)
        else:
            await asyncio.sleep(seconds)

    async def follow(self, name: str, after: int = 0, owner: str = "alice") -> Follower:
        """Read a stream."""
        return Follower((await self.reads.find(name, owner)).reader(after))


@asynccontextmanager
async def stores(
    kind: str, url: str, caps: Caps = NO_CAPS, retain: float = RETAIN, **options: Any
) -> AsyncIterator[Place]:
    """Make the stores of that kind."""
    if kind == "memory":
        clock = FakeClock()
        made: list[Store] = [MemoryStore(clock, caps, retain)]
        place = Place(made[0], made[0], clock)
    else:
        made = [RedisStore(url, LoopClock(), caps, retain, **(SHORT | options))]
        if kind == "elsewhere":
            made.append(RedisStore(url, LoopClock(), caps, retain, **(SHORT | options)))
        place = Place(made[0], made[-1], None)
    try:
        yield place
    finally:
        for store in made:
            await store.close()


async def until(true: Callable[[], Any], patience: float = PATIENCE) -> None:
    """Wait until that is true; TimeoutError if it never is."""
    async with asyncio.timeout(patience):
        while not true():  # noqa: ASYNC110  another process may make it true
            await asyncio.sleep(BETWEEN_LOOKS)


async def sent(store: Store) -> None:
    """Wait until a store has told Redis all that it knows."""
    if isinstance(store, RedisStore):
        await store._outbox.idle.wait()
    await settled()


async def failing(store: Store, name: str, code: str, owner: str = "alice") -> Failure:
    """Wait until a stream is not to be had, for that reason."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await store.find(name, owner)
            except Failure as failure:
                if failure.code == code:
                    return failure
            await asyncio.sleep(BETWEEN_LOOKS)
