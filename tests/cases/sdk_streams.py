"""What the SDKs' own `stream()` makes of an answer, by their own tests.

anthropic-sdk-python 2.12, tests/lib/streaming/test_messages.py and test_beta_messages.py with their
fixtures, which are sent line by line and without the last blank line; openai-python 3.54,
tests/lib/chat/test_tool_call_deltas.py and test_stream_moderation.py. The bodies of its
test_completions_streaming.py are not in its package.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from fakes import frame
from fakes.frames import DONE

Fields = dict[str, Any]


class Told(NamedTuple):
    """An answer, and what its client must have at the end.

    final   by dotted paths, values of the message that the SDK has put together
    kinds   the types of its events, where the test looks at them
    """

    source: str
    pieces: tuple[bytes, ...]
    final: Mapping[str, Any]
    kinds: tuple[str, ...] | None = None
    beta: bool = False


def _lines(*events: Fields | bytes) -> tuple[bytes, ...]:
    whole = b"".join(
        one if isinstance(one, bytes) else frame(one, one.get("name", one["type"]))
        for one in events
    )
    return tuple(whole.removesuffix(b"\n").splitlines(keepends=True))


def _start(model: str = "claude-of-the-test", usage: Fields | None = None, **more: Any) -> Fields:
    message = {
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": model,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 25, "output_tokens": 1} | (usage or {}),
    }
    return {"type": "message_start", "message": message | more}


def _block(index: int, block: Fields, *deltas: Fields) -> list[Fields]:
    at = {"index": index}
    return [
        {"type": "content_block_start", **at, "content_block": block},
        *({"type": "content_block_delta", **at, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", **at},
    ]


def _text(*words: str, index: int = 0) -> list[Fields]:
    deltas = [{"type": "text_delta", "text": word} for word in words]
    return _block(index, {"type": "text", "text": ""}, *deltas)


def _tool(kind: str, name: str, *parts: str, index: int = 1, **more: Any) -> list[Fields]:
    deltas = [{"type": "input_json_delta", "partial_json": part} for part in parts]
    return _block(index, {"type": kind, "id": "t1", "name": name, "input": {}, **more}, *deltas)


def _delta(stop: str = "end_turn", usage: Fields | None = None, **more: Any) -> Fields:
    delta = {"stop_reason": stop, "stop_sequence": None} | more.pop("delta", {})
    return {"type": "message_delta", "delta": delta, "usage": usage or {"output_tokens": 8}, **more}


_PING = {"type": "ping"}
_STOP = {"type": "message_stop"}
_HELLO = ("Hello", " there", "!")
_END = ("content_block_stop", "message_delta")
_TEXT = ("message_start", "content_block_start", *["content_block_delta", "text"] * 3, *_END)
_CALLER = {"caller": {"type": "direct"}}
_FUTURE = b'event: message\ndata: {"type":"future_event","usage":{"input_tokens":99}}\n\n'
_DROPPED = {
    "type": "thinking_dropped",
    "path": "messages.0.content.0",
    "reason": "model_binding_mismatch",
}
_OTHER = {
    "type": "thinking_dropped",
    "path": "messages.2.content.0",
    "reason": "prefix_binding_mismatch",
}
_EDIT = {"type": "clear_tool_uses_20250919", "cleared_input_tokens": 1500, "cleared_tool_uses": 2}
_CACHES = {
    "cache_creation_input_tokens": 10,
    "cache_read_input_tokens": 5,
    "service_tier": "standard",
}

ANTHROPIC = (
    Told(
        "test_basic_response",
        _lines(_start(), *_text(*_HELLO)[:1], _PING, *_text(*_HELLO)[1:], _delta(), _STOP),
        {"content.0.text": "Hello there!", "stop_reason": "end_turn", "usage.output_tokens": 8},
        _TEXT,
    ),
    Told(
        "test_message_stop_event_serialization",
        (*_lines(_start(), *_text(*_HELLO), _delta(), _STOP), b"\n"),
        {"content.0.text": "Hello there!"},
        (*_TEXT, "message_stop"),
    ),
    Told(
        "test_unknown_events_are_passed_through: before its end",
        _lines(_FUTURE, _start(), *_text(*_HELLO), _FUTURE, _delta(), _STOP),
        {"content.0.text": "Hello there!", "usage.input_tokens": 25},
        ("future_event", *_TEXT[:-1], "future_event", "message_delta"),
    ),
    Told(
        "test_tool_use",
        _lines(
            _start(),
            *_text("I", "'ll check."),
            *_tool("tool_use", "get_weather", "", '{"locati', 'on": "P', "ar", 'is"}', **_CALLER),
            _delta("tool_use"),
            _STOP,
        ),
        {"content.1.input": {"location": "Paris"}, "content.1.caller.type": "direct"},
    ),
    Told(
        "test_tool_use_caller_omitted",
        _lines(_start(), *_text("I"), *_tool("tool_use", "get_weather", '{"location": "Paris"}'),
               _delta("tool_use"), _STOP),
        {"content.1.input": {"location": "Paris"}, "content.1.caller": None},
    ),
    Told(
        "test_server_tool_use",
        _lines(
            _start(),
            *_tool("server_tool_use", "web_search", "", '{"query": "', "anthropic cl", 'aude"}',
                   index=0),
            *_text("It is", " out.", index=1),
            _delta(usage={"output_tokens": 97, "server_tool_use": {"web_search_requests": 1,
                                                                  "web_fetch_requests": 0}}),
            _STOP,
        ),
        {"content.0.input": {"query": "anthropic claude"},
         "usage.server_tool_use.web_search_requests": 1},
    ),
    Told(
        "test_refusal_stop_details_propagated",
        _lines(_start(), *_text(), _delta("refusal", delta={"stop_details": {
            "type": "refusal", "category": "cyber", "explanation": "refused by policy"}}), _STOP),
        {"stop_reason": "refusal", "stop_details.category": "cyber"},
    ),
    Told(
        "test_message_delta_fields_propagated",
        _lines(
            _start(usage=_CACHES),
            *_text("Hello there!"),
            _delta(
                delta={"container": {"id": "container_01", "expires_at": "2025-01-01T00:00:00Z"}},
                usage={"input_tokens": 40, "cache_creation_input_tokens": 12, "output_tokens": 8,
                       "cache_read_input_tokens": 7},
            ),
            _STOP,
        ),
        {"container.id": "container_01", "usage.input_tokens": 40, "usage.output_tokens": 8,
         "usage.cache_creation_input_tokens": 12, "usage.service_tier": "standard"},
    ),
    Told(
        "test_message_delta_omitted_usage_keeps_message_start",
        _lines(_start(usage=_CACHES), *_text("Hello there!"), _delta(), _STOP),
        {"usage.input_tokens": 25, "usage.output_tokens": 8,
         "usage.cache_creation_input_tokens": 10},
    ),
    Told(
        "test_incomplete_response",
        _lines(
            _start(),
            *_text("I'll", " do it."),
            *_tool("tool_use", "make_file", "", '{"filename": "taxes.txt', '", "lines": ["#')[:-1],
            _delta("max_tokens"),
            _STOP,
        ),
        {"stop_reason": "max_tokens", "content.1.input.filename": "taxes.txt"},
        beta=True,
    ),
    Told(
        "test_compaction",
        _lines(
            _start(),
            *_block(0, {"type": "compaction", "content": None, "encrypted_content": None},
                    {"type": "compaction_delta", "content": "Earlier.", "encrypted_content": "Ep"}),
            *_text("Hello there!", index=1),
            _delta(),
            _STOP,
        ),
        {"content.0.content": "Earlier.", "content.0.encrypted_content": "Ep",
         "content.1.text": "Hello there!"},
        beta=True,
    ),
    Told(
        "test_fallback_relabels_model",
        _lines(
            _start("claude-a"),
            *_block(0, {"type": "fallback", "from": {"model": "claude-a"},
                        "to": {"model": "claude-b"},
                        "trigger": {"type": "refusal", "category": None}}),
            *_text("Hello there!", index=1),
            _delta(),
            _STOP,
        ),
        {"model": "claude-b", "content.0.type": "fallback", "content.1.text": "Hello there!"},
        beta=True,
    ),
    Told(
        "test_fallback_credit_usage_propagated",
        _lines(_start(), *_text("Hello there!"), _delta(usage={
            "output_tokens": 8, "fallback_credit": {"status": {"type": "redeemed"}}}), _STOP),
        {"usage.fallback_credit.status.type": "redeemed", "usage.output_tokens": 8},
        beta=True,
    ),
    Told(
        "test_context_management_propagated",
        _lines(_start(), *_text("Hello there!"),
               _delta(context_management={"applied_edits": [_EDIT]}), _STOP),
        {"context_management.applied_edits.0.cleared_tool_uses": 2},
        beta=True,
    ),
    *(
        Told(
            f"test_input_transformations_propagated: {name}",
            _lines(_start(input_transformations=[first]), *_text("Hello there!"), _delta(**more),
                   _STOP),
            {"input_transformations": expected},
            beta=True,
        )
        for name, first, more, expected in (
            ("delta", _OTHER, {"input_transformations": [_DROPPED]}, [_DROPPED]),
            ("empty delta", _DROPPED, {"input_transformations": []}, []),
            ("start only", _DROPPED, {}, [_DROPPED]),
        )
    ),
)  # fmt: skip
"""Anthropic's, of messages.stream() and beta.messages.stream()."""
INVALID = _lines(
    _start(), *_tool("tool_use", "w", '{"unit": celsius}', index=0), _delta("tool_use"), _STOP
)
"""Of test_tool_use_invalid_json: the arguments are no JSON."""


