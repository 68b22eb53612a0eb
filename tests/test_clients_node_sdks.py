"""What the JavaScript SDKs do besides streaming text: tools, thoughts, and their other calls."""

import json
import struct
from base64 import b64encode
from collections.abc import Iterable
from typing import Any, NamedTuple

import pytest

from client import Client
from client_scene import MESSAGE, MESSAGE_START, block, event, message_end, scene
from fakes import chat_frame, in_turn, reply, sse
from fakes.frames import DONE
from node import ANTHROPIC, OPENAI, VERCEL, NodeClient

SDKS = (OPENAI, ANTHROPIC, VERCEL)
PIECES = ('{"city": "', '東京"}')
TOOL = {"tool": "weather", "with": {"city": "東京"}}
MESSAGES = [{"role": "user", "content": "Hi"}]
ASKED = {"model": "m", "messages": MESSAGES}


def call_frame(text: str, **head: Any) -> bytes:
    """Return a frame with a piece of a tool call's arguments."""
    call = {"index": 0, **head, "function": {"arguments": text}}
    if head:
        call["function"]["name"] = "weather"
    return chat_frame({"tool_calls": [call]})


TOOL_CALLS = [
    chat_frame({"role": "assistant", "content": None}),
    chat_frame({"reasoning_content": "嗯…"}),
    call_frame("", id="call_1", type="function"),
    *map(call_frame, PIECES),
    chat_frame({}, finish="tool_calls"),
    chat_frame(usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}),
    DONE,
]
THOUGHT = (
    {"type": "thinking_delta", "thinking": "嗯…"},
    {"type": "signature_delta", "signature": "s1"},
)
INPUT = [{"type": "input_json_delta", "partial_json": piece} for piece in PIECES]
THINKING = {
    OPENAI.name: (
        TOOL_CALLS,
        [
            *({"arguments": piece} for piece in ("", *PIECES)),
            TOOL,
            {"done": "tool_calls", "usage": 3},
        ],
    ),
    ANTHROPIC.name: (
        [
            MESSAGE_START,
            block(0, "thinking", *THOUGHT, thinking="", signature=""),
            block(1, "tool_use", *INPUT, id="toolu_1", name="weather", input={}),
            message_end("tool_use"),
        ],
        [
            {"reasoning": "嗯…"},
            *({"arguments": piece} for piece in PIECES),
            {"thinking": "嗯…", "signature": "s1"},
            TOOL,
            {"done": "tool_use", "usage": 2},
        ],
    ),
    VERCEL.name: (TOOL_CALLS, [{"reasoning": "嗯…"}, TOOL, {"done": "tool-calls"}]),
}


def completion(content: str) -> dict[str, Any]:
    """Return a chat completion that is no stream."""
    message = {"role": "assistant", "content": content, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
    }


WHOLE = {
    OPENAI.name: ("x-request-id", completion("你好")),
    ANTHROPIC.name: ("request-id", MESSAGE | {"content": [{"type": "text", "text": "你好"}]}),
    VERCEL.name: ("x-request-id", completion("你好")),
}


class Call(NamedTuple):
    """A call of npm's openai: what it sends, parts of the body there, the answer, the report."""

    name: str
    path: str
    body: dict[str, Any]
    sent: tuple[bytes, ...]
    kind: str
    answer: bytes
    said: dict[str, Any]


