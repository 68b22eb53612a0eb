"""The demo speaks OpenAI's chat completions, at a human speed, and stops when it is left."""

import asyncio
import json
from io import BytesIO

import aiohttp
import pytest

from clock import PATIENCE
from later import openai
from service import demo
from service.demo import MODELS, application, demo_upstream, hold, split

CHAT = "/v1/chat/completions"
NASTY = 'He said "}" \\n {quote} ```\n你好 👩‍👩‍👧 </script> \u2028\x00'


def asking(text, **options):
    """Return the body of a request that asks this."""
    return {"model": "demo", "messages": [{"role": "user", "content": text}], **options}


@pytest.fixture
async def client(aiohttp_client):
    """Return a client of a demo that types without a pause."""
    return await aiohttp_client(application(pause=0))


async def chunks(client, body):
    """Return the JSON of each frame; the last one must be [DONE], and is left out."""
    async with client.post(CHAT, json=body) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        *frames, done, rest = (await response.text()).split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


async def answer(client, text, **options):
    """Return the message of an answer in one piece."""
    body = BytesIO(json.dumps(asking(text, **options)).encode())
    async with client.post(CHAT, data=body) as response:
        return (await response.json())["choices"][0]["message"]


def quoted(content):
    """Return the question that an answer's code block holds."""
    return json.loads(content.split("```json\n")[1].split("\n```\n")[0])["question"]


async def test_a_stream_is_the_whole_answer_in_chunks_of_openais_shape(client):
    """The role first, then one token a chunk, then the reason of the end; no usage unasked."""
    first, *tokens, last = await chunks(client, asking("Hi", stream=True))
    head = {"id": first["id"], "object": "chat.completion.chunk", "model": "demo"}
    head["created"] = first["created"]

    def chunk(delta, reason=None):
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**head, "choices": [choice]}

    texts = [token["choices"][0]["delta"]["content"] for token in tokens]
    assert first == chunk({"role": "assistant", "content": ""})
    assert tokens == [chunk({"content": text}) for text in texts]
    assert last == chunk({}, "stop")
    assert "".join(texts) == (await answer(client, "Hi"))["content"]


async def test_usage_comes_only_when_asked_for_in_a_chunk_without_choices(client):
    """With include_usage every chunk has a null usage and one more, at the end, the counts."""
    options = {"include_usage": True}
    *others, last = await chunks(client, asking("Hi you", stream=True, stream_options=options))
    completion = sum(bool(c["choices"][0]["delta"].get("content")) for c in others)
    assert {chunk["usage"] for chunk in others} == {None}
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": completion,
        "total_tokens": completion + 2,
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


async def test_a_thinking_model_reasons_before_it_answers(client):
    """All `reasoning_content` comes before the first content, and usage counts it."""
    body = asking("Hi", stream=True, stream_options={"include_usage": True})
    *all_chunks, last = await chunks(client, body | {"model": "any-thinking"})
    kinds = [next(iter(c["choices"][0]["delta"]), "end") for c in all_chunks]
    thoughts = kinds.count("reasoning_content")
    assert thoughts > 5
    assert kinds[: thoughts + 2] == ["role", *["reasoning_content"] * thoughts, "content"]
    assert last["usage"]["completion_tokens_details"] == {"reasoning_tokens": thoughts}
    whole = await answer(client, "Hi", model="any-thinking")
    assert len(split(whole["reasoning_content"])) == thoughts


async def test_the_official_sdk_reads_it():
    """The openai SDK, with only its base URL changed, gets the models and the stream."""
    async with demo_upstream() as url, openai.AsyncOpenAI(base_url=url, api_key="x") as sdk:
        assert [model.id async for model in sdk.models.list()] == list(MODELS)
        whole = await sdk.chat.completions.create(**asking("你好"))
        stream = await sdk.chat.completions.create(**asking("你好", stream=True))
        async with stream:
            first = [await anext(stream) for _ in range(3)]
    texts = [chunk.choices[0].delta.content for chunk in first]
    assert whole.choices[0].message.content.startswith("".join(texts))
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens


async def test_the_sdk_streams_to_the_end(client):
    """What the SDK puts together from the stream is the answer without a stream."""
    url = str(client.make_url("/v1"))
    async with openai.AsyncOpenAI(base_url=url, api_key="x") as sdk:
        stream = await sdk.chat.completions.create(**asking(NASTY, stream=True))
        choices = [chunk.choices[0] async for chunk in stream]
    assert (
        "".join(c.delta.content or "" for c in choices) == (await answer(client, NASTY))["content"]
    )
    assert choices[-1].finish_reason == "stop"


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("What is it?", "proxy"),
        ("Was ist das? 👋", "proxy"),
        ("它是什么?", "代理"),
        ("a 𠀀", "代理"),
    ],
)
async def test_chinese_is_answered_in_chinese_all_else_in_english(client, text, phrase):
    """One Chinese character in the question decides; a list, code and an emoji are in both."""
    content = (await answer(client, text))["content"]
    assert phrase in content
    assert all(mark in content for mark in ("\n- ", "\n```json\n", "👋"))


