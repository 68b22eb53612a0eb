"""The frames that an OpenAI-compatible API streams, as bytes."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

DONE = b"data: [DONE]\n\n"


def frame(data: Any, event: str | None = None) -> bytes:
    """Return one SSE frame; `data` that is no text is written as compact JSON, in UTF-8."""
    text = data if isinstance(data, str) else _compact(data)
    name = f"event: {event}\n" if event else ""
    lines = "".join(f"data: {line}\n" for line in text.split("\n"))
    return f"{name}{lines}\n".encode()


def _compact(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def chat_frame(
    delta: Mapping[str, Any] | None = None,
    *,
    finish: str | None = None,
    model: str = "gpt-4o-mini",
    **more: Any,
) -> bytes:
    """Return one `chat.completion.chunk`; delta None: without choices. `more`: top-level fields."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": model,
        "choices": [] if delta is None else [choice],
    }
    return frame(chunk | more)


def chat(  # noqa: PLR0913  each is a part of the stream that a test leaves out or changes
    tokens: Iterable[str],
    *,
    usage: Mapping[str, int] | None = None,
    role: bool = True,
    finish: str | None = "stop",
    done: bool = True,
    model: str = "gpt-4o-mini",
) -> list[bytes]:
    """Return the frames of a streamed chat completion: role, tokens, finish, usage, [DONE].

    role=False, finish=None, usage=None, done=False each leave their frame out.
    """
    frames = [chat_frame({"role": "assistant", "content": ""}, model=model)] if role else []
    frames += [chat_frame({"content": token}, model=model) for token in tokens]
    if finish is not None:
        frames.append(chat_frame({}, finish=finish, model=model))
    if usage is not None:
        frames.append(chat_frame(model=model, usage=dict(usage)))
    return [*frames, DONE] if done else frames
