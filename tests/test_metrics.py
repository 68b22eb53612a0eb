"""What a scrape shows: the names of the contract, bounded labels, sums that add up."""

import inspect
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from service.adapters.metrics import (
    KINDS,
    OTHER,
    RESULTS,
    Buckets,
    Gaps,
    Metrics,
    NoMetrics,
    tokens_of,
)
from service.core.events import Ending, Outcome, Summary

OUTCOMES = get_args(Outcome)
PROXY = "http://127.0.0.1:7890"
CHAT = {
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "total_tokens": 150,
    "prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 30},
}
CONTRACT = {
    "teleprinter_streams_open": ("gauge", set()),
    "teleprinter_streams_total": ("counter", {"upstream", "outcome"}),
    "teleprinter_events_total": ("counter", set()),
    "teleprinter_first_token_seconds": ("histogram", set()),
    "teleprinter_event_gap_seconds": ("histogram", set()),
    "teleprinter_attempts_total": ("counter", {"upstream", "proxy", "result"}),
    "teleprinter_proxy_up": ("gauge", {"pool", "proxy"}),
    "teleprinter_proxy_connect_seconds": ("histogram", {"pool", "proxy"}),
    "teleprinter_tokens_total": ("counter", {"upstream", "kind"}),
    "teleprinter_loop_lag_seconds": ("histogram", set()),
}


@pytest.fixture
def metrics():
    """Return the metrics of two upstreams behind one pool with a proxy."""
    return Metrics(["openai", "claude"], [("main", PROXY), ("main", "direct")])


def families(metrics):
    """Return the metrics of a scrape by the name that its TYPE line gives."""
    text, _ = metrics.expose()
    found = list(text_string_to_metric_families(text.decode()))
    names = [f.name + "_total" * (f.type == "counter") for f in found]
    assert len(names) == len(set(names))
    return dict(zip(names, found, strict=True))


def value(metrics, sample, **labels):
    """Return the value of the one sample of this name and these labels, None without one."""
    found = [
        s.value
        for family in families(metrics).values()
        for s in family.samples
        if s.name == sample and s.labels == labels
    ]
    assert len(found) <= 1
    return found[0] if found else None


def total(metrics, sample):
    """Return the sum of all samples of this name."""
    return sum(s.value for f in families(metrics).values() for s in f.samples if s.name == sample)


def end(metrics, outcome="ok", *, upstream="openai", frames=0, gaps=None, **summary):
    """End a stream."""
    what = Summary(upstream=upstream, **summary)
    metrics.stream_ended(what, Ending(frames + 1, outcome, what), gaps)


def fill(metrics):
    """Let each metric have a sample."""
    end(metrics, frames=3, first_token_ms=120, usage=CHAT, gaps=Gaps())
    metrics.attempt("openai", PROXY, "ok")
    metrics.connected("main", PROXY, 0.02)
    metrics.proxy_up("main", PROXY, up=True)
    metrics.lag(0.001)


def test_names_types_and_labels_are_those_of_the_contract(metrics):
    """Each metric is there with its type and exactly its labels, and no other of ours."""
    fill(metrics)
    found = {
        name: (family.type, {label for s in family.samples for label in s.labels} - {"le"})
        for name, family in families(metrics).items()
        if name.startswith("teleprinter_")
    }
    assert found == CONTRACT
    assert all(family.documentation.endswith(".") for family in families(metrics).values())


def test_the_content_type_is_that_of_the_text_format(metrics):
    """Prometheus knows by it how to read the body."""
    assert metrics.expose()[1] == "text/plain; version=0.0.4; charset=utf-8"


def test_the_process_is_shown_under_the_usual_names(metrics):
    """Dashboards for any Prometheus client show this process too."""
    assert value(metrics, "process_cpu_seconds_total") > 0
    assert value(metrics, "process_resident_memory_bytes") > 0
    assert value(metrics, "process_open_fds") > 0
    assert value(metrics, "process_max_fds") > 0
    assert value(metrics, "process_start_time_seconds") > 0


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_stream_has_one_outcome(metrics, outcome):
    """Each stream is counted once, under its upstream and outcome."""
    end(metrics, outcome, upstream="claude")
    assert value(metrics, "teleprinter_streams_total", upstream="claude", outcome=outcome) == 1
    assert total(metrics, "teleprinter_streams_total") == 1


def test_a_request_that_was_refused_before_it_had_an_upstream(metrics):
    """It is counted under `other`, from the start at 0, and adds to nothing else."""
    assert value(metrics, "teleprinter_streams_total", upstream=OTHER, outcome="refused") == 0
    end(metrics, "refused", upstream=None)
    assert value(metrics, "teleprinter_streams_total", upstream=OTHER, outcome="refused") == 1
    assert total(metrics, "teleprinter_events_total") == 0
    assert value(metrics, "teleprinter_first_token_seconds_count") == 0


