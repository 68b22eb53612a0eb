"""Strategies of the pace: what to release, and how long to hold the rest.

Rule 1: pieces leave in the order in which they came.
Rule 2: only tokens are held; any other piece waits for no more than the tokens before it.
"""

from collections import deque
from typing import Final, Protocol

from service.core.view import Piece, Text
from service.core.words import word_end


class Pace(Protocol):
    """A queue with a sense of time; seconds on the caller's clock, which never goes back."""

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

    __slots__ = ("_delay", "_held", "_last", "_next", "size")

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


_APART: Final = 0.002
"""Seconds; tokens that come closer together came in one lump, however many reads it took."""
_LUMP: Final = 0.02
"""Seconds in which a lump has come; what goes on for longer is a fast stream."""
_FLUENT: Final = 0.02
"""Seconds between arrivals that look fluent as they are, 50 a second: nothing is held."""
_COARSE: Final = 0.1
"""Seconds between arrivals from which on a long text is cut."""
_TICK: Final = 0.004
"""Seconds, at least, from one release to the next."""
_REMEMBERED: Final = 8
"""Gaps between lumps by which the next one is foreseen."""
_JERK: Final = 8
"""Tokens that may leave at once where a lump was the last one; more leave as they were to."""
_RESERVE: Final = 1.1
"""Times the usual gap, over which a lump is spread, so that the next one may come late."""
_STEP: Final = 6
"""Characters that count as a token where a text is cut."""
_UNSPACED_STEP: Final = 2
"""The same where the text is not ASCII."""


