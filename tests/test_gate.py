"""What a client sees of a stream before there is content: nothing."""

import asyncio

import pytest

from service.adapters.replay.unkept import WINDOW, Replay
from service.core.events import COMMENT, OPAQUE, Frame
from service.gate import Gate


def gate(clock, *, committed=False):
    """Return a gate and the replay behind it."""
    replay = Replay()
    made = Gate(replay, clock, committed=committed)
    made.start_over()
    return made, replay


def frames(*numbers, event=OPAQUE):
    """Return frames of these numbers."""
    return [Frame(number, b"data: %d\n\n" % number, event) for number in numbers]


async def is_ready(one):
    """Tell whether the response may begin."""
    task = asyncio.create_task(one.ready())
    await asyncio.sleep(0)
    done = task.done()
    task.cancel()
    await asyncio.wait([task])
    return done


@pytest.mark.parametrize("committed", [False, True])
async def test_frames_are_held_until_it_opens(clock, committed):
    """Also where the response has begun: what fails before can still be asked again."""
    one, replay = gate(clock, committed=committed)
    one.take(frames(1, 2), alive=True)
    assert replay.take() == []
    assert (await is_ready(one), one.released) == (committed, False)
    one.open()
    assert replay.take() == frames(1, 2)
    assert (await is_ready(one), one.released, one.flowing) == (True, True, True)
    one.take(frames(3), alive=True)
    assert replay.take() == frames(3)


async def test_what_is_held_is_forgotten_when_it_starts_over(clock):
    """The next attempt's frames are the first that a client sees."""
    one, replay = gate(clock)
    one.take(frames(1, 2), alive=True)
    assert one.start_over() == 2
    one.take(frames(1), alive=True)
    one.open()
    assert replay.take() == frames(1)


async def test_comments_take_nothing_back_from_the_next_attempt(clock):
    """Only data cannot be taken back."""
    one, _ = gate(clock)
    one.open()
    one.take(frames(1, event=COMMENT), alive=False)
    assert not one.released
    one.take(frames(2), alive=True)
    assert one.released


async def test_a_head_cannot_be_taken_back(clock):
    """A plain body is released with its head."""
    one, _ = gate(clock)
    one.plain = True
    one.open()
    assert one.released


async def test_no_more_than_a_window_is_held(clock):
    """More opens it."""
    one, replay = gate(clock)
    one.take([Frame(1, bytes(WINDOW), COMMENT)], alive=False)
    assert not one.opened
    one.take(frames(2), alive=True)
    assert one.opened
    assert [frame.number for frame in replay.take()] == [1, 2]


async def test_it_opens_at_a_set_time(clock):
    """The first time that was set counts; 0 sets none."""
    one, _ = gate(clock)
    one.open_after(0)
    assert clock.pending() == []
    one.open_after(5)
    one.open_after(1)
    clock.advance(4.9)
    assert not one.opened
    clock.advance(0.1)
    assert one.opened
    assert await is_ready(one)


async def test_the_time_can_be_called_off(clock):
    """What is to be a status again must not be opened."""
    one, _ = gate(clock)
    one.open_after(5)
    one.hold()
    assert clock.pending() == []
    clock.advance(5)
    assert not one.opened


@pytest.mark.parametrize(("shown", "seen"), [(True, [1]), (False, [])])
async def test_the_end_shows_what_is_held_or_drops_it(clock, shown, seen):
    """A refusal of its own takes the place of what came before."""
    one, replay = gate(clock)
    one.open_after(5)
    one.take(frames(1), alive=True)
    one.end(shown=shown)
    assert [frame.number for frame in replay.take()] == seen
    assert clock.pending() == []
    assert not await is_ready(one)
    one.ended()
    assert await is_ready(one)


async def test_a_second_attempt_flows_where_the_first_was_opened(clock):
    """But not where the response was an event stream from the start: there it may wait."""
    one, replay = gate(clock)
    one.open()
    one.start_over()
    one.take(frames(1), alive=True)
    assert replay.take() == frames(1)
    other, behind = gate(clock, committed=True)
    other.take(frames(1), alive=True)
    assert behind.take() == []