def _chunk(delta: Fields, *, at: int = 0, finish: str | None = None, **more: Any) -> Fields:
    choice = {"index": at, "delta": delta, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m",
            "choices": [choice], **more}  # fmt: skip


def _call(index: int, arguments: str | None = None, **more: Any) -> Fields:
    function = {"arguments": arguments} if arguments is not None else {}
    return {"index": index, "function": function | more.pop("function", {}), **more}


def _calls(source: str) -> Told:
    """Return the case in which the pieces of one call share a chunk."""
    choice = 1 if source == "new_choice" else 0
    tool = 1 if source in {"existing_tool", "parallel"} else 0
    other = _call(0, "{}", id="other", type="function", function={"name": "other"})
    first = [
        *([other] if source == "parallel" else []),
        _call(tool, id="files", type="function", function={"name": "list_files"}),
        _call(tool, '{"path"'),
    ]
    before = []
    if source in {"after_role", "empty", "new_choice"}:
        empty = {"tool_calls": []} if source == "empty" else {}
        before = [_chunk({"role": "assistant"} | empty)]
    elif source == "existing_tool":
        before = [_chunk({"role": "assistant", "tool_calls": [other]})]
    chunks = [
        *before,
        _chunk({"role": "assistant", "tool_calls": first}, at=choice),
        _chunk({"tool_calls": [_call(tool, ": "), _call(tool, '"."}')]}, at=choice),
        _chunk({}, at=choice, finish="tool_calls"),
    ]
    at = f"choices.{choice}.message.tool_calls.{tool}.function"
    final = {f"{at}.name": "list_files", f"{at}.arguments": '{"path": "."}'}
    return Told(f"test_duplicate_tool_call_deltas: {source}", _body(chunks), final)


