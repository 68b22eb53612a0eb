"""What else LangChain's ChatOpenAI can do, each call as if there were no relay.

The streams of text, and how they fail, are in test_sdks. By itself `astream` gives up when no chunk
came for `stream_chunk_timeout` (120 s): a heartbeat is no chunk, so that a model which thinks for
longer needs `ChatOpenAI(stream_chunk_timeout=None)`, with or without a relay (langchain #36949).
"""

from functools import partial, reduce
from operator import add

from compare import Call, both_ways, table
from sdks import (
    PROMPT,
    around_the_sdks,  # noqa: F401  a fixture of every test here
    langchain,
)
from wires import answers, streams
from wires import openai_chat as chat
from wires import openai_responses as responses
from wires.weather import JSON, PIECES, TOKYO, Weather


def message(answer):
    """Return a message without its id, which LangChain may draw by lot."""
    return answer.model_copy(update={"id": None})


def whole(chunks):
    """Return the message that chunks add up to."""
    return message(reduce(add, chunks))


async def awaited(answer):
    """Return a message that is still to come."""
    return message(await answer)


async def gathered(chunks):
    """Return the message that chunks add up to which are still to come."""
    return whole([chunk async for chunk in chunks])


def tool_of(answer):
    """Return what a tool is called with."""
    return answer.tool_calls[0]["args"]


def read(answer):
    """Return text and usage."""
    return answer.text, answer.usage_metadata["total_tokens"]


def calls(plain, streamed, plain_tool, streamed_tool):
    """Return the calls, with these answers of an API."""
    chosen = {"tools": [Weather], "tool_choice": "Weather"}
    return [
        Call("invoke", plain, lambda m: message(m.invoke(PROMPT)), read, (JSON, 21)),
        Call("ainvoke", plain, lambda m: awaited(m.ainvoke(PROMPT)), read, (JSON, 21)),
        Call("stream", streamed, lambda m: whole(m.stream(PROMPT)), read, (JSON, 21)),
        Call("astream", streamed, lambda m: gathered(m.astream(PROMPT)), read, (JSON, 21)),
        Call(
            "tool",
            plain_tool,
            lambda m: message(m.bind_tools(**chosen).invoke(PROMPT)),
            tool_of,
            TOKYO.model_dump(),
        ),
        Call(
            "tool, stream",
            streamed_tool,
            lambda m: whole(m.bind_tools(**chosen).stream(PROMPT)),
            tool_of,
            TOKYO.model_dump(),
        ),
        Call(
            "tool, astream",
            streamed_tool,
            lambda m: gathered(m.bind_tools(**chosen).astream(PROMPT)),
            tool_of,
            TOKYO.model_dump(),
        ),
        Call(
            "structured output",
            plain,
            lambda m: m.with_structured_output(Weather).invoke(PROMPT),
            lambda answer: answer,
            TOKYO,
        ),
        Call(
            "structured output, ainvoke",
            plain,
            lambda m: m.with_structured_output(Weather).ainvoke(PROMPT),
            lambda answer: answer,
            TOKYO,
        ),
    ]


CHAT = calls(
    answers(chat.completion(JSON), 200, chat.HEADERS),
    streams(chat.stream(PIECES), chat.HEADERS),
    answers(chat.completion(None, ("Weather", JSON))),
    streams(chat.framed(chat.call_chunks("Weather", PIECES))),
)
RESPONSES = calls(
    answers(responses.response(responses.message(JSON))),
    streams(responses.stream(PIECES)),
    answers(responses.response(responses.call("Weather", JSON))),
    streams(responses.framed(responses.whole(responses.call_events("Weather", PIECES)))),
)


@table({"langchain": langchain}, CHAT)
async def test_chat(connect, call):
    """Over chat completions the answer is the API's, and the API was asked as without a relay."""
    await same(connect, call)


@table({"langchain-responses": partial(langchain, use_responses_api=True)}, RESPONSES)
async def test_responses(connect, call):
    """Over Responses the answer is the API's, and the API was asked as without a relay."""
    await same(connect, call)


async def same(connect, call):
    """Compare."""
    relayed, direct = await both_ways(connect, call)
    assert call.read(relayed.answer) == call.expected
    assert relayed == direct