def json_call(  # noqa: PLR0913, PLR0917  the parts of a call
    name: str, path: str, body: dict[str, Any], sent: bytes, answer: Any, said: dict[str, Any]
) -> Call:
    """Return a call that is answered with JSON."""
    return Call(name, path, body, (sent,), "application/json", json.dumps(answer).encode(), said)


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}
VECTOR = b64encode(struct.pack("<2f", 0.5, -1)).decode()
CALLS = (
    json_call(
        "structured",
        "/v1/chat/completions",
        {**ASKED, "response_format": FORMAT},
        b'"json_schema"',
        completion('{"city": "東京"}'),
        {"parsed": {"city": "東京"}},
    ),
    json_call(
        "embeddings",
        "/v1/embeddings",
        {"model": "m", "input": "你好"},
        "你好".encode(),
        {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": VECTOR}]},
        {"vector": [0.5, -1]},
    ),
    json_call("file", "/v1/files", {}, 'filename="声音.mp3"'.encode(), {"id": "f1"}, {"id": "f1"}),
    json_call(
        "transcription",
        "/v1/audio/transcriptions",
        {"model": "m"},
        b"\r\n\r\nsound\r\n",
        {"text": "你好"},
        {"text": "你好"},
    ),
    Call(
        "speech",
        "/v1/audio/speech",
        {"model": "m", "voice": "v", "input": "你好"},
        ("你好".encode(),),
        "audio/mpeg",
        bytes(range(256)),
        {"bytes": bytes(range(256)).hex()},
    ),
    json_call(
        "image",
        "/v1/images/generations",
        {"model": "m", "prompt": "猫"},
        "猫".encode(),
        {"created": 1, "data": [{"b64_json": "iVBORw0="}]},
        {"image": "iVBORw0="},
    ),
)
MADE = {"id": "r1", "object": "response", "status": "in_progress", "output": []}
RESPONSE = [
    event("response.created", sequence_number=0, response=MADE),
    event("response.output_text.delta", sequence_number=1, delta="你"),
    event("response.output_text.delta", sequence_number=2, delta="好"),
    event("response.completed", sequence_number=3, response={**MADE, "status": "completed"}),
]


def with_ids(clients: Iterable[Client], case: str):
    """Parametrise `client`, with ids such as `node-openai: whole`."""
    rows = [pytest.param(client, id=f"{client.name}: {case}") for client in clients]
    return pytest.mark.parametrize("client", rows)


@with_ids(SDKS, "thinking and tools")
async def test_thinking_and_tools(client: NodeClient):
    """Thoughts and the pieces of a tool's arguments arrive, and come together as they should.

    openai's SDK knows no thoughts, Vercel's tells no pieces.
    """
    frames, said = THINKING[client.name]
    async with scene(sse(*frames)) as at, client.run(at.url, call="tools") as program:
        assert await program.rest() == said


@with_ids(SDKS, "whole")
async def test_whole(client: NodeClient):
    """An answer that is no stream arrives, with the upstream's request id."""
    header, told = WHOLE[client.name]
    script = reply(200, json.dumps(told), (header, "req_1"), content_type="application/json")
    async with scene(script) as at, client.run(at.url, call="whole") as program:
        assert await program.rest() == [{"text": "你好", "id": "req_1"}]
    (request,) = at.upstream.requests
    assert not request.json().get("stream")


@pytest.mark.parametrize("call", [pytest.param(c, id=f"node-openai: {c.name}") for c in CALLS])
async def test_call(call: Call):
    """Each call reaches its path with what was sent, and gets what was answered."""
    async with (
        scene(reply(200, call.answer, content_type=call.kind)) as at,
        OPENAI.run(at.url, call=call.name, body=call.body) as program,
    ):
        assert await program.rest() == [call.said]
    (request,) = at.upstream.requests
    assert request.target == call.path
    for part in call.sent:
        assert part in request.body


@with_ids([OPENAI], "responses")
async def test_responses(client: NodeClient):
    """The events of the Responses API arrive; a stream that lacks its last one is an error."""
    job = {"call": "responses", "body": {"model": "m", "input": "Hi"}}
    async with scene(in_turn(sse(*RESPONSE), sse(*RESPONSE[:-1]))) as at:
        async with client.run(at.url, **job) as program:
            assert await program.rest() == [{"text": "你"}, {"text": "好"}, {"done": "completed"}]
        async with client.run(at.url, **job) as program:
            *text, error = await program.rest()
            assert text == [{"text": "你"}, {"text": "好"}]
            assert error["error"]["code"] == "upstream_cut"
