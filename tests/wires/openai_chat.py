"""Chat completions, and the errors of OpenAI's API.

openai.types.chat: ChatCompletion, ChatCompletionChunk. Both fields that the API sends as null and
the padding of a streamed chunk (`obfuscation`) are there.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from fakes import frame
from fakes.frames import DONE

MODEL = "gpt-4o-mini-2024-07-18"
HEADERS = [
    ("x-request-id", "req_7f3a9c"),
    ("openai-organization", "acme"),
    ("openai-processing-ms", "412"),
    ("openai-version", "2020-10-01"),
    ("x-ratelimit-limit-requests", "10000"),
    ("x-ratelimit-remaining-requests", "9999"),
    ("x-ratelimit-reset-requests", "8.64s"),
]
CALL = "call_Nq5Jn0jvTbZ6qKfCw5lV2k8A"

_COMMON = {
    "id": "chatcmpl-BqVxYk2uT6mJ",
    "created": 1_700_000_000,
    "model": MODEL,
    "service_tier": "default",
    "system_fingerprint": "fp_34a54ae93c",
}


def usage() -> dict[str, Any]:
    """Return a CompletionUsage with all of its details."""
    return {
        "prompt_tokens": 9,
        "completion_tokens": 12,
        "total_tokens": 21,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def completion(content: str | None, *calls: tuple[str, str]) -> dict[str, Any]:
    """Return a ChatCompletion; `calls`: (function, arguments as JSON)."""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": content,
        "refusal": None,
        "annotations": [],
    }
    if calls:
        message["tool_calls"] = [
            {"id": CALL, "type": "function", "function": {"name": name, "arguments": arguments}}
            for name, arguments in calls
        ]
    finish = "tool_calls" if calls else "stop"
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    return _COMMON | {"object": "chat.completion", "choices": [choice], "usage": usage()}


def chunk(delta: Mapping[str, Any] | None, finish: str | None = None) -> dict[str, Any]:
    """Return a ChatCompletionChunk; delta None: the one with the usage, without choices."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return _COMMON | {
        "object": "chat.completion.chunk",
        "choices": [] if delta is None else [choice],
        "usage": usage() if delta is None else None,
        "obfuscation": "kX1vU8sWq",
    }


def text_chunks(tokens: Iterable[str]) -> list[dict[str, Any]]:
    """Return the chunks of a text: the role, a chunk for each token, the finish, the usage."""
    return [
        chunk({"role": "assistant", "content": "", "refusal": None}),
        *(chunk({"content": token}) for token in tokens),
        chunk({}, "stop"),
        chunk(None),
    ]


def call_chunks(name: str, pieces: Iterable[str]) -> list[dict[str, Any]]:
    """Return the chunks of a function call, its arguments in pieces."""
    opened = {"index": 0, "id": CALL, "type": "function"}
    head = opened | {"function": {"name": name, "arguments": ""}}
    return [
        chunk({"role": "assistant", "content": None, "tool_calls": [head], "refusal": None}),
        *(
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
            for piece in pieces
        ),
        chunk({}, "tool_calls"),
        chunk(None),
    ]


def framed(chunks: Iterable[Any]) -> list[bytes]:
    """Return the chunks as frames, and [DONE]."""
    return [*(frame(chunk) for chunk in chunks), DONE]


def stream(tokens: Iterable[str]) -> list[bytes]:
    """Return a streamed text as frames."""
    return framed(text_chunks(tokens))


def error(status: int) -> dict[str, Any]:
    """Return the body of an error: 401 or 429."""
    message, kind, code = {
        401: (
            "Incorrect API key provided.",
            "invalid_request_error",
            "invalid_api_key",
        ),
        429: ("Rate limit reached: Limit 3, Used 3.", "requests", "rate_limit_exceeded"),
    }[status]
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
