"""Kept streams in Redis: what happens between instances, and when one of them or Redis goes.

What is true of every store is in test_replay.py.
"""

import asyncio
import os
import random
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

import program
import real
from clock import PATIENCE
from relaying import settled
from replaying import Follower, ending, failing, frame, frames, sent, stores, until
from service.adapters.clock import LoopClock
from service.adapters.replay import redis as module
from service.adapters.replay.redis import RedisStore
from service.adapters.replay.shared import inbox_key, lease_key, stream_key
from service.core.keeping import Caps
from service.core.records import Facts
from service.errors import Failure

HERE = Path(__file__).parent
CANARY = "hunter2-canary"
LAST = 30
THIRD = 3


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    """Run a Redis that the tests of this file share; each has streams of its own."""
    with real.redis_server(tmp_path_factory.mktemp("redis")) as redis:
        yield redis


@pytest.fixture
async def admin(redis):
    """Look into that Redis."""
    async with Redis(port=redis.port, protocol=2) as admin:
        yield admin


@pytest.fixture
def name(request):
    """Return a name that no other test has."""
    return f"{request.node.name}-{random.getrandbits(64):x}"


@pytest.fixture
async def place(redis):
    """Return two instances: one that writes and one that reads."""
    async with stores("elsewhere", redis.url("redis")) as place:
        yield place


async def begun(place, name, last=3):
    """Write so many frames; return the log, and one who has them elsewhere."""
    log = place.writes.open(name, "alice", Facts(model="m", upstream="u"))
    log.append(frames(1, last))
    await sent(place.writes)
    follower = await place.follow(name)
    await follower.has(last)
    return log, follower


@pytest.mark.both_loops
async def test_a_writer_that_is_killed_is_a_cut(place, redis, name):
    """Its readers elsewhere get upstream_cut, and so does who comes later; all frames are there."""
    path = f"{HERE.parent}:{HERE}"
    command = [sys.executable, str(HERE / "writing.py"), redis.url("redis"), name, str(LAST)]
    async with program.running(*command, stdin=asyncio.subprocess.PIPE, PYTHONPATH=path) as writer:
        assert await writer.line() == "written"
        follower = await place.follow(name)
        await follower.has(LAST)
        assert follower.ending is None
        writer.process.kill()
        found = await follower.ended()
    assert (found.failure.code, found.outcome) == ("upstream_cut", "cut")
    assert found.summary.first_token_ms is not None
    assert (found.summary.model, found.summary.upstream) == ("m", "u")
    follower.reader.close()
    later = Follower((await place.writes.find(name, "alice")).reader())
    assert later.numbers == list(range(1, LAST + 1))
    assert later.ending.failure.code == "upstream_cut"


def test_a_dead_writer_is_known_within_5_seconds():
    """A lease that was just renewed, a beat that just missed its end, and the command."""
    assert module.LEASE + module.BEAT + module.ANSWER_WITHIN / 2 <= 5
    assert module.LEASE > 2 * module.BEAT


async def test_redis_killed_in_mid_stream_and_started_again(tmp_path, name):
    """Readers here go on, those elsewhere are told; nobody resumes; then streams are kept again."""
    with ExitStack() as stack, capture_logs() as logs:
        redis = stack.enter_context(real.redis_server(tmp_path))
        async with stores("elsewhere", redis.url("redis")) as place:
            log, elsewhere = await begun(place, name)
            here = Follower(log.reader())
            os.kill(redis.pid, signal.SIGKILL)
            log.append(frames(4, 10))
            assert (await elsewhere.ended()).failure.code == "resume_lost"
            assert elsewhere.numbers[:3] == [1, 2, 3]
            for store in (place.writes, place.reads):
                failure = await failing(store, name, "resume_lost")
                assert "Redis (TELEPRINTER_STORE)" in failure.message
                assert failure.status == 503
            await until(lambda: not log.kept)
            with pytest.raises(Failure, match="ask the question again"):
                log.reader(3)
            assert not place.writes.open(f"{name}-away", "alice", Facts()).kept
            log.append(frames(11, LAST))
            log.finish(ending(LAST))
            assert here.numbers == list(range(1, LAST + 1))
            assert here.ending.failure is None
            told = [(line["log_level"], line["store"]) for line in logs]
            assert told == [("warning", f"127.0.0.1:{redis.port}")] * 2
            stack.enter_context(real.redis_server(tmp_path, port=redis.port))
            await until(lambda: not (place.writes.away or place.reads.away))
            _, again = await begun(place, f"{name}-again")
            again.reader.close()
            here.reader.close()
        assert [line["log_level"] for line in logs] == ["warning"] * 2 + ["info"] * 2


