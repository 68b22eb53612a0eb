"""A real model server behind the relay: llama.cpp's own, with a tiny model of random numbers.

`make test-model` installs it into build/model and runs these; `make test` leaves them out. What the
relay hands on must be what the server says when it is asked directly: with temperature 0 and a
seed its answer is always the same.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
import pytest_asyncio

import real
from fakes import HttpProxy
from program import running
from relaying import Relay, events, read_events, relaying
from sdks import around_the_sdks, async_anthropic_client, async_openai_client, connected

__all__ = ["around_the_sdks"]

pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]
HERE = Path(__file__).parent
PYTHON = HERE.parent / "build" / "model" / "bin" / "python"
MESSAGES = [{"role": "user", "content": "Say something, 你好!"}]
TERMS = {"temperature": 0, "seed": 7, "max_tokens": 150}
LONG = 1900
"""Tokens; some seconds of work, and as many as there is room for."""


class Scene(NamedTuple):
    """Where the model's server listens, and a relay before it."""

    url: str
    relay: Relay


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def at(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """Run the server, and a relay that reaches it through an HTTP proxy."""
    if not PYTHON.exists():
        pytest.skip("the model's server is not installed: make test-model")
    command = [str(PYTHON), str(HERE / "model" / "serve.py"), str(tmp_path_factory.mktemp("model"))]
    async with running(*command, str(real.free_port())) as server:
        url = await server.line()
        assert url is not None, server.errors()
        async with HttpProxy() as proxy, relaying(url, proxy=proxy.url) as relay:
            yield Scene(url, relay)
        server.process.terminate()
        await server.code()


async def slots(at: Scene) -> list[dict[str, Any]]:
    """Return what the server is at work on."""
    async with at.relay.session.get(f"{at.url}/slots") as response:
        return await response.json()


async def idle(at: Scene) -> None:
    """Wait until the server is at work on nothing."""
    async with asyncio.timeout(20):
        while any(slot["is_processing"] for slot in await slots(at)):  # noqa: ASYNC110  another process
            await asyncio.sleep(0.01)


async def told(url: str) -> tuple[str, str, tuple[int, int]]:
    """Return the text, the reason of its end and the usage that openai's SDK gets there."""
    asked = {"model": "tiny", "messages": MESSAGES, "stream_options": {"include_usage": True}}
    text, finish, usage = "", "", (0, 0)
    async with connected(async_openai_client(url)) as client:
        async for chunk in await client.chat.completions.create(**asked, **TERMS, stream=True):
            for choice in chunk.choices:
                text += choice.delta.content or ""
                finish = choice.finish_reason or finish
            if chunk.usage is not None:
                usage = chunk.usage.prompt_tokens, chunk.usage.completion_tokens
    return text, finish, usage


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def direct(at: Scene) -> tuple[str, str, tuple[int, int]]:
    """Return what the server says when it is asked without the relay, the second time too."""
    first, second = await told(at.url), await told(at.url)
    assert first == second
    assert len(first[0]) == TERMS["max_tokens"]
    return first


def text_of(found: list[Any]) -> str:
    """Return the text of the events of /chat."""
    return "".join(event.data["content"] for event in found if event.name == "answer")


async def test_v1(at: Scene, direct: Any):
    """The SDK of openai gets the same text, the same end and the same usage."""
    assert await told(at.relay.url) == direct


async def test_v1_not_streamed(at: Scene, direct: Any):
    """So it does in one piece."""
    async with connected(async_openai_client(at.relay.url)) as client:
        asked = {"model": "tiny", "messages": MESSAGES, **TERMS}
        answer = await client.chat.completions.create(**asked)
    usage = answer.usage.prompt_tokens, answer.usage.completion_tokens
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason, usage) == direct


