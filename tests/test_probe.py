"""A probe dials as a request does, sends none and leaves; and what a request knows of its dial."""

import asyncio

import pytest

from clock import FakeClock
from fakes import HttpProxy, SocksProxy, Upstream
from proxying import (
    ALL,
    BODY,
    CONNECT,
    DIRECT,
    KINDS,
    LOGIN,
    PLAIN,
    STREAM,
    UPSTREAMS,
    ask,
    at,
    proxy_of,
    relay_to,
    rested,
    stream,
    upstream_of,
    url_of,
)
from relaying import settled
from service.adapters import egress
from service.adapters.clock import LoopClock
from service.adapters.dial.probe import probe
from service.adapters.dial.trust import Trust
from service.core.proxy import chain, parse
from service.errors import Failure

pytestmark = pytest.mark.both_loops


def trusting(ca):
    """Return what the tests' authority vouches for."""
    return Trust(ca.client, ca.client)


async def failed(*args, clock=None):
    """Probe; return the failure."""
    with pytest.raises(Failure) as caught:
        await probe(*args[:2], clock or LoopClock(), CONNECT, *args[2:])
    assert caught.value.stage == "dial"
    return caught.value


@pytest.mark.parametrize("kind", [DIRECT, *KINDS])
@pytest.mark.parametrize("scheme", UPSTREAMS)
async def test_a_probe(kind, scheme, ca):
    """All of the way, no byte of a request, and the connection is closed at once."""
    steps = []
    async with upstream_of(scheme, ca) as upstream, proxy_of(kind, ca, auth=LOGIN) as proxy:
        way = parse(url_of(proxy, kind))
        noted = lambda name, seconds: steps.append((name, seconds >= 0))  # noqa: E731
        await probe(way, f"{upstream.url}/v1", LoopClock(), 10, trusting(ca), on_step=noted)
        await upstream.until(lambda: upstream.open_connections == 0)
        await proxy.until(lambda: proxy.open_connections == 0)
        assert upstream.requests == []
        absolute = kind.startswith("http") and scheme == "http"
        assert upstream.connections == (0 if absolute else 1)
        assert len(proxy.targets) == (0 if absolute or kind == DIRECT else 1)
    expected = ["tcp", f"proxy {at(proxy)}", "tls"]
    if absolute:
        expected = ["tcp"]
    elif kind == DIRECT:
        expected = ["tls" if scheme == "https" else "tcp"]
    elif scheme == "http":
        expected = expected[:2]
    assert steps == [(name, True) for name in expected]


@pytest.mark.parametrize("last", ["http", "https", "socks5h"])
async def test_a_probe_of_a_chain(last, ca):
    """Every hop of it is a step."""
    steps = []
    async with (
        upstream_of("https", ca) as upstream,
        HttpProxy() as first,
        proxy_of(last, ca) as second,
    ):
        way = chain([first.url, url_of(second, last)])
        noted = lambda name, _: steps.append(name)  # noqa: E731
        await probe(way, upstream.url, LoopClock(), 10, trusting(ca), on_step=noted)
        assert upstream.requests == []
    hops = [f"proxy {at(first)}", f"proxy {at(second)}"]
    assert steps == ["tcp", *hops, "tls"]


async def test_a_probe_fails_as_a_dial_does(ca, dead_port):
    """The same codes and the same words."""
    async with (
        upstream_of("https", ca) as upstream,
        HttpProxy(auth=LOGIN) as asking,
        SocksProxy() as proxy,
    ):
        nowhere = parse(f"http://127.0.0.1:{dead_port}")
        gone = await failed(nowhere, upstream.url, trusting(ca))
        assert (gone.code, gone.message) == (
            "proxy_unreachable",
            f"proxy 127.0.0.1:{dead_port} refused the connection: is it running?",
        )
        assert (await failed(parse(f"http://{at(asking)}"), upstream.url)).code == "proxy_refused"
        unknown = await failed(parse(proxy.url), upstream.url)
        assert unknown.code == "upstream_tls"
        down = f"https://127.0.0.1:{dead_port}"
        assert (await failed(parse(proxy.url), down)).code == "upstream_unreachable"
        assert upstream.requests == []


@pytest.mark.parametrize("kind", KINDS)
async def test_a_probe_of_a_silent_proxy(kind, ca):
    """It is given up after `connect`."""
    clock = FakeClock()
    async with proxy_of(kind, ca, silent=True) as proxy:
        way, target = parse(url_of(proxy, kind)), "https://127.0.0.1:1"
        probing = asyncio.create_task(failed(way, target, trusting(ca), clock=clock))
        await proxy.until(lambda: proxy.connections == 1)
        await clock.armed(clock.now() + CONNECT)
        await settled()
        clock.advance(CONNECT)
        assert (await probing).code == "proxy_timeout"
        await proxy.until(lambda: proxy.open_connections == 0)


async def test_a_probe_takes_no_connection_of_others(ca):
    """A pooled connection would prove nothing of the proxy."""
    async with (
        upstream_of("https", ca, PLAIN) as upstream,
        SocksProxy() as proxy,
        relay_to(upstream.url, ca, proxy.url, clock=FakeClock()) as relay,
    ):
        assert await ask(relay) == (200, BODY)
        await rested(relay)
        await probe(parse(proxy.url), upstream.url, LoopClock(), 10, trusting(ca))
        assert proxy.connections == 2
        assert await ask(relay) == (200, BODY)
        assert (proxy.connections, len(upstream.requests)) == (2, 2)


async def test_a_probe_that_is_cancelled(ca):
    """Nothing is left of it."""
    async with SocksProxy(silent=True) as proxy:
        way = parse(proxy.url)
        probing = asyncio.create_task(probe(way, "https://127.0.0.1:1", LoopClock(), 0))
        await proxy.until(lambda: proxy.connections == 1)
        probing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probing
        await proxy.until(lambda: proxy.open_connections == 0)


@pytest.mark.parametrize("kind", [DIRECT, *KINDS])
@pytest.mark.parametrize("scheme", UPSTREAMS)
async def test_a_request_knows_whether_its_connection_is_used(kind, scheme, ca, monkeypatch):
    """A new one, the same again, and a new one after it was closed."""
    told = []
    attempt = egress.attempt

    async def spied(*args):
        heard = egress.dialled.get()

        def hear(*, reused):
            told.append(reused)
            heard(reused=reused)

        token = egress.dialled.set(hear)
        try:
            return await attempt(*args)
        finally:
            egress.dialled.reset(token)

    monkeypatch.setattr(egress, "attempt", spied)
    async with (
        Upstream(STREAM, ssl=ca.server if scheme == "https" else None) as upstream,
        proxy_of(kind, ca) as proxy,
        relay_to(upstream.url, ca, url_of(proxy, kind), clock=FakeClock()) as relay,
    ):
        for _ in range(2):
            assert await stream(relay) == ALL
            await rested(relay)
        (proxy if kind != DIRECT else upstream).reset_connections()
        await rested(relay, 0)
        assert await stream(relay) == ALL
    assert told == [False, True, False]
