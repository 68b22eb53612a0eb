"""A person who visits the page, in a headless Chromium of their own.

    async with Stub() as stub, visiting(stub.url) as visit:
        await visit.ask("Why?")
        request, wire = await stub.asked()
        await wire.head(content_type="text/event-stream")
        await wire.chunk(event(1, "answer", content="So."))

Whoever leaves is asked what the page did: an error in the console, or a request to anywhere but the
relay, is a failure of the test.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from importlib import resources
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from chromium import Chromium
from client_scene import Tap
from clock import PATIENCE
from fakes import Request, Upstream, Wire
from fakes.server import Connection
from program import PATIENT
from service.web import _PAGE_HEADERS, _TYPES

if TYPE_CHECKING:
    from playwright.async_api import Locator, Page

PAGES = resources.files("service") / "pages"
AXE = Path(__file__).with_name("clients") / "node_modules" / "axe-core" / "axe.min.js"
REFUSED = re.compile(r"^Failed to load resource: ")
"""What Chromium itself writes of a status from 400 on, and of a line that is cut."""


class Look(NamedTuple):
    """How a person looks at the page."""

    width: int = 1280
    scheme: str = "light"
    locale: str = "en-US"

    @property
    def phone(self) -> bool:
        """Whether it is one."""
        return self.width < 600

    def __str__(self) -> str:
        return f"{self.width} {self.scheme} {self.locale}"


LOOKS = [Look(*each) for each in product((1280, 390), ("light", "dark"), ("en-US", "zh-CN"))]


class Stub(Upstream):
    """In the relay's place: it serves the page, and the test answers what the page asks.

    asked()   the next POST /chat, and the wire of its answer; `stopped`: the DELETEs so far
    """

    FOLDER = Path(__file__).with_name("page")
    MODELS = json.dumps({"data": [{"id": "m-1"}, {"id": "m-2"}]})

    def __init__(self) -> None:
        super().__init__(self._answer)
        self._chats: asyncio.Queue[tuple[Request, Wire]] = asyncio.Queue()

    @property
    def stopped(self) -> list[Request]:
        """The streams that the page stopped."""
        return [request for request in self.requests if request.method == "DELETE"]

    async def asked(self) -> tuple[Request, Wire]:
        """Return the next question for the test to answer."""
        async with asyncio.timeout(PATIENCE):
            return await self._chats.get()

    async def answering(self) -> Wire:
        """Return the wire of the next question; the answer has begun."""
        _, wire = await self.asked()
        await begin(wire)
        return wire

    async def _answer(self, request: Request, wire: Wire) -> None:
        path = request.target.partition("?")[0]
        if path == "/chat":
            self._chats.put_nowait((request, wire))
            await wire.finished.wait()
        elif path == "/v1/models":
            await wire.reply(200, self.MODELS, content_type="application/json")
        elif request.method == "DELETE":
            await wire.reply(204)
        else:
            file = PAGES / (path.removeprefix("/pages/").strip("/") or "index.html")
            kind = _TYPES[file.name.rpartition(".")[2]]
            await wire.reply(200, file.read_bytes(), *_PAGE_HEADERS.items(), content_type=kind)


class Plug(Tap):
    """A line to the relay that can be pulled out, and put back into the same port."""

    def pull(self) -> None:
        """Cut all connections, and refuse more."""
        self._server.close()
        self.reset_connections()

    async def put_back(self) -> None:
        """Listen again."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), "127.0.0.1", self.port)


def event(number: int | str, name: str, **data: Any) -> bytes:
    """Return one event of `/chat`, of the stream S."""
    return f"id: S.{number}\nevent: {name}\ndata: {json.dumps(data)}\n\n".encode()


def answers(*texts: str, first: int = 1) -> bytes:
    """Return a run of `answer` events."""
    return b"".join(event(n, "answer", content=text) for n, text in enumerate(texts, first))


DONE = {
    "finish_reason": "stop",
    "model": "m-1",
    "upstream": "tokyo",
    "attempts": 1,
    "usage": {"completion_tokens": 42},
    "first_token_ms": 300,
    "elapsed_ms": 2300,
}


