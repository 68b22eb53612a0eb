"""Time is injected: a deadline is asyncio.timeout with somebody else's clock."""

import asyncio

import pytest

from clock import PATIENCE, FakeClock
from service.adapters.clock import Deadline, LoopClock, sleep

NEVER = asyncio.Event


async def turns(count=5):
    """Let every task that can go on go on."""
    for _ in range(count):
        await asyncio.sleep(0)


class Waiting:
    """A task that waits for ever inside a Deadline; `outcome` says how it ended."""

    def __init__(self, clock, seconds):
        self.deadline = Deadline(clock, seconds)
        self.outcome = "waiting"
        self.task = asyncio.create_task(self._run())

    async def _run(self):
        try:
            async with self.deadline:
                await NEVER().wait()
        except TimeoutError:
            self.outcome = "timeout"
        except asyncio.CancelledError:
            self.outcome = "cancelled"
            raise

    async def __aenter__(self):
        await turns()
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        await asyncio.wait([self.task])


class TestDeadline:
    """`async with Deadline(clock, seconds)`."""

    @pytest.mark.both_loops
    async def test_it_expires_at_its_time(self, clock):
        """Not a moment before; then the body is cancelled, and TimeoutError comes out."""
        async with Waiting(clock, 5) as waiting:
            clock.advance(4.999)
            await turns()
            assert waiting.outcome == "waiting"
            clock.advance(0.001)
            await turns()
            assert waiting.outcome == "timeout"
        assert clock.pending() == []

    @pytest.mark.parametrize("seconds", [0, -1])
    async def test_zero_is_never(self, clock, seconds):
        """Off means that nothing is waited for."""
        async with Waiting(clock, seconds) as waiting:
            assert clock.pending() == []
            clock.advance(1e6)
            await turns()
            assert waiting.outcome == "waiting"

    async def test_restart_puts_it_off(self, clock):
        """It counts from now again; the old moment passes."""
        async with Waiting(clock, 5) as waiting:
            clock.advance(4)
            waiting.deadline.restart(5)
            clock.advance(4.999)
            await turns()
            assert waiting.outcome == "waiting"
            clock.advance(0.001)
            await turns()
            assert waiting.outcome == "timeout"
        assert clock.pending() == []

    async def test_to_put_it_off_costs_no_timer(self, clock):
        """However often it is restarted, there is one timer."""
        async with Waiting(clock, 5) as waiting:
            for _ in range(100):
                clock.advance(0.01)
                waiting.deadline.restart(5)
            assert clock.pending() == [1005.0]
            clock.advance(4)
            assert clock.pending() == [1006.0]

    async def test_what_is_heard_puts_it_off(self, clock):
        """It counts from the last moment that it is told when time is up."""
        heard = clock.now()
        async with Waiting(clock, 0) as waiting:
            waiting.deadline.restart(5, lambda: heard)
            clock.advance(4)
            heard = clock.now()
            clock.advance(4.999)
            await turns()
            assert waiting.outcome == "waiting"
            assert clock.pending() == [1009.0]
            clock.advance(0.001)
            await turns()
            assert waiting.outcome == "timeout"

    @pytest.mark.parametrize("then", ["restart", "stop"])
    async def test_what_is_heard_no_longer_counts(self, clock, then):
        """After a restart without it, or a stop, nobody is asked any more."""
        async with Waiting(clock, 0) as waiting:
            waiting.deadline.restart(5, clock.now)
            waiting.deadline.restart(5) if then == "restart" else waiting.deadline.stop()
            clock.advance(5)
            await turns()
            assert waiting.outcome == ("timeout" if then == "restart" else "waiting")
            assert clock.pending() == []

    async def test_restart_to_a_nearer_moment(self, clock):
        """The nearer moment counts, and the farther timer is gone."""
        async with Waiting(clock, 100) as waiting:
            waiting.deadline.restart(5)
            assert clock.pending() == [1005.0]
            clock.advance(5)
            await turns()
            assert waiting.outcome == "timeout"

    async def test_restart_after_never(self, clock):
        """A deadline that began without an end may get one."""
        async with Waiting(clock, 0) as waiting:
            waiting.deadline.restart(5)
            clock.advance(5)
            await turns()
            assert waiting.outcome == "timeout"

    @pytest.mark.parametrize("off", ["stop", "restart"])
    async def test_stop(self, clock, off):
        """A stopped deadline never expires; its old timer rings in vain and is not set again."""
        async with Waiting(clock, 5) as waiting:
            waiting.deadline.stop() if off == "stop" else waiting.deadline.restart(0)
            clock.advance(1e6)
            await turns()
            assert waiting.outcome == "waiting"
            assert clock.pending() == []

    async def test_restart_after_stop(self, clock):
        """It counts from the restart, whether the old timer has rung or not."""
        async with Waiting(clock, 5) as waiting:
            for pause in (1, 10):
                waiting.deadline.stop()
                clock.advance(pause)
                waiting.deadline.restart(5)
                clock.advance(4.999)
                await turns()
                assert waiting.outcome == "waiting"
            clock.advance(0.001)
            await turns()
            assert waiting.outcome == "timeout"

    @pytest.mark.both_loops
    async def test_cancellation_from_outside(self, clock):
        """It stays cancellation, and leaves no timer."""
        async with Waiting(clock, 5) as waiting:
            waiting.task.cancel()
            await turns()
            assert waiting.outcome == "cancelled"
            assert waiting.task.cancelled()
            assert clock.pending() == []

    async def test_cancellation_at_the_same_moment(self, clock):
        """Who is cancelled while the deadline expires is cancelled."""
        async with Waiting(clock, 5) as waiting:
            clock.advance(5)
            waiting.task.cancel()
            await turns()
            assert waiting.task.cancelled()

    async def test_the_body_ends_in_time(self, clock):
        """Nothing happens afterwards, and no timer is left."""
        async with Deadline(clock, 5) as deadline:
            assert clock.pending() == [1005.0]
            deadline.restart(7)
        assert clock.pending() == []
        clock.advance(100)
        await turns()
        assert not asyncio.current_task().cancelling()

    async def test_the_body_ends_in_the_last_moment(self, clock):
        """A body that needs to wait no more has made it."""
        async with Deadline(clock, 5):
            clock.advance(5)
        await turns()
        assert not asyncio.current_task().cancelling()

    async def test_what_the_body_raises(self, clock):
        """It comes out, and no timer is left."""
        with pytest.raises(LookupError):
            async with Deadline(clock, 5):
                raise LookupError
        assert clock.pending() == []

    async def test_a_timeout_of_the_body_is_its_own(self, clock):
        """A TimeoutError from within passes as it is."""
        with pytest.raises(TimeoutError, match="the body's own"):
            async with Deadline(clock, 5):
                raise TimeoutError("the body's own")
        assert clock.pending() == []

    async def test_one_in_another(self, clock):
        """The inner one's end is not the outer one's."""
        async with Deadline(clock, 10):
            inner = asyncio.create_task(clock.armed(1005.0))
            inner.add_done_callback(lambda _: clock.advance(5))
            with pytest.raises(TimeoutError):
                async with Deadline(clock, 5):
                    await NEVER().wait()
            assert clock.pending() == [1010.0]
        assert clock.pending() == []


