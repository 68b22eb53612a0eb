"""The addresses of a name, as this machine is told them."""

import asyncio
import socket
from contextlib import suppress
from threading import Thread
from typing import Any

from service.adapters.clock import Clock, Deadline


async def addresses(name: str, clock: Clock, seconds: float) -> list[str]:
    """Return them, each once; raises OSError (TimeoutError too) if there are none."""
    async with Deadline(clock, seconds):
        found = await _looked_up(name)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _looked_up(name: str) -> asyncio.Future[list[Any]]:
    """Ask the resolver in a thread that nobody waits for: no deadline stops it, and no Ctrl-C."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[Any]] = loop.create_future()

    def settle(answer: list[Any] | Exception) -> None:
        if found.done():
            return
        if isinstance(answer, Exception):
            found.set_exception(answer)
        else:
            found.set_result(answer)

    def ask() -> None:
        answer: list[Any] | Exception
        try:
            answer = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            answer = error
        with suppress(RuntimeError):  # the loop is closed: nobody wants to know any more
            loop.call_soon_threadsafe(settle, answer)

    Thread(target=ask, daemon=True).start()
    return found
