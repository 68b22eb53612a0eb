"""The frames of a stream that is not kept, between its upstream and its one reader.

A replay notifies its reader synchronously; the reader takes what it has room for.
What nobody took fills the window, and a full window is the sign to stop reading the upstream.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from service.core.events import Ending, Frame

if TYPE_CHECKING:
    from service.core.dialect import Dialect

WINDOW = 16 * 1024
"""Bytes that wait for a slow reader before the upstream is paused; with what the outlet, the
transport and the upstream's reader hold, a client that does not read costs 256 KiB at most."""


class Replay:
    """The frames that a reader has not taken yet, in this process's memory: nothing is kept."""

    __slots__ = ("_frames", "_reader", "_room", "_window", "dialect", "ending")

    live_from = 1

    def __init__(self, window: int = WINDOW) -> None:
        self.ending: Ending | None = None
        self.dialect: Dialect | None = None
        """What reads its frames."""
        self._window = window
        self._frames: list[Frame] = []
        self._reader: Callable[[], None] | None = None
        self._room: asyncio.Future[None] | None = None

    def append(self, frames: list[Frame]) -> None:
        """Take frames, and tell the reader."""
        if self._frames:
            self._frames += frames
        else:
            self._frames = frames
        if self._reader is not None:
            self._reader()

    def finish(self, ending: Ending) -> None:
        """Take the ending: nothing follows. Only the first one counts."""
        if self.ending is None:
            self.ending = ending
            if self._reader is not None:
                self._reader()

    def reader(self) -> "Replay":
        """Return its one reader, which is itself."""
        return self

    def follow(self, reader: Callable[[], None] | None) -> None:
        """Call this reader at once whenever there is something new; None: nobody reads now."""
        self._reader = reader

    def take(self) -> list[Frame]:
        """Return the frames that have come since the last call."""
        frames, self._frames = self._frames, []
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        return frames

    @property
    def behind(self) -> int:
        """Bytes that its reader has not taken."""
        return sum(len(frame.raw) for frame in self._frames) if self._frames else 0

    def close(self) -> None:
        """Read no more."""
        self._reader = None

    @property
    def full(self) -> bool:
        """Whether the upstream should be paused."""
        return bool(self._frames) and self.behind > self._window

    async def room(self) -> None:
        """Wait until a reader took something."""
        self._room = asyncio.get_running_loop().create_future()
        await self._room
