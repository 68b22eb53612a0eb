"""Headless Chromium's EventSource and fetch, in the relay's own page: every case with both.

An EventSource cannot tell the status of a refusal, and comes back after 3 s whenever its page
forgets to close it: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import pytest
import pytest_asyncio

from chromium import EVENTSOURCE, FETCH, PageClient, chromium
from client_cases import Cases, ChatCases, LeftOpenCases
from client_scene import scene

pytestmark = pytest.mark.asyncio(loop_scope="module")
BOTH = (EVENTSOURCE, FETCH)


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def _chromium():
    """Start it once: all tests of this file share one loop, and each has its own profile."""
    async with chromium():
        yield


class TestBrowser(Cases):
    """Both."""

    CLIENTS = BOTH


class TestBrowserChat(ChatCases):
    """Both ask /chat."""

    CLIENTS = BOTH


class TestBrowserLeftOpen(LeftOpenCases):
    """An EventSource that is left open."""

    CLIENTS = (EVENTSOURCE,)


@pytest.mark.parametrize(
    "client", [pytest.param(client, id=f"{client.name}: closed tab") for client in BOTH]
)
async def test_closed_tab(client: PageClient):
    """A tab that is closed takes the upstream's request along, while time stands still."""
    async with scene() as at, client.run(at.url) as tab:
        _, wire = await at.upstream.next()
        await tab.page.close()
        await at.upstream.until(wire.closed.is_set)
