"""Kept streams: one contract for all stores, in memory and in Redis, here and at an instance else.

Redis' own tests are in test_replay_redis.py.
"""

import asyncio
import random
from collections import Counter

import pytest

import real
from clock import PATIENCE
from relaying import settled
from replaying import (
    KINDS,
    Follower,
    Place,
    ending,
    failing,
    frame,
    frames,
    sent,
    stores,
    until,
)
from service.adapters.replay.log import Log
from service.adapters.replay.unkept import WINDOW, Replay
from service.core.keeping import FRAME_COST, STEP, Caps, Ledger
from service.core.records import Facts
from service.errors import Failure

LAST = 40


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory):
    """Run a Redis for this file's tests; each has streams of its own."""
    with real.redis_server(tmp_path_factory.mktemp("redis")) as redis:
        yield redis.url("redis")


@pytest.fixture(params=KINDS)
def kind(request):
    """Return each kind of place in turn."""
    return request.param


@pytest.fixture
def make(kind, request, redis_url):
    """Return what makes stores of each kind in turn."""
    return lambda *args, **options: stores(kind, redis_url, *args, **options)


@pytest.fixture
async def place(make):
    """Return a place of each kind in turn, without caps."""
    async with make() as place:
        yield place


@pytest.fixture
def name(request):
    """Return a name that no other test has."""
    return f"{request.node.name}-{random.getrandbits(64):x}"


@pytest.mark.both_loops
async def test_readers_get_all_frames_and_the_ending(place, name):
    """Each of several readers has every frame, byte for byte, in order, once, and the ending."""
    log = place.writes.open(name, "alice", Facts(model="m"))
    log.append(frames(1, 3))
    await sent(place.writes)
    followers = [await place.follow(name) for _ in range(3)]
    for number in range(4, LAST):
        log.append(frames(number, number))
        if number % 7 == 0:
            await asyncio.sleep(0)
    log.append(frames(LAST, LAST))
    log.finish(ending(LAST))
    for follower in followers:
        assert (await follower.ended()).number == LAST + 1
        assert [(one.number, one.raw) for one in follower.frames] == [
            (one.number, one.raw) for one in frames(1, LAST)
        ]
        follower.reader.close()


async def test_events_are_the_same_elsewhere(place, name):
    """The dialect that the facts name reads the frames again, where that is needed."""
    log = place.writes.open(name, "alice", Facts(path="messages", api="anthropic"))
    raws = [
        b'event: message_start\ndata: {"type":"message_start","message":{"model":"claude"}}\n\n',
        b'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"Hi"}}\n\n',
    ]
    log.append([type(frame(1))(n, raw, log.dialect.read(raw)) for n, raw in enumerate(raws, 1)])
    await sent(place.writes)
    found = await place.reads.find(name, "alice")
    follower = Follower(found.reader())
    await follower.has(2)
    assert [one.event.text for one in follower.frames] == ["", "Hi"]
    assert found.dialect.model == "claude"
    assert found.facts == Facts(path="messages", api="anthropic")
    follower.reader.close()


async def test_resumes_after_any_frame(place, name):
    """A reader that has seen N frames gets those from N + 1 on, whatever N is."""
    log = place.writes.open(name, "alice", Facts())
    log.append(frames(1, LAST))
    log.finish(ending(LAST))
    await sent(place.writes)
    found = await place.reads.find(name, "alice")
    for after in range(LAST + 2):
        follower = Follower(found.reader(after))
        assert follower.numbers == list(range(after + 1, LAST + 1))
        assert follower.ending is not None
        follower.reader.close()


async def test_catch_up_then_live_at_every_split(place, name):
    """Whatever had come when a reader begins: no gap, no double, and it knows what is live."""
    log = place.writes.open(name, "alice", Facts())
    followers = []
    for number in range(1, LAST + 1):
        followers.append((number, await _begin(place, name)))
        log.append(frames(number, number))
    log.finish(ending(LAST))
    for number, follower in followers:
        await follower.ended()
        assert follower.numbers == list(range(1, LAST + 1))
        assert follower.reader.live_from <= number
        follower.reader.close()


async def _begin(place: Place, name: str) -> Follower:
    await sent(place.writes)
    return await place.follow(name)


