"""The addresses of a name, as this machine is told them."""

import asyncio
import socket

from service.adapters.clock import Clock, Deadline


async def addresses(name: str, clock: Clock, seconds: float) -> list[str]:
    """Return them, each once; raises OSError (TimeoutError too) if there are none."""
    async with Deadline(clock, seconds):
        found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