def test_series_begin_at_zero(metrics):
    """The first failure of an upstream is an increase that an alert sees."""
    for upstream in ("openai", "claude"):
        for outcome in OUTCOMES:
            labels = {"upstream": upstream, "outcome": outcome}
            assert value(metrics, "teleprinter_streams_total", **labels) == 0
        for kind in KINDS:
            labels = {"upstream": upstream, "kind": kind}
            assert value(metrics, "teleprinter_tokens_total", **labels) == 0


def test_open_streams_are_asked_for_at_the_scrape(metrics):
    """The gauge is what the relay says then."""
    assert value(metrics, "teleprinter_streams_open") == 0
    streams = ["one", "two"]
    metrics.open_streams = streams.__len__
    assert value(metrics, "teleprinter_streams_open") == 2
    streams.clear()
    assert value(metrics, "teleprinter_streams_open") == 0


def test_events_and_tokens_add_up(metrics):
    """Over several streams, by the number of their endings and their usage."""
    end(metrics, frames=3, usage=CHAT)
    end(metrics, "cut", frames=4, usage=CHAT)
    end(metrics, upstream="claude", frames=0, usage=None)
    assert value(metrics, "teleprinter_events_total") == 7
    for kind, tokens in {"prompt": 200, "completion": 100, "cached": 120, "reasoning": 60}.items():
        labels = {"upstream": "openai", "kind": kind}
        assert value(metrics, "teleprinter_tokens_total", **labels) == tokens


def test_first_token_is_counted_in_seconds_if_there_was_one(metrics):
    """A stream that was cut before has none."""
    end(metrics, first_token_ms=500)
    end(metrics, first_token_ms=0)
    end(metrics, "cut")
    assert value(metrics, "teleprinter_first_token_seconds_count") == 2
    assert value(metrics, "teleprinter_first_token_seconds_sum") == 0.5
    assert value(metrics, "teleprinter_first_token_seconds_bucket", le="0.3") == 1
    assert value(metrics, "teleprinter_first_token_seconds_bucket", le="0.5") == 2


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.floats(0, 1000), max_size=30), max_size=5))
def test_a_histogram_is_the_sum_of_its_streams(streams):
    """Every bucket has the values not above its bound, the last one all, the sum all seconds."""
    metrics = Metrics([], [])
    for seconds in streams:
        gaps = Gaps()
        for second in seconds:
            gaps.add(second)
        end(metrics, gaps=gaps)
    flat = [second for seconds in streams for second in seconds]
    samples = families(metrics)["teleprinter_event_gap_seconds"].samples
    for s in samples:
        if s.name.endswith("_bucket"):
            assert s.value == sum(second <= float(s.labels["le"]) for second in flat)
    assert samples[-3].labels["le"] == "+Inf"
    assert value(metrics, "teleprinter_event_gap_seconds_count") == len(flat)
    assert value(metrics, "teleprinter_event_gap_seconds_sum") == pytest.approx(sum(flat))


def test_a_bound_belongs_to_its_bucket():
    """`le` is less or equal."""
    buckets = Buckets((1, 2))
    for seconds in (0, 1, 1.5, 2, 2.5):
        buckets.add(seconds)
    assert buckets.counts == [2, 2, 1]


def test_gaps_stay_as_small_as_they_are():
    """A long stream holds no more than a short one."""
    gaps = Gaps()
    size = len(gaps.counts)
    for number in range(10_000):
        gaps.add(number / 10)
    assert len(gaps.counts) == size
    assert sum(gaps.counts) == 10_000


def test_a_stream_without_gaps(metrics):
    """A plain body has none to hand over."""
    end(metrics, gaps=None)
    assert value(metrics, "teleprinter_event_gap_seconds_count") == 0


def test_merging_leaves_the_streams_own_gaps_alone(metrics):
    """What one stream counted is not counted again by the next."""
    first, second = Gaps(), Gaps()
    first.add(0.02)
    end(metrics, gaps=first)
    end(metrics, gaps=second)
    assert (sum(first.counts), sum(second.counts)) == (1, 0)
    assert value(metrics, "teleprinter_event_gap_seconds_count") == 1


