"""A line that is held open in silence, to see whether something on the way cuts it."""

from contextlib import suppress
from typing import Final, Literal
from urllib.parse import urlsplit

from service.adapters.clock import Clock, Deadline
from service.adapters.dial.hops import lay
from service.adapters.dial.line import Line
from service.adapters.dial.trust import Trust, system
from service.core.proxy import Proxy

_PORTS: Final = {"http": 80, "https": 443}
_ANSWER: Final = 10.0
"""Seconds to lay the line, and for a sign of life after the silence."""

Held = Literal["held", "closed", "dropped"]


async def hold(
    proxy: Proxy, url: str, clock: Clock, seconds: float, tls: Trust | None = None
) -> tuple[Held, float]:
    """Lay a line to the upstream, say nothing for so long, then ask for a sign of life.

    Returns `closed` and after how many seconds, `dropped` if it stood and nothing came back, or
    `held`. Raises OSError, hops.Broken if there is no line.
    """
    line = await _laid(proxy, url, clock, tls)
    began = clock.now()
    try:
        with suppress(TimeoutError):
            async with Deadline(clock, seconds):
                await line.read()
                return "closed", clock.now() - began
        host = urlsplit(url).netloc
        await line.write(f"HEAD / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        async with Deadline(clock, _ANSWER):
            return ("held" if await line.read() else "closed"), clock.now() - began
    except OSError:  # TimeoutError is one
        return "dropped", seconds
    finally:
        line.abort()


async def _laid(proxy: Proxy, url: str, clock: Clock, tls: Trust | None) -> Line:
    """Return a line to the upstream of that URL, TLS included."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    async with Deadline(clock, _ANSWER):
        line = await lay(proxy, host, port, tls and tls.proxies)
        if parts.scheme == "https":
            name = (tls and tls.server_name) or host
            await line.start_tls(tls.upstream if tls else system(), name)
        return line
