"""A dial for its own sake: whether the way stands.

probe ─▶ connector ─▶ connection, closed before a byte of a request     or Failure
"""

from collections.abc import Callable

from yarl import URL

from service.adapters.clock import Clock
from service.adapters.dial.connector import dialled, native, session
from service.adapters.dial.hops import step
from service.adapters.dial.trust import Trust
from service.core.proxy import Proxy


async def probe(  # noqa: PLR0913  what a way consists of
    proxy: Proxy,
    url: str,
    clock: Clock,
    seconds: float,
    tls: Trust | None = None,
    *,
    on_step: Callable[[str, float], None] | None = None,
) -> None:
    """Dial the upstream of that base URL, as a request would; send none, and close at once.

    That is TCP, the handshakes of all hops, and TLS with the upstream. No tunnel is asked for where
    a request would ask for none: to an http:// upstream through an HTTP proxy it is the way to that
    proxy. `on_step` is given each step's name and its seconds: `tcp`, `proxy HOST:PORT` for each
    hop, `tls` (which is TCP too in a direct dial). Raises Failure of the stage dial.
    """
    target = URL(url, encoded=True)
    origin = f"{target.host_subcomponent}:{target.port}"
    stop, count = dialled.set(_enough), step.set(_steps(clock, on_step))
    try:
        async with session(proxy, origin, clock, seconds, tls) as client:
            await client.get(target, proxy=native(proxy))
    except _Enough:
        pass
    finally:
        dialled.reset(stop)
        step.reset(count)


class _Enough(Exception):  # noqa: N818
    """The connection stands, and nobody wants it."""


def _enough(*, reused: bool) -> None:  # noqa: ARG001
    raise _Enough


def _steps(clock: Clock, on_step: Callable[[str, float], None] | None) -> Callable[[str], None]:
    """Return what counts the seconds from step to step."""
    last = clock.now()

    def done(name: str) -> None:
        nonlocal last
        began, last = last, clock.now()
        if on_step is not None:
            on_step(name, last - began)

    return done
