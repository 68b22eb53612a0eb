"""Headless Chromium's own clients, at work in the relay's page.

The document is the relay's `/`, so that what it asks has the page's origin and its policy.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlencode

import pytest

from client import Client
from program import PATIENT

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page
try:
    from playwright.async_api import async_playwright
except ImportError:  # the tests are skipped
    async_playwright = None

PROGRAMS = ("chromium-headless-shell", "chromium")
"""The first one that there is. Both are one browser; the first has no windows, whose making takes
most of a short test's time in the second."""
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--no-proxy-server",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
FOLLOW = Path(__file__).with_name("clients") / "follow.mjs"
BEGIN = """([how, job]) => {
    globalThis.aborter = new AbortController();
    const { signal } = aborter;
    const held = [];
    let telling = false;
    const say = async (report) => {  // what comes while one call is under way goes with the next
        held.push(report);
        if (telling) return;
        telling = true;
        while (held.length) await tell(held.splice(0));
        telling = false;
    };
    const following = how === "EventSource"
        ? follow.eventSource(EventSource, job, say, signal)
        : follow.post(job, follow.byBlankLines(say), say, signal);
    following.then(() => say(null));
}"""


class Tab:
    """A page that asks the relay. It says None at its end."""

    def __init__(self, page: "Page") -> None:
        self.page = page
        self._said: asyncio.Queue[Any] = asyncio.Queue()

    async def begin(self, url: str, how: str, job: dict[str, Any]) -> None:
        """Open the relay's page and let it ask."""
        await self.page.goto(f"{url}/")
        await self.page.expose_function("tell", self._hear)
        await self.page.evaluate(FOLLOW.read_text())
        await self.page.evaluate(BEGIN, [how, job])

    def _hear(self, reports: list[Any]) -> None:
        for report in reports:
            self._said.put_nowait(report)

    async def says(self) -> Any:
        """Return its next report."""
        async with asyncio.timeout(PATIENT):
            return await self._said.get()

    async def rest(self) -> list[Any]:
        """Return its reports up to its end."""
        said = []
        async with asyncio.timeout(PATIENT):
            while (report := await self.says()) is not None:
                said.append(report)
        return said

    async def abort(self) -> None:
        """Let it abort what it does."""
        await self.page.evaluate("aborter.abort()")


class Chromium:
    """The one that runs; each test has a profile of its own in it."""

    running: ClassVar["Browser | None"] = None


@asynccontextmanager
async def chromium() -> AsyncIterator[None]:
    """Run Chromium for the clients below; skips the tests where it is missing."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("chromium is not installed: apt-get install chromium-headless-shell")
    if async_playwright is None:
        pytest.skip("playwright is not installed: pip install playwright")
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=program, args=list(FLAGS))
        Chromium.running = browser
        try:
            yield
        finally:
            await browser.close()


@dataclass(frozen=True)
class PageClient(Client):
    """What a page asks with: EventSource, or fetch and no parser."""

    how: str = "fetch"

    @asynccontextmanager
    async def run(self, url: str, question: str = "Hi", **job: Any) -> AsyncIterator[Tab]:
        """Ask the relay at this URL, from its own page."""
        if self.how == "EventSource":
            asked = {"url": f"chat?{urlencode({'question': question, 'keep': 0})}"}
        else:
            asked = {"url": "chat", "body": {"question": question, "keep": 0}}
        profile = await Chromium.running.new_context()
        try:
            tab = Tab(await profile.new_page())
            await tab.begin(url, self.how, {**asked, **job})
            yield tab
        finally:
            await profile.close()


EVENTSOURCE = PageClient(
    "chromium-eventsource",
    chat=True,
    sees_status=False,
    refused=({"lost": "closed"},),
    how="EventSource",
)
FETCH = PageClient("chromium-fetch", chat=True, lost=({"lost": "TypeError"},))
