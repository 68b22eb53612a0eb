"""Which way is taken: what the environment says, and which of a list of proxies.

Environment  HTTPS_PROXY and its kin, when they are asked, and what NO_PROXY excepts
Lists        the next one when one cannot be dialled; never past them
"""

import asyncio
import json
import socket
from contextlib import asynccontextmanager

import aiohttp
import pytest

from clock import FakeClock
from fakes import HttpProxy, SocksProxy
from proxying import (
    ALL,
    CONNECT,
    DIRECT,
    KINDS,
    LOGIN,
    NO_PROXY_HERE,
    STREAM,
    UPSTREAMS,
    ask,
    at,
    last_event,
    proxy_of,
    refused,
    relay_to,
    stream,
    upstream_of,
    url_of,
)
from relaying import settled

pytestmark = pytest.mark.both_loops

# --- environment


@pytest.mark.parametrize(
    ("scheme", "name"),
    [
        ("https", "HTTPS_PROXY"),
        ("https", "https_proxy"),
        ("https", "ALL_PROXY"),
        ("http", "http_proxy"),
        ("http", "all_proxy"),
        ("http", "ALL_PROXY"),
    ],
)
@pytest.mark.parametrize("kind", ["http", "socks5h"])
async def test_env_goes_by_the_variables(kind, scheme, name, ca):
    """With `env` in the list they are obeyed, whatever kind of proxy they name."""
    async with upstream_of(scheme, ca, STREAM) as upstream, proxy_of(kind, ca) as proxy:
        async with relay_to(upstream.url, ca, "env", environ={name: proxy.url_as(kind)}) as relay:
            assert await stream(relay) == ALL
        assert len(proxy.targets) == 1


@pytest.mark.parametrize(
    ("scheme", "name"), [("http", "HTTP_PROXY"), ("http", "HTTPS_PROXY"), ("https", "http_proxy")]
)
async def test_env_of_another_scheme_is_not_meant(scheme, name, ca):
    """HTTP_PROXY in capitals is what a CGI server makes of a request's header `Proxy`."""
    async with upstream_of(scheme, ca, STREAM) as upstream, HttpProxy() as proxy:
        async with relay_to(upstream.url, ca, "env", environ={name: proxy.url}) as relay:
            assert await stream(relay) == ALL
        assert proxy.connections == 0


@pytest.mark.parametrize(
    ("host", "exceptions", "direct"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.0/8", True),
        ("127.0.0.1", "10.0.0.0/8, 127.0.0.0/30", True),
        ("127.0.0.1", "127.0.0.1:PORT", True),
        ("127.0.0.1", "127.0.0.1:1", False),
        ("127.0.0.1", "10.0.0.0/8", False),
        ("127.0.0.1", "27.0.0.1", False),
        ("127.0.0.1", "", False),
        ("localhost", "localhost", True),
        ("localhost", "LocalHost.", True),
        ("localhost", "host", False),
        ("localhost", "*", True),
        ("localhost", "localhost:PORT", True),
        ("localhost", "localhost:1", False),
        ("api.upstream.test", "upstream.test", True),
        ("api.upstream.test", ".upstream.test", True),
        ("api.upstream.test", "*.upstream.test", True),
        ("api.upstream.test", "a.test upstream.test:PORT", True),
        ("api.upstream.test", "stream.test", False),
        ("api.upstream.test", "api.upstream.test.org", False),
        ("api.upstream.test", "upstream.test:1", False),
        ("api.upstream.test", "127.0.0.0/8", False),
    ],
)
async def test_no_proxy(host, exceptions, direct, ca, monkeypatch):
    """Hosts, suffixes, ports and networks: what it excepts goes direct, all else does not."""
    monkeypatch.setattr(aiohttp.DefaultResolver, "resolve", resolve_to_loopback)
    async with upstream_of("http", ca, STREAM) as upstream, HttpProxy() as proxy:
        proxy.resolve = {host: ("127.0.0.1", upstream.port)}
        excepted = exceptions.replace("PORT", str(upstream.port))
        environ = {"ALL_PROXY": proxy.url, "NO_PROXY": excepted}
        async with relay_to(f"http://{host}:{upstream.port}", ca, "env", environ=environ) as relay:
            assert await stream(relay) == ALL
        assert upstream.connections == 1
        assert proxy.connections == (0 if direct else 1)


async def resolve_to_loopback(_self, host, port=0, family=socket.AF_INET):
    """Resolve any name as 127.0.0.1."""
    found = {"hostname": host, "host": "127.0.0.1", "port": port, "family": family}
    return [{**found, "proto": 0, "flags": socket.AI_NUMERICHOST}]


@pytest.mark.parametrize("way", [None, DIRECT, "http", "socks5h"])
@pytest.mark.parametrize("scheme", UPSTREAMS)
async def test_the_environment_is_not_obeyed_by_accident(way, scheme, ca, monkeypatch):
    """Without `env` the variables mean nothing, neither to the relay nor to its libraries."""
    names = ["http_proxy", "https_proxy", "all_proxy"]
    async with (
        upstream_of(scheme, ca, STREAM) as upstream,
        HttpProxy() as trap,
        proxy_of(way or "http", ca) as proxy,
    ):
        environ = {given: trap.url for name in names for given in (name, name.upper())}
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        ways = [url_of(proxy, way)] if way else []
        async with relay_to(upstream.url, ca, *ways, environ=environ) as relay:
            assert await stream(relay) == ALL
        assert trap.connections == 0
        assert proxy.connections == (way in {"http", "socks5h"})