class TestSleep:
    """`await sleep(clock, seconds)`."""

    async def test_it_lasts_so_long(self, clock):
        """Not a moment less."""
        sleeping = asyncio.create_task(sleep(clock, 5))
        await clock.armed(1005.0)
        clock.advance(4.999)
        await turns()
        assert not sleeping.done()
        clock.advance(0.001)
        await asyncio.wait_for(sleeping, PATIENCE)
        assert clock.pending() == []

    async def test_cancellation(self, clock):
        """It leaves no timer."""
        sleeping = asyncio.create_task(sleep(clock, 5))
        await clock.armed(1005.0)
        sleeping.cancel()
        await asyncio.wait([sleeping])
        assert sleeping.cancelled()
        assert clock.pending() == []


class RecordingLoop:
    """A loop that notes what is asked of it."""

    def __init__(self):
        self.called = []

    def time(self):
        """Return the time."""
        return 77.0

    def call_at(self, when, callback):
        """Note a call."""
        self.called.append((when, callback))
        return "timer"


@pytest.mark.both_loops
class TestLoopClock:
    """The running event loop's own clock."""

    async def test_it_asks_the_loop(self, monkeypatch):
        """Time and timers are the loop's."""
        loop = RecordingLoop()
        monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
        clock = LoopClock()
        assert clock.now() == 77.0
        assert clock.call_at(78.0, print) == "timer"
        assert loop.called == [(78.0, print)]

    async def test_it_calls_back(self):
        """A moment that is past comes at once, one that is cancelled never."""
        clock, woken, rung = LoopClock(), asyncio.Event(), []
        clock.call_at(clock.now() - 2, lambda: rung.append("cancelled")).cancel()
        clock.call_at(clock.now() - 1, woken.set)
        await asyncio.wait_for(woken.wait(), PATIENCE)
        await turns()
        assert rung == []

    async def test_a_deadline_by_it(self):
        """The real clock ends a wait too."""
        with pytest.raises(TimeoutError):
            async with Deadline(LoopClock(), 0.001):
                await NEVER().wait()


class EagerClock(FakeClock):
    """A clock whose timers ring a little too early, as event loops round them."""

    def call_at(self, when, callback):
        """Ring a millisecond before its time, but not before now."""
        return super().call_at(max(when - 0.001, self.now()), callback)


async def test_a_timer_that_rings_early():
    """The deadline looks at the clock, and waits on."""
    clock = EagerClock()
    async with Waiting(clock, 5) as waiting:
        timer = waiting.deadline._timer
        assert timer.when == 1004.999
        clock._now = timer.when
        timer.callback()
        await turns()
        assert waiting.outcome == "waiting"
        clock._now = 1005.0
        waiting.deadline._timer.callback()
        await turns()
        assert waiting.outcome == "timeout"
