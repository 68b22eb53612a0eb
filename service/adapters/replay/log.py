"""The frames of a stream, between the upstream that sends them and the readers who follow.

    the upstream's reader ─▶ append · finish ─▶ Log ─▶ Reader: follow · take · ending
                                                 └───▶ Reader, from any frame on

A log notifies its readers synchronously; a reader takes what it has room for, at its own cursor.
A *kept* log holds all frames, so that a reader may begin anywhere. When the keeping ends, by a cap
or because a store is lost, the stream goes on: what the slowest reader has not taken fills the
window, a full window is the sign to stop reading the upstream, and nobody new may read.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from service.adapters.replay.unkept import WINDOW
from service.core.events import Ending, Frame
from service.core.keeping import FRAME_COST
from service.core.records import Facts
from service.errors import Failure


class Keeper(Protocol):
    """Who answers for what a log keeps."""

    def more(self, log: "Log") -> int:
        """Return how many bytes may be kept of it; 0, and it was released, if no more."""

    def finished(self, log: "Log") -> None:
        """Learn that it has ended."""

    def released(self, log: "Log") -> None:
        """Learn that it is no longer kept."""


class Log:
    """The frames of a stream that is kept; `owner`: the identity of the caller that it is of.

    on_watch   called with whether somebody reads, each time that this or `kept` changes, up to
               the end; at first nobody does
    on_stop    called when its owner wants the stream to end
    dialect    what has read its frames
    lost       why it is no longer kept; None while it is
    announced  set when it can be found elsewhere too, or never will; None: there is no elsewhere
    """

    __slots__ = (
        "_begun", "_keeper", "_readers", "_reserved", "_room", "_watchers", "announced",
        "dialect", "ending", "facts", "frames", "gone", "last", "lost", "name", "on_stop",
        "on_watch", "owner", "size",
    )  # fmt: skip

    def __init__(self, name: str, owner: str, facts: Facts, keeper: Keeper | None = None) -> None:
        self.name = name
        self.owner = owner
        self.facts = facts
        self.dialect = facts.dialect()
        self.ending: Ending | None = None
        self.lost: Failure | None = None
        self.announced: asyncio.Event | None = None
        self.on_watch: Callable[[bool], None] | None = None
        self.on_stop: Callable[[], None] | None = None
        self.size = 0
        """Bytes of all its frames."""
        self.last = 0
        """The number of its last frame; they count from 1, one after the other."""
        self._keeper = keeper
        self._reserved = float("inf") if keeper is None else 0
        self.frames: list[Frame] = []
        """Those that are held."""
        self.gone = 0
        """How many before them are held no longer."""
        self._readers: tuple[Reader, ...] = ()
        self._watchers = 0
        self._begun = False
        self._room: asyncio.Future[None] | None = None

    def append(self, frames: list[Frame]) -> None:
        """Take frames, and tell the readers."""
        self.frames += frames
        self.last += len(frames)
        size = self.size
        for frame in frames:
            size += len(frame.raw)
        self.size = size
        if size + FRAME_COST * self.last > self._reserved:
            self._grow()
        for reader in self._readers:
            reader.notify()

    def finish(self, ending: Ending) -> None:
        """Take the ending: nothing follows. Only the first one counts."""
        if self.ending is None:
            self.ending = ending
            self.on_watch = self.on_stop = None  # a log may be kept for long, its stream need not
            if self._keeper is not None:
                self._keeper.finished(self)
            self._notify()

    def stop(self) -> None:
        """End the stream: its owner wants it."""
        if self.ending is None and self.on_stop is not None:
            self.on_stop()

    @property
    def kept(self) -> bool:
        """Whether readers may begin at any frame."""
        return self.lost is None

    @property
    def watched(self) -> bool:
        """Whether somebody reads, here or on another instance."""
        return self._watchers > 0

    @property
    def weight(self) -> int:
        """Bytes of memory that it costs while it is kept."""
        return self.size + FRAME_COST * self.last

    def over(self, after: int) -> bool:
        """Tell whether who has the event of this number has all: it is the ending."""
        return self.ending is not None and after == self.ending.number

    def reader(self, after: int = 0, *, watches: bool = True) -> "Reader":
        """Return a reader of what follows the frame of that number.

        `watches`: False = one that does not count as somebody who reads.
        Raises Failure bad_request if no such frame has come (where the frames come from elsewhere
        it may be on its way: the reader waits for it); what `lost` says if it is no longer kept,
        but for its first reader, who may begin at the beginning.
        """
        self.check(after)
        reader = Reader(self, after, watches=watches)
        self._readers = (*self._readers, reader)
        if watches:
            self._begun = True
            self.join()
        return reader

    def check(self, after: int) -> None:
        """Raise what `reader` would."""
        if self.lost is not None and (self._begun or after):
            raise self.lost.with_traceback(None)
        newest = self.last if self.ending is None else self.ending.number
        if after > newest and self._keeper is not None:
            text = f"the stream has no event {after} yet: expected the id of one that it has sent"
            raise Failure("bad_request", text)

    def join(self) -> None:
        """Count one more who reads, wherever."""
        self._watchers += 1
        if self._watchers == 1:
            self._tell()

    def leave(self) -> None:
        """Count one less."""
        self._watchers -= 1
        if self._watchers == 0:
            self._tell()

    def release(self, why: Failure) -> None:
        """Keep it no longer: `why` is what those are told who come too late."""
        if self.lost is None:
            self.lost = why
            self._reserved = float("inf")
            if self._keeper is not None:
                self._keeper.released(self)
            self._notify()
            self.trim()
            if self._begun:  # who has not begun has not left
                self._tell()

    @property
    def full(self) -> bool:
        """Whether the upstream should be paused; never while all is kept."""
        return self.lost is not None and self.ending is None and self._waiting() > WINDOW

    async def room(self) -> None:
        """Wait until the window has room, or a reader took something or left."""
        self._room = asyncio.get_running_loop().create_future()
        await self._room

    def drop(self, reader: "Reader") -> None:
        """Forget a reader that is closed."""
        self._readers = tuple(other for other in self._readers if other is not reader)
        self.trim()
        if reader.watches:
            self.leave()

    def trim(self) -> None:
        """Let go what no reader will take, if nothing is kept."""
        if self.lost is None or not self._begun:
            return
        gone = min((reader.after for reader in self._readers), default=self.last) - self.gone
        if gone > 0:
            del self.frames[:gone]
            self.gone += gone
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _waiting(self) -> int:
        """Return the bytes that the slowest reader has not taken."""
        if not self._begun:
            return self.size
        return self.size - min((reader.taken for reader in self._readers), default=self.size)

    def _grow(self) -> None:
        """Ask for more room; without it the keeping ends."""
        if self._keeper is not None and self.lost is None:
            reserved = self._keeper.more(self)
            if reserved:
                self._reserved = reserved

    def _notify(self) -> None:
        for reader in self._readers:
            reader.notify()

    def _tell(self) -> None:
        if self.on_watch is not None and self.ending is None:
            self.on_watch(self._watchers > 0)


class Reader:
    """One who reads a log, at its own cursor.

    after       the number of the last frame that was taken
    taken       bytes of the stream up to there
    live_from   the number of the first frame that came after this reader began
    notify      called by the log when there is something new, or it is no longer kept
    """

    __slots__ = ("_closed", "_log", "after", "live_from", "notify", "taken", "watches")

    def __init__(self, log: Log, after: int, *, watches: bool = True) -> None:
        self.after = after
        self.watches = watches
        self.live_from = log.last + 1
        self.taken = sum(len(frame.raw) for frame in log.frames[: after - log.gone])
        self.notify: Callable[[], None] = _ignore
        self._log = log
        self._closed = False

    def follow(self, callback: Callable[[], None] | None) -> None:
        """Call back at once whenever there is something new; None: not now."""
        self.notify = callback or _ignore

    def take(self) -> list[Frame]:
        """Return what has come since the last call, about a WINDOW of it: call until it is empty.

        Nothing, once it is closed.
        """
        log = self._log
        if self._closed or self.after >= log.last:
            return []
        size, start = log.size, self.after - log.gone
        if size - self.taken <= WINDOW:
            frames = log.frames[start:]
            self.taken, self.after = size, log.last
        else:
            frames = self._window(start)
            self.after += len(frames)
        if log.lost is not None:
            log.trim()
        return frames

    def _window(self, start: int) -> list[Frame]:
        held = self._log.frames
        size, end = 0, start
        while size < WINDOW and end < len(held):
            size += len(held[end].raw)
            end += 1
        self.taken += size
        return held[start:end]

    @property
    def behind(self) -> int:
        """Bytes that it has not taken."""
        return self._log.size - self.taken

    @property
    def ending(self) -> Ending | None:
        """How the stream ended, once its last frame was taken."""
        return self._log.ending if self.after >= self._log.last else None

    def close(self) -> None:
        """Read no more; twice is once."""
        if not self._closed:
            self._closed = True
            self.notify = _ignore
            self._log.drop(self)


def _ignore() -> None:
    """Do nothing: nobody follows."""