@pytest.mark.parametrize("text", [NASTY, "", "```", "{0} {quote} %s", "x" * 200])
async def test_the_question_is_quoted_as_json(client, text):
    """Whatever was asked, the code block is JSON that holds exactly that."""
    assert quoted((await answer(client, text))["content"]) == text


async def test_a_long_question_is_quoted_in_part(client):
    """A megabyte is accepted, and its first 200 characters are quoted."""
    assert quoted((await answer(client, "x" * 2**20))["content"]) == "x" * 200 + "…"


async def test_the_users_last_words_are_the_question(client):
    """Text parts of the last user message count; other parts and other roles do not."""
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    parts = [{"type": "text", "text": "What "}, image, {"type": "text", "text": "now?"}]
    said = [("system", "Be kind."), ("user", "First"), ("user", parts), ("assistant", "Well,")]
    messages = [{"role": role, "content": content} for role, content in said]
    assert quoted((await answer(client, "", messages=messages))["content"]) == "What now?"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "truncated"),
        (b"{not json", "malformed"),
        (b"\xff", "malformed"),
        (b"{}", "messages"),
        (b'{"messages": []}', "$.messages"),
        (b'{"messages": "Hi"}', "Expected `array`"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "no chat completion"),
        (b'{"messages": [{"role": "user", "content": 7}]}', "$.messages[0].content"),
        (b'{"x": ' + b"[" * 100_000, "recursion"),
    ],
)
async def test_a_bad_body_is_refused_in_openais_shape(client, body, named):
    """400, and the message names what was expected and where."""
    async with client.post(CHAT, data=body) as response:
        assert response.status == 400
        error = (await response.json())["error"]
    assert named in error["message"]
    assert {**error, "message": ""} == {
        "message": "",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [("POST", "/v1/nothing", 404, None), ("GET", CHAT, 405, "POST")],
)
async def test_an_unknown_way_is_refused_in_openais_shape(client, method, path, status, allowed):
    """404 and 405 name the request that was made."""
    async with client.request(method, path) as response:
        assert response.status == status
        assert response.headers.get("Allow") == allowed
        assert f"{method} {path}" in (await response.json())["error"]["message"]


def test_tokens_are_typed_as_a_person_would():
    """A word with the space before it, Han by one or two, their marks apart; nothing is lost."""
    tokens = ["Hi", " you,", " 👩‍👩‍👧", "\n\n-", "你好", "吗", "？", "OK"]
    assert split("".join(tokens)) == tokens


def test_the_speed_is_human():
    """The average is the pause; it varies by half; a sentence's end takes four pauses more."""
    holds = [hold("word", index, 1.0) for index in range(100)]
    assert sum(holds) / 100 == pytest.approx(1, abs=0.02)
    assert min(holds) == pytest.approx(0.5, abs=0.05)
    assert max(holds) == pytest.approx(1.5, abs=0.05)
    for end in (" end.", " what?", "。"):
        assert hold(end, 7, 1.0) == hold("word", 7, 1.0) + 4


async def test_each_token_waits_for_its_moment(aiohttp_client, clock):
    """The role and the first token come at once, the next when the clock says so, not before."""
    client = await aiohttp_client(application(clock, pause=0.04))
    async with client.post(CHAT, json=asking("Hi", stream=True)) as response:
        for index, text in ((1, "**Teleprinter**"), (2, " reads"), (3, " a")):
            due = await clock.armed(clock.now() + hold(text, index, 0.04))
            clock.advance(due - clock.now())
            while text not in (line := await response.content.readline()).decode():
                assert b"content" not in line or b'"role"' in line


@pytest.fixture
def still(monkeypatch, clock):
    """Let demo_upstream() run on a clock that stands still: only leaving can end a stream."""
    monkeypatch.setattr(demo, "application", lambda: application(clock))
    return clock


async def test_it_stops_when_the_client_leaves(still):
    """The wait for the next token is over as soon as the client is gone: no timer is left."""
    async with demo_upstream() as url, aiohttp.ClientSession() as session:
        async with session.post(f"{url}/chat/completions", json=asking("Hi", stream=True)):
            await still.armed()
        async with asyncio.timeout(PATIENCE):
            while still.pending():  # noqa: ASYNC110  a cancelled timer tells nobody
                await asyncio.sleep(0)


async def test_it_closes_with_streams_open_and_leaves_nothing(still):
    """On leaving the context open streams are cut, the port is closed, no timer is left."""
    async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as session:
        async with demo_upstream() as url:
            response = await session.post(f"{url}/chat/completions", json=asking("", stream=True))
            await still.armed()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
        assert still.pending() == []
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(f"{url}/models")


async def test_it_listens_on_the_loopback_only():
    """Two demos have two ports of 127.0.0.1; no other address of the machine answers there."""
    async with demo_upstream() as one, demo_upstream() as other, aiohttp.ClientSession() as session:
        assert one.startswith("http://127.0.0.1:")
        assert one != other
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(one.replace("127.0.0.1", "127.0.0.2") + "/models")
