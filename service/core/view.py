"""A frame, rendered for the wire that the client speaks.

The same frames serve every client: `/v1` sends their bytes as they came, `/chat` named events.
A view never decides when; it gives pieces, says which are tokens, which a pace may hold, and can
cut those that are long. What an id says is in `core.ids`.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import msgspec

from service.core import cutting, sse
from service.core.dialect import Dialect
from service.core.events import USAGE, Ending, Event, Frame

_encode = msgspec.json.Encoder().encode
_ID_LINE = re.compile(rb"(?:\A|(?<=[\r\n]))id(?::[^\r\n]*)?(?:\r\n|\n|\r)")
_EVENT_LINE = re.compile(rb"(?:\A|(?<=[\r\n]))event(?::[^\r\n]*)?(?:\r\n|\n|\r)")
_LONG = 32
"""Characters, as long as the tokens of language models get; a piece with more may be cut."""
_LONG_UNSPACED = 12
"""The same where the text is not ASCII, as Chinese is not."""


class Text(NamedTuple):
    """The text of a piece, and what renders the part of it from one place to another."""

    text: str
    part: Callable[[int, int], bytes]


class Piece(NamedTuple):
    """Bytes that go out together; `token`: text or reasoning, which a pace may hold.

    `cut`: where the text is long, gives it for cutting; None if it has to stay whole after all.
    """

    data: bytes
    token: bool
    cut: Callable[[], Text | None] | None = None


class View(Protocol):
    """What a client's wire looks like; `blank_lines`: whether a comment may be followed by one.

    `data`: a frame's pieces as one, for who does not pace them.
    """

    blank_lines: bool

    def frame(self, frame: Frame) -> list[Piece]: ...  # noqa: D102

    def data(self, frame: Frame) -> bytes: ...  # noqa: D102

    def ending(self, ending: Ending) -> bytes: ...  # noqa: D102


class RawView:
    """`/v1`: the upstream's own bytes; at a cut, one error frame more.

    `stream`: the name of a kept stream, whose frames get an `id:` line. After an id openai-python
    takes any blank line for an event (3.54, `_streaming.py`), so that a frame without data goes
    without one then, and without an id.
    """

    __slots__ = ("_after", "_dialect", "_hide_usage", "_id", "blank_lines")

    def __init__(
        self, dialect: Dialect, stream: str | None = None, *, hide_usage: bool = False
    ) -> None:
        self._dialect = dialect
        self._hide_usage = hide_usage  # the relay asked for it, not the client
        self._id = b"id: %s." % stream.encode() if stream else None
        self._after = (0, 0)
        self.blank_lines = stream is None

    def after(self, frame: int, part: int) -> None:
        """Leave out the first `part` units of that frame: the client has them."""
        self._after = (frame, part)

    def frame(self, frame: Frame) -> list[Piece]:
        """Return the frame, behind its `id:` line if the stream is kept."""
        event, number = frame.event, frame.number
        if self._hide_usage and event is USAGE:
            return []
        if number == self._after[0] and self._after[1]:
            return self._rest(frame)
        raw = frame.raw
        if self._id is not None:
            raw = self._with_id(self._id, frame)
        if not (event.text or event.reasoning):
            return [Piece(raw, token=False)]
        long = _is_long(event.text) or _is_long(event.reasoning)
        return [Piece(raw, token=True, cut=partial(self._cut, frame) if long else None)]

    def data(self, frame: Frame) -> bytes:
        """Return the frame's bytes."""
        if self._id is None and frame.number != self._after[0]:
            return b"" if self._hide_usage and frame.event is USAGE else frame.raw
        return _joined(self.frame(frame))

    def _with_id(self, prefix: bytes, frame: Frame) -> bytes:
        raw = frame.raw.removeprefix(sse.BOM) if frame.number == 1 else frame.raw
        raw = raw.lstrip(b"\r\n")
        if raw.startswith(b"id") or b"\nid" in raw or b"\rid" in raw:
            raw = _ID_LINE.sub(b"", raw)
        if frame.event.content or sse.payload(raw) is not None:
            return b"%s%d\n%s" % (prefix, frame.number, raw)
        lines = _EVENT_LINE.sub(b"", raw).rstrip(b"\r\n")
        return lines and lines + b"\n"

    def _cut(self, frame: Frame) -> Text | None:
        cut = cutting.cut_of(self._dialect, frame)
        if cut is None:
            return None
        return Text(cut.reasoning + cut.text, partial(self._part, frame.number, cut))

    def _part(self, number: int, cut: cutting.Cut, start: int, stop: int) -> bytes:
        part = cut.part(start, stop)
        if self._id is None:
            return part
        more = b"" if stop >= cut.units else b"+%d" % stop
        return b"%s%d%s\n%s" % (self._id, number, more, part)

    def _rest(self, frame: Frame) -> list[Piece]:
        """Return what the client does not have of a frame; all of one that cannot be cut."""
        cut, sent = cutting.cut_of(self._dialect, frame), self._after[1]
        if cut is None:
            raw = frame.raw if self._id is None else self._with_id(self._id, frame)
            return [Piece(raw, token=False)]
        return [Piece(self._part(frame.number, cut, min(sent, cut.units), cut.units), token=True)]

    def ending(self, ending: Ending) -> bytes:
        """Return the error frame of the client's dialect, nothing where the stream is complete."""
        if ending.failure is None or ending.said:
            return b""
        return self._dialect.error_frame(ending.failure)


