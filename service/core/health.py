"""Is it fine, and if not, whose fault is it: in plain words, from what is known now.

    RelayState · PoolState · UpstreamState ──findings──▶ the worst first ──▶ the headline

A pool with a proxy that failed and another that works is a warning, one where nothing works is bad.
Where no proxy of a pool works, what its upstreams seem to do wrong is not told as well.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Literal

import msgspec

from service.core.circuit import Trouble
from service.errors import CODES, Whose

Level = Literal["ok", "warn", "bad"]
Standing = Literal["up", "untried", "failing", "down"]
_LEVELS: Final[tuple[Level, ...]] = ("bad", "warn", "ok")

LATE: Final = 0.1
"""Seconds that the event loop calls back late, on the average of the last looks, to be said."""
FRESH: Final = 900.0
"""Seconds in which a failure that nothing has followed still tells something."""
ROW: Final = 3
"""Failures in a row that are no accident."""
FLAKY: Final = 0.2
"""Of the streams of a quarter of an hour may fail; more than that is said."""
FEW: Final = 5
"""Streams from which on a share means something."""
_OURS_TO_PAY: Final = frozenset({401, 402, 403})
_REFUSALS: Final = range(400, 500)
_PASSING: Final = frozenset({408, 429})

WHY: Final = {
    "proxy_unreachable": "cannot be reached",
    "proxy_timeout": "does not connect in time",
    "proxy_refused": "refuses: its login or its rules",
    "proxy_protocol": "is no proxy of that kind",
    "upstream_unreachable": "cannot be reached",
    "upstream_tls": "fails the TLS handshake: certificate or protocol",
    "upstream_malformed": "answers with something else than was asked for",
    "upstream_cut": "cuts its streams off",
    "upstream_stalled": "stops in the middle of its streams",
    "upstream_timeout_headers": "does not answer in time",
    "upstream_timeout_first_token": "sends no content in time",
}
"""What a failure's code means, after the name of the one whose fault it is."""
_HINTS: Final = {
    401: "is its key right?",
    402: "is it paid?",
    403: "the key, or the region that the request comes from",
    429: "too many requests, or the quota is used up",
}


class WayState(msgspec.Struct):
    """A proxy of a pool; seconds, `since` and `rests` from now.

    `failing`: the last dial failed; `down`: so many in a row that it is only probed. `code`,
    `said`: of the last failure; `dials`: the last ones' milliseconds, None for one that failed.
    """

    proxy: str
    address: str
    state: Standing
    since: float | None = None
    rests: float = 0.0
    code: str = ""
    said: str = ""
    connect_ms: float | None = None
    dials: list[float | None] = []
    open: int = 0
    attempts: dict[str, int] = {}

    @property
    def works(self) -> bool:
        """Whether nothing speaks against it."""
        return self.state in {"up", "untried"}


class PoolState(msgspec.Struct):
    """The ways out under one name, and the upstreams that they lead to."""

    name: str
    policy: str
    upstreams: list[str]
    ways: list[WayState]


class UpstreamState(msgspec.Struct):
    """An upstream; `ok`, `failed`: streams of the last quarter of an hour that tell of it.

    `failures`: in a row; `trouble`: what the last request met, `ago` seconds; `retry_in`: seconds
    that its circuit stays open; `own_key`: the relay has a key of its own for it.
    """

    name: str
    host: str
    pool: str
    fallbacks: list[str] = []
    own_key: bool = False
    circuit: Literal["closed", "open"] = "closed"
    retry_in: float = 0.0
    failures: int = 0
    trouble: Trouble | None = None
    ago: float = 0.0
    ok: int = 0
    failed: int = 0
    success: float | None = None
    first_token: dict[str, float | None] = {}
    gap: dict[str, float | None] = {}


class RelayState(msgspec.Struct):
    """The relay itself. `lag`: seconds, None = not measured; `bound`: of open streams, 0 = none."""

    version: str = ""
    uptime: float = 0.0
    draining: bool = False
    open: int = 0
    bound: int = 0
    lag: float | None = None
    faults: int = 0
    asked: bool = True


class Finding(msgspec.Struct):
    """A sentence about the whole, and for whom it is no English the facts in it."""

    level: Level
    whose: Literal["nobody", "relay", "proxy", "upstream"]
    kind: str
    text: str
    facts: dict[str, Any] = {}
    detail: str = ""


def findings(
    relay: RelayState, pools: Sequence[PoolState], upstreams: Sequence[UpstreamState]
) -> list[Finding]:
    """Return what is wrong, the worst first; if nothing is, say so."""
    cut_off = {name for pool in pools if _broken(pool) for name in pool.upstreams}
    blamed = {name for pool in pools if _blames_proxy(pool) for name in pool.upstreams}
    found = [
        *_of_relay(relay),
        *(finding for pool in pools for finding in _of_pool(pool)),
        *(f for upstream in upstreams if (f := _of_upstream(upstream, cut_off, blamed))),
    ]
    return sorted(found, key=lambda finding: _LEVELS.index(finding.level)) or [_fine(relay)]


