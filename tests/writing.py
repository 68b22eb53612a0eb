"""An instance that writes a stream to Redis: `python writing.py URL NAME FRAMES`, then it waits.

It says `written` when Redis has them, and ends when its input does.
"""

import asyncio
import sys

from replaying import SHORT, frames, sent
from service.adapters.clock import LoopClock
from service.adapters.replay.redis import RedisStore
from service.core.keeping import Caps
from service.core.records import Facts


async def main(url: str, name: str, count: int) -> None:
    """Write and wait."""
    store = RedisStore(url, LoopClock(), Caps(), 300, **SHORT)
    log = store.open(name, "alice", Facts(model="m", upstream="u"))
    log.append(frames(1, count))
    await sent(store)
    print("written", flush=True)  # noqa: T201  the test listens
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
