"""A call made twice, through the relay and without it: nobody may be able to tell the difference.

@table({"openai": openai_client}, [Call("chat", answers(completion("Hi")), ask, read, "Hi")])
async def test_call(connect, call):
    await same_as_direct(connect, call)
"""

import asyncio
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import pytest

from fakes import HttpProxy, Request, Script, Upstream
from relaying import relaying
from sdks import connected

HOP = {"connection", "accept-encoding"}
"""What belongs to a connection, not to the request; and the relay asks for what it can read."""
SUMS = ("get_final_completion", "get_final_response", "get_final_message")
"""What a stream that adds up its events is asked for at its end."""


class Exchange(NamedTuple):
    """What an API was told, and what the SDK made of its answer."""

    question: tuple[str, str, Mapping[str, str], bytes]
    answer: Any


Connect = Callable[[str], Any]


class Call(NamedTuple):
    """One call of an SDK: what the API answers, how it is asked, what its user reads in the answer.

    `ask` takes a client, synchronous or not; what it gives may be awaitable, or a stream, or the
    context manager of one. `read` takes the answer; of a stream the list of its events, and behind
    them the sum, if the SDK makes one.
    """

    name: str
    script: Script
    ask: Callable[[Any], Any]
    read: Callable[[Any], Any]
    expected: Any


def table(clients: Mapping[str, Connect], calls: Iterable[Call]) -> pytest.MarkDecorator:
    """Run a test with every kind of client and every call; the ids read `openai: embeddings`."""
    cells = [
        pytest.param(connect, call, id=f"{name}: {call.name}")
        for call in calls
        for name, connect in clients.items()
    ]
    return pytest.mark.parametrize(("connect", "call"), cells)


async def both_ways(connect: Connect, call: Call) -> tuple[Exchange, Exchange]:
    """Ask through the relay, which asks through a proxy, and then directly."""
    async with (
        Upstream(call.script) as upstream,
        HttpProxy() as proxy,
        relaying(upstream.url, proxy=proxy.url) as relay,
    ):
        answers = [await _asked(connect, url, call) for url in (relay.url, upstream.url)]
        assert len(proxy.targets) == 1
        relayed, direct = zip(map(told, upstream.requests), answers, strict=True)
        return Exchange(*relayed), Exchange(*direct)


async def _asked(connect: Connect, url: str, call: Call) -> Any:
    async with connected(connect(url)) as client:
        answer = await asyncio.to_thread(lambda: _taken(call.ask(client)))
        answer = await _async_taken(answer)
        if hasattr(answer, "has_next_page"):
            return answer.data  # a page knows the client that asked for it
        return answer.content if hasattr(answer, "iter_bytes") else answer


def _taken(answer: Any) -> Any:
    """Return what a synchronous client's answer comes to; another's as it is."""
    if not hasattr(answer, "__enter__"):
        return answer
    with answer as stream:
        if hasattr(stream, "iter_bytes"):
            return b"".join(stream.iter_bytes())
        events = list(stream)
        return events + [getattr(stream, name)() for name in SUMS if hasattr(stream, name)]


async def _async_taken(answer: Any) -> Any:
    """Return what an asynchronous client's answer comes to; another's as it is."""
    if inspect.isawaitable(answer):
        answer = await answer
    if not hasattr(answer, "__aenter__"):
        return answer
    async with answer as stream:
        if hasattr(stream, "iter_bytes"):
            return b"".join([piece async for piece in stream.iter_bytes()])
        events = [event async for event in stream]
        return events + [await getattr(stream, name)() for name in SUMS if hasattr(stream, name)]


def told(request: Request) -> tuple[str, str, Mapping[str, str], bytes]:
    """Return what a request says to the API: method, target, headers and body.

    The boundary of a multipart body, which is drawn by lot, is replaced by the same word.
    """
    headers = {name.lower(): value for name, value in request.headers if name.lower() not in HOP}
    body = request.body
    if headers.get("content-length") == "0":
        del headers["content-length"]  # which aiohttp adds to a DELETE, and is the same
    _, mark, boundary = headers.get("content-type", "").partition("boundary=")
    if mark:
        headers["content-type"] = "multipart/form-data; boundary=LOT"
        body = body.replace(boundary.encode(), b"LOT")
    return request.method, request.target, headers, body
