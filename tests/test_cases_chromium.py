"""web-platform-tests' eventsource/ in headless Chromium, with the relay between page and server.

Each case runs twice, on one page each: asked of the server itself, and of the relay's /v1. The
EventSource must see the same both times, which is what the case says; a fetch gets the same bytes.
Which of their cases cannot be asked through a relay, and why: cases/wpt.py, NOT_FOR_A_RELAY.
"""

from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from cases import PATH, STREAM, Case, serving, wpt
from chromium import Chromium, chromium
from fakes import Request, Upstream
from relaying import relaying, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGE = b"<!doctype html><title>a page of the server's own</title>"
CLOSED = 2
FOLLOW = """async (jobs) => {
    const said = [];
    for (const { url, ends, closes, types } of jobs) {
        said.push(await new Promise((done) => {
            const source = new EventSource(url), events = [];
            let opened = 0, ended = 0;
            source.onopen = () => opened++;
            for (const type of types) {
                source.addEventListener(type, (event) => {
                    events.push([event.type, event.data, event.lastEventId]);
                });
            }
            source.onerror = (event) => {
                const closed = source.readyState === EventSource.CLOSED;
                ended++;
                if (!closed && (closes || ended < ends)) return;
                source.close();
                done({ events, opened, closed, plain: !("data" in event) && !event.bubbles });
            };
        }));
    }
    return said;
}"""
FETCH = """async (urls) => {
    const said = [];
    for (const url of urls) {
        const response = await fetch(url);
        const bytes = new Uint8Array(await response.arrayBuffer());
        said.push([response.status, response.headers.get("Content-Type"), Array.from(bytes)]);
    }
    return said;
}"""
TYPES = ("message", "test")


class Way(NamedTuple):
    """What a page saw on one way: of each case by EventSource, of each FORMAT case by fetch."""

    seen: list[dict[str, Any]]
    fetched: list[Any]
    requests: list[Request]


async def follow(url: str, upstream: Upstream) -> Way:
    """Open that page, and let it ask for all cases, one after the other."""
    profile = await Chromium.running.new_context()
    try:
        page = await profile.new_page()
        await page.goto(f"{url}/")
        jobs = [
            {"url": PATH.format(n), "ends": case.streams, "closes": case.closed, "types": TYPES}
            for n, case in enumerate(wpt.CASES)
        ]
        seen = await page.evaluate(FOLLOW, jobs)
        asked = list(upstream.requests)
        fetched = await page.evaluate(FETCH, [PATH.format(n) for n in range(len(wpt.FORMAT))])
    finally:
        await profile.close()
    return Way(seen, fetched, [one for one in asked if one.target.startswith(PATH.format(""))])


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def _chromium():
    async with chromium():
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def direct(_chromium) -> Way:
    """Return what the page sees of the server itself."""
    async with Upstream(serving(wpt.CASES, PAGE)) as upstream:
        return await follow(upstream.url, upstream)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def relayed(_chromium) -> Way:
    """Return what the relay's page sees of the same server behind it."""
    async with (
        Upstream(serving(wpt.CASES)) as upstream,
        relaying(upstream.url) as relay,
    ):
        return await follow(relay.url, upstream)


@pytest.mark.parametrize(
    ("number", "case"), [pytest.param(n, case, id=case.source) for n, case in enumerate(wpt.CASES)]
)
async def test_wpt(number: int, case: Case, direct: Way, relayed: Way):
    """An EventSource sees the case's events, and no others, with and without the relay."""
    seen = relayed.seen[number]
    assert seen == direct.seen[number]
    if case.source in wpt.NOT_IN_CHROMIUM:
        return
    assert [tuple(event) for event in seen["events"]] == list(case.events)
    assert seen["closed"] == case.closed
    assert seen["opened"] == case.streams
    assert seen["plain"]


@pytest.mark.parametrize(
    ("number", "case"), [pytest.param(n, case, id=case.source) for n, case in enumerate(wpt.FORMAT)]
)
async def test_wpt_bytes(number: int, case: Case, direct: Way, relayed: Way):
    """A fetch gets every byte of the case, under its Content-Type."""
    status, kind, body = relayed.fetched[number]
    assert [status, kind, body] == direct.fetched[number]
    assert bytes(body) == case.body


async def test_what_the_upstream_is_asked(direct: Way, relayed: Way):
    """The upstream is asked as by the browser itself (request-accept, request-cache-control)."""
    asked = [
        [(one.target, one.get("accept"), one.get("cache-control")) for one in way.requests]
        for way in (direct, relayed)
    ]
    assert asked[1] == asked[0]
    assert {(accept, caching) for _, accept, caching in asked[1]} == {(STREAM, "no-cache")}


async def test_close():
    """close() in `onopen` is the upstream's end too (eventsource-close.window.js)."""
    async with Upstream() as upstream, relaying(upstream.url) as relay:
        page = await Chromium.running.new_page()
        await page.goto(f"{relay.url}/")
        await page.evaluate(
            """() => {
                globalThis.source = new EventSource("/v1/events");
                globalThis.states = [source.readyState];
                source.onopen = () => {
                    states.push(source.readyState);
                    source.close();
                    states.push(source.readyState);
                };
            }"""
        )
        _, wire = await upstream.next()
        await wire.head(content_type=STREAM)
        await wire.chunk(b"data: data\n\n")
        await upstream.until(wire.closed.is_set)
        assert await page.evaluate("states") == [0, 1, CLOSED]
        await until(lambda: not relay.streams)
        await page.close()


async def test_window_stop():
    """window.stop() before the answer ends it all (eventsource-request-cancellation)."""
    async with Upstream() as upstream, relaying(upstream.url) as relay:
        page = await Chromium.running.new_page()
        await page.goto(f"{relay.url}/")
        await page.evaluate("() => { globalThis.source = new EventSource('/v1/events'); }")
        _, wire = await upstream.next()
        await page.evaluate("window.stop()")
        await upstream.until(wire.closed.is_set)
        assert await page.evaluate("source.readyState") == CLOSED
        await until(lambda: not relay.streams)
        await page.close()
