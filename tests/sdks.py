"""Every Python SDK behind one face: how to make its client, and the text that it streams.

    async with asking(sdk, relay.url) as tokens:
        async for token in tokens: ...      # what the SDK hands to its user, piece by piece

A synchronous SDK is read in a thread, one step at a time: the relay runs on the test's loop.
"""

import asyncio
import inspect
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Self

import pytest

from later import anthropic, langchain_openai, openai
from wires import Pairs, openai_chat, openai_responses
from wires import anthropic as messages

KEY = "sk-client"
CLAUDE = "claude-of-the-test"  # for a model that is retired the SDK warns
PROMPT = "你好吗？ 🤖 Wie geht’s?"
ASKED = [{"role": "user", "content": PROMPT}]
_END = object()
_THEIRS = re.compile(r"(ANTHROPIC|LANGCHAIN|LANGSMITH)_.*")


@pytest.fixture(autouse=True)
def around_the_sdks(monkeypatch: pytest.MonkeyPatch, ca) -> None:
    """Leave the SDKs nobody's settings, and one certificate, in the modules that import this.

    Otherwise each client reads the machine's store of certificates, 60 ms of work for nothing here.
    """
    for name in filter(_THEIRS.fullmatch, list(os.environ)):
        monkeypatch.delenv(name)
    monkeypatch.setenv("SSL_CERT_FILE", str(ca.file))


class Speech(NamedTuple):
    """What an SDK speaks: below which path, a text as frames, errors with their headers."""

    path: str
    stream: Callable[..., list[bytes]]
    error: Callable[[int], dict[str, Any]]
    headers: Pairs


CHAT = Speech("/v1/chat/completions", openai_chat.stream, openai_chat.error, openai_chat.HEADERS)
RESPONSES = Speech("/v1/responses", openai_responses.stream, openai_chat.error, openai_chat.HEADERS)
MESSAGES = Speech("/v1/messages", messages.stream, messages.error, messages.HEADERS)


class Sdk(NamedTuple):
    """One SDK, asked in one way.

    connect   (the service's URL, how often to try again) to the SDK's client
    texts     a client to a generator of the text's pieces
    house     the module whose exceptions it raises
    failure   the name of the exception of a stream that ends in an error; `cut`: it itself
    """

    name: str
    speech: Speech
    connect: Callable[[str, int], Any]
    texts: Callable[[Any], Iterator[str] | AsyncIterator[str]]
    house: Any
    failure: str

    @property
    def cut(self) -> type[Exception]:
        """The exception of a stream that ends in an error."""
        return getattr(self.house, self.failure)

    @property
    def asynchronous(self) -> bool:
        """Whether its text comes from an asynchronous generator."""
        return inspect.isasyncgenfunction(self.texts)


