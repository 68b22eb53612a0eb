"""Going on after a cut: the answer is asked for again, and what the client has is left out.

    sent:   The quick bro│                   frames that went out
    again:  The qu│ick b│rown │fox           left out, left out, cut: "wn " goes out, "fox" too

Reasoning and text are compared to the character, in their order; the first difference ends it, for
then this is another answer. So it is for upstreams that answer the same twice: temperature 0 with a
seed, or a cache. Only chat and plain completions: their frames can be cut, and stand by themselves.
"""

from itertools import groupby
from typing import Final, NamedTuple

from service.core.cutting import cut_of
from service.core.dialect import Chat, Dialect
from service.core.events import Event, Frame

_MOST: Final = 4 * 1024 * 1024
"""Characters of an answer that are remembered; a longer one is not gone on with."""


class Different(Exception):  # noqa: N818  says what was found
    """This is another answer than the one that has begun."""


class _Part(NamedTuple):
    reasons: bool
    text: str


class Sent:
    """What went out of an answer."""

    __slots__ = ("_parts", "_size", "known")

    def __init__(self) -> None:
        self._parts: list[_Part] = []
        self._size = 0
        self.known = True

    def note(self, event: Event, dialect: Dialect) -> None:
        """Remember what a frame says; what is neither text nor reasoning cannot be compared."""
        said = _parts(event)
        self._size += sum(len(part.text) for part in said)
        alike = isinstance(dialect, Chat) and not event.tool_calls
        if (event.content and not said) or not alike or self._size > _MOST:
            self.known = False
            self._parts = []
        elif self.known:
            self._parts += said

    def parts(self) -> list[_Part]:
        """Return it with neighbours of a kind as one."""
        kinds = groupby(self._parts, key=lambda part: part.reasons)
        return [_Part(kind, "".join(part.text for part in run)) for kind, run in kinds]


class Rejoin:
    """A second answer on its way to where the first one broke off."""

    __slots__ = ("_ahead", "_at")

    def __init__(self, sent: Sent) -> None:
        self._ahead = sent.parts()
        self._ahead.reverse()
        self._at = 0

    @property
    def done(self) -> bool:
        """Whether all that was sent has come again."""
        return not self._ahead

    def rest_of(self, frame: Frame, dialect: Dialect) -> Frame | None:
        """Return what the client does not have of a frame, None if it has all; raises Different."""
        if self.done:
            return frame
        event = frame.event
        if event.tool_calls or (event.content and not _parts(event)):
            raise Different
        had = sum(map(self._match, _parts(event)))
        over = dialect.complete
        if over and not self.done:  # it is shorter
            raise Different
        if had == len(event.reasoning) + len(event.text) and not over:
            return None
        return _rest(frame, dialect, had)

    def _match(self, part: _Part) -> int:
        """Go over a text; return how many of its characters were sent before."""
        at = 0
        while self._ahead and at < len(part.text):
            reasons, sent = self._ahead[-1]
            size = min(len(sent) - self._at, len(part.text) - at)
            if reasons != part.reasons or not sent.startswith(part.text[at : at + size], self._at):
                raise Different
            at += size
            self._at += size
            if self._at == len(sent):
                self._ahead.pop()
                self._at = 0
        return at


def _rest(frame: Frame, dialect: Dialect, had: int) -> Frame:
    cut = cut_of(dialect, frame)
    if cut is None:
        raise Different
    reasoning, text = frame.event.reasoning, frame.event.text
    left = Event(reasoning=reasoning[had:], text=text[max(had - len(reasoning), 0) :])
    left.content = bool(left.reasoning or left.text)
    return Frame(frame.number, cut.part(had, cut.units), left)


def _parts(event: Event) -> list[_Part]:
    """Return what a frame says, in the order in which it counts."""
    parts = _Part(True, event.reasoning), _Part(False, event.text)  # noqa: FBT003
    return [part for part in parts if part.text]
