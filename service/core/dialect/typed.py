"""APIs whose frames carry a JSON object with a `type`: Responses, Anthropic, media."""

from abc import abstractmethod
from typing import Any, ClassVar

import msgspec

from service.core import sse
from service.core.dialect.base import NO_JSON, NO_WORDS, Dialect, text_of
from service.core.events import COMMENT, MALFORMED, OPAQUE, QUIET, Event
from service.errors import Failure


class _Typed(msgspec.Struct, gc=False):
    type: Any = None
    delta: Any = None
    content_block: Any = None
    error: Any = None
    message: Any = None
    code: Any = None
    response: Any = None
    sequence_number: Any = None
    usage: Any = None


_typed = msgspec.json.Decoder(_Typed).decode


class _TypedDialect(Dialect):
    """APIs whose frames carry a JSON object with a `type`."""

    __slots__ = ()

    trusting = False
    completes: ClassVar[frozenset[str]]
    ends: ClassVar[frozenset[str]] = frozenset()
    fails: ClassVar[frozenset[str]] = frozenset({"error"})

    def read(self, frame: bytes) -> Event:
        """Return what this frame means."""
        data = sse.payload(frame)
        if data is None:
            return COMMENT
        try:
            message = _typed(data)
        except NO_JSON:
            return QUIET if data == b"[DONE]" else MALFORMED
        kind = text_of(message.type) or (sse.field(frame, b"event") or b"").decode(errors="replace")
        if kind in self.fails or (message.error and not kind):
            self.complete = True
            self.error = message.error or _told(message)
            return QUIET
        if kind in self.completes:
            self.complete = True
            self.over = kind in self.ends
        if message.usage is not None:
            self._usage = _merged(self._usage, message.usage)
        return self._content(kind, message)

    def read_rest(self, rest: bytes) -> Event | None:
        """Return what it means; the last frame of an answer is whole without its blank line too."""
        event = super().read_rest(rest)
        if event is not None:
            return event
        try:
            kind = text_of(_typed(sse.payload(rest) or b"").type)
        except NO_JSON:
            return None
        return self.read(rest + b"\n\n") if kind in self.completes else None

    @abstractmethod
    def _content(self, kind: str, message: _Typed) -> Event: ...


def _told(message: _Typed) -> Any:
    """Return what an `error` event says that has no object of that name, as those of Responses."""
    if message.code and message.message:
        return {"code": message.code, "message": message.message}
    return message.message or NO_WORDS


def _merged(old: Any, new: Any) -> Any:
    """Return the newer counts, and the older ones that they do not repeat, as Anthropic's."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return old | {name: count for name, count in new.items() if count is not None}


class Responses(_TypedDialect):
    """`/responses`: `response.completed`, `.incomplete` or `.failed`."""

    __slots__ = ("_sequence",)

    completes = frozenset(
        {"response.completed", "response.incomplete", "response.failed", "response.cancelled"}
    )

    def __init__(self) -> None:
        super().__init__()
        self._sequence = 0

    def _content(self, kind: str, message: _Typed) -> Event:
        if isinstance(message.sequence_number, int):
            self._sequence = message.sequence_number
        response = message.response if isinstance(message.response, dict) else {}
        self.model = text_of(response.get("model")) or self.model
        self._usage = response.get("usage") or self._usage
        if kind == "response.failed":
            self.error = response.get("error") or NO_WORDS
        if not kind.endswith(".delta"):
            return QUIET
        text = message.delta if isinstance(message.delta, str) else ""
        if kind in {"response.output_text.delta", "response.refusal.delta"}:
            return Event(content=True, text=text)
        if kind.startswith("response.reasoning"):
            return Event(content=True, reasoning=text)
        return OPAQUE

    def error_body(self, failure: Failure) -> dict[str, Any]:
        """Return the API's error event, and the `error` that makes its SDKs raise it."""
        body = super().error_body(failure)
        return {
            "type": "error",
            "code": failure.code,
            "message": failure.message,
            "param": None,
            "sequence_number": self._sequence + 1,
            **body,
        }


class Anthropic(_TypedDialect):
    """`/messages`: `message_stop`. A block that begins without text is no content, like a role.

    `trusting`: another path of the API, whose stream says its end only if it is a message.
    """

    __slots__ = ("trusting",)

    completes = frozenset({"message_stop"})
    ends = completes
    empties = frozenset({"text", "text_delta", "thinking", "thinking_delta"})

    def __init__(self, *, trusting: bool = False) -> None:
        super().__init__()
        self.trusting = trusting

    def _content(self, kind: str, message: _Typed) -> Event:
        if kind == "ping":
            return COMMENT
        if kind == "message_start":
            self.trusting = False
        if self.trusting:
            return OPAQUE
        if kind == "message_start" and isinstance(message.message, dict):
            self.model = text_of(message.message.get("model"))
            self._usage = message.message.get("usage")
        part = message.content_block if kind == "content_block_start" else message.delta
        part = part if isinstance(part, dict) else {}
        if kind == "message_delta":
            self.finish_reason = text_of(part.get("stop_reason")) or self.finish_reason
        if kind not in {"content_block_start", "content_block_delta"}:
            return QUIET
        text, thinking = text_of(part.get("text")) or "", text_of(part.get("thinking")) or ""
        content = bool(text or thinking) or text_of(part.get("type")) not in self.empties
        return Event(content=content, text=text, reasoning=thinking)

    def refusal(self, failure: Failure) -> dict[str, Any]:
        """Return Anthropic's error object."""
        return {"type": "error", **super().refusal(failure)}

    def error_body(self, failure: Failure) -> dict[str, Any]:
        """Return Anthropic's error object."""
        return self.refusal(failure)


class Media(_TypedDialect):
    """Transcriptions, images and speech: `….done` or `….completed`; several images may follow."""

    __slots__ = ()

    completes = frozenset(
        {
            "transcript.text.done",
            "image_generation.completed",
            "image_edit.completed",
            "speech.audio.done",
        }
    )

    def _content(self, kind: str, message: _Typed) -> Event:
        if kind.endswith((".delta", ".partial_image")):
            self.complete = False
        text = message.delta if isinstance(message.delta, str) else ""
        return Event(content=True, text=text if kind == "transcript.text.delta" else "")
