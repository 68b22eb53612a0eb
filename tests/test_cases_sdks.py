"""The streaming tests of openai's and Anthropic's SDKs for Python, with the relay in between.

Each body goes to the SDK's real client twice: straight from the upstream, and through the relay.
It must make the same of it, which is what its own test expects.
"""

import asyncio
from typing import Any

import pytest
import pytest_asyncio

from cases import STREAM, Answer, Case, send, serving
from cases.sdk_framing import FRAMING, STREAMING
from cases.sdk_streams import ANTHROPIC, INVALID, OPENAI, Told
from fakes import Request, Upstream, Wire, sse
from fakes.frames import DONE
from later import anthropic, openai
from relaying import relaying
from sdks import (
    ASKED,
    SAID,
    anthropic_client,
    around_the_sdks,
    async_anthropic_client,
    async_openai_client,
    connected,
    openai_client,
)

__all__ = ["around_the_sdks"]

pytestmark = pytest.mark.asyncio(loop_scope="module")
CLIENTS = {
    "openai": (openai_client, openai, "Stream"),
    "openai-async": (async_openai_client, openai, "AsyncStream"),
    "anthropic": (anthropic_client, anthropic, "Stream"),
    "anthropic-async": (async_anthropic_client, anthropic, "AsyncStream"),
}
CASES = (*STREAMING, *FRAMING)
TOLD = [
    pytest.param(name, n, one, id=f"{name}: {one.source}")
    for name in CLIENTS
    for n, one in enumerate(CASES if name == "openai-async" else STREAMING)
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def urls():
    """Return the addresses of an upstream with the cases, and of a relay before it."""
    async with Upstream(serving(CASES)) as upstream, relaying(upstream.url) as relay:
        yield upstream.url, relay.url


def _seen(event: Any) -> tuple[str, str, str]:
    return event.event or "", event.data, event.id or ""


async def events(name: str, url: str, number: int) -> list[tuple[str, str, str]]:
    """Return what this client hands on of that case."""
    connect, house, kind = CLIENTS[name]
    kind = getattr(house, kind)[object]
    path = f"/cases/{number}" if name.startswith("openai") else f"/v1/cases/{number}"
    async with connected(connect(url)) as client:
        if name.endswith("async"):
            stream = await client.get(path, cast_to=object, stream=True, stream_cls=kind)
            return [_seen(event) async for event in stream._iter_events()]

        def read() -> list[tuple[str, str, str]]:
            stream = client.get(path, cast_to=object, stream=True, stream_cls=kind)
            return [_seen(event) for event in stream._iter_events()]

        return await asyncio.to_thread(read)


@pytest.mark.parametrize(("name", "number", "one"), TOLD)
async def test_framing(name: str, number: int, one: Case, urls: tuple[str, str]):
    """The SDK's iterator hands on the case's events, with the relay as without it."""
    direct, relayed = [await events(name, url, number) for url in urls]
    assert relayed == direct == list(one.events)


# --- what stream() puts together


def at(message: Any, path: str) -> Any:
    """Return what stands at a dotted path, None if nothing does."""
    for name in path.split("."):
        if isinstance(message, list):
            message = message[int(name)] if int(name) < len(message) else None
        else:
            message = (message or {}).get(name)
    return message


async def put_together(url: str, one: Told) -> tuple[list[str], dict[str, Any]]:
    """Return the types of the events, and the message at the end, by Anthropic's SDK."""
    async with connected(async_anthropic_client(url)) as client:
        messages = client.beta.messages if one.beta else client.messages
        async with messages.stream(**SAID) as stream:
            kinds = [event.type async for event in stream]
            message = await stream.get_final_message()
    return kinds, message.to_dict()


async def completed(url: str, _: Told) -> tuple[list[str], dict[str, Any]]:
    """Return the same of openai's."""
    asked = {"model": "m", "messages": ASKED}
    async with (
        connected(async_openai_client(url)) as client,
        client.chat.completions.stream(**asked) as stream,
    ):
        kinds = [event.type async for event in stream]
        completion = await stream.get_final_completion()
    return kinds, completion.to_dict()


@pytest.mark.parametrize("one", [pytest.param(one, id=one.source) for one in (*ANTHROPIC, *OPENAI)])
async def test_stream(one: Told):
    """The SDK's stream() has the same events and the same message, which are the case's."""

    async def script(_request: Request, wire: Wire) -> None:
        await send(Answer(one.pieces), wire)

    ask = put_together if one in ANTHROPIC else completed
    async with Upstream(script) as upstream, relaying(upstream.url) as relay:
        direct, relayed = [await ask(url, one) for url in (upstream.url, relay.url)]
    assert relayed == direct
    kinds, message = relayed
    assert one.kinds is None or kinds == list(one.kinds)
    assert {path: at(message, path) for path in one.final} == one.final


async def test_invalid_json_of_a_tool():
    """What the SDK cannot parse it says as ever (test_tool_use_invalid_json)."""
    async with Upstream(sse(*INVALID)) as upstream, relaying(upstream.url) as relay:
        for url in (upstream.url, relay.url):
            with pytest.raises(ValueError, match="Unable to parse tool parameter JSON"):
                await put_together(url, Told("", (), {}))


async def test_error_type():
    """An error in the stream is raised as what the API says that it is (test_error_type)."""
    body = b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message":'
    body += b' "Overloaded"}}\n\n'
    async with Upstream(sse(body)) as upstream, relaying(upstream.url) as relay:
        for url in (upstream.url, relay.url):
            with pytest.raises(anthropic.APIStatusError, match="Overloaded") as raised:
                await put_together(url, Told("", (), {}))
            assert raised.value.type == "overloaded_error"


@pytest.mark.parametrize("ending", ["complete", "truncate", "stall", "trickle"])
async def test_done_http11_connection_reuse(ending: str):
    """After [DONE] the SDK's stream is over, however the upstream goes on; the next one works."""
    hello = b'data: {"id":"s","choices":[{"index":0,"delta":{"content":"hello"}}]}\n\n' + DONE
    over = asyncio.Event()

    async def script(_request: Request, wire: Wire) -> None:
        await wire.head(content_type=STREAM)
        await wire.chunk(hello)
        if over.is_set() or ending == "complete":
            await wire.end()
        elif ending == "truncate":
            wire.close()
        else:
            await wire.send(b"0\r\nX-Trailer: a" if ending == "trickle" else b"")
            await over.wait()

    async with (
        Upstream(script) as upstream,
        relaying(upstream.url) as relay,
        connected(async_openai_client(relay.url)) as client,
    ):
        for _ in range(2):
            stream = await client.chat.completions.create(model="m", messages=[], stream=True)
            async with stream:
                assert [one.choices[0].delta.content async for one in stream] == ["hello"]
            over.set()