def _body(chunks: list[Fields]) -> tuple[bytes, ...]:
    return (b"".join(frame(chunk) for chunk in chunks) + DONE,)


def _moderated(source: str, first: Fields | None, last: Fields | None) -> Told:
    """Return the case in which a report on the content comes with a chunk."""
    chunks = [
        _chunk({"role": "assistant", "content": "o"}, **({"moderation": first} if first else {})),
        _chunk({"content": "k"}, finish="stop"),
        {**_chunk({}), "choices": [], **({"moderation": last} if last else {})},
        {**_chunk({}), "choices": [], "moderation": None, "usage": {
            "prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}},
    ]  # fmt: skip
    final = {"choices.0.message.content": "ok", "usage.total_tokens": 2}
    return Told(f"test_stream_moderation: {source}", _body(chunks), final)


_FAILED = {"type": "error", "code": "test_error", "message": "Synthetic"}
_PASSED = {"type": "moderation_results", "model": "m", "results": []}

OPENAI = (
    *map(_calls, ("initial", "after_role", "empty", "new_choice", "existing_tool", "parallel")),
    _moderated("flagged", None, {"input": _PASSED, "output": _PASSED}),
    _moderated("error", None, {"input": _PASSED, "output": _FAILED}),
    _moderated("input_error", None, {"input": _FAILED, "output": _PASSED}),
    _moderated("initial", {"input": _PASSED, "output": _FAILED}, None),
    _moderated("unmoderated", None, None),
)
"""OpenAI's, of chat.completions.stream()."""
