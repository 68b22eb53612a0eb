"""Which proxy next: policies, strikes, rests, and what a pool never does.

Policies   ordered · fastest · spread
Rests      three strikes in a row, 1 s doubling to 60 s, one trial after each
Always     somebody is tried, and nobody who is not listed
"""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.pool import STRIKES, Pool
from service.core.proxy import DIRECT, parse
from service.core.secret import Secret

A, B, C = (parse(f"http://{name}.test:8080") for name in "abc")
WAYS = [A, B, C]
NOW = 1000.0
LONGEST = 60.0
MOST = LONGEST * 1.25


def pool(*ways, policy="ordered", chance=0.5):
    """Return a pool whose jitter is that chance; at 0.5 there is none."""
    return Pool("hk", ways or WAYS, policy, lambda: chance)


def fell(of, proxy, now=NOW):
    """Let a proxy fail until it rests; return for how long."""
    return [of.failed(proxy, "proxy_unreachable", now) for _ in range(STRIKES)][-1]


# --- policies


def test_ordered_is_the_order_of_the_list():
    """Neither connect times nor open streams change it."""
    ways = pool()
    ways.succeeded(C, 0.001, NOW)
    ways.opened(A)
    assert ways.order(NOW) == WAYS


def test_fastest_is_the_shortest_connect_time():
    """The one that connects soonest comes first."""
    ways = pool(policy="fastest")
    for proxy, seconds in [(A, 0.3), (B, 0.1), (C, 0.2)]:
        ways.succeeded(proxy, seconds, NOW)
    assert ways.order(NOW) == [B, C, A]


def test_fastest_finds_out_what_it_does_not_know():
    """One that was never measured comes first; equals stay in the order of the list."""
    ways = pool(policy="fastest")
    assert ways.order(NOW) == WAYS
    ways.succeeded(A, 0.001, NOW)
    assert ways.order(NOW) == [B, C, A]


def test_fastest_is_smoothed():
    """A single slow dial does not make the fast one slow; several do. The first counts whole."""
    ways = pool(A, B, policy="fastest")
    ways.succeeded(A, 0.1, NOW)
    ways.succeeded(B, 0.2, NOW)
    assert ways.member(A).connect == 0.1
    ways.succeeded(A, 0.3, NOW)
    assert 0.1 < ways.member(A).connect < 0.2
    assert ways.order(NOW) == [A, B]
    for _ in range(3):
        ways.succeeded(A, 0.3, NOW)
    assert ways.order(NOW) == [B, A]


def test_a_connection_that_stood_before_measures_nothing():
    """It clears the strikes, and the connect time stays."""
    ways = pool(policy="fastest")
    ways.succeeded(A, 0.1, NOW)
    ways.failed(A, "proxy_timeout", NOW)
    ways.succeeded(A, None, NOW + 5)
    member = ways.member(A)
    assert (member.connect, member.measured, member.strikes) == (0.1, NOW, 0)


def test_spread_is_the_fewest_open_streams():
    """Streams that end count no more; equals stay in the order of the list."""
    ways = pool(policy="spread")
    taken = []
    for _ in range(6):
        taken.append(ways.order(NOW)[0])
        ways.opened(taken[-1])
    assert taken == [A, B, C, A, B, C]
    ways.closed(C)
    assert ways.order(NOW)[0] == C


# --- rests


def test_three_strikes_in_a_row():
    """Two do nothing; with the third the proxy rests for about a second."""
    ways = pool()
    assert [ways.failed(A, "proxy_timeout", NOW) for _ in range(3)] == [None, None, 1]
    assert ways.order(NOW) == [B, C]
    assert ways.order(NOW + 0.999) == [B, C]
    assert ways.order(NOW + 1) == WAYS


def test_a_success_between_strikes_clears_them():
    """In a row means in a row."""
    ways = pool()
    for _ in range(5):
        assert ways.failed(A, "proxy_timeout", NOW) is None
        assert ways.failed(A, "proxy_timeout", NOW) is None
        assert ways.succeeded(A, 0.1, NOW) is False
    assert ways.order(NOW) == WAYS


