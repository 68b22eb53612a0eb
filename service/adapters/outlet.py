"""The client's end of a stream: whole frames out, at the pace, with heartbeats between them.

One outlet serves one response. It takes frames from the replay only while it has room, so that a
client that reads slowly pauses the upstream and costs a bounded amount of memory.
"""

import asyncio
from collections.abc import Callable
from typing import Literal, Protocol

from aiohttp import web

from service.adapters.clock import Clock, Deadline, Timer
from service.adapters.push import Direct
from service.adapters.replay.unkept import WINDOW
from service.core.events import Ending, Frame
from service.core.pacing import Pace
from service.core.view import Piece, View

Form = Literal["blank", "line"]

HEARTBEATS: dict[Form, bytes] = {
    "blank": b": keep-alive\n\n",  # clients that split on blank lines need it
    "line": b": keep-alive\n",  # a blank line after an id crashes openai-python
}


class Reader(Protocol):
    """One reader's place in a replay.

    `behind`: bytes that were not taken; `ending`: how the stream ended, which comes after the last
    frame; `live_from`: the number of the first frame that came after this reader began.
    """

    live_from: int

    @property
    def behind(self) -> int: ...  # noqa: D102

    @property
    def ending(self) -> Ending | None: ...  # noqa: D102

    def follow(self, callback: Callable[[], None] | None, /) -> None: ...  # noqa: D102

    def take(self) -> list[Frame]: ...  # noqa: D102

    def close(self) -> None: ...  # noqa: D102


class Outlet:
    """Writes what a reader takes to a response.

    `heartbeat`: sent after `every` seconds of silence (0 = never); `queue`: bytes for the pace;
    `patience`: seconds that a write may take (0 = as long as it likes).
    """

    __slots__ = (
        "_beat_timer", "_buffer", "_clock", "_direct", "_ending", "_every", "_heartbeat",
        "_pace", "_pace_timer", "_patience", "_queue", "_reader", "_rings_at", "_view",
        "_waiter", "_written_at",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913  all are needed, none has a default that fits
        self,
        reader: Reader,
        view: View,
        pace: Pace | None,
        clock: Clock,
        *,
        heartbeat: bytes,
        every: float,
        queue: int,
        patience: float,
    ) -> None:
        self._reader = reader
        self._view = view
        self._pace = pace
        self._clock = clock
        self._heartbeat = heartbeat if every > 0 else b""
        self._every = every if heartbeat else 0
        self._patience = patience
        self._queue = queue if pace is not None else WINDOW
        self._buffer = bytearray()
        self._ending: Ending | None = None
        self._written_at = clock.now()
        self._waiter: asyncio.Future[None] | None = None
        self._pace_timer: Timer | None = None
        self._rings_at = float("inf")
        self._beat_timer: Timer | None = None
        self._direct: Direct | None = None

    def send(self, data: bytes) -> None:
        """Send bytes of the relay's own: a whole event or a comment."""
        self._buffer += data
        self._wake()

    def beat(self) -> None:
        """Send a heartbeat now: the response is opened before there is anything to say."""
        self.send(self._heartbeat)

    async def run(self, response: web.StreamResponse, direct: Direct | None = None) -> Ending:
        """Write until the stream's end has been written; return it.

        `direct`: writes at once what need not wait.
        Raises TimeoutError when the client does not take what it is sent.
        """
        self._direct = direct
        self._reader.follow(self._pass)
        self._arm_beat()
        try:
            async with Deadline(self._clock) as slow:
                return await self._run(response, slow)
        finally:
            self._close()

    async def _run(self, response: web.StreamResponse, slow: Deadline) -> Ending:
        self._pull()
        while True:
            while self._buffer:
                slow.restart(self._patience)
                await self._write(response)
                slow.stop()
            if self._ending is not None and self._due() is None:
                return self._ending
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    async def _write(self, response: web.StreamResponse) -> None:
        data, self._buffer = self._buffer, bytearray()
        self._written_at = self._clock.now()
        direct, self._direct = self._direct, None
        await response.write(data)
        self._direct = direct
        self._written_at = self._clock.now()
        self._pull()

    def _pass(self) -> None:
        """Write what has come as it is, where neither a pace nor anything unwritten holds it."""
        direct, reader, view = self._direct, self._reader, self._view
        if direct is None or self._buffer or self._ending is not None or self._pace is not None:
            self._pull()
            return
        frames = reader.take()
        data = view.data(frames[0]) if len(frames) == 1 else b"".join(map(view.data, frames))
        if direct.write(data):
            self._written_at = self._clock.now()
        else:
            self._buffer += data
        if self._buffer or reader.behind or not frames:
            self._pull()

    def _pull(self) -> None:
        """Take frames while there is room, and the ending behind the last one."""
        while self._ending is None and self._size() < self._queue:
            if frames := self._reader.take():
                for frame in frames:
                    self._put(frame)
            elif self._reader.ending is not None:
                self._end(self._reader.ending)
            else:
                break
        self._release()

    def _end(self, ending: Ending) -> None:
        self._ending = ending
        data = self._view.ending(ending)
        if self._pace is None:
            self._buffer += data
        else:
            self._pace.put(Piece(data, token=False), self._clock.now())

    def _size(self) -> int:
        return len(self._buffer) + (self._pace.size if self._pace is not None else 0)

    def _put(self, frame: Frame) -> None:
        """Hand a frame to the pace; at once goes what came before this reader did."""
        if self._pace is None or frame.number < self._reader.live_from:
            self._buffer += self._view.data(frame)
            return
        for piece in self._view.frame(frame):
            self._pace.put(piece, self._clock.now())

    def _release(self) -> None:
        """Move what is due from the pace to the wire."""
        if self._pace is not None and self._pace.due() is not None:
            self._buffer += self._pace.take(self._clock.now())
            self._arm_pace(self._pace.due())
        if self._buffer and self._direct is not None and self._direct.write(bytes(self._buffer)):
            self._buffer.clear()
            self._written_at = self._clock.now()
        if self._buffer or self._ending is not None:
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _due(self) -> float | None:
        return self._pace.due() if self._pace is not None else None

    def _arm_pace(self, due: float | None) -> None:
        """Ring when more is due; a timer that rings too early costs less than to put it off."""
        if due is None or due >= self._rings_at:
            return
        if self._pace_timer is not None:
            self._pace_timer.cancel()
        self._rings_at = due
        self._pace_timer = self._clock.call_at(due, self._ring)

    def _ring(self) -> None:
        """Release what is due; uvloop rounds to milliseconds and may ring a little too soon."""
        due, self._rings_at = self._rings_at, float("inf")
        if self._pace is not None:
            self._buffer += self._pace.take(max(due, self._clock.now()))
        self._pull()

    def _arm_beat(self) -> None:
        if self._every > 0:
            when = self._written_at + self._every
            self._beat_timer = self._clock.call_at(when, self._beat)

    def _beat(self) -> None:
        """Send a heartbeat if nothing was written for so long; look again later in any case."""
        if self._clock.now() >= self._written_at + self._every:
            self._written_at = self._clock.now()
            if not self._buffer:
                self.send(self._heartbeat)
        self._arm_beat()

    def _close(self) -> None:
        self._reader.follow(None)
        for timer in (self._pace_timer, self._beat_timer):
            if timer is not None:
                timer.cancel()
