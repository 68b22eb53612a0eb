"""The status page in a real Chromium, while time stands still.

The page shows what the relay tells it, and nothing else moves it: each second is the test's.
"""

import asyncio
import json
import re
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import pytest_asyncio

from chromium import Chromium, chromium
from fakes import SocksProxy, Upstream, chat, chat_frame, sse
from relaying import relaying, until
from statuses import MODELS, busy, told
from visiting import AXE, serious

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEYS = '[server]\nkeys = ["ann:key-of-ann"]\n'
BODY = {"model": "gpt-9", "messages": [{"role": "user", "content": "Hello?"}], "stream": True}
PATH = "/v1/chat/completions"
NOT_ALLOWED = 2
UNAUTHORIZED = "the server responded with a status of 401"
ENGLISH = {"locale": "en-GB"}
CHINESE = {"locale": "zh-CN"}


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def _chromium():
    """Start it once; each test has a profile of its own in it."""
    async with chromium():
        yield


@asynccontextmanager
async def looking(relay, *, allowed=None, snapshot=None, **options):
    """Open the page in a profile of its own; no error and no request to elsewhere may come.

    snapshot   told in the relay's place
    """
    profile = await Chromium.running.new_context(**(ENGLISH | options))
    errors, asked = [], []
    try:
        page = await profile.new_page()
        page.on("console", lambda said: errors.append(said.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        if snapshot is not None:
            sse = {"body": told(snapshot), "content_type": "text/event-stream"}
            await page.route("**/status/events", lambda route: route.fulfill(**sse))
        await page.goto(f"{relay.url}/status")
        yield page
    finally:
        await profile.close()
    assert [text for text in errors if not (allowed and allowed in text)] == []
    assert [url for url in asked if not url.startswith(f"{relay.url}/")] == []


async def shows(page, text, part="#verdict"):
    """Wait until a part of the page says that."""
    await page.locator(part, has_text=text).first.wait_for()


async def second(clock):
    """Let one second pass for whoever watches."""
    await clock.armed(clock.now() + 1)
    clock.advance(1)


async def ask(relay):
    """Ask for a stream, to its end."""
    async with relay.stream() as response:
        await response.read()


async def begin(relay, upstream, stack, headers=None):
    """Begin a stream that stays open; return the upstream's wire."""
    asking = asyncio.create_task(stack.enter_async_context(relay.post(PATH, BODY, headers)))
    _, wire = await upstream.next()
    await wire.head(content_type="text/event-stream")
    await wire.chunk(chat_frame({"content": "Hi"}))
    await asking
    return wire


@asynccontextmanager
async def two_proxies(clock):
    """Run a relay with a pool of two; yield it and the first proxy."""
    async with Upstream(sse(*chat(["Hi"]))) as upstream, SocksProxy() as one, SocksProxy() as two:
        toml = f'[[pool]]\nname = "asia"\nproxies = ["{one.url}", "{two.url}"]\n'
        async with relaying(upstream.url, toml=toml, clock=clock) as relay:
            yield relay, one


async def test_a_proxy_goes_down_and_comes_back_without_a_reload(clock):
    """The headline, the chain and the proxy's own row change within the second."""
    async with two_proxies(clock) as (relay, proxy), looking(relay) as page:
        loads = []
        page.on("load", lambda _: loads.append(1))
        await shows(page, "Ready: nothing has been asked yet")
        proxy.refuse = NOT_ALLOWED
        for _ in range(3):
            await ask(relay)
        await second(clock)
        address = f"127.0.0.1:{proxy.port}"
        await shows(page, f"Proxy {address} is down (refuses: its login or its rules); 1 other")
        await shows(page, "The proxy's fault", "#whose")
        await shows(page, "1 of 2 work", "#c_proxy[data-level=warn]")
        await shows(page, "works", "#c_relay[data-level=ok]")
        await shows(page, "down for 1 s", "#ways [data-level=bad]")
        assert await page.title() == f"! {await page.inner_text('#verdict')} · Teleprinter"
        assert await page.locator("#ways [data-level=bad] svg .s_failed").count() == 3
        proxy.refuse = None
        await second(clock)
        await ask(relay)
        await second(clock)
        await shows(page, "Fine")
        await shows(page, "2 of 2 work", "#c_proxy[data-level=ok]")
        assert await page.inner_text("#whose") == ""
        assert loads == []


async def test_rates_are_drawn(clock):
    """A bar where streams ended, a line where events came, and both in words."""
    async with two_proxies(clock) as (relay, _), looking(relay) as page:
        await shows(page, "Ready")
        assert await page.locator("#bars rect, #line polyline").count() == 0
        await ask(relay)
        await ask(relay)
        await second(clock)
        await shows(page, "complete 2", "#legend")
        assert await page.locator("#bars rect.s_ok").count() == 1
        assert await page.locator("#line polyline").count() == 1
        label = await page.get_attribute("#bars", "aria-label")
        assert label.endswith("last 15 minutes: 2 in all, 0 failed")


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (204, "", "Stopped."),
        (404, '{"error": {"message": "there is no such stream"}}', "Not stopped: there is no such"),
        (502, "<html>", "Not stopped: 502"),
    ],
)
async def test_the_stop_button(clock, status, body, said):
    """It asks to delete that stream, with the key, and shows what came of it."""
    async with AsyncExitStack() as stack, Upstream() as upstream:
        relay = await stack.enter_async_context(relaying(upstream.url, toml=KEYS, clock=clock))
        await begin(relay, upstream, stack, {"Teleprinter-Key": "key-of-ann"})
        asked = []

        async def answer(route):
            asked.append(route.request)
            await route.fulfill(status=status, body=body, content_type="application/json")

        page = await stack.enter_async_context(looking(relay, allowed="status of"))
        await page.route("**/streams/*", answer)
        await page.fill("#key", "key-of-ann")
        await page.keyboard.press("Enter")
        await shows(page, "streaming", "#streams")
        await shows(page, "ann · gpt-9", "#streams")
        await page.get_by_role("button", name="Stop").click()
        await shows(page, said, "#answer")
        [request] = asked
        assert request.method == "DELETE"
        assert request.url == f"{relay.url}/streams/{relay.streams[0].name}"
        assert request.headers["authorization"] == "Bearer key-of-ann"


