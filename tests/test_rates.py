"""What a caller may ask for and spend, in memory and in a Redis that several instances share."""

import asyncio
import os
import signal
import sys
from contextlib import ExitStack, asynccontextmanager, closing
from math import floor

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from limits.aio.storage import MemoryStorage
from structlog.testing import capture_logs

import real
from clock import PATIENCE
from service.adapters import rates as module
from service.adapters.rates import DAY, MINUTE, PAUSE, LocalRates, SharedRates, rates_of, wait

CANARY = "hunter2-canary"
LATER = 0.001


def uri(redis, password=""):
    """Return the URL of a Redis."""
    return f"redis://:{password}@127.0.0.1:{redis.port}/0" if password else redis.url("redis")


@pytest.fixture(autouse=True)
def _a_slow_machine_is_no_outage(monkeypatch):
    monkeypatch.setattr(module, "ANSWER_WITHIN", PATIENCE)


@pytest.fixture(params=["memory", "redis"])
async def rates(request, tmp_path):
    """Return rates of each storage in turn."""
    with ExitStack() as stack:
        where = "memory"
        if request.param == "redis":
            where = uri(stack.enter_context(real.redis_server(tmp_path)))
        rates = rates_of(where)
        yield rates
        await rates.close()


@pytest.fixture
async def in_memory():
    """Return rates in memory."""
    rates = rates_of()
    yield rates
    await rates.close()


@pytest.fixture
def wall(monkeypatch):
    """Stop the wall clock; a list of one number that the test moves."""
    now = [1_000_000_000.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    return now


async def spend(rates, *what):
    """Count tokens, and wait until it is done."""
    if (rest := rates.spend(*what)) is not None:
        await rest


@asynccontextmanager
async def closing_port():
    """Run a server that takes connections and closes them; yield its port and their list."""
    taken = []

    async def take(_, writer):
        taken.append(writer)
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], taken


async def test_lets_in_so_many_requests_a_minute(rates):
    """The limit's requests are let in; the next is told how long to wait, a minute or two."""
    assert [await rates.request("alice", 3) for _ in range(3)] == [None] * 3
    assert 0 < await rates.request("alice", 3) <= 2 * MINUTE


async def test_refused_requests_are_not_counted(in_memory, wall):
    """Who keeps asking while refused is let in no later."""
    await in_memory.request("alice", 1)
    first = await in_memory.request("alice", 1)
    for _ in range(10):
        wall[0] += 0.5
        again = await in_memory.request("alice", 1)
    assert again == pytest.approx(first - 5)


async def test_callers_do_not_share_a_limit(rates):
    """Each caller has a budget of requests and of tokens."""
    await rates.request("alice", 1)
    await spend(rates, "alice", 10, 10)
    assert await rates.request("alice", 1) is not None
    assert await rates.exhausted("alice", 10) is not None
    assert await rates.request("bob", 1) is None
    assert await rates.exhausted("bob", 10) is None


async def test_many_at_once_do_not_slip_through(rates):
    """Of 40 requests at the same time exactly the limit's are let in."""
    answers = await asyncio.gather(*(rates.request("alice", 7) for _ in range(40)))
    assert answers.count(None) == 7


async def test_a_changed_limit_counts_what_was_asked_before(rates):
    """After a reload the requests and tokens so far still count."""
    for _ in range(3):
        await rates.request("alice", 10)
    await spend(rates, "alice", 1000, 30)
    assert await rates.request("alice", 3) is not None
    assert await rates.request("alice", 4) is None
    assert await rates.exhausted("alice", 30) is not None
    assert await rates.exhausted("alice", 31) is None


@pytest.mark.parametrize("limit", [0, -1])
async def test_no_limit(rates, limit):
    """0 is no limit, whatever was asked and spent."""
    await spend(rates, "alice", limit, 10**6)
    assert [await rates.request("alice", limit) for _ in range(20)] == [None] * 20
    assert await rates.exhausted("alice", limit) is None


async def test_tokens_are_counted_until_the_budget_is_spent(rates):
    """Tokens add up, the last stream may go beyond; then it is refused for the rest of the day."""
    for spent in (40, 59):
        await spend(rates, "alice", 100, spent)
        assert await rates.exhausted("alice", 100) is None
    await spend(rates, "alice", 100, 500)
    assert DAY - MINUTE < await rates.exhausted("alice", 100) <= DAY + LATER


@pytest.mark.parametrize("tokens", [0, -5])
async def test_nothing_spent_begins_no_day(rates, tokens):
    """A stream without usage neither counts nor gives back."""
    await spend(rates, "alice", 1, 1)
    await spend(rates, "alice", 1, tokens)
    assert await rates.exhausted("alice", 1) is not None


