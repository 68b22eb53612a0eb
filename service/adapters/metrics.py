"""Prometheus metrics: plain counts while the relay works, the library only when somebody scrapes.

    each event   ─▶ Gaps, the stream's own buckets ─┐
    each stream  ─▶ stream_ended ───────────────────┴─▶ dicts and lists ─▶ collect ─▶ text
    each attempt ─▶ attempt, connected, proxy_up ──────▶

A label has a bounded set of values: names of the settings, outcomes and codes of the relay. Any
other value becomes `other`, so that nothing a client or an upstream sends makes a new series.
"""

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from operator import add
from typing import Any, Final, TypeVar, get_args

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from service.core.events import Ending, Outcome, Summary
from service.errors import CODES

T = TypeVar("T")
Series = Mapping[tuple[str, ...], T]
"""The values of a metric by those of its labels."""

OTHER: Final = "other"
OUTCOMES: Final[tuple[str, ...]] = get_args(Outcome)
RESULTS: Final = frozenset({"ok", "left", *CODES})
"""What an attempt can come to: an answer, a client that left meanwhile, or a failure's code."""

# Upper bounds in seconds. Gaps: 1 ms is a burst, 10 to 100 ms a model that writes, 120 s the idle
# clock. First token: up to the clock's 600 s. Connect: up to its clock's 10 s.
GAP: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
FIRST_TOKEN: Final = (
    0.1,
    0.2,
    0.3,
    0.5,
    0.75,
    1,
    1.5,
    2,
    3,
    5,
    7.5,
    10,
    20,
    30,
    60,
    120,
    300,
    600,
)
_CONNECT: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LAG: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

_USAGE: Final = {
    "prompt": ("prompt_tokens", "input_tokens"),
    "completion": ("completion_tokens", "output_tokens"),
    "cached": (
        "prompt_tokens_details.cached_tokens",
        "input_tokens_details.cached_tokens",
        "cache_read_input_tokens",
        "prompt_cache_hit_tokens",  # DeepSeek
    ),
    "reasoning": (
        "completion_tokens_details.reasoning_tokens",
        "output_tokens_details.reasoning_tokens",
    ),
}
"""Where a usage tells each kind of tokens; of several places the first that has a number counts."""
KINDS: Final = tuple(_USAGE)
_PLACES: Final = tuple(
    (kind, name, part)
    for kind, places in _USAGE.items()
    for name, _, part in (place.partition(".") for place in places)
)
"""The same, taken apart, for it is read at the end of every stream."""
LAGS: Final = 20
"""Of the loop's last lags that are kept, for who looks at them now."""
_MOST_TOKENS: Final = 10**9
"""Of one answer. No model takes or writes as many: a greater number is a fault, and not counted."""


class Buckets:
    """A histogram: how many values were not greater than each bound, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """Count a value, in the memory that is there."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def merge(self, other: "Buckets") -> None:
        """Count all that another one with the same bounds counted."""
        self.counts = list(map(add, self.counts, other.counts))
        self.sum += other.sum


class Gaps(Buckets):
    """The seconds between the events of one stream, filled by `add` and handed over at its end."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(GAP)


def tokens_of(usage: Any) -> dict[str, int]:
    """Return the tokens of each of KINDS in an upstream's usage, 0 where it tells none.

    `cached` is a part of `prompt` and `reasoning` one of `completion`, as OpenAI counts. Anthropic
    tells what its cache took and gave beside input_tokens: that is added to `prompt`.
    What a caller has spent is `prompt` + `completion`.
    """
    tokens = dict.fromkeys(KINDS, 0)
    if not isinstance(usage, dict):
        return tokens
    for kind, name, part in _PLACES:
        if name in usage and not tokens[kind]:
            tokens[kind] = _count(usage[name], part)
    if "prompt_tokens" not in usage:
        for name in ("cache_read_input_tokens", "cache_creation_input_tokens"):
            tokens["prompt"] += _count(usage.get(name), "")
    return tokens


def _count(value: Any, part: str) -> int:
    """Return the count that stands there, or in that part of what does; 0 if there is none."""
    if part:
        value = value.get(part) if isinstance(value, dict) else None
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else 0


class NoMetrics:
    """Counts nothing and shows nothing; its methods are those of Metrics.

    `open_streams`: returns how many streams are under way; set it once they can be counted.
    `up`: the last word of `proxy_up` about each pool's proxies.
    """

    def __init__(self) -> None:
        self.open_streams: Callable[[], int] = int
        self.up: dict[tuple[str, ...], bool] = {}

    def know(self, upstreams: Iterable[str], proxies: Iterable[tuple[str, str]]) -> None:
        """Take the names of these settings from now on; what was counted stays.

        `proxies`: pool and proxy, the latter as it is shown, without credentials.
        """

    def stream_ended(
        self,
        summary: Summary,
        ending: Ending,  # noqa: ARG002
        gaps: Gaps | None,  # noqa: ARG002
    ) -> Mapping[str, int]:
        """Count a stream, once, when it has ended; also a request that was refused before one.

        Returns its tokens, of each of KINDS.
        """
        return tokens_of(summary.usage)

    def attempt(self, upstream: str, proxy: str, result: str) -> None:
        """Count an attempt; `result`: one of RESULTS."""

    def connected(self, pool: str, proxy: str, seconds: float) -> None:
        """Count a connection through a proxy and what it took."""

    def proxy_up(self, pool: str, proxy: str, *, up: bool) -> None:
        """Note whether a proxy can be used now."""

    def lag(self, seconds: float) -> None:
        """Count how late the event loop called back."""

    def expose(self) -> tuple[bytes, str]:
        """Return the metrics in Prometheus' text format, and their Content-Type."""
        return b"", CONTENT_TYPE_PLAIN_0_0_4