async def test_the_focus_stays_where_it_is(clock):
    """A row that is told anew is the same row: whoever is about to press a key may."""
    async with AsyncExitStack() as stack, Upstream() as upstream:
        relay = await stack.enter_async_context(relaying(upstream.url, clock=clock))
        await begin(relay, upstream, stack)
        page = await stack.enter_async_context(looking(relay))
        await page.get_by_role("button", name="Stop").focus()
        await begin(relay, upstream, stack)
        await second(clock)
        await shows(page, "2", "#open")
        assert await page.evaluate("document.activeElement.textContent") == "Stop"
        for stream in relay.streams:
            stream.end()
        await until(lambda: not relay.streams)
        await second(clock)
        await shows(page, "None.", "#others")
        assert await page.locator("#streams li").count() == 0


async def test_a_key_is_asked_for_and_kept_for_the_tab(clock):
    """Nothing is shown without one; a wrong one is told; a reload asks for none."""
    async with (
        relaying("http://127.0.0.1:9", toml=KEYS, clock=clock) as relay,
        looking(relay, allowed=UNAUTHORIZED) as page,
    ):
        await shows(page, "Show a key")
        assert not await page.is_visible("#board")
        await page.fill("#key", "wrong")
        await page.keyboard.press("Enter")
        await shows(page, "That is none of its keys")
        await page.fill("#key", "key-of-ann")
        await page.get_by_role("button", name="Look").click()
        await shows(page, "Ready")
        assert not await page.is_visible("#ask")
        await page.reload()
        await shows(page, "Ready")
        assert "key-of-ann" not in page.url
        kept = await page.evaluate("[{...sessionStorage}, {...localStorage}]")
        assert "key-of-ann" in json.dumps(kept[0])
        assert kept[1] == {}


async def test_it_stops_one_s_own(clock):
    """At the relay: the upstream is left, the row goes; another caller's stream has no button."""
    toml = '[server]\nkeys = ["ann:key-of-ann", "bob:key-of-bob"]\n'
    async with AsyncExitStack() as stack, Upstream() as upstream:
        relay = await stack.enter_async_context(relaying(upstream.url, toml=toml, clock=clock))
        wires = {
            key: await begin(relay, upstream, stack, {"Teleprinter-Key": key})
            for key in ("key-of-bob", "key-of-ann")
        }
        page = await stack.enter_async_context(looking(relay, allowed=UNAUTHORIZED))
        await page.fill("#key", "key-of-ann")
        await page.keyboard.press("Enter")
        await shows(page, "1 more of others", "#others")
        assert await page.locator("#streams button").count() == 1
        await page.get_by_role("button", name="Stop").click()
        await shows(page, "Stopped.", "#answer")
        await upstream.until(wires["key-of-ann"].closed.is_set)
        await until(lambda: len(relay.streams) == 1)
        await second(clock)
        await page.locator("#streams li").wait_for(state="detached")
        assert not wires["key-of-bob"].closed.is_set()


HOSTILE = ("<img src=x onerror=alert(1)>", "javascript:alert(1)", "</script><script>alert(1)")


async def test_hostile_names_are_text(clock):
    """What a client calls a model is shown as it is, and makes no element."""
    async with (
        relaying("http://127.0.0.1:9", clock=clock) as relay,
        looking(relay, snapshot=busy(*HOSTILE)) as page,
    ):
        for name in HOSTILE:
            await shows(page, name, "#streams")
        assert await page.locator("img, #streams a, #streams script").count() == 0