async def test_a_redis_that_hangs_is_away(tmp_path, name):
    """It takes connections and says nothing: readers are told within the time it may take."""
    with real.redis_server(tmp_path) as redis, ExitStack() as stack:
        async with stores("elsewhere", redis.url("redis"), within=0.2) as place:
            log, elsewhere = await begun(place, name)
            os.kill(redis.pid, signal.SIGSTOP)
            stack.callback(os.kill, redis.pid, signal.SIGCONT)
            assert (await elsewhere.ended()).failure.code == "resume_lost"
            await until(lambda: not log.kept)


async def test_without_redis_from_the_start(dead_port, name):
    """The stream goes on unkept: its first reader misses nothing."""
    async with stores("redis", f"redis://127.0.0.1:{dead_port}") as place:
        log = place.writes.open(name, "alice", Facts())
        log.append(frames(1, 2))
        await until(lambda: not log.kept)
        reader = Follower(log.reader())
        log.append(frames(3, 3))
        assert reader.numbers == [1, 2, 3]
        assert (await failing(place.reads, name, "resume_lost")).status == 503
        reader.reader.close()


async def test_a_writer_that_was_taken_for_dead_is_fenced(redis, admin, name):
    """Should it live after all, its entries are refused; its own readers go on unharmed."""
    url = redis.url("redis")
    async with (
        stores("redis", url, beat=PATIENCE, lease=PATIENCE) as slow,
        stores("redis", url) as other,
    ):
        log = slow.writes.open(name, "alice", Facts())
        log.append(frames(1, 3))
        here = Follower(log.reader())
        await sent(slow.writes)
        elsewhere = await other.follow(name)
        await admin.delete(lease_key(slow.writes.name))
        assert (await elsewhere.ended()).failure.code == "upstream_cut"
        log.append(frames(4, 5))
        await until(lambda: not log.kept)
        assert "took this one for dead" in log.lost.message
        assert here.numbers == [1, 2, 3, 4, 5]
        assert slow.writes.open(f"{name}-next", "alice", Facts()).kept
        here.reader.close()
        elsewhere.reader.close()
        found = (await other.follow(name)).ending
        assert found.failure.code == "upstream_cut"


async def test_who_was_ahead_waits_for_what_follows(place, name):
    """A client can have had frames of the writer that are not here yet: none comes twice."""
    log, follower = await begun(place, name)
    ahead = await place.follow(name, after=5)
    log.append(frames(4, 8))
    await ahead.has(8)
    assert ahead.numbers == [6, 7, 8]
    for one in (follower, ahead):
        one.reader.close()


async def test_a_cut_is_told_to_who_was_ahead(place, admin, name):
    """The number of its ending is none that a frame can have had: nobody has it all by chance."""
    _, follower = await begun(place, name)
    await admin.delete(lease_key(place.writes.name), stream_key(name))
    cut = await follower.ended()
    for after in range(3, 10):
        assert not follower.reader._log.over(after)
        late = Follower(follower.reader._log.reader(after))
        assert (late.numbers, late.ending) == ([], cut)
        late.reader.close()
    assert follower.reader._log.over(cut.number)
    follower.reader.close()


async def test_nobody_waits_for_a_beat(redis, name):
    """What is written arrives when it is written, however long the reading could wait."""
    slow = {"beat": 2 * PATIENCE, "lease": 5 * PATIENCE}
    async with stores("elsewhere", redis.url("redis"), **slow) as place:
        log, follower = await begun(place, name)
        log.append(frames(4, 5))
        await follower.has(5)
        await until(lambda: log.watched)
        log.finish(ending(5))
        await follower.ended()
        assert place.writes._watching == {}
        assert place.reads._feed.mirrors == set()
        follower.reader.close()


async def test_a_fault_of_the_relay_is_not_the_end(place, name, monkeypatch):
    """What nobody thought of is logged, costs the kept streams, and new ones are kept again."""
    log, follower = await begun(place, name)
    monkeypatch.setattr(place.reads._feed, "_fill", lambda *_: 1 / 0)
    with capture_logs() as logs:
        log.append(frames(4, 4))
        assert (await follower.ended()).failure.code == "resume_lost"
        monkeypatch.undo()
        await until(lambda: not place.reads.away)
    assert [line["log_level"] for line in logs] == ["error", "warning", "info"]
    _, again = await begun(place, f"{name}-again")
    again.reader.close()


