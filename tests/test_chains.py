"""Chains of proxies: client ─▶ relay ─▶ fake ─▶ fake ─▶ … ─▶ fake upstream.

Ways       any kind before any other, three in a row, credentials, names, tunnels used again
Failures   which hop it was, and what was asked of it
Silence    the clock `connect` over all of it, at every hop
Real       three real programs in a row
"""

import asyncio
import gc
import json
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise, permutations, product

import pytest

import real
from clock import FakeClock
from fakes import HttpProxy, SocksProxy, Upstream
from proxying import (
    ALL,
    BODY,
    CONNECT,
    KINDS,
    LOGIN,
    NO_PROXY_HERE,
    PLAIN,
    STREAM,
    UPSTREAMS,
    ask,
    at,
    proxy_of,
    refused,
    relay_to,
    rested,
    stream,
    upstream_of,
    url_of,
)
from relaying import settled

pytestmark = pytest.mark.both_loops

PAIRS = list(product(KINDS, KINDS))
TRIPLES = [
    *permutations(["http", "https", "socks5h"]),
    ("https", "https", "https"),
    ("socks4", "socks4a", "socks5"),
    ("socks5", "http", "socks4a"),
]


def named(chains):
    """Run a test for each chain; the ids read `http-socks5h`."""
    return pytest.mark.parametrize("kinds", [pytest.param(c, id="-".join(c)) for c in chains])


@asynccontextmanager
async def chain(  # noqa: PLR0913  each is a part of it
    kinds, scheme, ca, script=None, *, clock=None, options=()
):
    """Yield an upstream, a proxy of each kind, and a relay whose only way leads through all.

    `options`: those of the proxies, in their order.
    """
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(upstream_of(scheme, ca, script))
        given = [*options, *({} for _ in kinds)]
        proxies = [
            await stack.enter_async_context(proxy_of(kind, ca, **how))
            for kind, how in zip(kinds, given, strict=False)
        ]
        way = [url_of(proxy, kind) for proxy, kind in zip(proxies, kinds, strict=True)]
        relay = await stack.enter_async_context(relay_to(upstream.url, ca, way, clock=clock))
        yield upstream, proxies, relay


def asked(proxy):
    """Return HOST:PORT of all that a proxy was asked for."""
    return [t if isinstance(t, str) else f"{t.host}:{t.port}" for t in proxy.targets]


# --- ways


@named(PAIRS)
@pytest.mark.parametrize("scheme", UPSTREAMS)
async def test_two_hops(kinds, scheme, ca):
    """Each kind carries each other one; each dials the next, and nobody dials past it."""
    async with chain(kinds, scheme, ca, STREAM) as (upstream, (first, last), relay):
        assert await stream(relay) == ALL
        assert asked(first) == [at(last)]
        assert asked(last) == [at(upstream)]
        assert (first.connections, last.connections, upstream.connections) == (1, 1, 1)


@named(TRIPLES)
@pytest.mark.parametrize("scheme", UPSTREAMS)
async def test_three_hops_with_credentials(kinds, scheme, ca):
    """Each is shown its own, and answers byte by byte; the second request has the same tunnel."""
    logins = [(f"me{n}", "" if kind.startswith("socks4") else f"s3cret{n}")
              for n, kind in enumerate(kinds)]  # fmt: skip
    options = [{"auth": login, "pieces": 1} for login in logins]
    made = chain(kinds, scheme, ca, STREAM, options=options, clock=FakeClock())
    async with made as (upstream, proxies, relay):
        for _ in range(2):
            assert await stream(relay) == ALL
            await rested(relay)
        assert [asked(one)[0] for one in proxies] == [*map(at, proxies[1:]), at(upstream)]
        assert [one.connections for one in (*proxies, upstream)] == [1] * 4
        assert "proxy-authorization" not in upstream.requests[0].names()


