"""The Responses API. openai.types.responses: Response, ResponseStreamEvent; there is no [DONE]."""

from collections.abc import Iterable, Mapping
from typing import Any

from fakes import frame
from wires.openai_chat import CALL, MODEL

ID = "resp_68d6f3a1c2e8"
MESSAGE = "msg_68d6f3a2b7d0"
FUNCTION = "fc_68d6f3a2c11f"
REASONING = "rs_68d6f3a19b44"

Event = dict[str, Any]


def response(*items: Mapping[str, Any], status: str = "completed") -> dict[str, Any]:
    """Return a Response with these output items; without usage unless it is completed."""
    completed = status == "completed"
    return {
        "id": ID,
        "object": "response",
        "created_at": 1_700_000_000,
        "completed_at": 1_700_000_002 if completed else None,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {},
        "model": MODEL,
        "output": list(items),
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "prompt_cache_retention": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default" if completed else "auto",
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": _usage() if completed else None,
        "user": None,
    }


def _usage() -> dict[str, Any]:
    return {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 12,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 21,
    }


def message(text: str | None, status: str = "completed") -> dict[str, Any]:
    """Return an output item of text; None: one that has no content yet."""
    content = [] if text is None else [_part(text)]
    return {
        "id": MESSAGE,
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": content,
    }


def call(name: str, arguments: str, status: str = "completed") -> dict[str, Any]:
    """Return an output item that calls a function."""
    return {
        "id": FUNCTION,
        "type": "function_call",
        "status": status,
        "call_id": CALL,
        "name": name,
        "arguments": arguments,
    }


def reasoning(summary: str | None) -> dict[str, Any]:
    """Return an output item of reasoning; None: one without a summary yet."""
    parts = [] if summary is None else [{"type": "summary_text", "text": summary}]
    return {"id": REASONING, "type": "reasoning", "summary": parts}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def text_events(tokens: Iterable[str], at: int = 0) -> list[Event]:
    """Return the events of a message; `at`: the index of the output item."""
    tokens = list(tokens)
    text = "".join(tokens)
    place = {"item_id": MESSAGE, "output_index": at, "content_index": 0}
    kind = "response.output_text"
    deltas = [{"type": f"{kind}.delta", **place, "delta": t, "logprobs": []} for t in tokens]
    return [
        _item("added", message(None, "in_progress"), at),
        {"type": "response.content_part.added", **place, "part": _part("")},
        *deltas,
        {"type": f"{kind}.done", **place, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **place, "part": _part(text)},
        _item("done", message(text), at),
    ]


def call_events(name: str, pieces: Iterable[str], at: int = 0) -> list[Event]:
    """Return the events of a function call, its arguments in pieces."""
    pieces = list(pieces)
    whole = "".join(pieces)
    place = {"item_id": FUNCTION, "output_index": at}
    kind = "response.function_call_arguments"
    return [
        _item("added", call(name, "", "in_progress"), at),
        *({"type": f"{kind}.delta", **place, "delta": piece} for piece in pieces),
        {"type": f"{kind}.done", **place, "arguments": whole},
        _item("done", call(name, whole), at),
    ]


def reasoning_events(tokens: Iterable[str], at: int = 0) -> list[Event]:
    """Return the events of a summary of the reasoning."""
    tokens = list(tokens)
    text = "".join(tokens)
    place = {"item_id": REASONING, "output_index": at, "summary_index": 0}
    part, whole = "response.reasoning_summary_part", {"type": "summary_text", "text": text}
    kind = "response.reasoning_summary_text"
    return [
        _item("added", reasoning(None), at),
        {"type": f"{part}.added", **place, "part": {"type": "summary_text", "text": ""}},
        *({"type": f"{kind}.delta", **place, "delta": token} for token in tokens),
        {"type": f"{kind}.done", **place, "text": text},
        {"type": f"{part}.done", **place, "part": whole},
        _item("done", reasoning(text), at),
    ]


def _item(what: str, item: Mapping[str, Any], at: int) -> Event:
    return {"type": f"response.output_item.{what}", "output_index": at, "item": item}


def whole(*parts: list[Event]) -> list[Event]:
    """Return the events of a whole response, numbered, from created to completed."""
    items = [event["item"] for part in parts for event in part if event["type"].endswith("m.done")]
    begun = response(status="in_progress")
    events = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        *(event for part in parts for event in part),
        {"type": "response.completed", "response": response(*items)},
    ]
    return [event | {"sequence_number": number} for number, event in enumerate(events)]


def framed(events: Iterable[Event]) -> list[bytes]:
    """Return the events as frames."""
    return [frame(event, event["type"]) for event in events]


def stream(tokens: Iterable[str]) -> list[bytes]:
    """Return a streamed text as frames."""
    return framed(whole(text_events(tokens)))
