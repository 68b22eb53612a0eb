"""What `/status` shows: one look at the relay, computed when somebody asks.

    gateway ─┬▶ pools · upstreams · rates ─▶ findings ─▶ Overview ─┬─▶ Snapshot ─▶ JSON
             └▶ the caller's streams ──────────────────────────────┘

Who may look sees every proxy and upstream of the settings, by its name and without credentials.
Of the streams a caller sees its own, as the key or without keys the address has it; of those of
others it sees how many there are and how old the oldest is. Questions and answers are nowhere.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec.structs import asdict
from yarl import URL

from service import __version__
from service.core.access import Caller
from service.core.health import (
    Finding,
    PoolState,
    RelayState,
    Standing,
    UpstreamState,
    WayState,
    findings,
)
from service.core.history import OUTCOMES, SLOT, SLOTS, even, minutes
from service.core.pool import Member, Pool
from service.gateway import Gateway
from service.relay import Stream
from service.settings import Upstream

SHOWN: Final = 50
"""Own streams that are shown one by one, the oldest; the rest is a number."""


class StreamState(msgspec.Struct):
    """An open stream of the caller who looks; seconds. `quiet`: since the last event."""

    id: str
    caller: str
    upstream: str | None
    proxy: str | None
    model: str | None
    stage: str
    age: float
    quiet: float
    events: int
    attempts: int
    first_token_ms: int | None


class StreamsState(msgspec.Struct):
    """The open streams: all, the caller's own, and how old the oldest of the others is."""

    open: int
    own: int
    shown: list[StreamState]
    oldest: float | None


class Rates(msgspec.Struct):
    """The last quarter of an hour, oldest first.

    `minutes`: streams that ended, by outcome, in each minute; `events`: a second, in each `slot`
    seconds; both end now.
    """

    minutes: dict[str, list[int]]
    slot: float
    events: list[float]


class Overview(msgspec.Struct):
    """What is the same for everybody. `findings`: the first one is the headline."""

    findings: list[Finding]
    relay: RelayState
    pools: list[PoolState]
    upstreams: list[UpstreamState]
    rates: Rates


class Snapshot(Overview):
    """One look of one caller."""

    streams: StreamsState