async def begin(wire: Wire) -> None:
    """Send the head of the stream S, and its start."""
    stream = ("Teleprinter-Stream", "S")
    await wire.head(200, stream, content_type="text/event-stream")
    await wire.chunk(event(0, "start", stream="S", model="m-1"))


async def finish(wire: Wire, number: int = 99, **more: Any) -> None:
    """Send the last event, and the end."""
    await wire.chunk(event(number, "done", **{**DONE, **more}))
    await wire.end()


async def refuse(wire: Wire, status: int, code: str, message: str) -> None:
    """Refuse a question as the relay does."""
    error = {"code": code, "message": message, "stage": "request", "retryable": False}
    await wire.reply(status, json.dumps({"error": error}), content_type="application/json")


class Visit:
    """A tab with the page. `urls`: all that it asked for; `errors`: what stands in its console."""

    def __init__(self, page: "Page", url: str) -> None:
        self.page = page
        self.url = url
        self.urls: list[str] = []
        self.errors: list[str] = []
        page.set_default_timeout(PATIENT * 1000)
        page.on("request", lambda request: self.urls.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._note)

    def _note(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.errors.append(message.text)

    def part(self, name: str) -> "Locator":
        """Return a part of the last turn."""
        return self.page.locator(f".turn:last-child [data-part={name}]")

    async def ask(self, question: str) -> None:
        """Type a question, and Enter."""
        await self.page.locator("#question").fill(question)
        await self.page.keyboard.press("Enter")

    async def sees(self, text: str, name: str = "answer") -> None:
        """Wait until a part of the last turn is this text."""
        await self._until("([part, text]) => part?.innerText.trim() === text", name, text)

    async def sees_within(self, text: str, name: str = "answer") -> None:
        """Wait until a part of the last turn, which can be seen, has this text in it."""
        await self._until(
            "([part, text]) => part?.checkVisibility() && part.innerText.includes(text)", name, text
        )

    async def status(self, text: str) -> None:
        """Wait until the status line has this text in it."""
        await self.page.wait_for_function(
            "(text) => document.querySelector('#status').textContent.includes(text)", arg=text
        )

    async def idle(self) -> None:
        """Wait until nothing is written."""
        await self.page.wait_for_selector("#ask:not([hidden])")

    async def _until(self, true: str, name: str, text: str) -> None:
        look = f"document.querySelector('.turn:last-child [data-part={name}]')"
        check = f"(text) => ({true})([{look}, text])"
        await self.page.wait_for_function(check, arg=text)

    async def findings(self) -> list[str]:
        """Return what axe-core finds serious or critical."""
        if not AXE.is_file():
            pytest.skip("axe-core is not installed: npm ci --prefix tests/clients")
        return await serious(self.page)


async def serious(page: "Page") -> list[str]:
    """Return what axe-core finds serious or critical."""
    await page.evaluate(AXE.read_text())
    found = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{each['id']}: {node['html']} {node['failureSummary']}"
        for each in found["violations"]
        if each["impact"] in {"serious", "critical"}
        for node in each["nodes"]
    ]


@asynccontextmanager
async def visiting(
    url: str, look: Look | None = None, *, errors: Iterable[re.Pattern[str]] = (), **options: Any
) -> AsyncIterator[Visit]:
    """Open the page; `errors`: what the console may hold; `options`: of Playwright's context."""
    look = look or Look()
    profile = await Chromium.running.new_context(
        viewport={"width": look.width, "height": 844 if look.phone else 800},
        color_scheme=look.scheme,
        locale=look.locale,
        has_touch=look.phone,
        is_mobile=look.phone,
        bypass_csp=options.pop("bypass_csp", False),
        **options,
    )
    try:
        visit = Visit(await profile.new_page(), url)
        await visit.page.goto(f"{url}/")
        yield visit
        others = [each for each in visit.urls if not each.startswith(f"{url}/")]
        assert others == []
        allowed = tuple(errors)
        assert [e for e in visit.errors if not any(a.search(e) for a in allowed)] == []
    finally:
        await profile.close()
