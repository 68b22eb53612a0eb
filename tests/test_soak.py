"""The endurance run's own parts, on invented streams: a rule that never breaks would prove nothing.

The run itself is `make soak`.
"""

import json
from collections import Counter

import pytest

from fakes import Upstream, chat
from relaying import relaying
from service.adapters.metrics import Metrics
from soak import closing, kinds, rig, upstream, visitors
from soak.closing import Closing, State
from soak.gauge import longest_lag, outcomes
from soak.ledger import Ledger, Seen, faults

NAME = "raw-1"
WHOLE = kinds.text(NAME)
GOOD = Seen(200, WHOLE, "whole", success=True, request="r1")
LINE = {"model": NAME, "id": "r1", "outcome": "ok"}


def settled(seen=GOOD, line=LINE, name=NAME):
    """Return the ledger of one stream."""
    ledger = Ledger()
    ledger.begin(name)
    if line is not None:
        ledger.read(line)
    ledger.saw(name, seen)
    return ledger


def test_a_good_stream_settles_without_a_word():
    """It is counted by its outcome and its kind, and nobody waits for it any more."""
    ledger = settled()
    assert (ledger.counts, ledger.kinds) == (Counter(ok=1), Counter(raw=1))
    assert (ledger.broken, ledger.unsettled) == ([], [])


@pytest.mark.parametrize(
    ("name", "seen", "outcome", "rule"),
    [
        (NAME, GOOD, "cut", "an allowed outcome"),
        (NAME, Seen(200, WHOLE[:-1], "whole", success=True), "ok", "the text of an ok"),
        ("cut-1", Seen(200, "other", "torn", code="upstream_cut"), "cut", "no invented text"),
        ("cut-1", Seen(200, "", "torn", success=True, code="upstream_cut"), "cut", "success only"),
        ("cut-1", Seen(200, "", "torn"), "cut", "a failure says so"),
        ("cut-1", Seen(200, "", "whole", code="upstream_cut"), "cut", "only what is complete"),
        (NAME, Seen(200, WHOLE, "torn", success=True), "ok", "only what is complete"),
        ("reset-1", Seen(502, "", "whole"), "cut", "a refusal says why"),
        ("raw-1", Seen(502, "", "whole", code="x"), "ok", "a refusal says why"),
    ],
)
def test_a_stream_breaks_the_rule(name, seen, outcome, rule):
    """Each rule of a single stream has a stream that breaks it."""
    found = faults(name, kinds.kind_of(name), seen, {"outcome": outcome})
    assert any(fault.startswith(rule) for fault in found), found


def test_every_stream_has_one_outcome():
    """A second line in the log is told, and a line that never came."""
    ledger = settled()
    ledger.read(LINE)
    assert ledger.faults["one outcome"] == 1
    assert settled(line=None).unsettled == [NAME]


def test_who_comes_back_is_settled_by_the_last_line():
    """The first one says that the client left."""
    name = "returns-1"
    seen = Seen(200, kinds.text(name), "whole", success=True, returned=True, stream="s")
    ledger = settled(seen, {"model": name, "id": "r", "outcome": "left"}, name)
    assert ledger.unsettled == [name]
    ledger.read({"id": "r2", "outcome": "ok", "resumed": True, "stream": "s"})
    ledger.settle_all()
    assert (ledger.unsettled, ledger.counts, ledger.broken) == ([], Counter(ok=1), [])


IDLE = State(50.0, 20, {"tasks": 2, "Stream": 0})
CLEAN = Closing(IDLE, IDLE, 90.0, 98.0, Counter(ok=1), 0, 0, 5, "none", 0.1)


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({}, None),
        ({"counted": Counter(ok=2)}, "the sum of outcomes"),
        ({"counted": Counter(cut=1)}, "the sum of outcomes"),
        ({"opened": 1}, "no stream is left open"),
        ({"readable": 1}, "no kept stream"),
        ({"after": IDLE._replace(descriptors=21)}, "no descriptor"),
        ({"after": IDLE._replace(held={"tasks": 3, "Stream": 0})}, "no tasks"),
        ({"after": IDLE._replace(held={"tasks": 2, "Stream": 1})}, "no Stream"),
        ({"loaded": 99.5}, "memory stays"),
        ({"loaded": 99.5, "settled": 0.0}, None),
    ],
)
def test_the_end_of_a_run(changed, rule):
    """Each rule of the whole has an end that breaks it, and only that one is named."""
    ledger, found = settled(), CLEAN._replace(**changed)
    told = [text.partition(":")[0] for text in closing.broken(ledger, found)]
    assert [text.startswith(rule or "") for text in told] == [True] * (rule is not None)
    assert dict(closing.rows(ledger, found, {}))["streams begun"] == 1


def test_what_the_relay_counts_is_read_from_its_metrics():
    """Outcomes over all upstreams; of the loop's lags the bound of the longest."""
    from prometheus_client.parser import text_string_to_metric_families as parse  # noqa: PLC0415

    metrics = Metrics(["up"], [])
    assert longest_lag(parse(metrics.expose()[0].decode())) == "none"
    metrics._streams.update({("up", "ok"): 2, ("other", "refused"): 1})
    metrics.lag(0.0004)
    metrics.lag(0.02)
    families = list(parse(metrics.expose()[0].decode()))
    assert outcomes(families) == Counter(ok=2, refused=1)
    assert longest_lag(families) == "≤ 0.025 s"


@pytest.mark.parametrize("name", ["raw-1", "chat-2", "plain-3", "429-4", "malformed-chat-5"])
async def test_a_visit_through_a_relay(name, monkeypatch):
    """The upstream does as the name says, and the client sees what the kind allows."""
    monkeypatch.setattr(upstream, "GAP", 0.0)
    monkeypatch.setattr(kinds, "TOKENS", (2, 4))
    toml = "[retry]\nattempts = 1\n"
    async with Upstream(upstream.api) as api, relaying(api.url, toml=toml) as relay:
        seen = await visitors.Visitor(relay.url, relay.session, kinds.Random(1)).visit(name)
    kind = kinds.kind_of(name)
    assert faults(name, kind, seen, {"outcome": next(iter(kind.outcomes))}) == []


def test_each_kind_has_its_upstream_and_its_way(tmp_path):
    """The relay's settings are valid, and each kind's model finds the upstream that is meant."""
    ports = dict.fromkeys(("upstream", "http", "socks", "denying"), 9)
    file = tmp_path / "teleprinter.toml"
    file.write_text(rig.settings(ports, []))
    from service.core.routes import choose  # noqa: PLC0415
    from service.settings import load  # noqa: PLC0415

    settings = load(environ={}, config=str(file), cwd=tmp_path)
    special = {"rescued", "shaky", "shaky-chat", "dead", "gone", "denied", "long"}
    for kind in kinds.KINDS:
        meant = kind.removesuffix("-chat") if kind in special else "steady"
        assert choose(settings.upstream, "", f"{kind}-1").name == meant
        script = kinds.KINDS[kind].script
        assert script in upstream.SCRIPTS or script.isdigit()


def test_the_answer_follows_from_the_name():
    """Both ends of the relay know it, each by itself."""
    assert kinds.tokens(NAME) == kinds.tokens(NAME)
    assert kinds.text("raw-1") != kinds.text("raw-2")
    assert json.dumps(kinds.text(NAME))
    assert chat(kinds.tokens(NAME))
