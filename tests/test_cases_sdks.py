"""The streaming tests of openai's and Anthropic's SDKs for Python, with the relay in between.

Each body goes to the SDK's real client twice: straight from the upstream, and through the relay.
It must make the same of it, which is what its own test expects.
"""

import asyncio
from typing import Any

import anthropic
import openai
import pytest
import pytest_asyncio

from cases import Case, serving
from cases.sdk_framing import FRAMING, STREAMING
from fakes import Upstream
from relaying import relaying
from sdks import (
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
    "openai": (openai_client, openai.Stream),
    "openai-async": (async_openai_client, openai.AsyncStream),
    "anthropic": (anthropic_client, anthropic.Stream),
    "anthropic-async": (async_anthropic_client, anthropic.AsyncStream),
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
    connect, kind = CLIENTS[name]
    path = f"/cases/{number}" if name.startswith("openai") else f"/v1/cases/{number}"
    async with connected(connect(url)) as client:
        if name.endswith("async"):
            stream = await client.get(path, cast_to=object, stream=True, stream_cls=kind[object])
            return [_seen(event) async for event in stream._iter_events()]

        def read() -> list[tuple[str, str, str]]:
            stream = client.get(path, cast_to=object, stream=True, stream_cls=kind[object])
            return [_seen(event) for event in stream._iter_events()]

        return await asyncio.to_thread(read)


@pytest.mark.parametrize(("name", "number", "one"), TOLD)
async def test_framing(name: str, number: int, one: Case, urls: tuple[str, str]):
    """The SDK's iterator hands on the case's events, with the relay as without it."""
    direct, relayed = [await events(name, url, number) for url in urls]
    assert relayed == direct == list(one.events)