async def test_what_is_live_follows_what_had_come(place, name):
    """`live_from` is the number of the first frame that came after the reader began."""
    log = place.writes.open(name, "alice", Facts())
    log.append(frames(1, 5))
    await sent(place.writes)
    follower = await place.follow(name, after=2)
    assert follower.reader.live_from == 6
    assert follower.numbers == [3, 4, 5]
    follower.reader.close()


async def test_the_ending_comes_after_the_last_frame(place, name):
    """A reader that has not taken all does not see the ending, also with large frames."""
    log = place.writes.open(name, "alice", Facts())
    log.append([frame(number, "x" * WINDOW) for number in range(1, 6)])
    log.finish(ending(5))
    await sent(place.writes)
    reader = (await place.reads.find(name, "alice")).reader()
    taken = []
    while (found := reader.take()) != []:
        assert len(found) == 1
        taken += found
        assert (reader.ending is None) is (len(taken) < 5)
    assert len(taken) == 5
    reader.close()


async def test_an_ending_carries_what_it_says(place, name):
    """Outcome, summary and failure arrive whole."""
    log = place.writes.open(name, "alice", Facts())
    failure = Failure("upstream_error", "no", stage="stream", status=418, retry_after=3)
    given = ending(0, failure)
    given.summary.usage = {"total_tokens": 3}
    given.said = True
    log.finish(given)
    await sent(place.writes)
    found = (await place.follow(name)).ending
    assert found.failure.fields() == failure.fields()
    assert (found.failure.status, found.failure.retry_after) == (418, 3)
    assert (found.number, found.outcome, found.said) == (1, "cut", True)
    assert found.summary == given.summary


async def test_only_the_first_ending_counts(place, name):
    """What is said after the end is not heard."""
    log = place.writes.open(name, "alice", Facts())
    log.finish(ending(0))
    log.finish(ending(0, Failure("stopped", "too late")))
    await sent(place.writes)
    assert (await place.follow(name)).ending.failure is None


async def test_who_has_the_last_event_has_all(place, name):
    """The id of the ending is the stream's last, and no other one is."""
    log = place.writes.open(name, "alice", Facts())
    log.append(frames(1, 3))
    await sent(place.writes)
    assert not (await place.reads.find(name, "alice")).over(3)
    log.finish(ending(3))
    await sent(place.writes)
    found = await place.reads.find(name, "alice")
    assert [found.over(after) for after in (3, 4, 5)] == [False, True, False]


async def test_an_event_that_was_not_sent_is_no_place_to_resume(name):
    """Where the frames come from is known: nobody can have had what did not come."""
    async with stores("memory", "") as place:
        log = place.writes.open(name, "alice", Facts())
        log.append(frames(1, 3))
        with pytest.raises(Failure, match="no event 4 yet") as caught:
            log.reader(4)
        assert caught.value.code == "bad_request"
        log.finish(ending(3))
        log.check(4)
        with pytest.raises(Failure, match="no event 5 yet"):
            log.check(5)


async def test_a_stream_belongs_to_its_caller(place, name):
    """Another caller's is not found, neither to read nor to stop; an unknown one is gone."""
    log = place.writes.open(name, "alice", Facts())
    stopped = []
    log.on_stop = lambda: stopped.append(1)
    await sent(place.writes)
    for question in (place.reads.find, place.reads.stop):
        with pytest.raises(Failure) as caught:
            await question(name, "bob")
        assert (caught.value.code, caught.value.status) == ("not_found", 404)
        with pytest.raises(Failure) as caught:
            await question(f"{name}-not", "alice")
        assert (caught.value.code, caught.value.status) == ("stream_gone", 410)
    await settled()
    assert stopped == []


async def test_stop_reaches_who_reads_the_upstream(place, name):
    """From wherever it is asked; what the stream then ends with reaches the readers."""
    log = place.writes.open(name, "alice", Facts())
    log.append(frames(1, 2))
    log.on_stop = lambda: log.finish(ending(2, Failure("stopped", "asked for")))
    await sent(place.writes)
    follower = await place.follow(name)
    await place.reads.stop(name, "alice")
    assert (await follower.ended()).failure.code == "stopped"
    assert follower.numbers == [1, 2]
    follower.reader.close()