def test_attempts_by_upstream_proxy_and_result(metrics):
    """Each result of each way has a series of its own."""
    for result in ("ok", "ok", "proxy_unreachable", "left", "upstream_error"):
        metrics.attempt("openai", PROXY, result)
    metrics.attempt("claude", "direct", "ok")
    where = {"upstream": "openai", "proxy": PROXY}
    assert value(metrics, "teleprinter_attempts_total", **where, result="ok") == 2
    assert value(metrics, "teleprinter_attempts_total", **where, result="proxy_unreachable") == 1
    assert value(metrics, "teleprinter_attempts_total", **where, result="upstream_error") == 1
    where = {"upstream": "claude", "proxy": "direct"}
    assert value(metrics, "teleprinter_attempts_total", **where, result="ok") == 1
    assert total(metrics, "teleprinter_attempts_total") == 6


def test_a_proxy_is_up_or_down_as_last_reported(metrics):
    """Before the first report nothing is claimed."""
    way = {"pool": "main", "proxy": PROXY}
    assert value(metrics, "teleprinter_proxy_up", **way) is None
    metrics.proxy_up("main", PROXY, up=True)
    assert value(metrics, "teleprinter_proxy_up", **way) == 1
    metrics.proxy_up("main", PROXY, up=False)
    assert value(metrics, "teleprinter_proxy_up", **way) == 0


def test_connecting_and_lag_are_histograms(metrics):
    """Connections by pool and proxy, the loop's lag as one."""
    metrics.connected("main", PROXY, 0.02)
    metrics.connected("main", PROXY, 0.03)
    metrics.connected("main", "direct", 3)
    metrics.lag(0.25)
    name = "teleprinter_proxy_connect_seconds"
    assert value(metrics, f"{name}_sum", pool="main", proxy=PROXY) == pytest.approx(0.05)
    assert value(metrics, f"{name}_count", pool="main", proxy="direct") == 1
    assert value(metrics, "teleprinter_loop_lag_seconds_sum") == 0.25


HOSTILE = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["", 'x"} 1\nteleprinter_fake 1', "\\", "\n", "openai ", "__name__", "\ud800"]),
)


def fuzz(metrics, names):
    """Put the names wherever a label comes from."""
    for name in names:
        end(metrics, name, upstream=name, usage={name: 1})
        metrics.attempt(name, name, name)
        metrics.attempt("openai", PROXY, name)
        metrics.connected(name, name, 1)
        metrics.connected("main", name, 1)
        metrics.connected(name, PROXY, 1)
        metrics.proxy_up(name, name, up=True)


@settings(deadline=None, max_examples=50)
@given(st.lists(HOSTILE, min_size=1, max_size=20))
def test_no_name_from_outside_makes_a_series(names):
    """Whatever arrives as a name is `other`; the text stays well-formed, each stream counted."""
    metrics = Metrics(["openai"], [("main", PROXY)])
    fuzz(metrics, names)
    known = {"openai", "main", PROXY, OTHER, *OUTCOMES, *KINDS, *RESULTS}
    for name, family in families(metrics).items():
        assert name in CONTRACT or name.startswith("process_")
        for s in family.samples:
            assert {v for label, v in s.labels.items() if label != "le"} <= known
    assert total(metrics, "teleprinter_streams_total") == len(names)
    assert total(metrics, "teleprinter_attempts_total") == 2 * len(names)


def test_a_thousand_names_make_no_more_series_than_one(metrics):
    """The size of a scrape does not depend on what clients and upstreams send."""
    fuzz(metrics, ["one"])
    lines = metrics.expose()[0].count(b"\n")
    fuzz(metrics, [f"name-{number}" for number in range(1000)])
    assert metrics.expose()[0].count(b"\n") == lines


@pytest.mark.parametrize("name", ['say "hi"', "back\\slash", "上游", "a\nb", "{le=}"])
def test_names_of_the_settings_are_escaped(name):
    """Whatever an operator calls an upstream or a pool comes out as it is."""
    metrics = Metrics([name], [(name, name)])
    end(metrics, upstream=name)
    metrics.proxy_up(name, name, up=True)
    assert value(metrics, "teleprinter_streams_total", upstream=name, outcome="ok") == 1
    assert value(metrics, "teleprinter_proxy_up", pool=name, proxy=name) == 1


def test_a_reload_keeps_the_counts(metrics):
    """Counters never fall; new names are known; a proxy that is gone is neither up nor down."""
    fill(metrics)
    metrics.proxy_up("main", "direct", up=True)
    metrics.know(["openai", "azure"], [("main", "direct"), ("spare", PROXY)])
    assert value(metrics, "teleprinter_streams_total", upstream="openai", outcome="ok") == 1
    assert value(metrics, "teleprinter_streams_total", upstream="azure", outcome="ok") == 0
    assert value(metrics, "teleprinter_proxy_up", pool="main", proxy=PROXY) is None
    assert value(metrics, "teleprinter_proxy_up", pool="main", proxy="direct") == 1
    end(metrics, upstream="azure")
    end(metrics, upstream="claude")
    metrics.connected("spare", PROXY, 0.1)
    assert value(metrics, "teleprinter_streams_total", upstream="azure", outcome="ok") == 1
    assert value(metrics, "teleprinter_streams_total", upstream=OTHER, outcome="ok") == 1
    name = "teleprinter_proxy_connect_seconds_count"
    assert value(metrics, name, pool="spare", proxy=PROXY) == 1