async def test_the_keyboard_is_enough(clock):
    """Tab reaches the link, the language and every stop button, each with a name and a ring."""
    async with (
        relaying("http://127.0.0.1:9", clock=clock) as relay,
        looking(relay, snapshot=busy()) as page,
    ):
        await page.locator("#streams li").first.wait_for()
        reached = []
        for _ in range(6):
            await page.keyboard.press("Tab")
            reached.append(await page.evaluate(FOCUSED))
        assert [name for name, _ in reached[:2]] == ["Teleprinter", "中文"]
        assert [name for name, _ in reached[2:]] == [f"Stop {model}" for model in MODELS]
        assert all(ring for _, ring in reached)


FOCUSED = """() => {
    const e = document.activeElement;
    return [e.ariaLabel ?? e.textContent, parseFloat(getComputedStyle(e).outlineWidth) >= 2];
}"""
LOOKED = [
    pytest.param(
        {**language, "viewport": {"width": width, "height": 900}, "color_scheme": scheme},
        id=f"{width} {scheme} {language['locale']}",
    )
    for width in (1280, 390)
    for scheme in ("light", "dark")
    for language in (ENGLISH, CHINESE)
]


@pytest.mark.parametrize("options", LOOKED)
async def test_all_of_it_on_every_screen(clock, options):
    """A relay at work, in the reader's language, and nothing that one with a handicap misses.

    Nothing has to be scrolled sideways.
    """
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: npm ci --prefix tests/clients")
    async with (
        relaying("http://127.0.0.1:9", clock=clock) as relay,
        looking(relay, snapshot=busy(), **options) as page,
    ):
        await page.locator("#streams li").first.wait_for()
        assert await page.locator("#ways .spark svg rect").count() == 90
        assert await page.locator("#bars rect.s_ok").count() == 15
        chinese = options["locale"] == CHINESE["locale"]
        assert await page.evaluate("document.documentElement.lang") == (
            "zh-CN" if chinese else "en"
        )
        for text in await page.locator("h1, h2, dt, #chain b, #streams button").all_inner_texts():
            assert bool(re.search("[一-鿿]", text)) == chinese, text
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert await serious(page) == []


async def test_the_language_can_be_changed(clock):
    """All that stands there changes at once, and the choice outlives a reload."""
    async with two_proxies(clock) as (relay, _), looking(relay) as page:
        await ask(relay)
        await second(clock)
        await shows(page, "Fine")
        await page.click("#language")
        await shows(page, "一切正常")
        await shows(page, "代理", "#h_ways")
        await shows(page, "完整 1", "#legend")
        await page.reload()
        await shows(page, "一切正常")
        assert await page.inner_text("#language") == "English"


async def test_a_relay_that_drains_and_comes_back(clock):
    """It says so as long as it can; then it does not answer, and what it told last is marked."""
    async with two_proxies(clock) as (relay, _), looking(relay, allowed="ERR_FAILED") as page:
        await page.clock.install()
        await page.reload()
        await shows(page, "Ready")
        await page.route("**/status/events", lambda route: route.abort())
        relay.gateway.draining = True
        await second(clock)
        await shows(page, "The relay is shutting down; 0 streams may still end")
        await page.clock.fast_forward(2000)
        await shows(page, "The relay does not answer")
        assert await page.get_attribute("#board", "aria-busy") == "true"
        assert await page.is_visible("#ways")
        relay.gateway.draining = False
        await page.unroute("**/status/events")
        await page.clock.fast_forward(2000)
        await shows(page, "Ready")
        assert await page.get_attribute("#board", "aria-busy") == "false"


async def test_a_line_that_is_silent_is_lost(clock):
    """A plug that was pulled closes nothing: without an event for ten seconds the page says so."""
    async with two_proxies(clock) as (relay, _), looking(relay) as page:
        await page.clock.install()
        await page.reload()
        await shows(page, "Ready")
        await clock.armed()
        await page.clock.fast_forward(9_000)
        await second(clock)
        await shows(page, "running for 1 s", "#uptime")
        await page.clock.fast_forward(9_000)
        await shows(page, "Ready")
        await page.clock.fast_forward(1_000)
        await shows(page, "The relay does not answer")


async def test_a_page_that_nobody_sees_asks_for_nothing(clock):
    """A tab in the background lets the relay go, and comes back when it is looked at."""
    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
    tell = "document.dispatchEvent(new Event('visibilitychange'))"
    async with two_proxies(clock) as (relay, _), looking(relay) as page:
        await shows(page, "Ready")
        await clock.armed()
        await page.evaluate(hide % "true" + tell)
        await until(lambda: not clock.pending())
        await ask(relay)
        await page.evaluate(hide % "false" + tell)
        await shows(page, "Fine")
