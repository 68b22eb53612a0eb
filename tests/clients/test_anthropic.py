"""What else the anthropic SDK can do, each call as if there were no relay.

The streams of text, and how they fail, are in test_sdks.
"""

from compare import Call, both_ways, table
from sdks import (
    SAID,
    anthropic_client,
    around_the_sdks,  # noqa: F401  a fixture of every test here
    async_anthropic_client,
)
from wires import answers, streams
from wires import anthropic as wire
from wires.weather import JSON, PIECES, TOKYO, Weather

CLIENTS = {"anthropic": anthropic_client, "anthropic-async": async_anthropic_client}


TOOL = {"name": "get_weather", "input_schema": Weather.model_json_schema()}
THINKING = {"thinking": {"type": "enabled", "budget_tokens": 1000}, "max_tokens": 2000}
THOUGHT = ["Let me ", "想一想… 🤔"]

whole_tool = wire.whole(
    wire.text_events(["I look."]), wire.tool_events("get_weather", PIECES, 1), stop="tool_use"
)
whole_thinking = wire.whole(wire.thinking_events(THOUGHT), wire.text_events(["你好"], 1))


def deltas(kind):
    """Return a reader of the deltas of one kind, from `text_delta` to `signature_delta`."""
    name = {"input_json_delta": "partial_json"}.get(kind, kind.removesuffix("_delta"))

    def read(events):
        found = [event.delta for event in events if event.type == "content_block_delta"]
        return "".join(getattr(delta, name) for delta in found if delta.type == kind)

    return read


CALLS = [
    Call(
        "message",
        answers(wire.message(wire.text("你好 🌍")), 200, wire.HEADERS),
        lambda c: c.messages.create(**SAID),
        lambda answer: (answer.content[0].text, answer.usage.output_tokens, answer._request_id),
        ("你好 🌍", 15, dict(wire.HEADERS)["request-id"]),
    ),
    Call(
        "tool",
        answers(wire.message(wire.tool_use("get_weather", TOKYO.model_dump()), stop="tool_use")),
        lambda c: c.messages.create(**SAID, tools=[TOOL], tool_choice={"type": "any"}),
        lambda answer: (answer.stop_reason, answer.content[0].input),
        ("tool_use", TOKYO.model_dump()),
    ),
    Call(
        "tool, streamed",
        streams(wire.framed(whole_tool), wire.HEADERS),
        lambda c: c.messages.create(**SAID, tools=[TOOL], stream=True),
        deltas("input_json_delta"),
        JSON,
    ),
    Call(
        "tool, stream()",
        streams(wire.framed(whole_tool)),
        lambda c: c.messages.stream(**SAID, tools=[TOOL]),
        lambda events: events[-1].content[1].input,
        TOKYO.model_dump(),
    ),
    Call(
        "thinking",
        answers(wire.message(wire.thinking("".join(THOUGHT)), wire.text("你好"))),
        lambda c: c.messages.create(**SAID | THINKING),
        lambda answer: (answer.content[0].thinking, answer.content[0].signature),
        ("".join(THOUGHT), wire.SIGNATURE),
    ),
    Call(
        "thinking, streamed",
        streams(wire.framed(whole_thinking)),
        lambda c: c.messages.create(**SAID | THINKING, stream=True),
        deltas("thinking_delta"),
        "".join(THOUGHT),
    ),
    Call(
        "thinking, stream()",
        streams(wire.framed(whole_thinking)),
        lambda c: c.messages.stream(**SAID | THINKING),
        lambda events: (events[-1].content[0].signature, events[-1].content[1].text),
        (wire.SIGNATURE, "你好"),
    ),
    Call(
        "structured output",
        answers(wire.message(wire.text(JSON))),
        lambda c: c.messages.parse(**SAID, output_format=Weather),
        lambda answer: answer.parsed_output,
        TOKYO,
    ),
    Call(
        "tokens counted",
        answers({"input_tokens": 25}),
        lambda c: c.messages.count_tokens(model=SAID["model"], messages=SAID["messages"]),
        lambda answer: answer.input_tokens,
        25,
    ),
    Call(
        "beta",
        answers(wire.message(wire.text("你好"))),
        lambda c: c.beta.messages.create(**SAID, betas=["of-the-test-2026-01-01"]),
        lambda answer: answer.content[0].text,
        "你好",
    ),
]


@table(CLIENTS, CALLS)
async def test_call(connect, call):
    """The call's answer is the API's, and the API was asked what the SDK asks it directly."""
    relayed, direct = await both_ways(connect, call)
    assert call.read(relayed.answer) == call.expected
    assert relayed == direct
