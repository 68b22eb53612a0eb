"""Frame to meaning: text, finish, usage, error; per API.

Every upstream API says in its own way what a frame carries, when a stream is complete, and what an
error looks like. A Dialect reads the frames of one stream in order and remembers what they said:

    complete   the upstream said that the stream ended as it should
    trusting   it says no such thing: a body that ends as HTTP bodies should is complete
    over       nothing that matters can follow: end the client's stream now
    error      the upstream's own words, where it said that it failed; they reach the client as sent

Sources: the OpenAI API reference (chat.completion.chunk, Responses and transcription events),
Anthropic's "Streaming messages". Vendors bend these forms, so that a frame of an unexpected shape
is read as far as it makes sense and never refused.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from service.core import sse
from service.core.events import COMMENT, MALFORMED, OPAQUE, QUIET, USAGE, Event
from service.errors import Failure

_encode = msgspec.json.encode
_loads = msgspec.json.decode
_NO_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_NO_WORDS = "an error, without a word about it"


class Dialect:
    """A stream of SSE whose API the relay does not know: it ends as its transport ends."""

    complete = False
    trusting = True
    over = False
    error: Any = None
    finish_reason: str | None = None
    usage: Any = None
    model: str | None = None

    def read(self, frame: bytes) -> Event:
        """Return what this frame means."""
        return COMMENT if sse.payload(frame) is None else OPAQUE

    def read_rest(self, rest: bytes) -> Event | None:
        """Return what bytes without their blank line mean at the end, None if they are a torso."""
        blank = not rest.strip(b"\r\n")
        if blank or self.trusting or sse.payload(rest) == b"[DONE]":
            return self.read(rest + b"\n\n")
        return None

    def error_body(self, failure: Failure) -> dict[str, Any]:
        """Return the failure as the JSON of this API."""
        return {"error": failure.fields()}

    def refusal(self, failure: Failure) -> dict[str, Any]:
        """Return the failure as the body of this API's error responses."""
        return {"error": failure.fields()}

    def error_frame(self, failure: Failure) -> bytes:
        """Return the failure as the frame that clients of this API understand."""
        return b"event: error\ndata: %s\n\n" % _encode(self.error_body(failure))


class Plain(Dialect):
    """A body that is no event stream: its pieces are handed on as they come."""

    def read(self, frame: bytes) -> Event:  # noqa: ARG002
        """Any piece is content."""
        return OPAQUE


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[Any] | None = None
    function_call: Any = None
    audio: Any = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct, gc=False):
    object: str | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None
    message: Any = None


_chunk = msgspec.json.Decoder(_Chunk).decode


class Chat(Dialect):
    """Chat and plain completions: `[DONE]`, or the finish_reason of every choice seen."""

    trusting = False

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._finished: set[int] = set()

    def read(self, frame: bytes) -> Event:
        """Return what this frame means."""
        data = sse.payload(frame)
        if data is None:
            return self._read_error_field(frame)
        if data == b"[DONE]":
            self.complete = self.over = True
            return QUIET
        try:
            chunk = _parse(data)
        except _NO_JSON:
            return MALFORMED
        return self._read_chunk(chunk)

    def _read_chunk(self, chunk: _Chunk) -> Event:
        if chunk.model:
            self.model = chunk.model
        if chunk.usage is not None:
            self.usage = chunk.usage
        if chunk.error or chunk.object == "error":
            return self._failed(chunk.error or chunk.message)
        choices = chunk.choices
        if not choices:
            return QUIET if chunk.usage is None else USAGE
        for choice in choices:
            self._mark(choice)
        return _event(choices)

    def _mark(self, choice: _Choice) -> None:
        index = choice.index
        if choice.finish_reason:
            self.finish_reason = choice.finish_reason
            self._finished.add(index)
            self._open.discard(index)
            self.complete = not self._open
        elif index not in self._open and index not in self._finished:
            self._open.add(index)
            self.complete = self.over

    def _failed(self, error: Any) -> Event:
        self.error = error or _NO_WORDS
        self.complete = True
        return QUIET

    def _read_error_field(self, frame: bytes) -> Event:
        """Read llama.cpp's `error: {…}`, a field that SSE does not know (before its b6490)."""
        if (error := sse.field(frame, b"error")) is None:
            return COMMENT
        try:
            return self._failed(_loads(error))
        except _NO_JSON:
            return self._failed(error.decode(errors="replace"))

    def error_frame(self, failure: Failure) -> bytes:
        """Return `data: {"error": …}`, which every SDK raises as its API error."""
        return b"data: %s\n\n" % _encode(self.error_body(failure))


def _event(choices: list[_Choice]) -> Event:
    """Return the content of a chunk; `/chat` shows the first choice only, as it asks for one."""
    first = choices[0]
    delta = first.delta
    if delta is None:
        text = first.text or ""
        return Event(content=bool(text) or len(choices) > 1, text=text)
    text = delta.content or delta.refusal or ""
    reasoning = delta.reasoning_content or delta.reasoning or ""
    calls = delta.tool_calls or None
    content = bool(
        text or reasoning or calls or delta.function_call or delta.audio or len(choices) > 1
    )
    return Event(content=content, text=text, reasoning=reasoning, tool_calls=calls)


def _parse(data: bytes) -> _Chunk:
    """Return a chunk, as well as it can be read; raises one of _NO_JSON."""
    try:
        return _chunk(data)
    except msgspec.ValidationError:
        return _lenient(_loads(data))


