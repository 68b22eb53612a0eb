"""Anthropic's Messages API, and its errors.

anthropic.types: Message, RawMessageStreamEvent, MessageTokensCount, BetaErrorResponse. The order of
the events is that of "Streaming messages": start, ping, blocks, delta with the usage, stop.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from fakes import frame

MODEL = "claude-of-the-test"
HEADERS = [
    ("request-id", "req_011CSHoEeqs5C35K2UUqR7Fy"),
    ("anthropic-organization-id", "acme"),
    ("anthropic-ratelimit-requests-limit", "50"),
    ("anthropic-ratelimit-requests-remaining", "49"),
    ("anthropic-ratelimit-requests-reset", "2030-01-01T00:00:00Z"),
]
TOOL_USE = "toolu_01A09q90qw90lq917835lq9"
SIGNATURE = "EqQBCgIYAhIM1gbcDa9GJwZA2b3h"

Event = dict[str, Any]


def _usage() -> dict[str, Any]:
    return {
        "input_tokens": 25,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": 15,
        "service_tier": "standard",
        "inference_geo": "not_available",
    }


def message(*blocks: Mapping[str, Any], stop: str | None = "end_turn") -> dict[str, Any]:
    """Return a Message of these content blocks."""
    return {
        "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": list(blocks),
        "stop_reason": stop,
        "stop_sequence": None,
        "stop_details": None,
        "usage": _usage(),
    }


def text(words: str) -> dict[str, Any]:
    """Return a block of text."""
    return {"type": "text", "text": words, "citations": None}


def thinking(words: str) -> dict[str, Any]:
    """Return a block of thinking."""
    return {"type": "thinking", "thinking": words, "signature": SIGNATURE}


def tool_use(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a block that calls a tool."""
    return {"type": "tool_use", "id": TOOL_USE, "name": name, "input": dict(arguments)}


def text_events(tokens: Iterable[str], at: int = 0) -> list[Event]:
    """Return the events of a block of text; `at`: its index."""
    deltas = [{"type": "text_delta", "text": token} for token in tokens]
    return _block({"type": "text", "text": ""}, deltas, at)


def thinking_events(tokens: Iterable[str], at: int = 0) -> list[Event]:
    """Return the events of a block of thinking, the signature last."""
    deltas = [{"type": "thinking_delta", "thinking": token} for token in tokens]
    deltas.append({"type": "signature_delta", "signature": SIGNATURE})
    return _block({"type": "thinking", "thinking": "", "signature": ""}, deltas, at)


def tool_events(name: str, pieces: Iterable[str], at: int = 0) -> list[Event]:
    """Return the events of a tool's call, its input in pieces of JSON; the first is empty."""
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ("", *pieces)]
    return _block(tool_use(name, {}), deltas, at)


def _block(start: Mapping[str, Any], deltas: Iterable[Any], at: int) -> list[Event]:
    return [
        {"type": "content_block_start", "index": at, "content_block": start},
        *({"type": "content_block_delta", "index": at, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": at},
    ]


def whole(*blocks: list[Event], stop: str = "end_turn") -> list[Event]:
    """Return the events of a whole message; a ping follows the first block's start."""
    events = [event for block in blocks for event in block]
    ended = {"stop_reason": stop, "stop_sequence": None}
    counted = {name: n for name, n in _usage().items() if name.endswith("tokens")}
    return [
        {"type": "message_start", "message": message(stop=None)},
        events[0],
        {"type": "ping"},
        *events[1:],
        {"type": "message_delta", "delta": ended, "usage": counted},
        {"type": "message_stop"},
    ]


def framed(events: Iterable[Event]) -> list[bytes]:
    """Return the events as frames."""
    return [frame(event, event["type"]) for event in events]


def stream(tokens: Iterable[str]) -> list[bytes]:
    """Return a streamed text as frames."""
    return framed(whole(text_events(tokens)))


def error(status: int) -> dict[str, Any]:
    """Return the body of an error: 401, 429 or 529."""
    kind, text = {
        401: ("authentication_error", "invalid x-api-key"),
        429: ("rate_limit_error", "This request would exceed your organization's rate limit."),
        529: ("overloaded_error", "Overloaded"),
    }[status]
    request = "req_011CSHoEeqs5C35K2UUqR7Fy"
    return {"type": "error", "error": {"type": kind, "message": text}, "request_id": request}
