"""The streams that are under way: by name, in all, and of each caller."""

import asyncio

from service.errors import Failure
from service.streams import Streams


class Stub:
    """A stream that ends when it is told to."""

    def __init__(self, name, caller):
        self.name = name
        self.caller = caller
        self.why = None
        self.task = asyncio.create_task(asyncio.Event().wait())

    def end(self, failure=None):
        """End, for that reason."""
        self.why = failure
        self.task.cancel()


async def gone(*stubs):
    """End these, and wait until it is known."""
    for stub in stubs:
        stub.end()
    await asyncio.wait([stub.task for stub in stubs])
    await asyncio.sleep(0)


async def test_it_knows_those_under_way():
    """By name, in all, and of each caller; no longer once they are done."""
    streams = Streams()
    one, two, three = (streams.add(Stub(n, c)) for n, c in [("1", "a"), ("2", "a"), ("3", "b")])
    assert (len(streams), streams.of("a"), streams.of("b"), streams.of("c")) == (3, 2, 1, 0)
    assert streams.get("2") is two
    assert list(streams) == [one, two, three]
    await gone(one)
    assert (len(streams), streams.of("a"), streams.get("1")) == (2, 1, None)
    await gone(two, three)
    assert (len(streams), streams.of("a"), streams.of("b")) == (0, 0, 0)
    assert streams._callers == {}, "nothing is kept of callers who are gone"


async def test_waiting_for_their_end(clock):
    """Until none is left, and not longer than is allowed."""
    streams = Streams()
    stub = streams.add(Stub("1", "a"))
    waiting = asyncio.create_task(streams.ended(clock, 10))
    await asyncio.sleep(0)
    clock.advance(9)
    await asyncio.sleep(0)
    assert not waiting.done()
    clock.advance(1)
    await waiting
    assert len(streams) == 1
    waiting = asyncio.create_task(streams.ended(clock, 10))
    await gone(stub)
    await waiting
    assert len(streams) == 0


async def test_closing_ends_them_all():
    """Each is told why; nothing of them is left."""
    streams = Streams()
    stubs = [streams.add(Stub(str(n), "a")) for n in range(3)]
    why = Failure("draining", "the relay is shutting down")
    await streams.close(why)
    assert all(stub.task.done() and stub.why is why for stub in stubs)
    await asyncio.sleep(0)
    assert len(streams) == 0
    await streams.close(why)
