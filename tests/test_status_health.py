"""The headline: whether it is fine, and if not, whose fault it is, in plain words."""

import pytest

from service.core.circuit import FAILURES, Circuit, Trouble
from service.core.health import (
    FRESH,
    LATE,
    WHY,
    PoolState,
    RelayState,
    UpstreamState,
    WayState,
    findings,
)
from service.errors import CODES, Whose

SAID = "proxy hk:7890 refused the connection: is it running?"


def way(address="hk:7890", state="up", code="", said=""):
    """Return a proxy; `direct` is none."""
    shown = address if address == "direct" else f"http://{address}"
    return WayState(shown, address, state, code=code, said=said)


def down(address="hk:7890", code="proxy_unreachable", state="down"):
    """Return a proxy that is down."""
    return way(address, state, code, SAID)


def pool(*ways, upstreams=("openai",)):
    """Return a pool."""
    return PoolState("asia", "ordered", list(upstreams), list(ways))


def upstream(name="openai", code=None, status=502, **more):
    """Return an upstream whose last request met that."""
    trouble = None if code is None else Trouble(code, status, 0.0)
    return UpstreamState(name, "api.example.com", "asia", trouble=trouble, **more)


def look(*pools, upstreams=(), relay=None):
    """Return the headline, and the whole list."""
    found = findings(relay or RelayState(), pools or [pool(way())], upstreams or [upstream()])
    return found[0], found


def test_fine():
    """Nothing is wrong: one sentence, nobody's fault."""
    worst, found = look()
    assert (worst.level, worst.whose, worst.kind, worst.text) == ("ok", "nobody", "fine", "Fine")
    assert found == [worst]


def test_ready_before_anything_was_asked():
    """What was never tried is not called fine."""
    worst, _ = look(relay=RelayState(asked=False))
    assert (worst.level, worst.text) == ("ok", "Ready: nothing has been asked yet")


def test_one_proxy_of_three_is_down():
    """A warning that names the proxy and why, and says that the others go on."""
    worst, _ = look(pool(down(), way("jp:1"), way("sg:1", "untried")))
    text = "Proxy hk:7890 is down (cannot be reached); 2 others carry the traffic"
    assert (worst.level, worst.whose, worst.text) == ("warn", "proxy", text)
    assert worst.detail == SAID


def test_one_other_carries_the_traffic():
    """The number agrees with the verb."""
    assert look(pool(down(), way("jp:1")))[0].text.endswith("; 1 other carries the traffic")


def test_a_proxy_that_is_failing_is_not_yet_down():
    """Before the third failure in a row it says so in another word."""
    worst, _ = look(pool(down(state="failing"), way("jp:1")))
    assert worst.text.startswith("Proxy hk:7890 is failing (cannot be reached);")
    assert worst.facts["down"] is False


def test_several_proxies_are_down():
    """They are counted; each one's words follow once."""
    worst, _ = look(pool(down(), down("jp:1", "proxy_timeout"), way("sg:1")))
    assert worst.text == "2 proxies are down; 1 other carries the traffic"
    assert worst.detail == SAID


@pytest.mark.parametrize("state", ["down", "failing"])
def test_the_only_proxy(state):
    """Nothing gets through: bad, and said after the first failure, for whom it happens to."""
    worst, found = look(pool(down(state=state)), upstreams=[upstream(code="no_proxy", failures=4)])
    assert (worst.level, worst.whose) == ("bad", "proxy")
    assert worst.text.startswith(f"Proxy hk:7890 is {state} (cannot be reached)")
    assert worst.text.endswith(": nothing gets through to openai")
    assert len(found) == 1


def test_no_proxy_works_for_several_upstreams():
    """All that are cut off are named."""
    worst, _ = look(pool(down(), down("jp:1"), upstreams=("a", "b", "c")))
    assert worst.text == "2 proxies are down: nothing gets through to a, b and c"


def test_proxies_that_cannot_reach_the_upstream_are_not_to_blame():
    """All ways fail by the upstream's fault: that is the headline."""
    ways = [down(code="upstream_unreachable"), down("jp:1", "upstream_unreachable")]
    worst, found = look(pool(*ways), upstreams=[upstream(code="upstream_unreachable", failures=1)])
    assert (worst.level, worst.whose) == ("bad", "upstream")
    assert worst.text == "Upstream openai cannot be reached"
    assert len(found) == 1


