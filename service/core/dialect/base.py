"""Frame to meaning: text, finish, usage, error; per API.

Every upstream API says in its own way what a frame carries, when a stream is complete, and what an
error looks like. A Dialect reads the frames of one stream in order and remembers what they said:

    complete   the upstream said that the stream ended as it should
    trusting   it says no such thing: a body that ends as HTTP bodies should is complete
    over       nothing that matters can follow: end the client's stream now
    empty      nothing has been said that is a part of an answer
    error      the upstream's own words, where it said that it failed; they reach the client as sent

Sources: the OpenAI API reference (chat.completion.chunk, Responses and transcription events),
Anthropic's "Streaming messages". Vendors bend these forms, so that a frame of an unexpected shape
is read as far as it makes sense and never refused.
"""

import json
from typing import Any, Final

import msgspec

from service.core import sse
from service.core.events import COMMENT, OPAQUE, Event
from service.errors import Failure

NO_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises on bytes that are no JSON, or too deep for it."""
NO_WORDS = "an error, without a word about it"


_TAIL: Final = 16 * 1024
_raw_decode: Final = json.JSONDecoder().raw_decode


class Dialect:
    """A stream of SSE whose API the relay does not know: it ends as its transport ends."""

    __slots__ = ("_usage", "complete", "error", "finish_reason", "model", "over")

    trusting = True
    empty = False

    def __init__(self) -> None:
        self.complete = self.over = False
        self.error: Any = None
        self.finish_reason: str | None = None
        self.model: str | None = None
        self._usage: Any = None

    @property
    def usage(self) -> Any:
        """What the answer has cost, as the upstream says it; None if it does not."""
        return self._usage

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
        return b"event: error\ndata: %s\n\n" % msgspec.json.encode(self.error_body(failure))


class Plain(Dialect):
    """A body that is no event stream: its pieces are handed on as they come.

    All APIs tell the usage near the end of their JSON; so much of it is kept as to find it there.
    """

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        super().__init__()
        self._tail = b""

    def read(self, frame: bytes) -> Event:
        """Any piece is content."""
        self._tail = (self._tail + frame)[-_TAIL:]
        return OPAQUE

    @property
    def usage(self) -> Any:
        """The object called usage that is the last in the body, None if there is none."""
        _, name, rest = self._tail.rpartition(b'"usage"')
        _, colon, value = rest.partition(b":")
        try:
            found, _ = _raw_decode(value.decode(errors="replace").lstrip()) if colon else (None, 0)
        except (ValueError, RecursionError):
            return None
        return found if name and isinstance(found, dict) else None


def text_of(value: Any) -> str | None:
    """Return the value if it is a text."""
    return value if isinstance(value, str) else None
