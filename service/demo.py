"""The built-in demo upstream: an OpenAI-compatible server that needs no key and no network.

It tells what Teleprinter is and quotes the question back: in Chinese if the question has Chinese
characters, else in English. The relay reaches it over real HTTP and treats it as any upstream.
The wire format is that of https://platform.openai.com/docs/api-reference/chat.
"""

import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
from aiohttp import web

from service.adapters.clock import Clock, LoopClock, sleep

MODELS = ("demo", "demo-thinking")
LARGEST_REQUEST = 64 * 1024**2  # bytes
LONGEST_QUOTE = 200  # characters of the question
STREAM_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}

ENGLISH = """\
**Teleprinter** reads a language model's answer token by token, through an HTTP or SOCKS proxy, \
and hands it on as server-sent events. 👋

No upstream is configured yet, so this answer comes from the built-in demo. You asked:

```json
{quote}
```

With a real model behind it, every answer

- comes at once, or at the steady pace of a typewriter;
- is complete, or honestly marked as cut;
- needs no more in your program than another base URL.

Set `TELEPRINTER_UPSTREAM_URL`, and `TELEPRINTER_PROXY` if a proxy is on the way: the next answer \
is your model's own."""

CHINESE = """\
**Teleprinter** 通过 HTTP 或 SOCKS 代理，逐个词元地读取大语言模型的回答，\
再以服务器发送事件（SSE）的形式转交给你。👋

现在还没有配置上游，所以这段回答来自内置的演示。你的问题是：

```json
{quote}
```

接上真正的模型以后，每个回答都会：

- 立即送达，或者像打字机一样匀速送达；
- 完整无缺，或者如实标明在何处中断；
- 不需要改动你的程序，只要换一个基础地址。

设置 `TELEPRINTER_UPSTREAM_URL`；如果要经过代理，再设置 `TELEPRINTER_PROXY`。\
下一个回答就来自你自己的模型了。"""

ENGLISH_THOUGHT = "The question is in English, so is the answer. A few short paragraphs will do."
CHINESE_THOUGHT = "问题里有中文，就用中文回答。几个简短的段落就够了。"

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_MARKS = "\u3000-\u303f\uff01-\uff65"  # full-width punctuation
_TOKEN = re.compile(rf"[{_HAN}]{{1,2}}|[{_MARKS}]+|\s*[^\s{_HAN}{_MARKS}]+|\s+")

Chunks = Iterator[tuple[str, dict[str, Any]]]  # a token, and the JSON that carries it


class Message(msgspec.Struct):
    """One message of the conversation; `content` is text, or a list of typed parts."""

    role: str
    content: str | list[dict[str, Any]] | None = None

    def text(self) -> str:
        """Return what the message says, its parts without text left out."""
        if isinstance(self.content, list):
            return "".join(str(part.get("text") or "") for part in self.content)
        return self.content or ""


class Question(msgspec.Struct):
    """The body of a chat completion request, as far as the demo heeds it."""

    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    model: str = MODELS[0]
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None

    def text(self) -> str:
        """Return the user's last words; "" if there are none."""
        words = (message.text() for message in reversed(self.messages) if message.role == "user")
        return next(words, "")


def split(text: str) -> list[str]:
    """Cut a text into tokens as a keyboard would: words with the space before them, Han by twos."""
    return _TOKEN.findall(text)


