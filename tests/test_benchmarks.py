"""The benchmark measures what it says: every token counted, and what is wrong with an answer told.

No figure is looked at here, only that the rig asks, checks, adds up and reports.
"""

import json
import socket
import threading
from contextlib import contextmanager

import pytest

from benchmarks import plot, rig, workloads
from benchmarks.lab import Checks, Lab, interleaved
from benchmarks.report import Report
from benchmarks.results import Goal, Ratio, Result, Series, Size
from benchmarks.rig import ENDLESS, Ask, Load, Upstream
from benchmarks.target import KEY

TINY = Size(1, 5, 20, 10, 5, 5, (2,), 1, ())
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"  # JSON, or what passes
)


@pytest.fixture(scope="module", autouse=True)
def _built():
    rig.build()


@pytest.fixture
def lab(tmp_path):
    """Yield a lab without targets."""
    upstream = Upstream(tmp_path / "upstream")
    yield Lab(tmp_path, upstream, lambda _: None)
    upstream.program.stop()


@contextmanager
def answering(*texts):
    """Run a server that gives one client these contents; yield its port."""
    body = b"".join(b'{"content": "%s"}' % text for text in texts)

    def serve():
        client, _ = server.accept()
        with client:
            client.recv(65536)
            client.sendall(ANSWER % (len(body), body))
            client.recv(65536)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


def test_every_token_of_the_relay_is_counted(lab, tmp_path):
    """The smallest workload, on /v1 and /chat: the report has every token, and no fault."""
    with lab.relay() as relay:
        result = workloads.paced(lab, TINY, relay, [])
    report = Report({}, TINY, [result], lab.checks, lab.skipped)
    report.write(tmp_path / "results")
    told = json.loads((tmp_path / "results" / "latest.json").read_text())
    names = [series["target"] for series in told["results"][0]["series"]]
    assert {"teleprinter /v1", "teleprinter /chat"} < set(names)
    assert told["checks"]["faults"] == []
    assert told["checks"]["tokens"] == len(names) * TINY.streams * TINY.tokens
    assert all(series["median"] > 0 for series in told["results"][0]["series"])
    assert "every token in its order" in (tmp_path / "results" / "latest.md").read_text()
    assert (tmp_path / "results" / "latest.svg").read_text().count("<rect") == len(names) - 1


def test_json_answers_on_kept_connections(lab):
    """One connection serves many answers, and each is counted."""
    found = lab.sample(lab.direct(), Ask(stream=False), Load(2, 50, 0, keep=True)).found
    assert (found["answers"], found["tokens"], found["bad"]) == (50, 50, 0)


def test_held_streams_stay_and_are_left(lab):
    """Streams are open while they are held, and the upstream sees each of them go."""
    ask = Ask(tokens=ENDLESS, every=1000)
    with lab.holding(lab.direct(), ask, Load(3)) as held:
        first, second = held.look(), held.look()
    assert first["open"] == 3
    assert second["tokens"] >= first["tokens"] >= 3
    assert lab.checks.faults == []


def test_when_a_client_left_and_when_that_was_seen(lab):
    """The leaving of each client, by the answer's number, is seen by the upstream after it."""
    target = lab.direct()
    lab.sample(target, Ask(tokens=ENDLESS, every=1000), Load(4, leave=2))
    went = rig.read_left(lab.folder / "load" / target.name / "leaving")
    assert len(went) == 4
    workloads.until_seen(lab, went)
    seen = lab.upstream.left()
    assert all(seen[number] >= when for number, when in went.items())


@pytest.mark.parametrize(
    ("texts", "bad", "disorder"),
    [
        ((b"@7:0:1@ ", b"@7:1:1@ "), 0, 0),
        ((b"@7:", b"0:1", b"@ @7:1:1@"), 0, 0),
        ((b"@7:0:1@",), 1, 0),
        ((b"@7:1:1@", b"@7:0:1@"), 0, 2),
        ((b"@7:0:1@", b"@8:1:1@"), 0, 1),
        ((b"@7:0:1@", b"@7:0:1@"), 0, 1),
    ],
    ids=["whole", "cut up", "one too few", "swapped", "of another answer", "twice"],
)
def test_what_is_wrong_is_told(tmp_path, texts, bad, disorder):
    """Tokens that are missing, doubled, swapped or of another stream are found."""
    with answering(*texts) as port:
        found = rig.run(tmp_path, port, KEY, Ask(tokens=2), Load())
    assert (found["bad"], found["disorder"]) == (bad, disorder)
    checks = Checks()
    checks.add("somebody", found)
    assert bool(checks.faults) == bool(bad or disorder)


def test_rounds_begin_with_another_each():
    """Nobody is always the first of a round."""
    order = []
    interleaved(3, ["a", "b", "c"], order.append)
    assert "".join(order) == "abcbcacab"


@pytest.mark.parametrize(
    ("values", "verdict"), [([1, 1, 9], "stretch"), ([1, 3, 3], "met"), ([5, 5, 1], "missed")]
)
def test_a_ratio_is_judged_by_its_median(values, verdict):
    """One bad round does not decide."""
    assert Ratio("r", values, Goal(3, 2)).verdict == verdict


def test_a_bar_that_is_far_off_is_cut_and_says_so():
    """The plot stays readable beside a target that costs a hundred times as much."""
    series = [Series("teleprinter", "µs", [30]), Series("slow", "µs", [3000])]
    svg = plot.bars([Result("stream", "A < B", series)])
    assert "3,000 →" in svg
    assert "A &lt; B" in svg
