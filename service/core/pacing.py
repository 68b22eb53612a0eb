"""Strategies of the pace: what to release, and how long to hold the rest.

Rule 1: pieces leave in the order in which they came.
Rule 2: only tokens are held; any other piece waits for no more than the tokens before it.
"""

from collections import deque
from typing import Protocol

from service.core.view import Piece


class Pace(Protocol):
    """A queue with a sense of time; seconds on the caller's clock."""

    size: int
    """Bytes held."""

    def put(self, piece: Piece, now: float) -> None:
        """Take a piece."""

    def take(self, now: float) -> bytes:
        """Return what is due, joined."""

    def due(self) -> float | None:
        """Return when more is due; None if nothing is held."""


class Typewriter:
    """A token every `delay` seconds, the first at once: the only pace that may lag without end."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._held: deque[tuple[float, bytes]] = deque()
        self._last = float("-inf")
        self._next = float("-inf")
        self.size = 0

    def put(self, piece: Piece, now: float) -> None:
        """Take a piece and fix the moment at which it leaves."""
        when = max(now, self._last)
        if piece.token:
            when = max(when, self._next)
            self._next = when + self._delay
        self._last = when
        self._held.append((when, piece.data))
        self.size += len(piece.data)

    def take(self, now: float) -> bytes:
        """Return what is due, joined."""
        ready = []
        while self._held and self._held[0][0] <= now:
            ready.append(self._held.popleft()[1])
        data = b"".join(ready)
        self.size -= len(data)
        return data

    def due(self) -> float | None:
        """Return when more is due; None if nothing is held."""
        return self._held[0][0] if self._held else None


def strategy(name: str, delay: float) -> Pace | None:
    """Return the pace of that name; None for `off`. `delay` in seconds."""
    return Typewriter(delay) if name == "typewriter" else None