@pytest.mark.parametrize(("scheme", "connects"), [("http", 0), ("https", 1)])
@pytest.mark.parametrize("kind", ["http", "https"])
@pytest.mark.parametrize("first", ["http", "socks5h"])
async def test_a_last_http_hop_is_asked_in_the_customary_way(first, kind, scheme, connects, ca):
    """CONNECT for https, absolute-form for http, as if it stood alone; those before get CONNECT."""
    async with chain((first, kind), scheme, ca, PLAIN) as (upstream, (_, last), relay):
        assert await ask(relay) == (200, BODY)
        assert last.connects == connects
        assert last.targets == [at(upstream)]


@pytest.mark.parametrize("kind", ["http", "https", "socks4a", "socks5h"])
@pytest.mark.parametrize("last", ["http", "https", "socks5h"])
@pytest.mark.parametrize("scheme", UPSTREAMS)
async def test_names_are_resolved_by_the_hop_before(kind, last, scheme, ca):
    """Nobody but the first knows the second, nobody but the second the upstream."""
    async with (
        upstream_of(scheme, ca, STREAM) as upstream,
        proxy_of(last, ca) as behind,
        proxy_of(kind, ca) as before,
    ):
        before.resolve = {"proxy.test": ("127.0.0.1", behind.port)}
        behind.resolve = {"upstream.test": ("127.0.0.1", upstream.port)}
        way = [url_of(before, kind), f"{last}://proxy.test:{behind.port}"]
        async with relay_to(f"{scheme}://upstream.test:{upstream.port}", ca, way) as relay:
            assert await stream(relay) == ALL
        assert asked(before) == [f"proxy.test:{behind.port}"]
        assert asked(behind) == [f"upstream.test:{upstream.port}"]


async def test_a_chain_is_one_way_of_a_list(ca, dead_port):
    """When its dial fails, the next entry is tried."""
    async with (
        upstream_of("https", ca, STREAM) as upstream,
        HttpProxy() as first,
        SocksProxy() as alone,
        relay_to(
            upstream.url,
            ca,
            [first.url, f"socks5://127.0.0.1:{dead_port}"],
            alone.url_as("socks5h"),
        ) as relay,
    ):
        assert await stream(relay) == ALL
        assert (len(first.targets), len(alone.targets)) == (1, 1)


@named([("socks5h",), ("socks5h", "http"), ("http", "socks5"), ("https", "https")])
async def test_a_tunnel_outlives_what_laid_it(kinds, ca, monkeypatch):
    """Whatever is collected as soon as the way stands, the way stands."""
    handshake = Upstream.serve

    async def serve(self, connection):
        gc.collect()
        await handshake(self, connection)

    monkeypatch.setattr(Upstream, "serve", serve)
    async with chain(kinds, "https", ca, STREAM) as (_, _, relay):
        assert await stream(relay) == ALL


# --- failures


@pytest.mark.parametrize("last", ["http", "https", "socks4a", "socks5"])
@pytest.mark.parametrize("first", ["http", "https", "socks4", "socks5h"])
async def test_a_hop_that_the_one_before_cannot_reach(first, last, dead_port, ca):
    """It is no upstream: both are named, and the next way may be tried."""
    async with (
        upstream_of("https", ca) as upstream,
        proxy_of(first, ca) as before,
    ):
        way = [url_of(before, first), f"{last}://127.0.0.1:{dead_port}"]
        async with relay_to(upstream.url, ca, way) as relay:
            code, message = await refused(relay)
        assert code == "proxy_unreachable"
        assert message.startswith(f"proxy {at(before)} ")
        assert f"proxy 127.0.0.1:{dead_port}" in message


@pytest.mark.parametrize("last", KINDS)
@pytest.mark.parametrize("first", KINDS)
async def test_a_first_hop_that_is_not_there(first, last, dead_port, ca):
    """It is the one that is named."""
    way = [f"{first}://127.0.0.1:{dead_port}", f"{last}://127.0.0.2:1"]
    async with relay_to("https://127.0.0.3:1", ca, way) as relay:
        code, message = await refused(relay)
    assert code == "proxy_unreachable"
    assert message == f"proxy 127.0.0.1:{dead_port} refused the connection: is it running?"