def _lenient(value: Any) -> _Chunk:
    """Return what can be made of a chunk whose fields have unexpected types."""
    if not isinstance(value, dict):
        return _Chunk()
    choices = value.get("choices")
    found = [_lenient_choice(c) for c in choices if isinstance(c, dict)] if (
        isinstance(choices, list)
    ) else None  # fmt: skip
    return _Chunk(
        object=_text(value.get("object")),
        model=_text(value.get("model")),
        choices=found,
        usage=value.get("usage"),
        error=value.get("error"),
        message=value.get("message"),
    )


def _lenient_choice(value: dict[str, Any]) -> _Choice:
    delta = value.get("delta")
    index = value.get("index")
    return _Choice(
        index=index if isinstance(index, int) else 0,
        delta=_lenient_delta(delta) if isinstance(delta, dict) else None,
        text=_text(value.get("text")),
        finish_reason=_text(value.get("finish_reason")),
    )


def _lenient_delta(value: dict[str, Any]) -> _Delta:
    calls = value.get("tool_calls")
    return _Delta(
        content=_parts(value.get("content")),
        reasoning_content=_parts(value.get("reasoning_content")),
        reasoning=_parts(value.get("reasoning")),
        refusal=_text(value.get("refusal")),
        tool_calls=calls if isinstance(calls, list) else None,
        function_call=value.get("function_call"),
        audio=value.get("audio"),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _parts(value: Any) -> str | None:
    """Join the text of content that came as a list of parts, as Mistral's does."""
    if not isinstance(value, list):
        return _text(value)
    texts = (part.get("text") for part in value if isinstance(part, dict))
    return "".join(text for text in texts if isinstance(text, str))


class _Typed(msgspec.Struct, gc=False):
    type: Any = None
    delta: Any = None
    content_block: Any = None
    error: Any = None
    message: Any = None
    response: Any = None
    sequence_number: Any = None
    usage: Any = None


_typed = msgspec.json.Decoder(_Typed).decode


class _TypedDialect(Dialect):
    """APIs whose frames carry a JSON object with a `type`."""

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
        except _NO_JSON:
            return QUIET if data == b"[DONE]" else MALFORMED
        kind = _text(message.type) or (sse.field(frame, b"event") or b"").decode(errors="replace")
        if kind in self.fails or (message.error and not kind):
            self.complete = True
            self.error = message.error or message.message or _NO_WORDS
            return QUIET
        if kind in self.completes:
            self.complete = True
            self.over = kind in self.ends
        if message.usage is not None:
            self.usage = _merged(self.usage, message.usage)
        return self._content(kind, message)

    @abstractmethod
    def _content(self, kind: str, message: _Typed) -> Event: ...


def _merged(old: Any, new: Any) -> Any:
    """Return the newer counts, and the older ones that they do not repeat, as Anthropic's."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return old | {name: count for name, count in new.items() if count is not None}


class Responses(_TypedDialect):
    """`/responses`: `response.completed`, `.incomplete` or `.failed`."""

    completes = frozenset(
        {"response.completed", "response.incomplete", "response.failed", "response.cancelled"}
    )
    _sequence = 0

    def _content(self, kind: str, message: _Typed) -> Event:
        if isinstance(message.sequence_number, int):
            self._sequence = message.sequence_number
        response = message.response if isinstance(message.response, dict) else {}
        self.model = _text(response.get("model")) or self.model
        self.usage = response.get("usage") or self.usage
        if kind == "response.failed":
            self.error = response.get("error") or _NO_WORDS
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
    """`/messages`: `message_stop`. A block that begins without text is no content, like a role."""

    completes = frozenset({"message_stop"})
    ends = completes
    empties = frozenset({"text", "text_delta", "thinking", "thinking_delta"})

    def _content(self, kind: str, message: _Typed) -> Event:
        if kind == "ping":
            return COMMENT
        if kind == "message_start" and isinstance(message.message, dict):
            self.model = _text(message.message.get("model"))
            self.usage = message.message.get("usage")
        part = message.content_block if kind == "content_block_start" else message.delta
        part = part if isinstance(part, dict) else {}
        if kind == "message_delta":
            self.finish_reason = _text(part.get("stop_reason")) or self.finish_reason
        if kind not in {"content_block_start", "content_block_delta"}:
            return QUIET
        text, thinking = _text(part.get("text")) or "", _text(part.get("thinking")) or ""
        content = bool(text or thinking) or _text(part.get("type")) not in self.empties
        return Event(content=content, text=text, reasoning=thinking)

    def refusal(self, failure: Failure) -> dict[str, Any]:
        """Return Anthropic's error object."""
        return {"type": "error", **super().refusal(failure)}

    def error_body(self, failure: Failure) -> dict[str, Any]:
        """Return Anthropic's error object."""
        return self.refusal(failure)


class Media(_TypedDialect):
    """Transcriptions, images and speech: `….done` or `….completed`; several images may follow."""

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


_BY_PATH: Mapping[str, type[Dialect]] = {
    "chat/completions": Chat,
    "completions": Chat,
    "responses": Responses,
    "messages": Anthropic,
    "audio/transcriptions": Media,
    "audio/translations": Media,
    "audio/speech": Media,
    "images/generations": Media,
    "images/edits": Media,
}


def for_path(rest: str, api: str = "openai") -> Dialect:
    """Return a reader for the stream that this path below `/v1/` answers with.

    Where the path says nothing, the upstream's `api` does.
    """
    name = rest.strip("/")
    known = _BY_PATH.get(name)
    if known is None and name.startswith("responses/"):
        known = Responses
    if known is None:
        known = Anthropic if api == "anthropic" or name.startswith("messages/") else Dialect
    return known()