class InThread:
    """A synchronous generator, read from a thread."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        item = await asyncio.to_thread(next, self._generator, _END)
        if item is _END:
            raise StopAsyncIteration
        return item

    async def aclose(self) -> None:
        """Close the generator, as a `for` that is broken out of does."""
        await asyncio.to_thread(self._generator.close)


SLOW = 600
"""Seconds for everything; the SDKs give a connection 5, which a busy machine may pass."""


def openai_client(url: str, retries: int = 0) -> Any:
    """Return a client of which only the base URL is changed."""
    return openai.OpenAI(api_key=KEY, base_url=f"{url}/v1", max_retries=retries, timeout=SLOW)


def async_openai_client(url: str, retries: int = 0) -> Any:
    """Return a client of which only the base URL is changed."""
    return openai.AsyncOpenAI(api_key=KEY, base_url=f"{url}/v1", max_retries=retries, timeout=SLOW)


def anthropic_client(url: str, retries: int = 0) -> Any:
    """Return a client of which only the base URL is changed; /v1 is not a part of it."""
    return anthropic.Anthropic(api_key=KEY, base_url=url, max_retries=retries, timeout=SLOW)


def async_anthropic_client(url: str, retries: int = 0) -> Any:
    """Return a client of which only the base URL is changed; /v1 is not a part of it."""
    return anthropic.AsyncAnthropic(api_key=KEY, base_url=url, max_retries=retries, timeout=SLOW)


def langchain(url: str, retries: int = 0, **more: Any) -> Any:
    """Return a model of which only the base URL is changed.

    LangChain shares one HTTP client for a URL and a time-out in the whole process, on whatever loop
    it was made; a Timeout object instead of a number of seconds keeps it from that.
    """
    return langchain_openai.ChatOpenAI(
        model="gpt-4o-mini",
        api_key=KEY,
        base_url=f"{url}/v1",
        max_retries=retries,
        timeout=openai.Timeout(600),
        **more,
    )


def _chat(client):
    asked = {"model": "gpt-4o-mini", "messages": ASKED, "stream": True}
    with client.chat.completions.create(**asked) as stream:
        for chunk in stream:
            yield chunk.choices[0].delta.content if chunk.choices else None


async def _async_chat(client):
    asked = {"model": "gpt-4o-mini", "messages": ASKED, "stream": True}
    async with await client.chat.completions.create(**asked) as stream:
        async for chunk in stream:
            yield chunk.choices[0].delta.content if chunk.choices else None


def _chat_helper(client):
    with client.chat.completions.stream(model="gpt-4o-mini", messages=ASKED) as stream:
        for event in stream:
            yield event.delta if event.type == "content.delta" else None


async def _async_chat_helper(client):
    async with client.chat.completions.stream(model="gpt-4o-mini", messages=ASKED) as stream:
        async for event in stream:
            yield event.delta if event.type == "content.delta" else None


def _responses(client):
    with client.responses.create(model="gpt-4o-mini", input=PROMPT, stream=True) as stream:
        for event in stream:
            yield event.delta if event.type == "response.output_text.delta" else None


async def _async_responses(client):
    asked = {"model": "gpt-4o-mini", "input": PROMPT, "stream": True}
    async with await client.responses.create(**asked) as stream:
        async for event in stream:
            yield event.delta if event.type == "response.output_text.delta" else None


SAID = {"model": CLAUDE, "max_tokens": 1024, "messages": ASKED}


def _messages(client):
    with client.messages.create(**SAID, stream=True) as stream:
        for event in stream:
            yield event.delta.text if event.type == "content_block_delta" else None


async def _async_messages(client):
    async with await client.messages.create(**SAID, stream=True) as stream:
        async for event in stream:
            yield event.delta.text if event.type == "content_block_delta" else None


def _messages_helper(client):
    with client.messages.stream(**SAID) as stream:
        yield from stream.text_stream


async def _async_messages_helper(client):
    async with client.messages.stream(**SAID) as stream:
        async for text in stream.text_stream:
            yield text


def _langchain(model):
    for chunk in model.stream(PROMPT):
        yield chunk.text


async def _async_langchain(model):
    async for chunk in model.astream(PROMPT):
        yield chunk.text


_OPENAI = (openai, "APIError")
_ANTHROPIC = (anthropic, "APIStatusError")

SDKS = [
    Sdk("openai", CHAT, openai_client, _chat, *_OPENAI),
    Sdk("openai-async", CHAT, async_openai_client, _async_chat, *_OPENAI),
    Sdk("openai-stream()", CHAT, openai_client, _chat_helper, *_OPENAI),
    Sdk("openai-async-stream()", CHAT, async_openai_client, _async_chat_helper, *_OPENAI),
    Sdk("openai-responses", RESPONSES, openai_client, _responses, *_OPENAI),
    Sdk("openai-async-responses", RESPONSES, async_openai_client, _async_responses, *_OPENAI),
    Sdk("anthropic", MESSAGES, anthropic_client, _messages, *_ANTHROPIC),
    Sdk("anthropic-async", MESSAGES, async_anthropic_client, _async_messages, *_ANTHROPIC),
    Sdk("anthropic-stream()", MESSAGES, anthropic_client, _messages_helper, *_ANTHROPIC),
    Sdk("anthropic-async-stream()", MESSAGES, async_anthropic_client, _async_messages_helper,
        *_ANTHROPIC),
    Sdk("langchain", CHAT, langchain, _langchain, *_OPENAI),
    Sdk("langchain-async", CHAT, langchain, _async_langchain, *_OPENAI),
]  # fmt: skip


@asynccontextmanager
async def connected(client: Any) -> AsyncIterator[Any]:
    """Yield the client, and close it with all of its connections."""
    try:
        yield client
    finally:
        parts = [getattr(client, name, None) for name in ("root_client", "root_async_client")]
        for part in [part for part in parts if part is not None] or [client]:
            closing = part.close()
            if inspect.isawaitable(closing):
                await closing


@asynccontextmanager
async def asking(sdk: Sdk, url: str, retries: int = 0) -> AsyncIterator[AsyncIterator[str]]:
    """Ask that service by that SDK; yield the text's pieces, empty ones left out."""
    async with connected(sdk.connect(url, retries)) as client:
        texts = sdk.texts(client)
        source = texts if sdk.asynchronous else InThread(texts)
        pieces = _filled(source)
        try:
            yield pieces
        finally:
            await pieces.aclose()


async def _filled(source: Any) -> AsyncIterator[str]:
    try:
        async for piece in source:
            if piece:
                yield piece
    finally:
        await source.aclose()
