"""A frame of /v1 whose text is cut: several valid frames in place of one.

Each repeats what says whose it is (id, model, created, index, type); the role goes with the first,
and whatever else is not text (finish_reason, usage, logprobs, tool calls, a vendor's own) with the
last, byte for byte, so that everything comes exactly once.

Cut are chunks of chat and plain completions with one choice, and Anthropic's content_block_delta.
Whole stay: chunks of several choices, with content in parts, or with two thoughts that differ; all
of Responses, whose events are numbered (sequence_number), so that an event more would be one too
many; transcriptions.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from service.core import sse
from service.core.dialect import Anthropic, Chat, Dialect
from service.core.events import Frame

Fields = dict[str, msgspec.Raw]
_fields: Final = msgspec.json.Decoder(Fields).decode
_rows: Final = msgspec.json.Decoder(list[Fields]).decode
_value: Final = msgspec.json.decode
_encode: Final = msgspec.json.Encoder().encode

_REPEATED: Final = frozenset(
    {"id", "object", "created", "model", "system_fingerprint", "service_tier", "provider"}
    | {"index", "type"}
)
_NULLABLE: Final = frozenset({"finish_reason", "logprobs", "usage"})
_EMPTY: Final = frozenset({b"null", b'""'})
_NULL: Final = msgspec.Raw(b"null")
_THOUGHTS: Final = frozenset({"reasoning_content", "reasoning"})


class Body(Protocol):
    """The JSON of a frame, but for its text."""

    def render(self, reasoning: str, text: str, *, first: bool, last: bool) -> Any:
        """Return what encodes to a frame with this text only."""


class Cut(NamedTuple):
    """A frame that may be cut anywhere in its text; `lines`: the others of its SSE block."""

    reasoning: str
    text: str
    body: Body
    name: bytes
    lines: bytes

    @property
    def units(self) -> int:
        """The code points of its text."""
        return len(self.reasoning) + len(self.text)

    def part(self, start: int, stop: int) -> bytes:
        """Return the frame with that part of its text, reasoning counted first."""
        first, last = start == 0, stop >= self.units
        before = len(self.reasoning)
        text = self.text[max(0, start - before) : max(0, stop - before)]
        body = self.body.render(self.reasoning[start:stop], text, first=first, last=last)
        lines = self.lines if first else b""
        return b"%s%sdata: %s\n\n" % (lines, self.name, _encode(body))


def cut_of(dialect: Dialect, frame: Frame) -> Cut | None:
    """Return the frame to be cut; None if it has to stay whole."""
    read = _READERS.get(type(dialect))
    data = sse.payload(frame.raw)
    event = frame.event
    if read is None or data is None:
        return None
    try:
        body = read(_fields(data), event.reasoning, event.text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if body is None:
        return None
    lines = sse.fields(frame.raw)
    name = b"".join(b"event: %s\n" % value for name, value in lines if name == b"event")
    others = [pair for pair in lines if pair[0] not in {b"event", b"data", b"id"}]
    kept = b"".join(b"%s: %s\n" % pair for pair in others)
    return Cut(event.reasoning, event.text, body, name, kept)


class _Chunk(NamedTuple):
    """A chunk of a completion; `spoken`, `thought`: the keys of its text in delta or choice."""

    body: Fields
    choice: Fields
    delta: Fields | None
    spoken: frozenset[str]
    thought: frozenset[str]

    def render(self, reasoning: str, text: str, *, first: bool, last: bool) -> Any:
        choice: dict[str, Any] = _shared(self.choice, last=last)
        texts = dict.fromkeys(self.thought, reasoning) | dict.fromkeys(self.spoken, text)
        if self.delta is None:
            choice["text"] = text
        else:
            delta = {name: value for name, value in self.delta.items() if name not in texts}
            role = {"role": delta.pop("role")} if "role" in delta else {}
            said = {name: value for name, value in texts.items() if value}
            choice["delta"] = {**(role if first else {}), **said, **_shared(delta, last=last)}
        return {**_shared(self.body, last=last), "choices": [choice]}


def _chunk(body: Fields, reasoning: str, text: str) -> Body | None:
    choices = _rows(body.get("choices", b"[]"))
    if len(choices) != 1:
        return None
    [choice] = choices
    if "delta" not in choice:
        spoken = _holding(choice, ("text",), text)
        return _Chunk(body, choice, None, spoken, frozenset()) if spoken and not reasoning else None
    delta = _fields(choice["delta"])
    spoken = _holding(delta, ("content", "refusal"), text)
    thought = _holding(delta, _THOUGHTS, reasoning)
    if bool(spoken) != bool(text) or bool(thought) != bool(reasoning):
        return None
    if thought and any(bytes(delta.get(name, _NULL)) not in _EMPTY for name in _THOUGHTS - thought):
        return None  # the other one would be read where this one is not any more
    return _Chunk(body, choice, delta, spoken, thought)


class _Block(NamedTuple):
    """Anthropic's content_block_delta; `key`: text or thinking."""

    body: Fields
    delta: Fields
    key: str

    def render(self, reasoning: str, text: str, *, first: bool, last: bool) -> Any:  # noqa: ARG002
        delta = {**_shared(self.delta, last=last), self.key: reasoning or text}
        return {**_shared(self.body, last=last), "delta": delta}


def _block(body: Fields, reasoning: str, text: str) -> Body | None:
    if bytes(body.get("type", b"")) != b'"content_block_delta"' or (reasoning and text):
        return None
    delta = _fields(body.get("delta", b"{}"))
    held = _holding(delta, ("thinking",) if reasoning else ("text",), reasoning or text)
    return _Block(body, delta, *held) if held else None


_READERS: Final = {Chat: _chunk, Anthropic: _block}


def _holding(fields: Fields, names: Iterable[str], text: str) -> frozenset[str]:
    """Return the names under which this text stands: vendors may send it twice."""
    return frozenset(
        name for name in names if text and name in fields and _value(fields[name]) == text
    )


def _shared(fields: Mapping[str, msgspec.Raw], *, last: bool) -> dict[str, Any]:
    """Return what this part of a frame has of fields that are no text."""
    if last:
        return dict(fields)
    kept = {
        name: value
        for name, value in fields.items()
        if name in _REPEATED or bytes(value) in _EMPTY or name in _NULLABLE
    }
    return {name: _NULL if name in _NULLABLE else value for name, value in kept.items()}