def test_rests_double_up_to_a_minute():
    """Each trial that fails is followed at once by a rest of twice the length, at most 60 s."""
    ways, now = pool(), NOW
    rests = [fell(ways, A, now)]
    for _ in range(9):
        now += rests[-1]
        rests.append(ways.failed(A, "proxy_unreachable", now))
    assert rests == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]


@pytest.mark.parametrize(("chance", "factor"), [(0, 0.75), (0.5, 1), (1, 1.25)])
def test_the_jitter_is_a_quarter_either_way(chance, factor):
    """So that proxies that fell together do not return together."""
    ways, now = pool(chance=chance), NOW
    rests = [fell(ways, A, now)]
    for _ in range(9):
        now += rests[-1]
        rests.append(ways.failed(A, "proxy_unreachable", now))
    assert rests[:3] == [1 * factor, 2 * factor, 4 * factor]
    assert rests[-1] == LONGEST * factor


def test_many_failures_cost_no_overflow():
    """A proxy that is down for weeks rests for a minute each time."""
    ways, now = pool(), NOW
    fell(ways, A, now)
    for _ in range(3000):
        now += 100
        rest = ways.failed(A, "proxy_unreachable", now)
    assert rest == LONGEST


def test_a_success_is_the_end_of_it():
    """After it the proxy is back at once, has three strikes again, and a first rest of a second."""
    ways = pool()
    fell(ways, A)
    ways.failed(A, "proxy_unreachable", NOW + 1)
    assert ways.order(NOW + 1) == [B, C]
    assert ways.succeeded(A, 0.1, NOW + 1) is True
    assert ways.order(NOW + 1) == WAYS
    assert ways.succeeded(A, 0.1, NOW + 1) is False
    assert fell(ways, A, NOW + 1) == 1


def test_dials_that_were_under_way_make_no_rest_longer():
    """Those that began before it rested may fail meanwhile, a hundred of them."""
    ways = pool()
    fell(ways, A)
    assert {ways.failed(A, "proxy_timeout", NOW + 0.5) for _ in range(100)} == {None}
    assert ways.order(NOW + 1) == WAYS
    assert ways.failed(A, "proxy_timeout", NOW + 1) == 2


@pytest.mark.parametrize("only", [A, DIRECT])
def test_a_pool_of_one_never_rests(only):
    """However often it fails, there is no other; but it is known not to work."""
    ways = pool(only)
    for _ in range(20):
        ways.failed(only, "proxy_unreachable", NOW)
        assert ways.order(NOW) == [only]
        assert ways.wait(NOW) is None
    assert not ways.usable
    ways.succeeded(only, 0.1, NOW)
    assert ways.usable


def test_if_all_rest_the_one_nearest_its_end_is_tried_first():
    """Then the next to return: one of them may be back already."""
    ways = pool()
    fell(ways, A)
    fell(ways, B)
    ways.failed(A, "proxy_timeout", NOW + 1)  # until 1003
    ways.failed(B, "proxy_timeout", NOW + 1.5)  # until 1003.5
    fell(ways, C, NOW + 1.5)  # until 1002.5
    assert ways.order(NOW + 2) == [C, A, B]
    ways.failed(C, "proxy_timeout", NOW + 2.5)  # until 1004.5
    assert ways.order(NOW + 2.6) == [A, B, C]


def test_the_wait_is_that_of_the_first_to_return():
    """None while somebody can be tried."""
    ways = pool(A, B)
    assert ways.wait(NOW) is None
    fell(ways, A)
    assert ways.wait(NOW) is None
    fell(ways, B, NOW + 0.25)
    assert ways.wait(NOW + 0.25) == 0.75
    assert ways.wait(NOW + 1) is None


def test_usable_is_not_what_has_to_prove_itself():
    """A rest that is over does not make a proxy good; a success does."""
    ways = pool(A, B)
    fell(ways, A)
    assert ways.usable
    fell(ways, B)
    assert not ways.usable
    assert ways.wait(NOW + 5) is None
    assert not ways.usable
    ways.succeeded(B, None, NOW + 5)
    assert ways.usable


