"""The relay, as `teleprinter` runs it; on SIGUSR1 it writes what it still holds, one JSON line.

tasks     of its loop; not the probes of proxies that are down, for they go on
Stream …  live objects of that class
"""

import asyncio
import gc
import json
import signal
import sys
from collections import Counter

from aiohttp import web

from service.__main__ import main
from service.adapters.replay.log import Log
from service.relay import Stream

EVENT = "held"
PROBE = "probe "
CLASSES = (Stream, Log, web.Request)


def held() -> dict[str, int]:
    """Return how many there are of what a stream needs."""
    gc.collect()
    counts = Counter(type(each) for each in gc.get_objects())
    found = {kind.__name__: counts[kind] for kind in CLASSES}
    tasks = [task for task in asyncio.all_tasks() if not task.get_name().startswith(PROBE)]
    return {"tasks": len(tasks), **found}


def _tell(*_: object) -> None:
    sys.stderr.write(json.dumps({"event": EVENT, **held()}) + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _tell)
    sys.exit(main())