async def test_an_answer_of_before_a_loss_is_no_return(redis, name, monkeypatch):
    """A beat that was answered just before Redis went does not say that it is back."""
    sends, away = module.pipeline, []

    async def pipeline(*asked):
        away.append(store.away)
        answers = await sends(*asked)
        if len(away) == THIRD:
            store._lose(OSError("gone"))
        return answers

    monkeypatch.setattr(module, "pipeline", pipeline)
    async with stores("redis", redis.url("redis")) as place:
        store = place.writes
        store._read = asyncio.Event().wait  # nothing else is in flight
        with capture_logs() as logs:
            store.open(name, "alice", Facts())
            await until(lambda: len(away) > THIRD + 1)
    assert away[: THIRD + 1] == [False] * THIRD + [True]
    assert [line["log_level"] for line in logs] == ["warning", "info"]


async def test_a_second_writer_of_a_name_is_refused(place, name):
    """Whoever opens it second writes nothing; the first one's readers see none of it."""
    _, follower = await begun(place, name)
    second = place.reads.open(name, "mallory", Facts())
    second.append([frame(1, "mine")])
    await until(lambda: not second.kept)
    assert follower.numbers == [1, 2, 3]
    follower.reader.close()


async def test_a_stream_that_redis_forgot_is_lost(place, admin, name):
    """Evicted or flushed: its readers elsewhere are told, and the writer begins no new torso."""
    log, follower = await begun(place, name)
    await admin.delete(stream_key(name))
    assert (await follower.ended()).failure.code == "resume_lost"
    log.append(frames(4, 4))
    await until(lambda: not log.kept)
    assert await admin.exists(stream_key(name)) == 0
    assert (await failing(place.writes, name, "resume_lost")).retryable is False


@pytest.mark.parametrize("fields", [{"7": "x"}, {"e": "{"}, {"e": '{"outcome":1}'}])
async def test_a_gap_is_never_silent(place, admin, name, fields):
    """An entry that is not the next one, or that is none, ends the reading."""
    _, follower = await begun(place, name)
    await admin.xadd(stream_key(name), fields, id="7-0" if "7" in fields else "4-0")
    assert (await follower.ended()).failure.code == "resume_lost"
    assert follower.numbers == [1, 2, 3]
    follower.reader.close()
    await failing(place.reads, name, "resume_lost")


async def test_a_beginning_that_is_none(place, admin, name):
    """An entry that no relay writes: the stream is lost, and nobody is told whose it is."""
    await admin.xadd(stream_key(name), {"b": "{"})
    await failing(place.reads, name, "resume_lost")
    with pytest.raises(Failure) as caught:
        await place.reads.owner(name, b"ticket")
    assert caught.value.code == "resume_lost"
    await admin.delete(stream_key(name))  # which no relay would ever do


async def test_a_question_finds_out_that_redis_is_away(dead_port, name):
    """Who asks first is told so, before any beat was missed."""
    async with stores("redis", f"redis://127.0.0.1:{dead_port}") as place:
        with pytest.raises(Failure) as caught:
            await place.reads.find(name, "alice")
        assert (caught.value.code, place.reads.away) == ("resume_lost", True)


async def test_what_waits_for_a_slow_redis_is_bounded(tmp_path, name):
    """Beyond the backlog the stream is kept no longer; who reads it here reads on."""
    with real.redis_server(tmp_path) as redis, ExitStack() as stack:
        async with stores("redis", redis.url("redis"), within=PATIENCE, backlog=10_000) as place:
            log = place.writes.open(name, "alice", Facts())
            here = Follower(log.reader())
            log.append(frames(1, 3))
            await sent(place.writes)
            os.kill(redis.pid, signal.SIGSTOP)
            stack.callback(os.kill, redis.pid, signal.SIGCONT)
            for number in range(4, 500):
                log.append(frames(number, number))
                await asyncio.sleep(0)
                if not log.kept:
                    break
            assert "too slow" in log.lost.message
            assert sum(len(one.raw) for one in here.frames) < 30_000
            log.append(frames(number + 1, number + 5))
            assert here.numbers == list(range(1, number + 6))
            here.reader.close()
            os.kill(redis.pid, signal.SIGCONT)