@dataclass(frozen=True)
class Answer:
    """What the demo replies: its tokens, and the head that all chunks share."""

    model: str
    asked: int  # tokens of the request
    reasoning: list[str]
    content: list[str]
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))  # Unix seconds

    @classmethod
    def to(cls, question: Question) -> "Answer":
        """Compose the answer to a question."""
        text = question.text()
        chinese = re.search(f"[{_HAN}]", text)
        quote = text if len(text) <= LONGEST_QUOTE else text[:LONGEST_QUOTE] + "…"
        said = json.dumps({"question": quote}, ensure_ascii=False)
        thought = CHINESE_THOUGHT if chinese else ENGLISH_THOUGHT
        return cls(
            model=question.model,
            asked=sum(len(split(message.text())) for message in question.messages),
            reasoning=split(thought) if question.model.endswith("-thinking") else [],
            content=split((CHINESE if chinese else ENGLISH).format(quote=said)),
        )

    def usage(self) -> dict[str, Any]:
        """Count the tokens, as OpenAI's `usage` object."""
        completion = len(self.reasoning) + len(self.content)
        return {
            "prompt_tokens": self.asked,
            "completion_tokens": completion,
            "total_tokens": self.asked + completion,
            "completion_tokens_details": {"reasoning_tokens": len(self.reasoning)},
        }

    def whole(self) -> dict[str, Any]:
        """Return the answer in one piece, as a `chat.completion`."""
        message = {"role": "assistant", "content": "".join(self.content), "refusal": None}
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning)
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self.usage()}

    def chunks(self, *, usage: bool) -> Chunks:
        """Yield each token ("" for the role and the ends) and its `chat.completion.chunk`."""
        nothing = {"usage": None} if usage else {}
        yield "", self._chunk({"role": "assistant", "content": ""}) | nothing
        for token in self.reasoning:
            yield token, self._chunk({"reasoning_content": token}) | nothing
        for token in self.content:
            yield token, self._chunk({"content": token}) | nothing
        yield "", self._chunk({}, finish_reason="stop") | nothing
        if usage:
            yield "", self._head("chat.completion.chunk") | {"choices": [], "usage": self.usage()}

    def _chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def hold(token: str, index: int, pause: float) -> float:
    """Return the seconds before the next token: `pause` on average, four more at a sentence's end.

    The variation looks natural and is the same at every run: the golden ratio spreads it evenly.
    """
    rhythm = 0.5 + index * 0.618034 % 1
    return pause * (rhythm + 4 * token.endswith((".", "!", "?", "。", "！", "？")))


def application(clock: Clock | None = None, *, pause: float = 0.04) -> web.Application:
    """Build the demo's application: `/v1/chat/completions` and `/v1/models`.

    `pause` is in seconds, on average a token; the time is the clock's, else the event loop's.
    Run it with `handler_cancellation`, so that it stops typing when the client leaves.
    """

    async def complete(request: web.Request) -> web.StreamResponse:
        question = _question(await request.read())
        answer = Answer.to(question)
        if not question.stream:
            return web.json_response(answer.whole())
        response = web.StreamResponse(headers=STREAM_HEADERS)
        await response.prepare(request)
        usage = bool((question.stream_options or {}).get("include_usage"))
        await _type(response, answer.chunks(usage=usage), clock or LoopClock(), pause)
        return response

    app = web.Application(middlewares=[_openai_errors], client_max_size=LARGEST_REQUEST)
    app.router.add_post("/v1/chat/completions", complete)
    app.router.add_get("/v1/models", _models)
    return app


@asynccontextmanager
async def demo_upstream() -> AsyncIterator[str]:
    """Run the demo on a free port of 127.0.0.1; yields its base URL, e.g. `http://127.0.0.1:41234/v1`.

    Raises OSError when it cannot listen. On leaving, streams that are still typing are cut.
    """
    runner = web.AppRunner(
        application(), handler_cancellation=True, access_log=None, shutdown_timeout=0.1
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


def _question(body: bytes) -> Question:
    """Parse a request's body; raises HTTPBadRequest with a text for its sender."""
    try:
        return msgspec.json.decode(body, type=Question)
    except (msgspec.DecodeError, RecursionError) as error:
        raise web.HTTPBadRequest(text=f"The body is no chat completion request: {error}") from error


async def _type(response: web.StreamResponse, chunks: Chunks, clock: Clock, pause: float) -> None:
    """Send the chunks, each token followed by its hold."""
    for index, (token, chunk) in enumerate(chunks):
        await response.write(b"data: " + msgspec.json.encode(chunk) + b"\n\n")
        if token:
            await sleep(clock, hold(token, index, pause))
    await response.write(b"data: [DONE]\n\n")


async def _models(_request: web.Request) -> web.Response:
    models = [{"id": name, "object": "model", "created": 0, "owned_by": "demo"} for name in MODELS]
    return web.json_response({"object": "list", "data": models})


@web.middleware
async def _openai_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Give every refusal OpenAI's shape; headers such as `Allow` stay."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        unknown = error.status in {404, 405}
        said = f"{error.reason}: {request.method} {request.path}" if unknown else error.text
        fields = {"message": said, "type": "invalid_request_error", "param": None, "code": None}
        error.text = json.dumps({"error": fields})
        error.content_type = "application/json"
        raise