HOP_FAULTS = {
    "http 407": ("http", {"auth": LOGIN}, "proxy_refused", "wants a user name and password"),
    "http 403": ("http", {"refuse": 403}, "proxy_refused", "refused to connect to"),
    "http 404": ("http", {"refuse": 404}, "proxy_protocol", "is it an HTTP proxy?"),
    "http words": ("http", {"garbage": b"SSH-2.0\r\n"}, "proxy_protocol", "as http proxies do"),
    "http hangs up": ("http", {"garbage": b""}, "proxy_unreachable", "broke off the connection"),
    "socks5 login": ("socks5", {"auth": LOGIN}, "proxy_refused", "wants a user name and password"),
    "socks5 forbids": ("socks5h", {"refuse": 2}, "proxy_refused", "does not allow"),
    "socks5 words": (
        "socks5",
        {"garbage": NO_PROXY_HERE},
        "proxy_protocol",
        "as socks5 proxies do",
    ),
    "socks5 hangs up": (
        "socks5",
        {"garbage": b""},
        "proxy_unreachable",
        "broke off the connection",
    ),
    "socks4 hangs up": (
        "socks4",
        {"garbage": b""},
        "proxy_unreachable",
        "broke off the connection",
    ),
    "https no tls": (
        "https",
        {"garbage": NO_PROXY_HERE, "ssl": None},
        "proxy_protocol",
        "speak TLS",
    ),
}


@pytest.mark.parametrize("place", ["second of two", "second of three"])
@pytest.mark.parametrize("how", HOP_FAULTS)
async def test_the_hop_that_failed_is_named(how, place, ca):
    """With what it was reached through; what stands before and behind it is not blamed."""
    kind, options, code, words = HOP_FAULTS[how]
    fake = HttpProxy if kind.startswith("http") else SocksProxy
    async with (
        upstream_of("https", ca, PLAIN) as upstream,
        SocksProxy() as first,
        fake(**options) as bad,
        SocksProxy() as third,
    ):
        way = [first.url_as("socks5h"), f"{kind}://{at(bad)}"]
        way += [third.url_as("socks5")] if place.endswith("three") else []
        async with relay_to(upstream.url, ca, way) as relay:
            said, message = await refused(relay)
        assert said == code, message
        assert f"{at(bad)}, reached through {at(first)}" in message
        assert words in message
        assert "s3cret" not in message
        assert (third.connections, upstream.connections) == (0, 0)
        await first.until(lambda: first.open_connections == 0)


@pytest.mark.parametrize("kinds", [("http", "socks5"), ("socks5", "http"), ("https", "https")])
async def test_an_upstream_that_the_last_hop_cannot_reach(kinds, dead_port, ca):
    """The chain works, and nobody blames it."""
    async with chain(kinds, "https", ca) as (_, (first, last), _):
        way = [url_of(first, kinds[0]), url_of(last, kinds[1])]
        async with relay_to(f"https://127.0.0.1:{dead_port}", ca, way) as relay:
            code, message = await refused(relay)
    assert code == "upstream_unreachable"
    assert f"proxy {at(last)}, reached through {at(first)}, could not reach" in message


@pytest.mark.parametrize("last", ["http", "socks5h"])
async def test_a_407_to_a_plain_request(last, ca):
    """Behind a chain too it is the last proxy that wants a password."""
    async with (
        upstream_of("http", ca, PLAIN) as upstream,
        SocksProxy() as first,
        proxy_of(last, ca, auth=LOGIN) as bad,
        relay_to(upstream.url, ca, [first.url, f"{last}://{at(bad)}"]) as relay,
    ):
        code, message = await refused(relay)
        assert code == "proxy_refused"
        assert f"proxy {at(bad)}, reached through {at(first)}, wants a user" in message


# --- silence