def _fine(relay: RelayState) -> Finding:
    if not relay.asked:
        return Finding("ok", "nobody", "ready", "Ready: nothing has been asked yet")
    return Finding("ok", "nobody", "fine", "Fine")


def _of_relay(relay: RelayState) -> Iterator[Finding]:
    if relay.draining:
        text = f"The relay is shutting down; {_count(relay.open, 'stream')} may still end"
        yield Finding("bad", "relay", "draining", text, {"open": relay.open})
    if relay.bound and relay.open >= relay.bound:
        text = f"The relay is full: {relay.open} streams are open, as many as limits.streams allows"
        yield Finding("bad", "relay", "full", text, {"open": relay.open})
    if relay.lag is not None and relay.lag >= LATE:
        ms = round(relay.lag * 1000)
        text = f"The relay has too much to do: its event loop is {ms} ms late"
        yield Finding("warn", "relay", "late", text, {"ms": ms})
    if relay.faults:
        text = f"The relay failed {_count(relay.faults, 'stream')} by a fault of its own"
        detail = "Its log says more."
        yield Finding("warn", "relay", "fault", text, {"count": relay.faults}, detail)


def _broken(pool: PoolState) -> bool:
    return not any(way.works for way in pool.ways)


def _blames_proxy(pool: PoolState) -> bool:
    """Tell whether nothing gets out of this pool by the fault of its proxies."""
    return _broken(pool) and any(_at_fault(way) for way in pool.ways)


def _at_fault(way: WayState) -> bool:
    return not way.works and CODES[way.code].whose is Whose.PROXY


def _of_pool(pool: PoolState) -> Iterator[Finding]:
    """Say which proxies do not work; a direct way that does not is the upstream's matter."""
    out = [way for way in pool.ways if not way.works and way.address != "direct"]
    if not out or (_broken(pool) and not _blames_proxy(pool)):
        return
    first, more = out[0], len(out) - 1
    left = sum(way.works for way in pool.ways)
    facts = {
        "pool": pool.name,
        "proxy": first.address,
        "down": first.state == "down",
        "code": first.code,
        "count": len(out),
        "others": left,
        "upstreams": pool.upstreams,
    }
    what = f"{len(out)} proxies are" if more else f"Proxy {first.address} is"
    text = f"{what} {'down' if first.state == 'down' else 'failing'}{_why(first.code, more)}"
    detail = " · ".join(dict.fromkeys(way.said for way in out if way.said))
    if left:
        carry = "1 other carries" if left == 1 else f"{left} others carry"
        yield Finding("warn", "proxy", "way", f"{text}; {carry} the traffic", facts, detail)
    else:
        text = f"{text}: nothing gets through to {_names(pool.upstreams)}"
        yield Finding("bad", "proxy", "no_way", text, facts, detail)


def _why(code: str, more: int) -> str:
    return "" if more or code not in WHY else f" ({WHY[code]})"


def _of_upstream(upstream: UpstreamState, cut_off: set[str], blamed: set[str]) -> Finding | None:
    """Say what is wrong with an upstream, unless its proxies are to blame for all of it."""
    trouble = upstream.trouble
    if upstream.name in blamed:
        return None
    if trouble is None or upstream.ago > FRESH or not _tells(trouble, upstream):
        return _flaky(upstream)
    lasts = upstream.failures >= ROW or upstream.name in cut_off
    covered = bool(upstream.fallbacks) and upstream.circuit == "open"
    words = _words(trouble)
    text = f"Upstream {upstream.name} {words}"
    if covered:
        text = f"{text}; {_names(upstream.fallbacks)} may answer in its place"
    facts = {
        "upstream": upstream.name,
        "code": trouble.code,
        "status": trouble.status if trouble.code == "upstream_error" else None,
        "row": upstream.failures,
        "fallbacks": upstream.fallbacks if covered else [],
    }
    level: Level = "bad" if lasts and not covered else "warn"
    return Finding(level, "upstream", "upstream", text, facts)


def _tells(trouble: Trouble, upstream: UpstreamState) -> bool:
    """Tell whether a failure speaks against the upstream, and not against who asked or the way."""
    if trouble.code != "upstream_error":
        return CODES[trouble.code].whose is Whose.UPSTREAM
    if trouble.status in _OURS_TO_PAY:
        return upstream.own_key
    return trouble.status not in _REFUSALS or trouble.status in _PASSING


def _words(trouble: Trouble) -> str:
    if trouble.code != "upstream_error":
        return WHY[trouble.code]
    hint = _HINTS.get(trouble.status)
    return f"answers {trouble.status}" + (f" ({hint})" if hint else "")


def _flaky(upstream: UpstreamState) -> Finding | None:
    counted = upstream.ok + upstream.failed
    if counted < FEW or upstream.failed <= FLAKY * counted:
        return None
    share = f"{upstream.failed} of {counted} streams"
    text = f"Upstream {upstream.name} fails often: {share} in the last 15 minutes"
    facts = {"upstream": upstream.name, "failed": upstream.failed, "counted": counted}
    return Finding("warn", "upstream", "flaky", text, facts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _names(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
