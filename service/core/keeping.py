"""What is kept of streams that may be read again: how much, and for whom.

Three caps, each 0 for none: bytes of one stream, streams of one caller, bytes in all. Room for a
new one is made by giving up the oldest that have ended; where that is not enough the new one is not
kept. That never touches the stream itself, which goes on to those who read it.
"""

from itertools import islice
from typing import Final, NamedTuple

FRAME_COST: Final = 256
"""Bytes that a frame costs beyond its own: its object, its event, the event's text (CPython 3.11:
216 for the shortest, 290 for a word)."""
STEP: Final = 16 * 1024
"""Bytes are reserved in such steps, so that nearly no frame has to ask for room."""


class Caps(NamedTuple):
    """Bytes of one stream, kept streams of one caller, bytes in all; 0 = no bound."""

    stream: int = 0
    per_caller: int = 0
    total: int = 0


class Room(NamedTuple):
    """Bytes that are reserved, and the streams to give up for it; or why there is no room."""

    reserved: int
    drop: tuple[str, ...] = ()
    refusal: str = ""


class _Entry:
    """A kept stream."""

    __slots__ = ("owner", "reserved")

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.reserved = 0


class _Owned:
    """What is kept of one caller: how many streams, and which of them have ended, in that order."""

    __slots__ = ("count", "ended")

    def __init__(self) -> None:
        self.count = 0
        self.ended: dict[str, None] = {}


class Ledger:
    """What is kept at the moment."""

    def __init__(self, caps: Caps = Caps()) -> None:  # noqa: B008  immutable
        self.caps = caps
        self.total = 0
        """Bytes that are reserved."""
        self._entries: dict[str, _Entry] = {}
        self._owned: dict[str, _Owned] = {}
        self._ended: dict[str, int] = {}  # in the order of their ends: bytes

    def open(self, name: str, owner: str) -> Room:
        """Reserve room for a stream that begins."""
        mine = self._owned.get(owner) or _Owned()
        drop: list[str] = []
        if self.caps.per_caller and mine.count >= self.caps.per_caller:
            drop = [*islice(mine.ended, 1)]
            if not drop:
                text = f"as many streams as one caller may have ({self.caps.per_caller}) are kept"
                return Room(0, refusal=text)
        return self._reserve(name, _Entry(owner), 0, drop)

    def grow(self, name: str, weight: int) -> Room:
        """Reserve room for a stream that has come to so many bytes."""
        cap = self.caps.stream
        if cap and weight > cap:
            return Room(0, refusal=f"it is longer than the {cap} bytes that are kept of one")
        return self._reserve(name, self._entries[name], weight, [])

    def end(self, name: str, weight: int) -> None:
        """Note that a stream has ended, with so many bytes: it may be given up now."""
        if (entry := self._entries.get(name)) is not None:
            self.total += weight - entry.reserved
            entry.reserved = self._ended[name] = weight
            self._owned[entry.owner].ended[name] = None

    def forget(self, name: str) -> None:
        """Give back what was reserved for a stream, if anything was."""
        if (entry := self._entries.pop(name, None)) is not None:
            self.total -= entry.reserved
            self._ended.pop(name, None)
            self._disown(name, entry.owner)

    def _reserve(self, name: str, entry: _Entry, weight: int, drop: list[str]) -> Room:
        reserved = (weight // STEP + 1) * STEP
        reserved = min(reserved, self.caps.stream or reserved)
        found = self._freed(reserved - entry.reserved, drop)
        if found is None:
            return Room(0, refusal=f"as much as may be kept in all ({self.caps.total} bytes) is")
        for one in found:
            self.forget(one)
        if name not in self._entries:
            self._entries[name] = entry
            self._owned.setdefault(entry.owner, _Owned()).count += 1
        self.total += reserved - entry.reserved
        entry.reserved = reserved
        return Room(reserved, found)

    def _disown(self, name: str, owner: str) -> None:
        mine = self._owned[owner]
        mine.count -= 1
        mine.ended.pop(name, None)
        if not mine.count:
            del self._owned[owner]

    def _freed(self, need: int, drop: list[str]) -> tuple[str, ...] | None:
        """Return what has to go for so many bytes, the oldest first; None if there is not enough.

        What is in `drop` goes in any case.
        """
        excess = self.total + need - self.caps.total if self.caps.total else 0
        excess -= sum(self._ended[one] for one in drop)
        others = (one for one in self._ended if one not in drop)
        found = list(drop)
        while excess > 0:
            if (oldest := next(others, None)) is None:
                return None
            found.append(oldest)
            excess -= self._ended[oldest]
        return tuple(found)