async def test_a_day_begins_with_the_first_token(in_memory, wall):
    """24 hours after it the budget is whole again; spending does not prolong the day."""
    await spend(in_memory, "alice", 100, 60)
    wall[0] += DAY / 2
    await spend(in_memory, "alice", 100, 60)
    left = await in_memory.exhausted("alice", 100)
    assert left == pytest.approx(DAY / 2, abs=2 * LATER)
    wall[0] += left
    assert await in_memory.exhausted("alice", 100) is None
    await spend(in_memory, "alice", 100, 99)
    assert await in_memory.exhausted("alice", 100) is None


@pytest.mark.parametrize("limit", [1, 2, 7, 60])
async def test_who_waits_as_told_is_let_in(in_memory, wall, limit):
    """Over several minutes, each time the limit is reached: the seconds told are enough."""
    waited = 0.0
    for _ in range(5 * limit):
        wall[0] += 0.37
        if (seconds := await in_memory.request("alice", limit)) is not None:
            wall[0] += seconds
            waited += seconds
            assert await in_memory.request("alice", limit) is None
    assert waited > MINUTE


def fits(window, limit, later):
    """Say by the rule of limits whether a request fits so much later."""
    last, weighing, this, left = window
    if later >= left - MINUTE:
        last, weighing, this = this, left - later, 0
    else:
        weighing -= later
    return floor(max(last * weighing, 0) / MINUTE) + this < limit


@settings(deadline=None)
@given(
    last=st.integers(0, 500),
    this=st.integers(0, 500),
    limit=st.integers(1, 300),
    weighing=st.floats(0.1, MINUTE),
)
def test_the_wait_is_exact(last, this, limit, weighing):
    """After it a request fits, a moment before it does not."""
    window = (last, weighing, this, weighing + MINUTE)
    assume(not fits(window, limit, 0))
    seconds = wait(window, limit)
    assert fits(window, limit, seconds)
    assert not fits(window, limit, max(seconds - 2 * LATER, 0))


STEPS = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 0.25, 7, 20, 29.5, 60, 61, 119, 121, 300]),
        st.sampled_from(["alice", "bob"]),
        st.integers(1, 4),
    ),
    max_size=40,
)
"""Seconds that pass, who asks then, and so many a minute may be asked."""


@given(STEPS)
@example([(20, "alice", 2), (0, "alice", 2), (120, "alice", 2)])  # on the minute, and two later
def test_memory_counts_as_limits_does(steps):
    """One instance alone lets in whom several with limits and a Redis would."""

    async def let_in(ask):
        now, found = 1_000_000_000.0, []
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("time.time", lambda: now)
            for seconds, caller, limit in steps:
                now += seconds
                found.append(await ask(caller, limit))
        return found

    own, theirs = LocalRates(), MemoryStorage()

    async def by_ours(caller, limit):
        return await own.request(caller, limit) is None

    async def by_theirs(caller, limit):
        return await theirs.acquire_sliding_window_entry(caller, limit, MINUTE)

    ours, right = (asyncio.run(let_in(ask)) for ask in (by_ours, by_theirs))
    assert ours == right


async def test_a_clock_that_is_set_back_shuts_nobody_out(in_memory, wall):
    """After a jump to an earlier minute the count begins again."""
    assert await in_memory.request("alice", 1) is None
    assert await in_memory.request("alice", 1) is not None
    wall[0] -= 10 * MINUTE
    assert await in_memory.request("alice", 1) is None


async def test_instances_share_a_redis(tmp_path):
    """Two relays spend one budget, and a third one that starts later finds it spent."""
    with real.redis_server(tmp_path) as redis:
        one, two = rates_of(uri(redis)), rates_of(uri(redis))
        assert [await rates.request("alice", 2) for rates in (one, two)] == [None, None]
        assert await one.request("alice", 2) is not None
        assert await two.request("alice", 2) is not None
        await spend(one, "alice", 100, 60)
        await spend(two, "alice", 100, 60)
        await one.close()
        await two.close()
        three = rates_of(uri(redis))
        assert await three.exhausted("alice", 100) is not None
        assert await three.request("alice", 2) is not None
        await three.close()


async def test_a_redis_that_goes_lets_everybody_in_and_counts_again_when_it_is_back(
    tmp_path, clock
):
    """Killed in between: no request fails, one line says so, one that it is over."""
    with capture_logs() as logs:
        with real.redis_server(tmp_path) as redis:
            rates = rates_of(uri(redis), clock.now)
            await rates.request("alice", 1)
            await spend(rates, "alice", 1, 1)
            assert await rates.request("alice", 1) is not None
            os.kill(redis.pid, signal.SIGKILL)
        for _ in range(5):
            assert await rates.request("alice", 1) is None
            assert await rates.exhausted("alice", 1) is None
            await spend(rates, "alice", 1, 1)
            clock.advance(PAUSE)
        assert [line["log_level"] for line in logs] == ["warning"]
        assert logs[0]["store"] == f"127.0.0.1:{redis.port}"
        with real.redis_server(tmp_path, port=redis.port):
            assert await rates.request("alice", 1) is None
            assert await rates.request("alice", 1) is not None
            await rates.close()
        assert [line["log_level"] for line in logs] == ["warning", "info"]