class Dribbling:
    """A proxy that answers one byte at a time, without an end."""

    word = b""

    async def speak(self, connection):
        """Read the greeting, dribble."""
        await connection.reader.read(1)
        await connection.send(self.word)
        while not connection.lost.is_set():
            await connection.send(b"x")
            await connection.reader.read(0)


class DribblingHttp(Dribbling, HttpProxy):
    """Such an HTTP proxy: a header that goes on and on, below any limit."""

    word = b"HTTP/1.1 200 OK\r\nX: "


class DribblingSocks(Dribbling, SocksProxy):
    """Such a SOCKS proxy: the half of an answer, and a byte more now and then."""

    word = b"\x05"

    async def speak(self, connection):
        """Say the version, and nothing more for as long as it is waited for."""
        await connection.reader.read(1)
        await connection.send(self.word)
        await connection.gone.wait()


SILENT = [
    *((kind,) for kind in KINDS),
    *((kind, "socks5h") for kind in KINDS),
    *(("http", kind) for kind in KINDS),
    ("https", "https", "socks5h"),
]


@named([(*kinds, scheme) for kinds, scheme in product(SILENT, UPSTREAMS)
        if scheme == "https" or kinds[-1].startswith("socks")])  # fmt: skip
async def test_a_silent_last_hop_is_left_after_connect(kinds, ca):
    """It accepts and says nothing: the next way is tried at once, and nothing is left of this.

    Of an http:// upstream an HTTP proxy is not asked before the request; there it is `headers`.
    """
    *kinds, scheme = kinds
    clock = FakeClock()
    silent = [{}] * (len(kinds) - 1) + [{"silent": True}]
    async with chain(kinds, scheme, ca, STREAM, options=silent) as (upstream, proxies, _):
        way = [url_of(proxy, kind) for proxy, kind in zip(proxies, kinds, strict=True)]
        async with (
            SocksProxy() as second,
            relay_to(upstream.url, ca, way, second.url, clock=clock) as relay,
        ):
            asking = asyncio.create_task(stream(relay))
            last = proxies[-1]
            await last.until(lambda: last.connections == 1)
            await clock.armed(clock.now() + CONNECT)
            clock.advance(CONNECT - 0.001)
            await settled()
            assert second.connections == 0
            clock.advance(0.001)
            assert await asking == ALL
            for proxy in proxies:
                await proxy.until(lambda proxy=proxy: proxy.open_connections == 0)


@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize("scheme", UPSTREAMS)
async def test_an_https_proxy_that_is_silent_in_its_tls_handshake(scheme, chained, ca):
    """Whatever the upstream, there is no proxy before its handshake."""
    clock = FakeClock()
    async with (
        upstream_of(scheme, ca, STREAM) as upstream,
        SocksProxy() as first,
        HttpProxy(silent=True) as silent,
    ):
        way = [*([first.url] if chained else []), silent.url_as("https")]
        async with relay_to(upstream.url, ca, way, first.url, clock=clock) as relay:
            asking = asyncio.create_task(stream(relay))
            await silent.until(lambda: silent.connections == 1)
            await clock.armed(clock.now() + CONNECT)
            await settled()
            clock.advance(CONNECT)
            assert await asking == ALL
            await silent.until(lambda: silent.open_connections == 0)


