"""A tunnel is used again while it is whole, and never after that."""

import asyncio

import aiohttp
import pytest

from clock import FakeClock
from proxying import (
    ALL,
    BODY,
    FRAMES,
    KINDS,
    LOGIN,
    PLAIN,
    UPSTREAMS,
    ask,
    ask_by_hand,
    begin,
    either,
    last_event,
    rested,
    scene,
    stream,
)
from relaying import read_events

pytestmark = [pytest.mark.both_loops, pytest.mark.usefixtures("heard_at_once")]


@pytest.mark.parametrize("scheme", UPSTREAMS)
@pytest.mark.parametrize("kind", KINDS)
async def test_ten_requests_one_tunnel(kind, scheme, ca):
    """Streams, chats and plain answers one after the other go through one connection."""
    clock = FakeClock()  # on which the moment that an end may take does not pass
    async with scene(kind, scheme, ca, either, auth=LOGIN, clock=clock) as (upstream, proxy, relay):
        for _ in range(4):
            assert await stream(relay) == ALL
            await rested(relay)
        for _ in range(3):
            async with relay.get("/chat", question="Hi") as response:
                assert (await read_events(response))[-1].name == "done"
            await rested(relay)
        for _ in range(3):
            assert await ask(relay) == (200, BODY)
            await rested(relay)
        assert len(upstream.requests) == 10
        assert (proxy.connections, upstream.connections) == (1, 1)
        absolute = kind.startswith("http") and scheme == "http"
        assert len(proxy.targets) == (10 if absolute else 1)


@pytest.mark.parametrize("kind", KINDS)
async def test_streams_at_the_same_time_have_tunnels_of_their_own(kind, ca):
    """Three at once are three connections, which the next three use again."""
    async with scene(kind, "https", ca, clock=FakeClock()) as (upstream, proxy, relay):
        for _ in range(2):
            asking = [asyncio.create_task(stream(relay)) for _ in range(3)]
            wires = [await begin(upstream, ALL) for _ in asking]
            for wire in wires:
                await wire.end()
            assert await asyncio.gather(*asking) == [ALL] * 3
            await rested(relay, 3)
        assert (proxy.connections, upstream.connections) == (3, 3)


@pytest.mark.parametrize("how", ["upstream", "proxy", "client"])
@pytest.mark.parametrize("scheme", UPSTREAMS)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_tunnel_that_was_cut_is_not_used_again(kind, scheme, how, ca):
    """Cut by the upstream or the proxy, or left by the client: the next request has a new one."""
    async with scene(kind, scheme, ca) as (upstream, proxy, relay):
        beginning = asyncio.create_task(begin(upstream, b"".join(FRAMES[:2])))
        async with relay.stream() as response:
            wire = await beginning
            await response.content.readuntil(b"\n\n")
            if how == "upstream":
                wire.reset()
            elif how == "proxy":
                proxy.reset_connections()
            else:
                response.close()
            if how != "client":
                with pytest.raises(aiohttp.ClientPayloadError):
                    await response.read()
        await upstream.until(lambda: upstream.open_connections == 0)
        await proxy.until(lambda: proxy.open_connections == 0)
        assert await ask_by_hand(relay, upstream) == BODY
        assert (proxy.connections, upstream.connections) == (2, 2)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_that_leaves_while_the_proxy_dials(kind, ca):
    """Nothing is left of the half-made tunnel, and the next request gets through."""
    async with scene(kind, "https", ca, PLAIN, silent=True) as (_, proxy, relay):
        asking = asyncio.create_task(ask(relay))
        await proxy.until(lambda: proxy.connections == 1)
        asking.cancel()
        await proxy.until(lambda: proxy.open_connections == 0)
        proxy.silent = False
        assert await ask(relay) == (200, BODY)
        assert proxy.connections == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_a_body_that_does_not_end_after_done(kind, ca):
    """The answer is complete at [DONE]; a tunnel whose end does not come at once is given up."""
    clock = FakeClock()
    async with scene(kind, "https", ca, clock=clock) as (upstream, proxy, relay):
        asking = asyncio.create_task(stream(relay))
        wire = await begin(upstream, ALL)
        await clock.armed(clock.now() + 0.1)
        clock.advance(0.1)
        assert await asking == ALL
        await wire.closed.wait()
        assert await ask_by_hand(relay, upstream) == BODY
        assert proxy.connections == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_a_tunnel_that_was_closed_while_idle_is_not_used_again(kind, ca):
    """The proxy closed it meanwhile: the next request is not lost."""
    async with scene(kind, "https", ca, PLAIN) as (_, proxy, relay):
        assert await ask(relay) == (200, BODY)
        await rested(relay)
        proxy.reset_connections()
        await rested(relay, 0)
        assert await ask(relay) == (200, BODY)
        assert proxy.connections == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_a_chat_that_ends_in_an_error_gives_its_tunnel_up(kind, ca):
    """What the upstream breaks off in the middle of /chat, too."""
    async with scene(kind, "https", ca) as (upstream, proxy, relay):
        asking = asyncio.create_task(last_event(relay))
        wire = await begin(upstream, b"".join(FRAMES[:2]))
        wire.close()
        assert (await asking).data["code"] == "upstream_cut"
        assert await ask_by_hand(relay, upstream) == BODY
        assert proxy.connections == 2