def test_the_direct_way_is_no_proxy():
    """Where nothing is between the relay and the upstream, no proxy is blamed."""
    ways = pool(down("direct", "upstream_unreachable"))
    worst, found = look(ways, upstreams=[upstream(code="upstream_unreachable", failures=1)])
    assert (worst.level, worst.whose, len(found)) == ("bad", "upstream", 1)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (429, "answers 429 (too many requests, or the quota is used up)"),
        (500, "answers 500"),
        (503, "answers 503"),
        (529, "answers 529"),
        (408, "answers 408"),
    ],
)
def test_an_upstream_that_answers_with_an_error(status, said):
    """Its status and what it mostly means; once a warning, in a row bad."""
    worst, _ = look(upstreams=[upstream(code="upstream_error", status=status, failures=1)])
    assert (worst.level, worst.whose, worst.text) == ("warn", "upstream", f"Upstream openai {said}")
    worst, _ = look(upstreams=[upstream(code="upstream_error", status=status, failures=3)])
    assert worst.level == "bad"


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_what_the_client_did_wrong_is_not_the_upstreams_fault(status):
    """An upstream that refuses a bad request works."""
    assert look(upstreams=[upstream(code="upstream_error", status=status)])[0].kind == "fine"


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_refused_key_counts_if_it_is_the_relays(status):
    """A key that a client brought along is the client's matter."""
    ours = upstream(code="upstream_error", status=status, own_key=True)
    assert f"answers {status} (" in look(upstreams=[ours])[0].text
    theirs = upstream(code="upstream_error", status=status, own_key=False)
    assert look(upstreams=[theirs])[0].kind == "fine"


@pytest.mark.parametrize(
    "code", [code for code, rule in CODES.items() if rule.whose is Whose.UPSTREAM]
)
def test_every_fault_of_an_upstream_has_words(code):
    """No code of the relay's stands in the sentence."""
    worst, _ = look(upstreams=[upstream(code=code, failures=1)])
    assert worst.whose == "upstream"
    assert code not in worst.text


@pytest.mark.parametrize(
    "code", [code for code, rule in CODES.items() if rule.whose is Whose.PROXY]
)
def test_every_fault_of_a_proxy_has_words(code):
    """What follows in brackets is plain."""
    assert f"({WHY[code]})" in look(pool(down(code=code), way("jp:1")))[0].text


def test_an_old_failure_is_no_news():
    """After a quarter of an hour without a request nobody knows."""
    old = upstream(code="upstream_error", status=500, failures=9, ago=FRESH + 1)
    assert look(upstreams=[old])[0].kind == "fine"


def test_a_fallback_answers_in_its_place():
    """An open circuit with a fallback is a warning, and says who answers."""
    failing = upstream(
        code="upstream_error", status=503, failures=5, circuit="open", fallbacks=["azure"]
    )
    worst, _ = look(upstreams=[failing, upstream("azure")])
    text = "Upstream openai answers 503; azure may answer in its place"
    assert (worst.level, worst.text) == ("warn", text)


@pytest.mark.parametrize(("ok", "failed", "said"), [(6, 4, True), (8, 2, False), (2, 2, False)])
def test_an_upstream_that_fails_often(ok, failed, said):
    """More than a fifth of five streams or more, though the last one went well."""
    worst, _ = look(upstreams=[upstream(ok=ok, failed=failed)])
    text = f"Upstream openai fails often: {failed} of {ok + failed} streams in the last 15 minutes"
    assert worst.text == (text if said else "Fine")


@pytest.mark.parametrize(
    ("relay", "level", "text"),
    [
        (
            RelayState(draining=True, open=1),
            "bad",
            "The relay is shutting down; 1 stream may still end",
        ),
        (
            RelayState(open=5, bound=5),
            "bad",
            "The relay is full: 5 streams are open, as many as limits.streams allows",
        ),
        (
            RelayState(lag=0.25),
            "warn",
            "The relay has too much to do: its event loop is 250 ms late",
        ),
        (RelayState(faults=2), "warn", "The relay failed 2 streams by a fault of its own"),
    ],
)
def test_the_relays_own_fault(relay, level, text):
    """It says so of itself."""
    worst, _ = look(relay=relay)
    assert (worst.level, worst.whose, worst.text) == (level, "relay", text)


def test_a_relay_within_its_bounds():
    """Nearly full, nearly late: fine."""
    relay = RelayState(open=4, bound=5, lag=LATE - 0.001)
    assert look(relay=relay)[0].kind == "fine"


def test_the_worst_comes_first():
    """Bad before warning, whoever it concerns; all are told."""
    ways = pool(down(), way("jp:1"))
    _, found = look(ways, upstreams=[upstream(code="upstream_error", status=500, failures=3)])
    assert [(each.level, each.whose) for each in found] == [("bad", "upstream"), ("warn", "proxy")]


def test_one_pool_does_not_excuse_the_other():
    """Only the upstreams behind broken proxies are not judged."""
    broken = pool(down(), upstreams=("a",))
    sound = pool(way("jp:1"), upstreams=("b",))
    ups = [upstream(name, "upstream_error", 500, failures=3) for name in ("a", "b")]
    _, found = look(broken, sound, upstreams=ups)
    assert [each.kind for each in found] == ["no_way", "upstream"]
    assert found[1].facts["upstream"] == "b"


def test_a_circuit_that_has_closed_lets_nobody_wait():
    """While it is open it says for how long; after a trial that went well not at all."""
    circuit = Circuit()
    assert circuit.rest(10) == 0
    for _ in range(FAILURES):
        circuit.failed(10)
    assert (circuit.rest(10.25), circuit.failures) == (0.75, FAILURES)
    circuit.entered(11)
    circuit.succeeded()
    assert (circuit.rest(11), circuit.failures, circuit.trouble) == (0, 0, None)