async def test_a_restarted_redis_is_not_noticed(tmp_path):
    """A connection that went stale is made anew: no request slips through, nothing is logged."""
    with capture_logs() as logs:
        with real.redis_server(tmp_path) as redis:
            rates = rates_of(uri(redis))
            await rates.request("alice", 1)
        with real.redis_server(tmp_path, port=redis.port):
            assert await rates.request("alice", 1) is None
            assert await rates.request("alice", 1) is not None
            await rates.close()
    assert logs == []


async def test_a_redis_that_hangs_lets_in(tmp_path, monkeypatch):
    """A Redis that takes connections and says nothing is away too."""
    monkeypatch.setattr(module, "ANSWER_WITHIN", 0.1)
    with real.redis_server(tmp_path) as redis, ExitStack() as stack, capture_logs() as logs:
        os.kill(redis.pid, signal.SIGSTOP)
        stack.callback(os.kill, redis.pid, signal.SIGCONT)
        rates = rates_of(uri(redis))
        answers = await asyncio.gather(*(rates.request("alice", 1) for _ in range(50)))
        await rates.close()
    assert answers == [None] * 50
    assert len(logs) == 1


async def test_a_redis_that_is_away_is_asked_by_one_request_now_and_then(clock):
    """Nobody waits for it meanwhile: PAUSE seconds long nobody asks, then one does."""
    async with closing_port() as (port, taken):
        rates = rates_of(f"redis://127.0.0.1:{port}", clock.now)
        assert await rates.request("alice", 1) is None
        once = len(taken)
        assert once > 0
        clock.advance(PAUSE - 0.001)
        assert await rates.request("alice", 1) is None
        assert len(taken) == once
        clock.advance(0.001)
        assert await asyncio.gather(*(rates.request("alice", 1) for _ in range(5))) == [None] * 5
        assert len(taken) == 2 * once
        await rates.close()


async def test_a_wrong_password_lets_in_and_is_not_told(tmp_path):
    """The log says what is wrong; neither it nor repr tells the password."""
    with real.redis_server(tmp_path, password="right") as redis, capture_logs() as logs:
        rates = rates_of(uri(redis, CANARY))
        assert await rates.request("alice", 1) is None
        assert CANARY not in repr(rates)
        await rates.close()
        with_it = rates_of(uri(redis, "right"))
        await with_it.request("alice", 1)
        assert await with_it.request("alice", 1) is not None
        await with_it.close()
    assert len(logs) == 1
    assert "password" in logs[0]["error"]
    assert CANARY not in repr(logs)


@pytest.mark.parametrize("limit", [1, 100])
async def test_nothing_runs_on_after_close(rates, limit):
    """Neither a task nor a connection is left, whatever was asked before."""
    await asyncio.gather(*(rates.request("alice", limit) for _ in range(20)))
    await spend(rates, "alice", 1, 1)
    await rates.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    if isinstance(rates, SharedRates):
        assert not any(connection.is_connected for connection in connections(rates._pool))


def connections(pool):
    """Return the connections of a redis-py pool, of whatever version."""
    return [*pool._available_connections, *pool._in_use_connections]


async def test_close_without_a_request():
    """Nothing was opened, so that an absent Redis delays neither start nor end."""
    with closing(real.socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        rates = rates_of(f"redis://127.0.0.1:{bound.getsockname()[1]}")
        await rates.close()


@pytest.mark.parametrize(
    "where",
    [
        "",
        "Memory",
        "redis",
        "redis://",
        "http://127.0.0.1:6379",
        f"redis://:{CANARY}@127.0.0.1:port",
        f"redis://:can/{CANARY}@127.0.0.1",
        f"redis://:{CANARY}@redis..test",
        f"redis://:{CANARY}@127.0.0.1/0?bogus=1",
        f"redis://:{CANARY}@127.0.0.1/0?socket_timeout=soon",
    ],
)
def test_what_is_no_storage_is_refused(where):
    """Before the start, with what was expected and without what may hold a password."""
    with pytest.raises(ValueError, match=r"expected .*redis://127\.0\.0\.1:6379/0") as caught:
        rates_of(where)
    assert CANARY not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("missing", ["redis.asyncio", "limits.aio.storage"])
def test_without_the_extra_the_start_says_what_to_install(missing, monkeypatch):
    """Redis is an extra: memory needs nothing of it."""
    monkeypatch.setitem(sys.modules, missing, None)
    rates_of("memory")
    with pytest.raises(ValueError, match=r"pip install 'teleprinter\[redis\]'"):
        rates_of("redis://127.0.0.1")
