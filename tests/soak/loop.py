"""The loop that the programs run on: the fastest there is."""

import asyncio
from collections.abc import Coroutine
from typing import Any

try:
    from uvloop import new_event_loop
except ImportError:  # not on every platform
    new_event_loop = None


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """Run a program's coroutine; return its result."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)