async def test_chat(at: Scene, direct: Any):
    """/chat has the text as events, and the server's usage in `done`."""
    counted = {"stream_options": {"include_usage": True}}
    asked = {"model": "tiny", "messages": MESSAGES, **TERMS, **counted}
    async with at.relay.post("/chat", asked) as response:
        found = await read_events(response)
    text, finish, usage = direct
    done = found[-1]
    assert (text_of(found), done.name, done.data["finish_reason"]) == (text, "done", finish)
    counts = done.data["usage"]
    assert (counts["prompt_tokens"], counts["completion_tokens"]) == usage


async def test_messages(at: Scene):
    """llama.cpp speaks Anthropic's API too: that SDK's stream is the same with the relay."""
    said = []
    for url in (at.url, at.relay.url):
        async with (
            connected(async_anthropic_client(url)) as client,
            client.messages.stream(
                model="tiny", max_tokens=50, messages=MESSAGES, extra_body={"temperature": 0}
            ) as stream,
        ):
            kinds = [event.type async for event in stream]
            message = await stream.get_final_message()
        said.append((kinds, message.content[0].text, message.stop_reason, message.usage))
    assert said[0] == said[1]
    assert said[1][0][-1] == "message_stop"


async def test_responses(at: Scene):
    """And the Responses API."""
    said = []
    for url in (at.url, at.relay.url):
        async with connected(async_openai_client(url)) as client:
            asked = {"model": "tiny", "input": "Hi", "temperature": 0, "max_output_tokens": 50}
            stream = await client.responses.create(**asked, stream=True)
            found = [event async for event in stream]
        text = "".join(e.delta for e in found if e.type == "response.output_text.delta")
        said.append((text, [event.type for event in found]))
    assert said[0] == said[1]
    assert said[1][1][-1] == "response.completed"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat"])
async def test_who_leaves_stops_the_model(at: Scene, path: str):
    """The server sees at once that nobody listens, and has not said half of it."""
    asked = {"model": "tiny", "messages": MESSAGES, "stream": True, **TERMS, "max_tokens": LONG}
    body = asked | ({"keep": 0} if path == "/chat" else {})
    async with at.relay.post(path, body) as response:
        await response.content.readuntil(b'"content":"')
        assert any(slot["is_processing"] for slot in await slots(at))
    await idle(at)
    said = [one["n_decoded"] for slot in await slots(at) for one in slot.get("next_token", [])]
    assert said
    assert max(said) < LONG / 2


async def test_a_dropped_line(at: Scene, direct: Any):
    """Who comes back to a kept stream misses nothing, and the model is asked once."""
    text, _, _ = direct
    asked = {"model": "tiny", "messages": MESSAGES, **TERMS, "keep": 60}
    before = []
    async with at.relay.post("/chat", asked) as response:
        async for event in events(response):
            before.append(event)
            if len(before) == 20:
                break
    name, last = response.headers["Teleprinter-Stream"], before[-1].id
    async with at.relay.get(f"/streams/{name}", after=last) as response:
        after = await read_events(response)
    assert text_of(before) + text_of(after) == text
    assert after[-1].name == "done"
    assert after[-1].data["attempts"] == 1


async def test_its_own_error(at: Scene):
    """What the server refuses comes as it refuses it."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x" * 5000}]}
    said = []
    for url in (at.url, at.relay.url):
        where = f"{url}/v1/chat/completions"
        async with at.relay.session.post(where, json=body) as response:
            said.append((response.status, json.loads(await response.read())))
    assert said[0] == said[1]
    assert said[1][0] == 400


async def test_it_is_killed(at: Scene, tmp_path: Path):
    """A server that dies in the middle: the text ends in an error, never as if it were whole."""
    command = [str(PYTHON), str(HERE / "model" / "serve.py"), str(tmp_path), str(real.free_port())]
    async with (
        running(*command) as server,
        relaying(await server.line()) as relay,
    ):
        asked = {"model": "tiny", "messages": MESSAGES, **TERMS, "max_tokens": LONG}
        async with relay.post("/chat", asked) as response:
            found = []
            with suppress(aiohttp.ClientPayloadError):
                async for event in events(response):
                    found.append(event)
                    if len(found) == 10:
                        server.process.kill()
    assert found[-1].name == "error"
    assert found[-1].data["code"] == "upstream_cut"