@pytest.mark.parametrize("policy", ["ordered", "fastest", "spread"])
def test_avoid_comes_last(policy):
    """Whatever the policy says; the others keep their order."""
    ways = pool(policy=policy)
    assert ways.order(NOW, avoid=A) == [B, C, A]
    assert ways.order(NOW, avoid=parse("http://d.test:1")) == WAYS


def test_avoid_is_tried_when_there_is_no_other():
    """It is better than one that rests, and than none."""
    ways = pool(A, B)
    fell(ways, B)
    assert ways.order(NOW, avoid=A) == [A]
    assert pool(A).order(NOW, avoid=A) == [A]


# --- repr


def test_a_pool_reads_like_a_status_line():
    """Name, policy, and of each way its state, its connect time and its streams."""
    ways = pool(A, B, DIRECT)
    ways.succeeded(A, 0.0124, NOW)
    ways.opened(A)
    ways.opened(A)
    ways.succeeded(B, 0.2, NOW)
    fell(ways, B)
    assert repr(ways) == (
        "Pool(hk, ordered: http://a.test:8080 up 12 ms 2 open,"
        " http://b.test:8080 down after 3 strikes (proxy_unreachable) 200 ms,"
        " direct untried)"
    )


def test_no_credential_is_shown():
    """Neither the user nor the password of a proxy."""
    ways = pool(parse("socks5h://somebody:s3cret@a.test:1080"))
    shown = repr(ways) + str(ways) + repr(ways.members) + repr(Secret("s3cret"))
    assert "s3cret" not in shown
    assert "somebody" not in shown
    assert "socks5h://a.test:1080" in shown


# --- always

steps = st.lists(
    st.tuples(
        st.sampled_from(["fail", "succeed", "reuse", "open", "wait"]),
        st.integers(0, 3),
        st.floats(0, 90, allow_nan=False),
    ),
    max_size=60,
)


@given(
    size=st.integers(1, 4),
    policy=st.sampled_from(["ordered", "fastest", "spread"]),
    chance=st.floats(0, 1),
    history=steps,
    avoid=st.one_of(st.none(), st.integers(0, 3)),
)
def test_whatever_happened(size, policy, chance, history, avoid):
    """Somebody is tried, each once, nobody else; waits and rests are over in 75 s."""
    ways = [*WAYS, DIRECT][:size]
    one = Pool("p", ways, policy, lambda: chance)
    now = NOW
    for kind, number, seconds in history:
        proxy = ways[number % size]
        if kind == "fail":
            rest = one.failed(proxy, "proxy_timeout", now)
            assert rest is None or 0.75 <= rest <= MOST
        elif kind == "wait":
            now += seconds
        elif kind == "open":
            one.opened(proxy)
        else:
            one.succeeded(proxy, seconds / 10 if kind == "succeed" else None, now)
        order = one.order(now, None if avoid is None else ways[avoid % size])
        assert order
        assert len(set(order)) == len(order)
        assert set(order) <= set(ways)
        wait = one.wait(now)
        assert wait is None or (size > 1 and 0 < wait <= MOST)
        assert wait is None or len(order) == 1
        assert set(one.order(now + MOST)) == set(ways), "a rest without an end"
        assert one.wait(now + MOST) is None
        assert repr(one)


@given(chances=st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_a_rest_is_never_shorter_than_the_one_before_by_more_than_the_jitter(chances):
    """The doubling wins over the jitter until the longest rest is reached."""
    turns = itertools.cycle(chances)
    ways, now = Pool("p", WAYS, "ordered", lambda: next(turns)), NOW
    rests = [fell(ways, A, now)]
    for _ in range(6):
        now += rests[-1]
        rests.append(ways.failed(A, "proxy_timeout", now))
    for number, rest in enumerate(rests):
        assert 0.75 * min(2**number, LONGEST) <= rest <= 1.25 * min(2**number, LONGEST)