@pytest.mark.parametrize("where", [0, 1, 2])
async def test_the_silent_hop_is_named(where, ca):
    """Of three, with what it was to dial."""
    clock = FakeClock()
    kinds = ("http", "socks5h", "https")
    silent = [{"silent": number == where} for number in range(3)]
    made = chain(kinds, "https", ca, clock=clock, options=silent)
    async with made as (upstream, proxies, relay):
        asking = asyncio.create_task(refused(relay))
        bad = proxies[where]
        await bad.until(lambda: bad.connections == 1)
        await settled()
        clock.advance(CONNECT)
        code, message = await asking
        onward = [*(f"proxy {at(proxy)}" for proxy in proxies[1:]), at(upstream)][where]
    assert code == "proxy_timeout"
    assert message.startswith(f"proxy {at(bad)}")
    assert message.endswith(f"did not connect to {onward} within {CONNECT} s")


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("kind", ["http", "socks5h"])
async def test_an_answer_that_dribbles(kind, alone, ca):
    """The clock runs over the whole handshake, however often a byte of it comes."""
    clock = FakeClock()
    fake = DribblingHttp if kind == "http" else DribblingSocks
    async with (
        SocksProxy() as first,
        fake() as bad,
        relay_to(
            "https://127.0.0.1:1",
            ca,
            f"{kind}://{at(bad)}" if alone else [first.url, f"{kind}://{at(bad)}"],
            clock=clock,
        ) as relay,
    ):
        asking = asyncio.create_task(ask(relay))
        await bad.until(lambda: bad.connections == 1)
        await clock.armed(clock.now() + CONNECT)
        await settled()
        clock.advance(CONNECT)
        status, body = await asking
        assert (status, json.loads(body)["error"]["code"]) == (504, "proxy_timeout")
        await bad.until(lambda: bad.open_connections == 0)


async def test_silent_proxies_on_the_loops_own_clock(ca):
    """All kinds and a chain, once for real: each is left, and the last is named."""
    async with AsyncExitStack() as stack:
        silent = {
            kind: await stack.enter_async_context(proxy_of(kind, ca, silent=True)) for kind in KINDS
        }
        ways = [url_of(proxy, kind) for kind, proxy in silent.items()]
        made = relay_to("https://127.0.0.1:1", ca, *ways, clocks="connect = 0.1")
        code, message = await refused(await stack.enter_async_context(made))
        assert code == "proxy_timeout"
        assert message.startswith(f"proxy {at(silent[KINDS[-1]])} did not")


async def test_a_silent_chain_on_the_loops_own_clock(ca):
    """Its first hop has the time to answer, on a busy machine too: the one behind it is named."""
    async with (
        SocksProxy() as first,
        HttpProxy(silent=True) as silent,
        relay_to("https://127.0.0.1:1", ca, [first.url, silent.url], clocks="connect = 2") as relay,
    ):
        code, message = await refused(relay)
        assert code == "proxy_timeout"
        assert f"{at(silent)}, reached through {at(first)}, did not" in message


# --- real programs


@pytest.mark.parametrize("scheme", UPSTREAMS)
async def test_three_real_programs_in_a_row(scheme, sing_box, tinyproxy, microsocks, ca):
    """HTTP, SOCKS5 and HTTP of three makers: a stream comes through, and its log names the next."""
    way = [tinyproxy.url("http"), microsocks.url("socks5h"), sing_box.url("http")]
    async with (
        upstream_of(scheme, ca, STREAM) as upstream,
        relay_to(upstream.url, ca, way) as relay,
    ):
        assert await stream(relay) == ALL
        assert upstream.connections == 1
    for before, after in pairwise([tinyproxy, microsocks]):
        assert f"127.0.0.1:{after.port}" in before.log() or str(after.port) in before.log()


@pytest.fixture(scope="module")
def squid(tmp_path_factory, ca):
    """Run one Squid that speaks TLS; it takes two seconds to stop."""
    folder = tmp_path_factory.mktemp("squid")
    with real.squid(folder, tls=ca.write_server(folder / "s.pem", "127.0.0.1")) as squid:
        yield squid


@pytest.mark.parametrize("scheme", UPSTREAMS)
@pytest.mark.parametrize("order", ["https-socks5-socks4a", "socks4a-socks5-https", "socks5-https"])
async def test_squid_with_tls_in_any_place(order, scheme, squid, ca, request):
    """An https hop before, between and behind others."""
    programs = {
        "https": squid,
        "socks5": request.getfixturevalue("microsocks"),
        "socks4a": request.getfixturevalue("sing_box"),
    }
    way = [programs[kind].url(kind) for kind in order.split("-")]
    async with (
        upstream_of(scheme, ca, STREAM) as upstream,
        relay_to(upstream.url, ca, way) as relay,
    ):
        assert await stream(relay) == ALL