class _Held:
    """A piece that waits; `tokens`: what it counts for, `at`: what of its text has gone."""

    __slots__ = ("_at", "_step", "_text", "piece", "tokens")

    def __init__(self, piece: Piece, text: Text | None) -> None:
        self.piece = piece
        self._text = text
        self._at = 0
        self._step = 1
        self.tokens = int(piece.token)
        if text is not None:
            self._step = _STEP if text.text.isascii() else _UNSPACED_STEP
            self.tokens = self._left(text.text)

    def _left(self, text: str) -> int:
        return -(-(len(text) - self._at) // self._step)

    def release(self, tokens: float) -> bytes:
        """Return the next part, of so many tokens or a little more; then `tokens` is what is left.

        0 left: the whole piece has gone.
        """
        if self._text is None:
            self.tokens = 0
            return self.piece.data
        text, part = self._text
        start = self._at
        rest = tokens >= self.tokens
        self._at = len(text) if rest else word_end(text, start, start + int(tokens) * self._step)
        self.tokens = self._left(text)
        whole = start == 0 and self._at == len(text)
        return self.piece.data if whole else part(start, self._at)


class Smooth:
    """A jitter buffer: spreads a lump over the time to the next one, `max_lag` seconds at most.

    A token that comes by itself leaves at once, so that a steady stream, fast or slow, is handed
    on as it is. What comes in a lump is held and leaves evenly over the time to the next one, as
    the last arrivals make it expected: the longest but one of 8 gaps, so that a single silence is
    soon forgotten, or the gap before this lump. No token is held longer than `max_lag`.
    """

    __slots__ = (
        "_came", "_deadlines", "_gaps", "_held", "_left", "_lump", "_max_lag", "_now",
        "_planned", "_promised", "_ready", "_slot", "_spacing", "_tokens", "_usual", "size",
    )  # fmt: skip

    def __init__(self, max_lag: float) -> None:
        self._max_lag = max_lag
        self._gaps: deque[float] = deque(maxlen=_REMEMBERED)
        self._usual: float | None = 0.0  # of the gaps, once it is needed
        self._now = float("-inf")
        self._came = float("-inf")  # the last token
        self._lump = float("-inf")  # when its first token came
        self._promised = float("-inf")  # when all that was held before it was to have left
        self._left = float("-inf")  # when a token last left
        self._ready: list[bytes] = []
        self._held: deque[_Held] = deque()
        self._tokens = 0
        self._deadlines: deque[list[float]] = deque()  # of the held tokens: moment, how many
        self._spacing = 0.0
        self._slot = float("-inf")
        self._planned = True
        self.size = 0

    def put(self, piece: Piece, now: float) -> None:
        """Take a piece."""
        self._now = now
        if not piece.token:
            self._pass(piece)
            return
        gap = now - self._came
        self._came = now
        if gap >= _APART:
            self._arrive(gap, now)
            alone = not self._held and (piece.cut is None or self._foreseen() < _COARSE)
        else:
            alone = not self._held and not self._horizon(now)
        if alone:
            self._left = now
            self._ready.append(piece.data)
        else:
            self._hold(piece, now)

    def _pass(self, piece: Piece) -> None:
        if self._held:
            self._held.append(_Held(piece, None))
            self.size += len(piece.data)
        else:
            self._ready.append(piece.data)

    def _arrive(self, gap: float, now: float) -> None:
        """Begin a new lump, which may be of one token."""
        self._lump = now
        self._promised = now + self._spacing * self._tokens if self._tokens > _JERK else now
        if gap < float("inf"):
            self._gaps.append(min(gap, self._max_lag))
            self._usual = None

    def _usually(self) -> float:
        """Return the seconds between lumps, by those that came; 0 where they tell nothing yet."""
        if self._usual is None:
            self._usual = sorted(self._gaps)[-2] if len(self._gaps) > 1 else 0.0
        return self._usual

    def _foreseen(self) -> float:
        """Return the seconds to expect until the next lump comes."""
        if not self._gaps:
            return self._max_lag
        return min(max(self._usually() * _RESERVE, self._gaps[-1]), self._max_lag)

    def _horizon(self, now: float) -> float:
        """Return the seconds over which to spread what is held, 0 where all is fluent as it is."""
        if now - self._lump > max(_LUMP, self._usually() / 2):
            return 0.0
        foreseen = self._foreseen()
        return max(foreseen if foreseen > _FLUENT else 0.0, self._promised - now)

    def _hold(self, piece: Piece, now: float) -> None:
        coarse = piece.cut is not None and self._foreseen() >= _COARSE
        held = _Held(piece, piece.cut() if coarse and piece.cut else None)
        self._held.append(held)
        self.size += len(piece.data)
        self._tokens += held.tokens
        deadline = now + self._max_lag
        if self._deadlines and self._deadlines[-1][0] == deadline:
            self._deadlines[-1][1] += held.tokens
        else:
            self._deadlines.append([deadline, held.tokens])
        self._planned = False

    def take(self, now: float) -> bytes:
        """Return what is due, joined."""
        if self._held:
            self._release(now)
        if not self._ready:
            return b""
        data = b"".join(self._ready)
        self._ready.clear()
        return data

    def due(self) -> float | None:
        """Return when more is due; None if nothing is held."""
        if self._ready or not self._planned:
            return self._now
        if not self._held:
            return None
        return min(max(self._slot, self._left + _TICK), self._deadlines[0][0])

    def _plan(self, now: float) -> None:
        """Spread what is held over the time to the next arrival, after the token that left last."""
        self._planned = True
        self._spacing = self._horizon(now) / (self._tokens + 1)
        self._slot = max(now, self._left + self._spacing)

    def _release(self, now: float) -> None:
        if not self._planned:
            self._plan(now)
        while self._held:
            head = self._held[0]
            step = self._step()
            if head.tokens and self._slot > now and step > 0:
                break
            before = head.tokens
            self._ready.append(head.release(1 + (now - self._slot) // step if step > 0 else before))
            self._count(before - head.tokens, step, now)
            if not head.tokens:
                self._held.popleft()
                self.size -= len(head.piece.data)

    def _step(self) -> float:
        """Return the seconds to the next token, 0 for none: nothing outstays its deadline."""
        if not self._deadlines:
            return 0.0
        deadline, tokens = self._deadlines[0]
        return max(0.0, min(self._spacing, (deadline - self._slot) / tokens))

    def _count(self, tokens: int, step: float, now: float) -> None:
        """Note that so many tokens have left."""
        if not tokens:
            return
        self._left = now
        self._slot += step * tokens
        self._tokens -= tokens
        self._deadlines[0][1] -= tokens
        if self._deadlines[0][1] <= 0:
            self._deadlines.popleft()


def strategy(name: str, delay: float, max_lag: float) -> Pace | None:
    """Return the pace of that name; None for `off`. `delay`, `max_lag` in seconds."""
    if name == "typewriter":
        return Typewriter(delay)
    return Smooth(max_lag) if name == "smooth" else None