class Board:
    """What there is to be seen; what is the same for everybody is computed for all who watch."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._at = float("-inf")

    def look(self, caller: Caller, stale: float = 0.0) -> Snapshot:
        """Return what this caller may see; the common part may be so many seconds old."""
        now = self._gateway.clock.now()
        if now - self._at >= stale:
            self._at, self._common = now, _overview(self._gateway, now)
        streams = _streams(self._gateway, caller, now)
        return Snapshot(**asdict(self._common), streams=streams)


def _overview(gateway: Gateway, now: float) -> Overview:
    pools = _pools(gateway, now)
    upstreams = [_upstream(gateway, upstream, now) for upstream in gateway.settings.upstream]
    relay = _relay(gateway, now)
    relay.asked = any(way.state != "untried" for pool in pools for way in pool.ways)
    return Overview(
        findings(relay, pools, upstreams), relay, pools, upstreams, _rates(gateway, now)
    )


def _relay(gateway: Gateway, now: float) -> RelayState:
    lags = gateway.metrics.lags
    return RelayState(
        version=__version__,
        uptime=round(now - gateway.began, 1),
        draining=gateway.draining,
        open=len(gateway.streams),
        bound=gateway.settings.limits.streams,
        lag=round(sum(lags) / len(lags), 4) if lags else None,
        faults=round(gateway.recent.faults.total(now)[0]),
    )


def _pools(gateway: Gateway, now: float) -> list[PoolState]:
    """Return each pool once; upstreams that share one share its health."""
    of: dict[int, tuple[Pool, list[str]]] = {}
    for upstream in gateway.settings.upstream:
        pool = gateway.lane(upstream.name).pool
        of.setdefault(id(pool), (pool, []))[1].append(upstream.name)
    return [
        PoolState(
            _pool_name(gateway, names[0]),
            pool.policy,
            names,
            [_way(gateway, pool, member, names, now) for member in pool.members],
        )
        for pool, names in of.values()
    ]


def _pool_name(gateway: Gateway, upstream: str) -> str:
    """Return the name that the pool has in the settings, also where it is the only one."""
    settings = gateway.settings
    row = next(each for each in settings.upstream if each.name == upstream)
    pool = settings.pool_of(row)
    return "direct" if pool is None else pool.name


def _way(
    gateway: Gateway, pool: Pool, member: Member, upstreams: Sequence[str], now: float
) -> WayState:
    shown = str(member.proxy)
    return WayState(
        proxy=shown,
        address=member.proxy.address,
        state=_state(member),
        since=None if member.since is None else round(now - member.since, 1),
        rests=round(member.until - now, 1) if pool.rests(member, now) else 0,
        code=member.why,
        said=member.said,
        connect_ms=_ms(member.connect),
        dials=[_ms(seconds) for seconds in member.dials],
        open=member.open,
        attempts=gateway.metrics.attempts_through(shown, upstreams),
    )


def _state(member: Member) -> Standing:
    if member.down:
        return "down"
    if member.strikes:
        return "failing"
    return "untried" if member.since is None else "up"


def _upstream(gateway: Gateway, upstream: Upstream, now: float) -> UpstreamState:
    circuit = gateway.circuit(upstream.name)
    ok, failed = gateway.recent.of(upstream.name).judged(now)
    first_token, gap = gateway.recent.percentiles(upstream.name, now)
    return UpstreamState(
        name=upstream.name,
        host=URL(upstream.url).host_subcomponent or "",
        pool=_pool_name(gateway, upstream.name),
        fallbacks=[other.name for other in gateway.settings.targets(upstream)[1:]],
        own_key=bool(upstream.key),
        circuit="open" if circuit.open else "closed",
        retry_in=round(circuit.rest(now), 1),
        failures=circuit.failures,
        trouble=circuit.trouble,
        ago=round(now - circuit.trouble.at, 1) if circuit.trouble else 0,
        ok=ok,
        failed=failed,
        success=round(ok / (ok + failed), 4) if ok + failed else None,
        first_token=first_token,
        gap=gap,
    )


def _streams(gateway: Gateway, caller: Caller, now: float) -> StreamsState:
    identity = caller.identity
    own = [stream for stream in gateway.streams if stream.caller == identity]
    others = (stream.moments[0] for stream in gateway.streams if stream.caller != identity)
    first = min(others, default=None)
    return StreamsState(
        open=len(gateway.streams),
        own=len(own),
        shown=[_stream(stream, caller, now) for stream in own[:SHOWN]],  # in order of beginning
        oldest=None if first is None else round(now - first, 1),
    )


def _stream(stream: Stream, caller: Caller, now: float) -> StreamState:
    began, last = stream.moments
    summary = stream.summary
    return StreamState(
        id=stream.name,
        caller=caller.name,
        upstream=summary.upstream,
        proxy=summary.proxy,
        model=summary.model,
        stage=stream.stage,
        age=round(now - began, 1),
        quiet=round(now - last, 1),
        events=stream.frames,
        attempts=summary.attempts,
        first_token_ms=summary.first_token_ms,
    )


def _rates(gateway: Gateway, now: float) -> Rates:
    rows = gateway.recent.outcomes.rows(now)
    by_outcome = {name: minutes(rows, column) for column, name in enumerate(OUTCOMES)}
    ended = (row[0] for row in gateway.recent.events.rows(now))
    under_way = even(map(_span, gateway.streams), int(now // SLOT))
    events = [one + other for one, other in zip(ended, under_way, strict=True)]
    seconds = [SLOT] * (SLOTS - 1) + [max(now % SLOT, 1.0)]  # the last slot is not over yet
    pace = [round(count / each, 2) for count, each in zip(events, seconds, strict=True)]
    return Rates({name: row for name, row in by_outcome.items() if any(row)}, SLOT, pace)


def _span(stream: Stream) -> tuple[float, float, float]:
    """Return when a stream's events came, and how many."""
    began, last = stream.moments
    first = stream.summary.first_token_ms
    return (began, last, 0) if first is None else (began + first / 1000, last, stream.frames)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