async def test_many_readers_need_few_connections(redis, place, admin, name):
    """50 streams read elsewhere: as many connections as for one."""
    names = [f"{name}-{n}" for n in range(50)]
    logs = [place.writes.open(each, "alice", Facts()) for each in names]
    await sent(place.writes)
    followers = await asyncio.gather(*(place.follow(each) for each in names))
    for number in range(1, 6):
        for log in logs:
            log.append(frames(number, number))
        await asyncio.sleep(0)
    for log in logs:
        log.finish(ending(5))
    for follower in followers:
        await follower.ended()
        assert follower.numbers == [1, 2, 3, 4, 5]
        follower.reader.close()
    me = 1
    assert len(await admin.client_list()) <= 2 * (module.CONNECTIONS + 1) + me


async def test_what_comes_in_one_turn_is_one_entry(place, admin, name):
    """Frames of a tick are sent together, however many appends they were."""
    log = place.writes.open(name, "alice", Facts())
    for number in range(1, LAST + 1):
        log.append(frames(number, number))
    log.finish(ending(LAST))
    await sent(place.writes)
    assert await admin.xlen(stream_key(name)) == 3
    follower = await place.follow(name)
    assert follower.numbers == list(range(1, LAST + 1))


async def test_many_who_resume_at_once_share_what_is_read(place, name):
    """Each gets all of it, also while it is being written."""
    log, first = await begun(place, name)
    following = asyncio.gather(*(place.follow(name, after=n % 4) for n in range(20)))
    for number in range(4, LAST + 1):
        log.append(frames(number, number))
        await asyncio.sleep(0)
    log.finish(ending(LAST))
    for n, follower in enumerate(await following):
        await follower.ended()
        assert follower.numbers == list(range(n % 4 + 1, LAST + 1))
        follower.reader.close()
    first.reader.close()


@pytest.mark.both_loops
async def test_dropped_20_times_and_resumed_at_any_instance(place, name):
    """500 tokens, read on each time where the last line was dropped: byte for byte the stream."""
    dice = random.Random(3)  # noqa: S311  the same each time
    log = place.writes.open(name, "alice", Facts())
    writing = asyncio.ensure_future(_write(log, 500))
    drops = sorted(dice.sample(range(1, 500), 20))
    got = []
    for drop in [*drops, 500]:
        await sent(place.writes)
        store = dice.choice([place.writes, place.reads])
        follower = Follower((await store.find(name, "alice")).reader(len(got)))
        await until(lambda: len(got) + len(follower.frames) >= drop)  # noqa: B023
        got += follower.frames[: drop - len(got)]
        if drop == 500:
            assert (await follower.ended()).failure is None
        follower.reader.close()
    await writing
    assert [one.raw for one in got] == [one.raw for one in frames(1, 500)]


async def _write(log, last):
    for number in range(1, last + 1):
        log.append(frames(number, number))
        await asyncio.sleep(0.001)
    log.finish(ending(last))


async def test_a_reading_instance_that_dies_reads_no_longer(redis, name):
    """The writer learns from its lease that nobody reads there any more."""
    url = redis.url("redis")
    async with stores("redis", url) as writing, stores("redis", url) as reading:
        log = writing.writes.open(name, "alice", Facts())
        await sent(writing.writes)
        follower = await reading.follow(name)
        await until(lambda: log.watched)
        for task in reading.writes._tasks:
            task.cancel()
        await until(lambda: not log.watched)
        follower.reader.close()


async def test_a_reader_that_comes_while_redis_goes_is_told(tmp_path, name):
    """Found, then lost before anybody read: the reading ends at once, not never."""
    with real.redis_server(tmp_path) as redis:
        async with stores("elsewhere", redis.url("redis")) as place:
            place.writes.open(name, "alice", Facts())
            await sent(place.writes)
            found = await place.reads.find(name, "alice")
            os.kill(redis.pid, signal.SIGKILL)
            await until(lambda: place.reads.away)
            assert (await Follower(found.reader()).ended()).failure.code == "resume_lost"


