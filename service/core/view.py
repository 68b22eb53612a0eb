"""A frame, rendered for the wire that the client speaks.

The same frames serve every client: `/v1` sends their bytes as they came, `/chat` named events.
A view never decides when; it gives pieces and says which are tokens, which a pace may hold.
"""

from typing import Any, NamedTuple, Protocol

import msgspec

from service.core import sse
from service.core.dialect import Dialect
from service.core.events import USAGE, Ending, Frame

_encode = msgspec.json.Encoder().encode


class Piece(NamedTuple):
    """Bytes that go out together; `token`: text or reasoning, which a pace may hold."""

    data: bytes
    token: bool


class View(Protocol):
    """What a client's wire looks like."""

    def frame(self, frame: Frame) -> list[Piece]: ...  # noqa: D102

    def ending(self, ending: Ending) -> bytes: ...  # noqa: D102


class RawView:
    """`/v1`: the upstream's own bytes; at a cut, one error frame more."""

    def __init__(
        self, dialect: Dialect, stream: str | None = None, *, hide_usage: bool = False
    ) -> None:
        self._dialect = dialect
        self._hide_usage = hide_usage  # the relay asked for it, not the client
        self._id = b"id: " + stream.encode() + b".%d\n" if stream else None

    def frame(self, frame: Frame) -> list[Piece]:
        """Return the frame, behind its `id:` line if the stream is kept."""
        event = frame.event
        if self._hide_usage and event is USAGE:
            return []
        raw = frame.raw
        if self._id is not None:
            raw = self._id % frame.number + raw.removeprefix(sse.BOM).lstrip(b"\r\n")
        return [Piece(raw, bool(event.text or event.reasoning))]

    def ending(self, ending: Ending) -> bytes:
        """Return the error frame of the client's dialect, nothing where the stream is complete."""
        if ending.failure is None or ending.said:
            return b""
        return self._dialect.error_frame(ending.failure)


class PlainView:
    """A body that is no event stream: nothing may be added to it."""

    def frame(self, frame: Frame) -> list[Piece]:
        """Return the bytes."""
        return [Piece(frame.raw, token=False)]

    def ending(self, ending: Ending) -> bytes:  # noqa: ARG002
        """Return nothing: that the last chunk is missing tells the client of a cut."""
        return b""


class _Content(msgspec.Struct):
    content: str


class ChatView:
    """`/chat`: the events start, answer, reasoning, tool_calls, done, error."""

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._answer = b"id: " + stream.encode() + b".%d\nevent: answer\ndata: %s\n\n"

    def start(self, model: str | None) -> bytes:
        """Return the event that says the request was accepted."""
        return self._event("0", "start", {"stream": self._stream, "model": model})

    def frame(self, frame: Frame) -> list[Piece]:
        """Return the frame's events; none for a role, a comment or what was malformed."""
        event = frame.event
        if event.text and not event.reasoning and event.tool_calls is None:
            return [Piece(self._answer % (frame.number, _encode(_Content(event.text))), token=True)]
        return self._several(frame)

    def _several(self, frame: Frame) -> list[Piece]:
        event = frame.event
        found: list[tuple[str, Any, bool]] = []
        if event.reasoning:
            found.append(("reasoning", _Content(event.reasoning), True))
        if event.text:
            found.append(("answer", _Content(event.text), True))
        if event.tool_calls is not None:
            found.append(("tool_calls", {"tool_calls": event.tool_calls}, False))
        if len(found) == 1:
            name, data, token = found[0]
            return [Piece(self._event(str(frame.number), name, data), token)]
        return [
            Piece(self._event(f"{frame.number}+{part}", name, data), token)
            for part, (name, data, token) in enumerate(found, 1)
        ]

    def ending(self, ending: Ending) -> bytes:
        """Return `done`, or `error` with what went wrong."""
        summary, failure = ending.summary, ending.failure
        number = str(ending.number)
        if failure is None:
            fields = msgspec.structs.asdict(summary)
            del fields["proxy"]
            return self._event(number, "done", fields)
        partial = summary.first_token_ms is not None
        told = {name: value for name, value in failure.fields().items() if name != "type"}
        if failure.code == "upstream_error":
            told["status"] = failure.status
        return self._event(number, "error", {**told, "partial": partial})

    def _event(self, number: str, name: str, data: Any) -> bytes:
        head = f"id: {self._stream}.{number}\nevent: {name}\ndata: "
        return head.encode() + _encode(data) + b"\n\n"