def test_two_relays_in_one_process_do_not_share():
    """Each has a registry of its own."""
    one, two = Metrics(["openai"], []), Metrics(["openai"], [])
    end(one, gaps=Gaps())
    assert total(one, "teleprinter_streams_total") == 1
    assert total(two, "teleprinter_streams_total") == 0


def test_no_metrics_takes_the_same_calls_and_is_silent():
    """Whoever is given it needs no `if`."""
    silent = NoMetrics()
    fill(silent)
    silent.know(["openai"], [])
    assert silent.open_streams() == 0
    assert silent.expose() == (b"", Metrics([], []).expose()[1])
    for name, method in inspect.getmembers(NoMetrics, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.signature(method) == inspect.signature(getattr(Metrics, name))
            assert name in vars(Metrics), name


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (CHAT, (100, 50, 60, 30)),
        ({"prompt_tokens": 7, "completion_tokens": 0, "total_tokens": 7}, (7, 0, 0, 0)),
        (
            {  # Responses
                "input_tokens": 100,
                "input_tokens_details": {"cached_tokens": 60},
                "output_tokens": 50,
                "output_tokens_details": {"reasoning_tokens": 30},
                "total_tokens": 150,
            },
            (100, 50, 60, 30),
        ),
        (
            {  # Anthropic: what its cache gave and took is not in input_tokens
                "input_tokens": 10,
                "cache_read_input_tokens": 60,
                "cache_creation_input_tokens": 30,
                "output_tokens": 50,
            },
            (100, 50, 60, 0),
        ),
        (
            {"input_tokens": 10, "cache_read_input_tokens": None, "output_tokens": 5},
            (10, 5, 0, 0),
        ),
        (
            {  # a gateway that tells Anthropic's numbers in OpenAI's form: prompt_tokens has all
                "prompt_tokens": 100,
                "completion_tokens": 50,
                "cache_read_input_tokens": 60,
                "cache_creation_input_tokens": 30,
            },
            (100, 50, 60, 0),
        ),
        (
            {  # DeepSeek
                "prompt_tokens": 100,
                "completion_tokens": 50,
                "prompt_cache_hit_tokens": 60,
                "prompt_cache_miss_tokens": 40,
                "completion_tokens_details": {"reasoning_tokens": 30},
            },
            (100, 50, 60, 30),
        ),
        ({"type": "tokens", "input_tokens": 14, "output_tokens": 45}, (14, 45, 0, 0)),
        ({"prompt_tokens": 3, "prompt_tokens_details": None}, (3, 0, 0, 0)),
        ({"prompt_tokens": 3, "prompt_tokens_details": [1]}, (3, 0, 0, 0)),
        ({"prompt_tokens": -5, "completion_tokens": True}, (0, 0, 0, 0)),
        ({"prompt_tokens": "9", "completion_tokens": 1.5}, (0, 0, 0, 0)),
        ({"prompt_tokens": 10**9 + 1, "completion_tokens": 10**400}, (0, 0, 0, 0)),
        ({"prompt_tokens": 10**9}, (10**9, 0, 0, 0)),
        ({}, (0, 0, 0, 0)),
        (None, (0, 0, 0, 0)),
        ([], (0, 0, 0, 0)),
        ("many", (0, 0, 0, 0)),
    ],
)
def test_tokens_of_every_api(usage, tokens):
    """OpenAI's two APIs, Anthropic's, the usual deviations; what is no count is none."""
    assert tuple(tokens_of(usage).values()) == tokens
    assert tuple(tokens_of(usage)) == KINDS


NAMES = st.sampled_from(
    [
        "prompt_tokens",
        "input_tokens",
        "completion_tokens",
        "cache_read_input_tokens",
        "prompt_tokens_details",
        "cached_tokens",
        "output_tokens_details",
        "reasoning_tokens",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=10,
)


@settings(deadline=None, max_examples=50)
@given(JSON)
def test_no_usage_breaks_a_scrape(usage):
    """Whatever JSON an upstream sends as its usage: counts that only grow, and a readable text."""
    metrics = Metrics(["openai"], [])
    end(metrics, usage=usage)
    for kind in KINDS:
        counted = value(metrics, "teleprinter_tokens_total", upstream="openai", kind=kind)
        assert 0 <= counted <= 3 * 10**9
