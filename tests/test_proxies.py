"""Every kind of proxy, end to end: client ─▶ relay ─▶ fake proxy ─▶ fake upstream.

Matrix       kind × credentials × http:// or https:// upstream × streamed or plain
Addresses    IPv6, missing ports
Credentials  with any character
Names        who resolves the upstream's
"""

import asyncio
import socket
from itertools import product

import pytest
from python_socks.async_.asyncio import _resolver as socks_resolver

from fakes import HttpProxy, SocksProxy, Upstream
from fakes.server import Connection
from proxying import (
    ALL,
    BODY,
    KINDS,
    LOGIN,
    PATH,
    PLAIN,
    STREAM,
    UPSTREAMS,
    ask,
    ask_by_hand,
    at,
    proxy_of,
    refused,
    relay_to,
    scene,
    stream,
    stream_by_halves,
    upstream_of,
    url_of,
)
from service.settings import SettingsError

pytestmark = pytest.mark.both_loops

REMOTE_DNS = ["http", "https", "socks4a", "socks5h"]

# --- matrix

MATRIX = [
    pytest.param(*cell, id=" ".join(cell))
    for cell in product(KINDS, ["bare", "auth"], UPSTREAMS, ["streamed", "plain"])
]


@pytest.mark.parametrize(("kind", "login", "scheme", "how"), MATRIX)
async def test_matrix(kind, login, scheme, how, ca):
    """Streams arrive piece by piece, answers whole, and all of it through the proxy."""
    auth = LOGIN if login == "auth" else None
    async with scene(kind, scheme, ca, auth=auth) as (upstream, proxy, relay):
        if how == "streamed":
            assert await stream_by_halves(relay, upstream) == ALL
        else:
            assert await ask_by_hand(relay, upstream) == BODY
        assert (proxy.connections, upstream.connections) == (1, 1)
        assert (PATH.encode() in proxy.up) is (scheme == "http")
        assert "proxy-authorization" not in upstream.requests[0].names()


@pytest.mark.parametrize("scheme", UPSTREAMS)
@pytest.mark.parametrize("kind", KINDS)
async def test_without_its_credentials_a_proxy_lets_nobody_through(kind, scheme, ca):
    """The matrix's proxies look at what they are shown; the upstream sees nobody."""
    async with (
        upstream_of(scheme, ca, PLAIN) as upstream,
        proxy_of(kind, ca, auth=LOGIN) as proxy,
        relay_to(upstream.url, ca, f"{kind}://{at(proxy)}") as relay,
    ):
        code, message = await refused(relay)
        assert code in {"proxy_refused", "upstream_unreachable"}  # SOCKS4 does not tell which
        assert f"proxy {at(proxy)}" in message
        assert upstream.connections == 0


@pytest.mark.parametrize(("scheme", "connects"), [("http", 0), ("https", 1)])
@pytest.mark.parametrize("kind", ["http", "https"])
async def test_http_proxies_are_asked_in_the_customary_way(kind, scheme, connects, ca):
    """CONNECT for https, absolute-form for http: many let no CONNECT through to port 80."""
    async with scene(kind, scheme, ca, PLAIN) as (upstream, proxy, relay):
        assert await ask(relay) == (200, BODY)
        assert proxy.connects == connects
        assert proxy.targets == [at(upstream)]


# --- addresses


class OnIPv6:
    """A fake that listens on ::1 instead of 127.0.0.1."""

    async def __aenter__(self):
        """Listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), "::1", 0, ssl=self._ssl)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def url_as(self, scheme):
        """Return the URL with that scheme."""
        return super().url_as(scheme).replace("127.0.0.1", "[::1]")


class HttpProxyOnIPv6(OnIPv6, HttpProxy):
    """An HTTP proxy on ::1."""


class SocksProxyOnIPv6(OnIPv6, SocksProxy):
    """A SOCKS proxy on ::1."""


class UpstreamOnIPv6(OnIPv6, Upstream):
    """An upstream on ::1."""

    @property
    def url(self):
        """SCHEME://[::1]:PORT."""
        return f"{self.scheme}://[::1]:{self.port}"


