"""Headless Chromium's EventSource and fetch, in the relay's own page: every case with both.

An EventSource cannot tell the status of a refusal, and comes back after 3 s whenever its page
forgets to close it: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import pytest

from chromium import EVENTSOURCE, FETCH, PageClient
from client_cases import Cases, ChatCases, LeftOpenCases
from client_scene import scene

BOTH = (EVENTSOURCE, FETCH)


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