async def test_stop_forgets_what_has_ended(place, name):
    """A stream that is over is gone when its owner deletes it; who reads it reads on."""
    log = place.writes.open(name, "alice", Facts())
    log.append(frames(1, 2))
    log.finish(ending(2))
    await sent(place.writes)
    reader = (await place.reads.find(name, "alice")).reader()
    await place.reads.stop(name, "alice")
    for store in (place.reads, place.writes):
        await failing(store, name, "stream_gone")
    assert Follower(reader).numbers == [1, 2]
    reader.close()


async def test_the_writer_knows_whether_anybody_reads(place, name):
    """It is told when the first reader comes and when the last one leaves, wherever they are."""
    log = place.writes.open(name, "alice", Facts())
    told = []
    log.on_watch = told.append
    await sent(place.writes)
    first, second = [await place.follow(name) for _ in range(2)]
    await until(lambda: told == [True])
    first.reader.close()
    await sent(place.reads)
    assert log.watched
    second.reader.close()
    second.reader.close()
    await until(lambda: told == [True, False])
    third = await place.follow(name)
    await until(lambda: told == [True, False, True])
    third.reader.close()
    await until(lambda: not log.watched)


async def test_a_kept_stream_is_read_on_without_readers(place, name):
    """Nothing pauses it: what a reader does not take is there when it comes back."""
    log = place.writes.open(name, "alice", Facts())
    lazy = log.reader()
    log.append([frame(number, "x" * WINDOW) for number in range(1, 6)])
    assert not log.full
    lazy.close()
    await sent(place.writes)
    log.append([frame(6)])
    await sent(place.writes)
    follower = await place.follow(name)
    assert follower.numbers == [1, 2, 3, 4, 5, 6]
    follower.reader.close()


async def test_what_ended_is_gone_after_a_time(make, name):
    """It is held for `retain`; what goes on stays."""
    async with make(retain=0.2) as place:
        over = place.writes.open(name, "alice", Facts())
        place.writes.open(f"{name}-live", "alice", Facts())
        over.append(frames(1, 2))
        over.finish(ending(2))
        await sent(place.writes)
        await place.later(0.2)
        assert "ask the question again" in str(await failing(place.reads, name, "stream_gone"))
        await place.reads.find(f"{name}-live", "alice")


async def test_retention_is_exact(name):
    """In memory: to the moment, and counted from the end."""
    async with stores("memory", "", retain=5) as place:
        log = place.writes.open(name, "alice", Facts())
        place.clock.advance(60)
        log.finish(ending(0))
        place.clock.advance(4.999)
        await place.reads.find(name, "alice")
        place.clock.advance(0.001)
        await failing(place.reads, name, "stream_gone")


async def test_no_retention(name):
    """With 0 a stream is gone with its end; who reads it has it all."""
    async with stores("memory", "", retain=0) as place:
        log = place.writes.open(name, "alice", Facts())
        reader = log.reader()
        log.append(frames(1, 2))
        log.finish(ending(2))
        await failing(place.reads, name, "stream_gone")
        assert Follower(reader).numbers == [1, 2]


async def test_a_stream_that_is_too_long_goes_on_unkept(make, name):
    """At the cap the keeping ends: readers go on to the end, nobody else may begin."""
    async with make(Caps(stream=STEP)) as place:
        log = place.writes.open(name, "alice", Facts())
        told = []
        log.on_watch = told.append
        here = Follower(log.reader())
        await sent(place.writes)
        log.append([frame(1, "x" * (STEP - 2 * FRAME_COST))])
        assert log.kept
        log.append([frame(2, "x" * FRAME_COST)])
        assert not log.kept
        assert told == [True, True]
        with pytest.raises(Failure, match=str(STEP)) as caught:
            log.reader(1)
        assert caught.value.code == "stream_gone"
        await sent(place.writes)
        assert "not kept" in str(await failing(place.reads, name, "stream_gone"))
        log.append(frames(3, LAST))
        log.finish(ending(LAST))
        assert here.numbers == list(range(1, LAST + 1))
        assert here.ending is not None
        here.reader.close()