def has_ipv6():
    """Tell whether this machine has ::1."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")


@needs_ipv6
@pytest.mark.parametrize("scheme", UPSTREAMS)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_proxy_with_an_ipv6_address(kind, scheme, ca):
    """The address stands in brackets, behind the credentials."""
    fake = SocksProxyOnIPv6 if kind.startswith("socks") else HttpProxyOnIPv6
    async with (
        upstream_of(scheme, ca, STREAM) as upstream,
        fake(ssl=ca.server if kind == "https" else None, auth=LOGIN) as proxy,
        relay_to(upstream.url, ca, url_of(proxy, kind)) as relay,
    ):
        assert await stream(relay) == ALL
        assert proxy.connections == 1


@needs_ipv6
@pytest.mark.parametrize("scheme", UPSTREAMS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "socks4"])
async def test_an_upstream_with_an_ipv6_address(kind, scheme, ca):
    """The proxy is given the address: SOCKS5 as one, SOCKS4a as the name that it has room for."""
    async with (
        UpstreamOnIPv6(STREAM, ssl=ca.server if scheme == "https" else None) as upstream,
        proxy_of(kind, ca) as proxy,
        relay_to(upstream.url, ca, url_of(proxy, kind)) as relay,
    ):
        assert await stream(relay) == ALL
        (target,) = proxy.targets
    if isinstance(target, str):
        assert target == f"[::1]:{upstream.port}"
    else:
        assert (target.kind, target.host) == ("name" if kind == "socks4a" else "ipv6", "::1")


async def test_socks4_has_no_room_for_an_ipv6_address(ca):
    """The start fails, and says what to use."""
    with pytest.raises(SettingsError, match=r"SOCKS4 cannot carry the IPv6 .* use socks5"):
        async with relay_to("http://[::1]:1", ca, "socks4://127.0.0.1:1"):
            pass


@needs_ipv6
async def test_messages_show_ipv6_addresses_in_brackets(dead_port, ca):
    """So that the port can be told from the address."""
    async with relay_to(f"http://[::1]:{dead_port}", ca) as relay:
        assert (await refused(relay))[1].startswith(f"[::1]:{dead_port} refused")


@pytest.mark.parametrize(
    ("kind", "port"),
    [
        ("http", 80),
        ("https", 443),
        ("socks4", 1080),
        ("socks4a", 1080),
        ("socks5", 1080),
        ("socks5h", 1080),
    ],
)
async def test_a_missing_port_is_the_customary_one(kind, port, ca):
    """The message says what was dialled, on a loopback address of nobody's."""
    async with relay_to("https://127.0.0.1:1", ca, f"{kind}://127.9.8.7") as relay:
        assert f"127.9.8.7:{port}" in (await refused(relay))[1]


# --- credentials


@pytest.mark.parametrize("scheme", UPSTREAMS)
@pytest.mark.parametrize("kind", ["http", "https", "socks5", "socks5h"])
@pytest.mark.parametrize(
    "auth",
    [
        pytest.param(("us@r/", "p:a@s/s #%25?"), id="signs"),
        pytest.param(("ünï", "pässwört"), id="latin"),
        pytest.param(("用户", "密码🔑"), id="unicode"),
        pytest.param(("me", ""), id="no password"),
        pytest.param(("m" * 255, "p" * 255), id="long"),
    ],
)
async def test_credentials_with_any_character(auth, kind, scheme, ca):
    """Percent-encoded in the URL, they reach the proxy as they are meant, in UTF-8."""
    async with scene(kind, scheme, ca, PLAIN, auth=auth) as (_, _, relay):
        assert await ask(relay) == (200, BODY)


@pytest.mark.parametrize("user", ["me@here", "密"])
@pytest.mark.parametrize("kind", ["socks4", "socks4a"])
async def test_user_ids_with_any_character(user, kind, ca):
    """SOCKS4's only credential."""
    async with scene(kind, "http", ca, PLAIN, auth=(user, "")) as (_, proxy, relay):
        assert await ask(relay) == (200, BODY)
        proxy.auth = ("somebody else", "")
        proxy.reset_connections()
        assert (await refused(relay))[0] == "upstream_unreachable"


# --- names


@pytest.mark.parametrize("scheme", UPSTREAMS)
@pytest.mark.parametrize("kind", REMOTE_DNS)
async def test_the_proxy_resolves_the_name(kind, scheme, ca):
    """Only the proxy knows the upstream's name; the certificate must be for that name."""
    async with scene(kind, scheme, ca, STREAM, host="upstream.test") as (upstream, proxy, relay):
        proxy.resolve = {"upstream.test": ("127.0.0.1", upstream.port)}
        assert await stream(relay) == ALL
        (target,) = proxy.targets
        given = target if isinstance(target, str) else f"{target.host}:{target.port}"
        assert given == f"upstream.test:{upstream.port}"
        assert upstream.requests[0].get("host") == given


@pytest.mark.parametrize("scheme", UPSTREAMS)
@pytest.mark.parametrize("kind", ["socks4", "socks5"])
async def test_the_name_is_resolved_here(kind, scheme, ca):
    """Without the a or the h the proxy is given an address; the certificate is for the name."""
    async with scene(kind, scheme, ca, STREAM, host="localhost") as (upstream, proxy, relay):
        assert await stream(relay) == ALL
        assert [(target.kind, target.host) for target in proxy.targets] == [("ipv4", "127.0.0.1")]
        assert upstream.requests[0].get("host") == f"localhost:{upstream.port}"


@pytest.mark.parametrize("kind", ["socks4", "socks5"])
async def test_a_name_that_is_unknown_here_may_be_known_there(kind, ca, monkeypatch):
    """It is not the proxy's fault; the message hints at the kind that lets the proxy resolve."""

    async def unknown(*_args, **_kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socks_resolver.Resolver, "resolve", unknown)
    async with scene(kind, "https", ca, host="api.test") as (upstream, _, relay):
        code, message = await refused(relay)
    assert code == "upstream_unreachable"
    assert message.startswith(f"api.test:{upstream.port} has a name that cannot be resolved here")
    assert "socks5h" in message
