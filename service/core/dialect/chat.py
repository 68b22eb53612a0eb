"""OpenAI's chat and plain completions, and what vendors make of them."""

from typing import Any, Final

import msgspec

from service.core import sse
from service.core.dialect.base import NO_JSON, NO_WORDS, Dialect, text_of
from service.core.dialect.mould import MADE_UP, Mould, around, string
from service.core.events import COMMENT, MALFORMED, QUIET, USAGE, Event
from service.errors import Failure


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
_TRIES: Final = 8
"""To learn a mould; where every frame differs from the last in more than its text there is none."""
_NONE: Final = ()
"""No tail: no frame ends with any of these."""


class Chat(Dialect):
    """Chat and plain completions: `[DONE]`, or the finish_reason of every choice seen."""

    __slots__ = (
        "_finished", "_head", "_last", "_open", "_start", "_stop", "_tail", "_thinks", "_tries",
    )  # fmt: skip
    _head: bytes
    _start: int
    _stop: int
    _thinks: bool

    trusting = False

    def __init__(self) -> None:
        super().__init__()
        self._open: set[int] = set()
        self._finished: set[int] = set()
        self._last: Mould | None = None
        self._tries = _TRIES
        self._tail: bytes | tuple[()] = _NONE

    @property
    def empty(self) -> bool:  # type: ignore[override]  # nobody sets it
        """Whether there was no choice in the stream."""
        return not (self._open or self._finished)

    def read(self, frame: bytes) -> Event:
        """Return what this frame means."""
        if frame.endswith(self._tail) and frame.startswith(self._head):
            try:
                text = string(frame[self._start : self._stop])
            except NO_JSON:
                return self._read(frame)
            if not text:
                return QUIET
            if self._thinks:
                return Event(content=True, reasoning=text)
            return Event(True, True, text)  # noqa: FBT003  the hot path
        return self._read(frame)

    def _read(self, frame: bytes) -> Event:
        data = sse.payload(frame)
        if data is None:
            return self._read_error_field(frame)
        self._tail = _NONE  # what this frame says may change what the next ones mean
        if data == b"[DONE]":
            self.complete = self.over = True
            return QUIET
        try:
            event = self._read_chunk(_decode(data))
        except NO_JSON:
            return MALFORMED
        if self._tries and event.content:
            self._learn(frame, event)
        return event

    def _learn(self, frame: bytes, event: Event) -> None:
        """Let the next frame be read by what this one and the last have in common."""
        found = around(event.text or event.reasoning, frame)
        if found is None or found != self._last:
            self._last = found
            self._tries -= 1
            return
        self._head, self._tail = found
        self._start, self._stop = len(found.head) - 1, 1 - len(found.tail)
        self._thinks = not event.text
        frames = map(found.filled, MADE_UP)
        if not all(self.read(made_up) == _means(made_up) for made_up in frames):
            self._tail = _NONE

    def _read_chunk(self, chunk: _Chunk) -> Event:
        if chunk.model:
            self.model = chunk.model
        if chunk.usage is not None:
            self._usage = chunk.usage
        if chunk.error or chunk.object == "error":
            return self._failed(chunk.error or chunk.message)
        choices = chunk.choices
        if not choices:
            return QUIET if chunk.usage is None else USAGE
        for choice in choices:
            if choice.finish_reason or choice.index not in self._open:
                self._mark(choice)
        return _event(choices)

    def _mark(self, choice: _Choice) -> None:
        index = choice.index
        if choice.finish_reason:
            self.finish_reason = choice.finish_reason
            self._finished.add(index)
            self._open.discard(index)
            self.complete = not self._open
        elif index not in self._finished:
            self._open.add(index)
            self.complete = self.over

    def _failed(self, error: Any) -> Event:
        self.error = error or NO_WORDS
        self.complete = True
        return QUIET

    def _read_error_field(self, frame: bytes) -> Event:
        """Read llama.cpp's `error: {…}`, a field that SSE does not know (before its b6490)."""
        if (error := sse.field(frame, b"error")) is None:
            return COMMENT
        try:
            return self._failed(msgspec.json.decode(error))
        except NO_JSON:
            return self._failed(error.decode(errors="replace"))

    def error_frame(self, failure: Failure) -> bytes:
        """Return `data: {"error": …}`, which every SDK raises as its API error."""
        return b"data: %s\n\n" % msgspec.json.encode(self.error_body(failure))


def _means(frame: bytes) -> Event | None:
    """Return what a frame means to who decodes it; None if it has no choices."""
    try:
        choices = _decode(sse.payload(frame) or b"").choices
    except NO_JSON:
        return None
    return _event(choices) if choices else None


def _decode(data: bytes) -> _Chunk:
    """Return a chunk; raises NO_JSON."""
    try:
        return _chunk(data)
    except msgspec.ValidationError:
        return _lenient(msgspec.json.decode(data))


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
    content = text or reasoning or calls or delta.function_call or delta.audio or len(choices) > 1
    return Event(True, bool(content), text, reasoning, calls)  # noqa: FBT003  the hot path


def _lenient(value: Any) -> _Chunk:
    """Return what can be made of a chunk whose fields have unexpected types."""
    if not isinstance(value, dict):
        return _Chunk()
    choices = value.get("choices")
    found = [_lenient_choice(c) for c in choices if isinstance(c, dict)] if (
        isinstance(choices, list)
    ) else None  # fmt: skip
    return _Chunk(
        object=text_of(value.get("object")),
        model=text_of(value.get("model")),
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
        text=text_of(value.get("text")),
        finish_reason=text_of(value.get("finish_reason")),
    )


def _lenient_delta(value: dict[str, Any]) -> _Delta:
    calls, content = value.get("tool_calls"), value.get("content")
    return _Delta(
        content=_parts(content),
        reasoning_content=_parts(value.get("reasoning_content")) or _thoughts(content),
        reasoning=_parts(value.get("reasoning")),
        refusal=text_of(value.get("refusal")),
        tool_calls=calls if isinstance(calls, list) else None,
        function_call=value.get("function_call"),
        audio=value.get("audio"),
    )


def _parts(value: Any) -> str | None:
    """Join the text of content that came as a list of parts, as Mistral's does."""
    if not isinstance(value, list):
        return text_of(value)
    texts = (part.get("text") for part in value if isinstance(part, dict))
    return "".join(text for text in texts if isinstance(text, str))


def _thoughts(content: Any) -> str | None:
    """Join the parts in which Mistral's models think, each a list of parts itself."""
    if not isinstance(content, list):
        return None
    texts = (_parts(part.get("thinking")) for part in content if isinstance(part, dict))
    return "".join(text for text in texts if text)