# --- lists

FAILING = {
    "http refused": ("http", None, {}),
    "http 407": ("http", HttpProxy, {"auth": LOGIN}),
    "http 403": ("http", HttpProxy, {"refuse": 403}),
    "http 502": ("http", HttpProxy, {"refuse": 502}),
    "http garbage": ("http", HttpProxy, {"garbage": b"SSH-2.0-OpenSSH\r\n"}),
    "http hangs up": ("http", HttpProxy, {"garbage": b""}),
    "https no tls": ("https", HttpProxy, {"garbage": NO_PROXY_HERE}),
    "socks4 rejects": ("socks4", SocksProxy, {"refuse": 91}),
    "socks4a hangs up": ("socks4a", SocksProxy, {"garbage": b""}),
    "socks5 refused": ("socks5", None, {}),
    "socks5 password": ("socks5", SocksProxy, {"auth": LOGIN}),
    "socks5h forbids": ("socks5h", SocksProxy, {"refuse": 2}),
    "socks5h garbage": ("socks5h", SocksProxy, {"garbage": NO_PROXY_HERE}),
}
"""Proxies that cannot be dialled through: scheme, fake (None: nothing listens), its options."""

each_failing = pytest.mark.parametrize("how", FAILING)


@asynccontextmanager
async def failing(how, dead_port):
    """Yield SCHEME://HOST:PORT of a proxy that fails in that way."""
    scheme, fake, options = FAILING[how]
    if fake is None:
        yield f"{scheme}://127.0.0.1:{dead_port}"
    else:
        async with fake(**options) as proxy:
            yield f"{scheme}://{at(proxy)}"


@each_failing
async def test_the_next_one_when_one_cannot_be_dialled(how, dead_port, ca):
    """The client learns nothing of it, and the request is sent once."""
    async with (
        upstream_of("https", ca, STREAM) as upstream,
        failing(how, dead_port) as first,
        SocksProxy() as second,
        relay_to(upstream.url, ca, first, second.url_as("socks5h")) as relay,
    ):
        assert await stream(relay) == ALL
        assert len(second.targets) == len(upstream.requests) == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_the_next_one_when_one_is_silent(kind, ca):
    """Each has the whole time of the clock `connect`, and no more."""
    clock = FakeClock()
    async with (
        upstream_of("https", ca, STREAM) as upstream,
        proxy_of(kind, ca, silent=True) as first,
        HttpProxy() as second,
        relay_to(upstream.url, ca, url_of(first, kind), second.url, clock=clock) as relay,
    ):
        asking = asyncio.create_task(stream(relay))
        await first.until(lambda: first.connections == 1)
        await clock.armed(clock.now() + CONNECT)
        clock.advance(CONNECT - 0.001)
        await settled()
        assert second.connections == 0
        clock.advance(0.001)
        assert await asking == ALL
        await first.until(lambda: first.open_connections == 0)


@each_failing
async def test_the_last_cause_when_none_is_left(how, dead_port, ca):
    """The message is about the last of the list, and the upstream saw nobody: fail closed."""
    async with (
        upstream_of("https", ca, STREAM) as upstream,
        HttpProxy(refuse=403) as first,
        failing(how, dead_port) as last,
        relay_to(upstream.url, ca, first.url, last) as relay,
    ):
        code, message = await refused(relay)
        assert last.partition("://")[2] in message
        assert at(first) not in message
        event = await last_event(relay)
        assert event.name == "error"
        assert (event.data["code"], event.data["message"]) == (code, message)
        assert upstream.connections == 0


async def test_direct_is_one_of_the_list(dead_port, ca):
    """Only where it is listed, and only when its turn comes."""
    async with upstream_of("https", ca, STREAM) as upstream, HttpProxy() as proxy:
        for ways, used in [
            ([f"http://127.0.0.1:{dead_port}", DIRECT], 0),
            ([DIRECT, proxy.url], 0),
            ([proxy.url, DIRECT], 1),
        ]:
            async with relay_to(upstream.url, ca, *ways) as relay:
                assert await stream(relay) == ALL
            assert proxy.connections == used


@pytest.mark.parametrize("cut", ["close", "reset"])
async def test_what_was_sent_is_not_sent_again(cut, ca):
    """A request that reached the upstream is not dialled anew through the next one."""
    async with (
        upstream_of("https", ca) as upstream,
        HttpProxy() as first,
        HttpProxy() as second,
        relay_to(upstream.url, ca, first.url, second.url) as relay,
    ):
        asking = asyncio.create_task(ask(relay))
        _, wire = await upstream.next()
        getattr(wire, cut)()
        status, body = await asking
        assert (status, json.loads(body)["error"]["code"]) == (502, "upstream_cut")
        assert second.connections == 0