class PlainView:
    """A body that is no event stream: nothing may be added to it."""

    __slots__ = ()

    blank_lines = False

    def frame(self, frame: Frame) -> list[Piece]:
        """Return the bytes."""
        return [Piece(frame.raw, token=False)]

    def data(self, frame: Frame) -> bytes:
        """Return the bytes."""
        return frame.raw

    def ending(self, ending: Ending) -> bytes:  # noqa: ARG002
        """Return nothing: that the last chunk is missing tells the client of a cut."""
        return b""


class _Content(msgspec.Struct):
    content: str


class _Said(NamedTuple):
    """A text of a frame; `before`: the frame's units that come before it; `units`: all of them."""

    number: int
    name: str
    text: str
    before: int
    units: int


class ChatView:
    """`/chat`: the events start, answer, reasoning, tool_calls, done, error."""

    __slots__ = ("_after", "_answer", "_stream")

    blank_lines = True

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._answer = b"id: " + stream.encode() + b'.%d\nevent: answer\ndata: {"content":%s}\n\n'
        self._after = (0, 0)

    def after(self, frame: int, part: int) -> None:
        """Leave out the first `part` units of that frame: the client has them."""
        self._after = (frame, part)

    def start(self, model: str | None) -> bytes:
        """Return the event that says the request was accepted."""
        return self._event("0", "start", {"stream": self._stream, "model": model})

    def frame(self, frame: Frame) -> list[Piece]:
        """Return the frame's events; none for a role, a comment or what was malformed."""
        event, text, number = frame.event, frame.event.text, frame.number
        if event.reasoning or event.tool_calls is not None or number == self._after[0]:
            return self._several(number, event, self._after[1] if number == self._after[0] else 0)
        if not text:
            return []
        if _is_long(text):
            return [self._said(_Said(number, "answer", text, 0, len(text)))]
        return [Piece(self._answer % (number, _encode(text)), token=True)]

    def data(self, frame: Frame) -> bytes:
        """Return the frame's events."""
        event, number = frame.event, frame.number
        if event.reasoning or event.tool_calls is not None or number == self._after[0]:
            return _joined(self.frame(frame))
        return self._answer % (number, _encode(event.text)) if event.text else b""

    def _several(self, number: int, event: Event, sent: int) -> list[Piece]:
        """Return the events of a frame, but for its first units: the client has them."""
        thought, said = len(event.reasoning), len(event.reasoning) + len(event.text)
        units = said + (event.tool_calls is not None)
        pieces = []
        if sent < thought:
            rest = event.reasoning[sent:]
            pieces.append(self._said(_Said(number, "reasoning", rest, sent, units)))
        if max(sent, thought) < said:
            rest, before = event.text[max(0, sent - thought) :], max(sent, thought)
            pieces.append(self._said(_Said(number, "answer", rest, before, units)))
        if event.tool_calls is not None and sent < units:
            data = {"tool_calls": event.tool_calls}
            pieces.append(Piece(self._event(str(number), "tool_calls", data), token=False))
        return pieces

    def _said(self, said: "_Said") -> Piece:
        part = partial(self._part, said)
        cut = partial(Text, said.text, part) if _is_long(said.text) else None
        return Piece(part(0, len(said.text)), token=True, cut=cut)

    def _part(self, said: "_Said", start: int, stop: int) -> bytes:
        sent = said.before + stop
        mark = f"{said.number}" if sent >= said.units else f"{said.number}+{sent}"
        return self._event(mark, said.name, _Content(said.text[start:stop]))

    def ending(self, ending: Ending) -> bytes:
        """Return `done`, or `error` with what went wrong."""
        summary, failure = ending.summary, ending.failure
        number = str(ending.number)
        if failure is None:
            fields = msgspec.structs.asdict(summary)
            del fields["proxy"]
            return self._event(number, "done", fields)
        begun = summary.first_token_ms is not None
        told = {name: value for name, value in failure.fields().items() if name != "type"}
        if failure.code == "upstream_error":
            told["status"] = failure.status
        return self._event(number, "error", {**told, "partial": begun})

    def _event(self, number: str, name: str, data: Any) -> bytes:
        head = f"id: {self._stream}.{number}\nevent: {name}\ndata: "
        return head.encode() + _encode(data) + b"\n\n"


def _joined(pieces: list[Piece]) -> bytes:
    return b"".join(piece.data for piece in pieces)


def _is_long(text: str) -> bool:
    return len(text) > (_LONG if text.isascii() else _LONG_UNSPACED)