async def test_streams_expire(redis, admin, name):
    """What goes on is renewed; what ended stays for `retain`; nothing stays for ever."""
    async with stores("redis", redis.url("redis"), retain=2.0) as place:
        log = place.writes.open(name, "alice", Facts())
        await sent(place.writes)
        low = await admin.pttl(stream_key(name))
        assert 0 < low <= 2 * (2000 + 1500)
        async with asyncio.timeout(PATIENCE):
            while (left := await admin.pttl(stream_key(name))) <= low:
                assert left > 0
                low = left
        log.finish(ending(0))
        await sent(place.writes)
        assert 0 < await admin.pttl(stream_key(name)) <= 2000
    names = [key async for key in admin.scan_iter("teleprinter:*")]
    assert all([await admin.pttl(key) > 0 for key in names])
    assert not await admin.exists(lease_key(place.writes.name))


async def test_an_ending_is_sent_before_the_store_closes(redis, name):
    """A relay that shuts down tells readers elsewhere why, and is not taken for dead."""
    async with stores("redis", redis.url("redis")) as reading:
        async with stores("redis", redis.url("redis")) as writing:
            log = writing.writes.open(name, "alice", Facts())
            await sent(writing.writes)
            follower = await reading.follow(name)
            log.append(frames(1, LAST))
            log.finish(ending(LAST, Failure("draining", "the relay is shutting down")))
        assert (await follower.ended()).failure.code == "draining"
        assert follower.numbers == list(range(1, LAST + 1))
        follower.reader.close()


async def test_nothing_is_left_after_close(tmp_path, name):
    """No connection of the store's is left in Redis."""
    with real.redis_server(tmp_path) as redis:
        async with stores("elsewhere", redis.url("redis")) as place:
            log, follower = await begun(place, name)
            follower.reader.close()
            log.finish(ending(3))
        async with Redis(port=redis.port, protocol=2) as admin:
            async with asyncio.timeout(PATIENCE):
                while len(await admin.client_list()) > 1:  # noqa: ASYNC110  Redis tells nobody
                    await asyncio.sleep(0.01)


async def test_close_without_a_stream(dead_port):
    """Nothing was opened, so that an absent Redis delays neither start nor end."""
    store = RedisStore(f"redis://127.0.0.1:{dead_port}", LoopClock(), Caps(), 1)
    await store.close()
    assert not store.away


async def test_a_wrong_password_is_not_told(tmp_path, name):
    """Neither the log nor a failure nor repr tells it; the log says what is wrong."""
    with real.redis_server(tmp_path, password="right") as redis, capture_logs() as logs:
        url = f"redis://:{CANARY}@127.0.0.1:{redis.port}/0"
        async with stores("redis", url) as place:
            place.writes.open(name, "alice", Facts())
            failure = await failing(place.writes, name, "resume_lost")
            assert CANARY not in f"{failure!r}{place.writes!r}"
        url = f"redis://:right@127.0.0.1:{redis.port}/0"
        async with stores("redis", url) as place:
            log = place.writes.open(name, "alice", Facts())
            await sent(place.writes)
            assert log.kept
    assert "password" in logs[0]["error"]
    assert CANARY not in repr(logs)


@pytest.mark.parametrize(
    "url",
    ["", "memory", "redis://", "http://127.0.0.1", f"redis://:{CANARY}@127.0.0.1:port",
     f"redis://:{CANARY}@127.0.0.1/0?bogus=1"],
)  # fmt: skip
async def test_what_is_no_redis_is_refused(url):
    """Before the start, with what was expected and without what may hold a password."""
    with pytest.raises(ValueError, match=r"expected .*redis://") as caught:
        RedisStore(url, LoopClock(), Caps(), 1)
    assert CANARY not in str(caught.value)


async def test_without_the_extra_the_start_says_what_to_install(monkeypatch):
    """Redis is an extra."""
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ValueError, match=r"pip install 'teleprinter\[redis\]'"):
        RedisStore("redis://127.0.0.1", LoopClock(), Caps(), 1)


async def test_messages_for_streams_that_are_not_here_are_ignored(place, admin, name):
    """An instance that begins to read what has ended meanwhile disturbs nobody."""
    log, follower = await begun(place, name)
    inbox = inbox_key(place.writes.name)
    for what in ("watch", "leave", "stop", "forget", "wake", "?"):
        await admin.xadd(inbox, {"do": what, "of": "x", "by": "y"})
    await admin.xadd(inbox, {"do": "forget", "of": name})
    log.append(frames(4, 4))
    await follower.has(4)
    await settled()
    assert log.kept
    follower.reader.close()
