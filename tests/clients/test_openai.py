"""What else the openai SDK can do, each call as if there were no relay: same question, same answer.

The streams of text, and how they fail, are in test_sdks.
"""

from compare import Call, both_ways, table
from later import openai
from sdks import (
    ASKED,
    PROMPT,
    around_the_sdks,  # noqa: F401  a fixture of every test here
    async_openai_client,
    openai_client,
)
from wires import answers, streams
from wires import openai_chat as chat
from wires import openai_responses as responses
from wires.weather import JSON, PIECES, TOKYO, Weather

CLIENTS = {"openai": openai_client, "openai-async": async_openai_client}
MODEL = "gpt-4o-mini"


FUNCTION = {"type": "function", "name": "get_weather", "parameters": Weather.model_json_schema()}
QUESTION = {"model": MODEL, "messages": ASKED}
PLEA = {"model": MODEL, "input": PROMPT}


def tool():
    """Return the tool as the SDK describes it."""
    return openai.pydantic_function_tool(Weather, name="get_weather")


def said(completion):
    """Return the one message of a completion."""
    return completion.choices[0].message


def arguments(chunks):
    """Return the arguments of a call, added up from the deltas."""
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    return "".join(d.tool_calls[0].function.arguments for d in deltas if d.tool_calls)


def of_kind(kind):
    """Return a reader of the deltas of one kind of event."""
    return lambda events: "".join(event.delta for event in events if event.type == kind)


CHAT = [
    Call(
        "chat",
        answers(chat.completion(JSON), 200, chat.HEADERS),
        lambda c: c.chat.completions.create(**QUESTION),
        lambda answer: (said(answer).content, answer.usage.total_tokens, answer._request_id),
        (JSON, 21, "req_7f3a9c"),
    ),
    Call(
        "chat with a tool",
        answers(chat.completion(None, ("get_weather", JSON))),
        lambda c: c.chat.completions.create(**QUESTION, tools=[tool()], tool_choice="required"),
        lambda answer: said(answer).tool_calls[0].function.arguments,
        JSON,
    ),
    Call(
        "chat with a tool, streamed",
        streams(chat.framed(chat.call_chunks("get_weather", PIECES)), chat.HEADERS),
        lambda c: c.chat.completions.create(**QUESTION, tools=[tool()], stream=True),
        arguments,
        JSON,
    ),
    Call(
        "chat with a tool, stream()",
        streams(chat.framed(chat.call_chunks("get_weather", PIECES))),
        lambda c: c.chat.completions.stream(**QUESTION, tools=[tool()]),
        lambda events: said(events[-1]).tool_calls[0].function.parsed_arguments,
        TOKYO,
    ),
    Call(
        "structured output",
        answers(chat.completion(JSON)),
        lambda c: c.chat.completions.parse(**QUESTION, response_format=Weather),
        lambda answer: said(answer).parsed,
        TOKYO,
    ),
    Call(
        "structured output, stream()",
        streams(chat.stream(PIECES)),
        lambda c: c.chat.completions.stream(**QUESTION, response_format=Weather),
        lambda events: said(events[-1]).parsed,
        TOKYO,
    ),
    Call(
        "usage of a stream",
        streams(chat.stream(PIECES)),
        lambda c: c.chat.completions.create(
            **QUESTION, stream=True, stream_options={"include_usage": True}
        ),
        lambda chunks: (chunks[-1].choices, chunks[-1].usage.total_tokens),
        ([], 21),
    ),
]

RESPONSES = [
    Call(
        "responses",
        answers(responses.response(responses.message(JSON))),
        lambda c: c.responses.create(**PLEA),
        lambda answer: (answer.output_text, answer.usage.total_tokens),
        (JSON, 21),
    ),
    Call(
        "responses with a tool",
        answers(responses.response(responses.call("get_weather", JSON))),
        lambda c: c.responses.create(**PLEA, tools=[FUNCTION]),
        lambda answer: answer.output[0].arguments,
        JSON,
    ),
    Call(
        "responses with a tool, streamed",
        streams(responses.framed(responses.whole(responses.call_events("get_weather", PIECES)))),
        lambda c: c.responses.create(**PLEA, tools=[FUNCTION], stream=True),
        of_kind("response.function_call_arguments.delta"),
        JSON,
    ),
    Call(
        "responses with reasoning, streamed",
        streams(
            responses.framed(
                responses.whole(
                    responses.reasoning_events(["Let me ", "think…"]),
                    responses.text_events(PIECES, 1),
                )
            )
        ),
        lambda c: c.responses.create(**PLEA, reasoning={"summary": "auto"}, stream=True),
        of_kind("response.reasoning_summary_text.delta"),
        "Let me think…",
    ),
    Call(
        "responses, stream()",
        streams(responses.stream(PIECES)),
        lambda c: c.responses.stream(**PLEA, text_format=Weather),
        lambda events: events[-1].output_parsed,
        TOKYO,
    ),
    Call(
        "responses, parse()",
        answers(responses.response(responses.message(JSON))),
        lambda c: c.responses.parse(**PLEA, text_format=Weather),
        lambda answer: answer.output_parsed,
        TOKYO,
    ),
    Call(
        "responses, retrieved",
        answers(responses.response(responses.message(JSON))),
        lambda c: c.responses.retrieve(responses.ID, include=["reasoning.encrypted_content"]),
        lambda answer: answer.output_text,
        JSON,
    ),
    Call(
        "responses, retrieved as a stream",
        streams(responses.stream(PIECES)),
        lambda c: c.responses.retrieve(responses.ID, stream=True, starting_after=0),
        of_kind("response.output_text.delta"),
        JSON,
    ),
]


@table(CLIENTS, [*CHAT, *RESPONSES])
async def test_call(connect, call):
    """The call's answer is the API's, and the API was asked what the SDK asks it directly."""
    relayed, direct = await both_ways(connect, call)
    assert call.read(relayed.answer) == call.expected
    assert relayed == direct
