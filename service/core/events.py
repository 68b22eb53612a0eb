"""The nouns: a frame on the wire, its meaning, and how a stream ended."""

from typing import Any, Literal

import msgspec

from service.errors import Failure

Outcome = Literal[
    "ok", "left", "cut", "stalled", "error", "stopped", "too_long", "slow", "draining", "refused"
]


class Event(msgspec.Struct, gc=False):
    """What one frame means.

    `data`: it carried data, so that it re-arms the idle clock; comments and pings do not.
    `content`: it is part of the answer; from the first one on, nothing may be tried again.
    `text`, `reasoning`, `tool_calls`: the parts of the answer that `/chat` shows.
    """

    data: bool = True
    content: bool = False
    text: str = ""
    reasoning: str = ""
    tool_calls: list[Any] | None = None
    malformed: bool = False


COMMENT = Event(data=False)
QUIET = Event()
USAGE = Event()
"""A chunk with the usage and nothing else."""
OPAQUE = Event(content=True)
MALFORMED = Event(malformed=True)


class Frame(msgspec.Struct, gc=False):
    """One SSE block as the upstream sent it, blank line included, or a piece of a plain body.

    `number` counts from 1. The bytes are never changed.
    """

    number: int
    raw: bytes
    event: Event


class Summary(msgspec.Struct):
    """What a stream came to, for its last event and its log line. Times in milliseconds."""

    model: str | None = None
    upstream: str | None = None
    proxy: str | None = None
    attempts: int = 0
    finish_reason: str | None = None
    usage: Any = None
    first_token_ms: int | None = None
    elapsed_ms: int = 0
    malformed: int = 0


class Ending(msgspec.Struct):
    """How a stream ended; `number` is one more than that of its last frame.

    `failure`: what went wrong, if anything. `said`: the upstream said so itself, in a frame of the
    stream, so that a client who got its bytes knows.
    """

    number: int
    outcome: Outcome
    summary: Summary
    failure: Failure | None = None
    said: bool = False
