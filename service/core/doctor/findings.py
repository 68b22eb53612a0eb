"""What the doctor finds: steps, ways, and the exit code that sums them up.

    Report ─▶ Way (an upstream through a proxy) ─▶ Step, Step, … and Flow, how its stream came

Their fields are those of `teleprinter doctor --json`.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from service.core.proxy import Proxy

Result = Literal["ok", "warning", "failed"]
Verdict = Literal["streams", "lumps", "held back", "too short to tell"]


class Step(msgspec.Struct, frozen=True):
    """One thing that was tried; `seconds` None = it took none, `cure` "" = there is none to name.

    `step`: settings, dns, tcp, `proxy HOST:PORT`, tls, certificate, models, stream, idle.
    """

    step: str
    result: Result
    seconds: float | None = None
    said: str = ""
    cure: str = ""


class Flow(msgspec.Struct, frozen=True):
    """How the tokens of one answer came; seconds from the request on.

    `reads`: how many reads brought tokens; `largest`: the most tokens that one of them brought;
    `longest_gap`: seconds between two of them.
    """

    verdict: Verdict
    tokens: int
    reads: int
    largest: int
    longest_gap: float
    first_token: float


class Way(msgspec.Struct):
    """An upstream through a proxy, without its credentials; `works`: no step failed."""

    upstream: str
    url: str
    way: str
    steps: list[Step] = []
    stream: Flow | None = None
    works: bool = False


class Report(msgspec.Struct):
    """All ways; `exit` is 0 if all work, 1 if some, 2 if none. `demo`: nothing is configured.

    `remarks`: what only the comparison of ways tells.
    """

    exit: int
    works: Literal["all", "some", "none"]
    demo: bool
    ways: list[Way]
    remarks: list[str] = []


def report(ways: list[Way], *, demo: bool = False) -> Report:
    """Sum up."""
    working = sum(way.works for way in ways)
    if not working:
        return Report(2, "none", demo, ways)
    return Report(0, "all", demo, ways) if working == len(ways) else Report(1, "some", demo, ways)


def expected(proxy: Proxy, *, tls: bool) -> list[str]:
    """Return the steps of a dial, as `probe` names them, in their order.

    A direct dial is one step. To an upstream without TLS an HTTP proxy is asked for no tunnel.
    """
    if not proxy.hops:
        return ["tls" if tls else "tcp"]
    tunnels = proxy.hops if tls or proxy.scheme.startswith("socks") else proxy.hops[:-1]
    return ["tcp", *(f"proxy {hop.address}" for hop in tunnels), *(["tls"] if tls else [])]


def failing(steps: Sequence[str], done: int) -> str:
    """Return the step at which a dial failed that came through so many."""
    return steps[min(done, len(steps) - 1)]