class Metrics(NoMetrics, Collector):
    """The metrics of one relay and of its process."""

    def __init__(self, upstreams: Iterable[str], proxies: Iterable[tuple[str, str]]) -> None:
        super().__init__()
        self._streams: Counter[tuple[str, ...]] = Counter()
        self._attempts: Counter[tuple[str, ...]] = Counter()
        self._tokens: Counter[tuple[str, ...]] = Counter()
        self._connect: dict[tuple[str, ...], Buckets] = {}
        self._events = 0
        self._first_token = Buckets(FIRST_TOKEN)
        self._gaps = Gaps()
        self._lag = Buckets(_LAG)
        self.lags: deque[float] = deque(maxlen=LAGS)
        self.know(upstreams, proxies)
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def know(self, upstreams: Iterable[str], proxies: Iterable[tuple[str, str]]) -> None:
        """Start the series of new upstreams at 0; drop the state of proxies that are gone."""
        self.upstreams = frozenset(upstreams)
        self._ways = frozenset(proxies)
        self._proxies = frozenset(proxy for _, proxy in self._ways)
        self.up = {way: up for way, up in self.up.items() if way in self._ways}
        self._streams[OTHER, "refused"] += 0
        for upstream in self.upstreams:
            for outcome in OUTCOMES:
                self._streams[upstream, outcome] += 0
            for kind in KINDS:
                self._tokens[upstream, kind] += 0

    def stream_ended(
        self, summary: Summary, ending: Ending, gaps: Gaps | None
    ) -> Mapping[str, int]:
        """Merge what the stream counted."""
        found = tokens_of(summary.usage)
        upstream = _bounded(summary.upstream, self.upstreams)
        self._streams[upstream, _bounded(ending.outcome, OUTCOMES)] += 1
        self._events += ending.number - 1
        for kind, tokens in found.items():
            if tokens:
                self._tokens[upstream, kind] += tokens
        if summary.first_token_ms is not None:
            self._first_token.add(summary.first_token_ms / 1000)
        if gaps is not None and any(gaps.counts):
            self._gaps.merge(gaps)
        return found

    def attempt(self, upstream: str, proxy: str, result: str) -> None:
        """Count it by upstream, proxy and result."""
        where = _bounded(upstream, self.upstreams), _bounded(proxy, self._proxies)
        self._attempts[(*where, _bounded(result, RESULTS))] += 1

    def connected(self, pool: str, proxy: str, seconds: float) -> None:
        """Count it by pool and proxy."""
        way = self._way(pool, proxy)
        if way not in self._connect:
            self._connect[way] = Buckets(_CONNECT)
        self._connect[way].add(seconds)

    def proxy_up(self, pool: str, proxy: str, *, up: bool) -> None:
        """Keep it until the next report."""
        self.up[self._way(pool, proxy)] = up

    def _way(self, pool: str, proxy: str) -> tuple[str, str]:
        return (pool, proxy) if (pool, proxy) in self._ways else (OTHER, OTHER)

    def lag(self, seconds: float) -> None:
        """Count it."""
        self._lag.add(seconds)
        self.lags.append(seconds)

    def attempts_through(self, proxy: str, upstreams: Iterable[str]) -> dict[str, int]:
        """Return how many attempts to these upstreams came to what, through a proxy as shown."""
        found: Counter[str] = Counter()
        for (upstream, way, result), count in self._attempts.items():
            if way == proxy and upstream in upstreams:
                found[result] += count
        return dict(found)

    def expose(self) -> tuple[bytes, str]:
        """Return the metrics in Prometheus' text format, and their Content-Type."""
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> Iterator[Metric]:
        """Yield each metric, for the library."""
        yield _gauge("streams_open", "Streams under way.", {(): self.open_streams()})
        yield _counter("streams", "Streams that ended.", self._streams, "upstream", "outcome")
        yield _counter("events", "Frames that upstreams sent.", {(): self._events})
        yield _histogram(
            "first_token", "From the request to the first content.", {(): self._first_token}
        )
        yield _histogram("event_gap", "From one event of a stream to the next.", {(): self._gaps})
        text = "Requests sent upstream, or tried to."
        yield _counter("attempts", text, self._attempts, "upstream", "proxy", "result")
        yield _gauge("proxy_up", "1 if the proxy can be used, else 0.", self.up, "pool", "proxy")
        yield _histogram(
            "proxy_connect",
            "What it takes to connect through a proxy.",
            self._connect,
            "pool",
            "proxy",
        )
        text = "Tokens by the upstreams' own usage."
        yield _counter("tokens", text, self._tokens, "upstream", "kind")
        yield _histogram("loop_lag", "How late the event loop calls back.", {(): self._lag})


def _bounded(value: str | None, known: Iterable[str]) -> str:
    return value if value is not None and value in known else OTHER


def _counter(name: str, text: str, counts: Series[int], *labels: str) -> Metric:
    family = CounterMetricFamily(f"teleprinter_{name}", text, labels=labels)
    for values, count in counts.items():
        family.add_metric(values, count)
    return family


def _gauge(name: str, text: str, states: Series[float], *labels: str) -> Metric:
    family = GaugeMetricFamily(f"teleprinter_{name}", text, labels=labels)
    for values, state in states.items():
        family.add_metric(values, state)
    return family


def _histogram(name: str, text: str, found: Series[Buckets], *labels: str) -> Metric:
    family = HistogramMetricFamily(f"teleprinter_{name}_seconds", text, labels=labels)
    for values, buckets in found.items():
        bounds = [*map(str, map(float, buckets.bounds)), "+Inf"]
        pairs = list(zip(bounds, accumulate(buckets.counts), strict=True))
        family.add_metric(values, pairs, buckets.sum)
    return family