async def test_so_many_streams_of_one_caller_are_kept(make, name):
    """The caller's oldest that has ended makes room; while all go on the next one is not kept."""
    async with make(Caps(per_caller=2)) as place:
        logs = [place.writes.open(f"{name}-{n}", "alice", Facts()) for n in range(3)]
        assert [log.kept for log in logs] == [True, True, False]
        assert place.writes.open(f"{name}-bob", "bob", Facts()).kept
        logs[1].finish(ending(0))
        await sent(place.writes)
        await place.reads.find(f"{name}-1", "alice")
        assert place.writes.open(f"{name}-3", "alice", Facts()).kept
        await sent(place.writes)
        await failing(place.reads, f"{name}-1", "stream_gone")
        for still in (0, 3):
            await place.reads.find(f"{name}-{still}", "alice")


async def test_so_many_bytes_are_kept_in_all(make, name):
    """The oldest that ended go first; when all go on, the one that grows is kept no longer."""
    async with make(Caps(total=4 * STEP)) as place:
        logs = [place.writes.open(f"{name}-{n}", "alice", Facts()) for n in range(4)]
        assert all(log.kept for log in logs)
        assert not place.writes.open(f"{name}-4", "bob", Facts()).kept
        for log in (logs[2], logs[0]):
            log.append([frame(1, "x" * (STEP // 2))])
            log.finish(ending(1))
        await sent(place.writes)
        logs[1].append([frame(1, "x" * STEP)])
        logs[1].append([frame(2, "x" * STEP)])
        assert logs[1].kept
        await sent(place.writes)
        for gone in (2, 0):
            await failing(place.reads, f"{name}-{gone}", "stream_gone")
        logs[1].append([frame(3, "x" * STEP)])
        assert not logs[1].kept
        assert logs[3].kept


async def test_a_stream_that_is_not_kept_serves_its_first_reader(make, name):
    """Refused the keeping, it is a stream with one reader: from its beginning, window and all."""
    async with make(Caps(per_caller=1)) as place:
        place.writes.open(f"{name}-1", "alice", Facts())
        log = place.writes.open(name, "alice", Facts())
        log.append([frame(1, "x" * WINDOW)])
        assert log.full
        reader = log.reader()
        with pytest.raises(Failure, match="not kept"):
            log.reader()
        waiting = asyncio.ensure_future(log.room())
        await settled()
        assert not waiting.done()
        assert [one.number for one in reader.take()] == [1]
        async with asyncio.timeout(PATIENCE):
            await waiting
        assert not log.full
        assert log.frames == []
        reader.close()
        assert not log.watched


async def test_the_slowest_reader_pauses_what_is_not_kept(make, name):
    """When the keeping has ended, the window of the slowest counts; leaving makes room."""
    async with make(Caps(stream=2 * STEP)) as place:
        log = place.writes.open(name, "alice", Facts())
        fast, slow = Follower(log.reader()), log.reader()
        log.append([frame(1, "x" * 3 * STEP)])
        assert log.full
        assert fast.numbers == [1]
        waiting = asyncio.ensure_future(log.room())
        await settled()
        slow.close()
        async with asyncio.timeout(PATIENCE):
            await waiting
        assert not log.full
        log.append(frames(2, LAST))
        assert log.frames == []
        fast.reader.close()


async def test_bounds_may_be_changed(make, name):
    """New ones hold for what begins or grows from then on."""
    async with make() as place:
        log = place.writes.open(name, "alice", Facts())
        place.writes.adopt(Caps(stream=STEP, per_caller=1), 0)
        assert not place.writes.open(f"{name}-2", "alice", Facts()).kept
        log.append([frame(1, "x" * STEP)])
        assert not log.kept


async def test_nobody_is_told_of_readers_after_the_end(place, name):
    """Who reads what is over is no matter of the upstream's."""
    log = place.writes.open(name, "alice", Facts())
    told = []
    log.on_watch = told.append
    await sent(place.writes)
    follower = await place.follow(name)
    await until(lambda: told == [True])
    log.finish(ending(0))
    await follower.ended()
    follower.reader.close()
    late = await place.follow(name)
    late.reader.close()
    await sent(place.reads)
    assert told == [True]


async def test_who_has_not_begun_to_read_has_not_left(place, name):
    """A stream that is too long to be kept before its reader is there waits for the reader."""
    place.writes.adopt(Caps(stream=STEP), 0)
    log = place.writes.open(name, "alice", Facts())
    told = []
    log.on_watch = told.append
    log.append([frame(1, "x" * STEP)])
    assert not log.kept
    assert told == []
    reader = log.reader()
    assert told == [True]
    assert [one.number for one in reader.take()] == [1]
    reader.close()
    assert told == [True, False]


async def test_a_closed_reader_gets_nothing(place, name):
    """It is neither called nor given what comes; to follow None is only to be called no more."""
    log = place.writes.open(name, "alice", Facts())
    called = []
    reader = log.reader()
    reader.follow(lambda: called.append(1))
    log.append(frames(1, 1))
    reader.follow(None)
    log.append(frames(2, 2))
    assert len(called) == 1
    assert [one.number for one in reader.take()] == [1, 2]
    reader.close()
    log.append(frames(3, 3))
    assert reader.take() == []
    assert len(called) == 1


async def test_the_same_name_twice_is_refused(place, name):
    """Names are unguessable: one that comes again is a fault."""
    place.writes.open(name, "alice", Facts())
    with pytest.raises(ValueError, match="already"):
        place.writes.open(name, "alice", Facts())


async def test_nothing_is_left_after_close(make, name):
    """Neither a task nor a stream; the timers are cancelled."""
    before = asyncio.all_tasks()
    async with make() as place:
        log = place.writes.open(name, "alice", Facts())
        log.finish(ending(0))
        await sent(place.writes)
        await place.reads.find(name, "alice")
    assert asyncio.all_tasks() == before
    if place.clock is not None:
        assert place.clock.pending() == []


def test_a_replay_is_its_own_reader():
    """What nobody keeps has one reader, from the first frame on."""
    replay = Replay()
    reader = replay.reader()
    follower = Follower(reader)
    replay.append(frames(1, 2))
    replay.finish(ending(2))
    assert (follower.numbers, reader.live_from) == ([1, 2], 1)
    assert follower.ending is not None
    reader.close()


def test_the_ledger_adds_up():
    """Whatever happens in whatever order, the sum is that of what is kept, below the cap."""
    dice = random.Random(1)  # noqa: S311  the same each time
    caps = Caps(stream=8 * STEP, per_caller=6, total=20 * STEP)
    ledger, live, over = Ledger(caps), {}, set()
    for turn in range(3000):
        room = None
        match dice.randrange(4):
            case 0:
                name, owner = str(turn), dice.choice("ab")
                room = ledger.open(name, owner)
                live[name] = 0
            case 1 if live:
                name = dice.choice(list(live))
                live[name] += dice.randrange(2 * STEP)
                room = ledger.grow(name, live[name])
            case 2 if live:
                name, weight = live.popitem()
                ledger.end(name, weight)
                over.add(name)
            case 3 if over:
                ledger.forget(over.pop())
        if room is not None:
            assert (room.reserved > 0) is (not room.refusal)
            assert set(room.drop) <= over
            over -= set(room.drop)
            if room.refusal:
                ledger.forget(name)
                del live[name]
            else:
                assert room.reserved >= live[name]
        assert ledger.total <= caps.total
        assert ledger._entries.keys() == live.keys() | over
        owners = Counter(entry.owner for entry in ledger._entries.values())
        assert owners == {owner: mine.count for owner, mine in ledger._owned.items()}
        assert over == {name for mine in ledger._owned.values() for name in mine.ended}
        assert ledger.total == sum(entry.reserved for entry in ledger._entries.values())


def test_no_more_is_given_up_than_is_needed():
    """What one caller's bound frees counts for the bound of all."""
    ledger = Ledger(Caps(per_caller=2, total=4 * STEP))
    for name, owner in [("old", "bob"), ("a", "alice"), ("b", "alice"), ("c", "bob")]:
        assert ledger.open(name, owner).reserved == STEP
    for name in ("old", "a"):
        ledger.end(name, STEP)
    assert ledger.open("new", "alice").drop == ("a",)


def test_a_log_without_a_store_is_kept_whole():
    """What is filled from elsewhere is bounded there."""
    log = Log("s", "alice", Facts())
    log.append([frame(number, "x" * STEP) for number in range(1, 100)])
    assert log.kept
    assert Follower(log.reader(50)).numbers == list(range(51, 100))
