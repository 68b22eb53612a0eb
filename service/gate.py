"""What a client sees of a stream, and from when on: nothing, before there is something to see.

    frames ─▶ held ─┬─ open ─▶ replay      the first content, a plain body's head, the end,
                    │                      more than a WINDOW, or too long a wait
                    └─ start over          what has failed before is asked again

While the gate is shut, what fails can still be answered with a status.
"""

import asyncio

from service.adapters.clock import Clock, Timer
from service.adapters.replay.log import Log
from service.adapters.replay.unkept import WINDOW, Replay
from service.core.events import Frame


class Gate:
    """Between an upstream's frames and the replay that clients read.

    opened     the client's response may begin, or has begun
    released   some of the answer went through: it cannot be taken back
    flowing    frames go through as they come
    plain      what comes is a body whose head goes out at the opening

    `committed`: the response is an event stream already, so that whatever fails is an event.
    """

    __slots__ = (
        "_clock", "_committed", "_ended", "_held_size", "_replay", "_timer", "_waiter", "flowing",
        "held", "opened", "plain", "released",
    )  # fmt: skip

    def __init__(self, replay: Replay | Log, clock: Clock, *, committed: bool) -> None:
        self.opened = committed
        self.released = self.flowing = self.plain = False
        self.held: list[Frame] = []
        self._held_size = 0
        self._committed = committed
        self._replay = replay
        self._clock = clock
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None
        self._timer: Timer | None = None

    async def ready(self) -> None:
        """Wait until the client's response may begin, or nothing more can come; one may wait."""
        if not (self.opened or self._ended):
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
            self._waiter = None

    def start_over(self) -> int:
        """Forget what is held; return how many frames it was."""
        lost, self.held = len(self.held), []
        self._held_size = 0
        self.plain = False
        self.flowing = self.released or (self.opened and not self._committed)
        return lost

    def open_after(self, seconds: float) -> None:
        """Open by then at the latest, if that was not said before; 0: do not."""
        if self._timer is None and not self.opened and seconds > 0:
            self._timer = self._clock.call_at(self._clock.now() + seconds, self.open)

    def hold(self) -> None:
        """Open at no set time any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def take(self, frames: list[Frame], *, alive: bool) -> None:
        """Let frames through, or hold them; `alive`: some carry data."""
        if self.flowing:
            self.released = self.released or alive
            self._replay.append(frames)
            return
        self.held += frames
        self._held_size += sum(len(frame.raw) for frame in frames)
        if self._held_size > WINDOW:
            self.open()

    def open(self) -> None:
        """Let the client's response begin, with what was held."""
        self.opened = True
        self.released = self.released or self.plain
        self.hold()
        self._wake()
        self._flow()

    def end(self, *, shown: bool) -> None:
        """Nothing follows; what is held goes out only if it is to be `shown`."""
        self.hold()
        if shown or self.opened:
            self._flow()

    def ended(self) -> None:
        """Let who waits go on: the replay has its ending."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _flow(self) -> None:
        held, self.held = self.held, []
        self.flowing = True
        if held:
            self.released = self.released or any(frame.event.data for frame in held)
            self._replay.append(held)
