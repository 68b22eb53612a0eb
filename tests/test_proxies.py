"""Every kind of proxy, end to end: client ─▶ relay ─▶ fake proxy ─▶ fake upstream.

Matrix       kind × credentials × http:// or https:// upstream × streamed or plain
Addresses    IPv6, missing ports, credentials with any character
Names        who resolves the upstream's name
Answers      in pieces, of HTTP/1.0, refusals with a body, silence, other protocols
Trust        whose certificates are accepted
Environment  what HTTPS_PROXY and its kin say, and when they are asked
Lists        the next one when one cannot be dialled; never past them
Tunnels      used again while they are whole, and only then
"""

import asyncio
import json
import socket
from contextlib import contextmanager
from itertools import product

import aiohttp
import pytest
from python_socks.async_.asyncio import _resolver as socks_resolver
from python_socks.async_.asyncio.v2 import _proxy as socks_client

from clock import FakeClock
from fakes import HttpProxy, SocksProxy, Upstream, chat, reply, sse
from fakes.server import Connection
from relaying import read_events, relaying, settled, until
from service.settings import SettingsError

pytestmark = pytest.mark.both_loops

KINDS = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"]
REMOTE_DNS = ["http", "https", "socks4a", "socks5h"]
UPSTREAMS = ["http", "https"]
FRAMES = chat(["Hel", "lo"], usage={"total_tokens": 3})
STREAM = sse(*FRAMES)
BODY = b'{"object": "chat.completion", "choices": []}'
PLAIN = reply(200, BODY, content_type="application/json")
ASKED = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
PATH = "/v1/chat/completions"
LOGIN = ("me", "s3cret")
CONNECT = 10
"""Seconds of the clock `connect`, as by default."""
NO_HTTP = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"


def proxy_of(kind, ca, **options):
    """Return a fake proxy of that kind."""
    if kind.startswith("socks"):
        return SocksProxy(**options)
    return HttpProxy(ssl=ca.server if kind == "https" else None, **options)


def url_of(proxy, kind):
    """Return the proxy's URL as a user of that kind writes it: SOCKS4 knows no password."""
    url = proxy.url_as(kind)
    return url.replace(":s3cret@", "@") if kind.startswith("socks4") else url


def upstream_of(scheme, ca, script=None):
    """Return a fake upstream that speaks HTTP, or HTTP over TLS."""
    return Upstream(script, ssl=ca.server if scheme == "https" else None)


def relay_to(url, ca, *ways, more="", clock=None, environ=None):
    """Run a relay with one upstream, whose authority is the tests', through these proxies."""
    pool = f'[[pool]]\nname = "ways"\nproxies = {json.dumps(ways)}\n' if ways else ""
    toml = (
        f'[[upstream]]\nname = "api"\nurl = "{url}/v1"\nca_file = {json.dumps(str(ca.file))}\n'
        f"{pool}{more}"
    )
    return relaying(toml=toml, clock=clock, environ=environ)


async def ask(relay):
    """Ask for a plain answer; return its status and its body."""
    async with relay.post(PATH, ASKED) as response:
        return response.status, await response.read()


async def refused(relay):
    """Ask for a plain answer; return the code and the message of the error that comes instead."""
    status, body = await ask(relay)
    error = json.loads(body)["error"]
    assert status in {502, 504}
    assert error["stage"] == "dial"
    return error["code"], error["message"]


async def stream(relay):
    """Ask for a stream; return its bytes."""
    async with relay.stream() as response:
        return await response.read()


async def stream_by_halves(relay, upstream):
    """Ask for a stream, of which the second half is sent when the first is here; return it."""

    async def begin():
        _, wire = await upstream.next()
        await wire.head(content_type="text/event-stream")
        await wire.chunk(halves[0])
        return wire

    halves = b"".join(FRAMES[:2]), b"".join(FRAMES[2:])
    beginning = asyncio.create_task(begin())
    async with relay.stream() as response:
        wire = await beginning
        first = await response.content.readexactly(len(halves[0]))
        await wire.chunk(halves[1])
        await wire.end()
        return first + await response.read()


async def ask_by_hand(relay, upstream):
    """Ask for a plain answer, which is sent by hand; return its body."""
    asking = asyncio.create_task(ask(relay))
    _, wire = await upstream.next()
    await wire.reply(200, BODY, content_type="application/json")
    return (await asking)[1]


# --- matrix

MATRIX = [
    pytest.param(*cell, id=" ".join(cell))
    for cell in product(KINDS, ["bare", "auth"], UPSTREAMS, ["streamed", "plain"])
]


@pytest.mark.parametrize(("kind", "login", "scheme", "how"), MATRIX)
async def test_matrix(kind, login, scheme, how, ca):
    """Streams arrive piece by piece, answers whole; the proxy was shown its credentials."""
    auth = LOGIN if login == "auth" else None
    async with (
        upstream_of(scheme, ca) as upstream,
        proxy_of(kind, ca, auth=auth) as proxy,
        relay_to(upstream.url, ca, url_of(proxy, kind)) as relay,
    ):
        if how == "streamed":
            assert await stream_by_halves(relay, upstream) == b"".join(FRAMES)
        else:
            assert await ask_by_hand(relay, upstream) == BODY
        assert (proxy.connections, upstream.connections) == (1, 1)
        assert (PATH.encode() in proxy.up) is (scheme == "http")
        assert "proxy-authorization" not in upstream.requests[0].names()


@pytest.mark.parametrize("scheme", UPSTREAMS)
@pytest.mark.parametrize("kind", KINDS)
async def test_without_its_credentials_a_proxy_lets_nobody_through(kind, scheme, ca):
    """The matrix's proxies look at what they are shown; the upstream sees nothing of it."""
    async with (
        upstream_of(scheme, ca, PLAIN) as upstream,
        proxy_of(kind, ca, auth=LOGIN) as proxy,
        relay_to(upstream.url, ca, f"{kind}://127.0.0.1:{proxy.port}") as relay,
    ):
        code, message = await refused(relay)
        assert code in {"proxy_refused", "upstream_unreachable"}  # SOCKS4 does not tell which
        assert f"proxy 127.0.0.1:{proxy.port}" in message
        assert upstream.connections == 0


@pytest.mark.parametrize(("scheme", "connects"), [("http", 0), ("https", 1)])
@pytest.mark.parametrize("kind", ["http", "https"])
async def test_http_proxies_get_what_they_know(kind, scheme, connects, ca):
    """CONNECT for https, absolute-form for http: many proxies let no CONNECT through to port 80."""
    async with (
        upstream_of(scheme, ca, PLAIN) as upstream,
        proxy_of(kind, ca) as proxy,
        relay_to(upstream.url, ca, proxy.url) as relay,
    ):
        assert await ask(relay) == (200, BODY)
        assert proxy.connects == connects
        assert proxy.targets == [f"127.0.0.1:{upstream.port}"]


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
    """The address stands in brackets, with credentials before it or without."""
    tls = ca.server if kind == "https" else None
    fake = SocksProxyOnIPv6 if kind.startswith("socks") else HttpProxyOnIPv6
    async with (
        upstream_of(scheme, ca, STREAM) as upstream,
        fake(ssl=tls, auth=LOGIN) as proxy,
        relay_to(upstream.url, ca, url_of(proxy, kind)) as relay,
    ):
        assert await stream(relay) == b"".join(FRAMES)
        assert proxy.connections == 1


@needs_ipv6
@pytest.mark.parametrize("scheme", UPSTREAMS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "socks4"])
async def test_an_upstream_with_an_ipv6_address(kind, scheme, ca):
    """The proxy is given the address: SOCKS5 as one, SOCKS4a as the name that it has room for."""
    tls = ca.server if scheme == "https" else None
    async with (
        UpstreamOnIPv6(STREAM, ssl=tls) as upstream,
        proxy_of(kind, ca) as proxy,
        relay_to(upstream.url, ca, proxy.url_as(kind)) as relay,
    ):
        assert await stream(relay) == b"".join(FRAMES)
        (target,) = proxy.targets
        asked_for = {"socks4a": ("name", "::1"), "socks5": ("ipv6", "::1")}
        asked_for["socks5h"] = asked_for["socks5"]
        expected = asked_for.get(kind, f"[::1]:{upstream.port}")
        assert (target if isinstance(target, str) else (target.kind, target.host)) == expected


async def test_socks4_has_no_room_for_an_ipv6_address(ca):
    """The start fails, and says what to use."""
    with pytest.raises(SettingsError, match="SOCKS4 cannot carry the IPv6 address .* use socks5"):
        async with relay_to("http://[::1]:1", ca, "socks4://127.0.0.1:1"):
            pass


@needs_ipv6
async def test_messages_show_ipv6_addresses_in_brackets(dead_port, ca):
    """So that the port can be told from the address."""
    async with relay_to(f"http://[::1]:{dead_port}", ca) as relay:
        assert (await refused(relay))[1].startswith(f"[::1]:{dead_port} refused")


@pytest.mark.parametrize(
    ("kind", "port"),
    [("http", 80), ("https", 443), ("socks4", 1080), ("socks4a", 1080), ("socks5", 1080)],
)
async def test_a_missing_port_is_the_customary_one(kind, port, ca):
    """What is dialled is in the message; nobody has anything on that loopback address."""
    async with relay_to("https://127.0.0.1:1", ca, f"{kind}://127.9.8.7") as relay:
        assert f"127.9.8.7:{port}" in (await refused(relay))[1]


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
    """Percent-encoded in the URL, the proxy gets them as they are meant, in UTF-8."""
    async with (
        upstream_of(scheme, ca, PLAIN) as upstream,
        proxy_of(kind, ca, auth=auth) as proxy,
        relay_to(upstream.url, ca, proxy.url_as(kind)) as relay,
    ):
        assert await ask(relay) == (200, BODY)


@pytest.mark.parametrize("user", ["me@here", "密"])
@pytest.mark.parametrize("kind", ["socks4", "socks4a"])
async def test_user_ids_with_any_character(user, kind, ca):
    """SOCKS4 knows a user only; without the right one it refuses."""
    async with (
        Upstream(PLAIN) as upstream,
        SocksProxy(auth=(user, "")) as proxy,
        relay_to(upstream.url, ca, proxy.url_as(kind).replace(":@", "@")) as relay,
    ):
        assert await ask(relay) == (200, BODY)


# --- names


@pytest.mark.parametrize("scheme", UPSTREAMS)
@pytest.mark.parametrize("kind", REMOTE_DNS)
async def test_the_proxy_resolves_the_name(kind, scheme, ca):
    """Only the proxy knows the upstream's name, and the certificate is looked at for that name."""
    async with (
        upstream_of(scheme, ca, STREAM) as upstream,
        proxy_of(kind, ca) as proxy,
        relay_to(f"{scheme}://upstream.test:{upstream.port}", ca, proxy.url_as(kind)) as relay,
    ):
        proxy.resolve = {"upstream.test": ("127.0.0.1", upstream.port)}
        assert await stream(relay) == b"".join(FRAMES)
        (target,) = proxy.targets
        given = target if isinstance(target, str) else f"{target.host}:{target.port}"
        assert given == f"upstream.test:{upstream.port}"
        assert upstream.requests[0].get("host") == given


@pytest.mark.parametrize("scheme", UPSTREAMS)
@pytest.mark.parametrize("kind", ["socks4", "socks5"])
async def test_the_name_is_resolved_here(kind, scheme, ca):
    """Without the h or the a the proxy is given an address; the certificate is for the name."""
    async with (
        upstream_of(scheme, ca, STREAM) as upstream,
        proxy_of(kind, ca) as proxy,
        relay_to(f"{scheme}://localhost:{upstream.port}", ca, proxy.url_as(kind)) as relay,
    ):
        assert await stream(relay) == b"".join(FRAMES)
        assert [(t.kind, t.host) for t in proxy.targets] == [("ipv4", "127.0.0.1")]
        assert upstream.requests[0].get("host") == f"localhost:{upstream.port}"


@pytest.mark.parametrize("kind", ["socks4", "socks5"])
async def test_a_name_that_is_unknown_here_hints_at_remote_names(kind, ca, monkeypatch):
    """Not the proxy's fault; it may know the name."""

    async def unknown(*_args, **_kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socks_resolver.Resolver, "resolve", unknown)
    async with (
        SocksProxy() as proxy,
        relay_to("https://api.test", ca, proxy.url_as(kind)) as relay,
    ):
        code, message = await refused(relay)
        assert code == "upstream_unreachable"
        assert message.startswith("api.test:443 has a name that cannot be resolved here")
        assert "socks5h" in message


# --- answers


class Early(HttpProxy):
    """A proxy that answers CONNECT in its own words."""

    established = b"HTTP/1.1 200 Connection established\r\n\r\n"

    async def answer(self, connection, data):
        """Send those words where the answer would be a success."""
        await super().answer(connection, self.established if b" 200 " in data[:20] else data)


@pytest.mark.parametrize(
    ("answer", "pieces"),
    [
        pytest.param(b"HTTP/1.0 200 Connection established\r\n\r\n", None, id="HTTP/1.0"),
        pytest.param(b"HTTP/1.0 200 OK\r\nProxy-agent: x\r\n\r\n", 1, id="HTTP/1.0 in pieces"),
        pytest.param(b"HTTP/1.1 200\r\n\r\n", 3, id="no reason"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", None, id="a length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nVia: a\r\nVia: b\r\n\r\n", 7, id="headers in pieces"),
        pytest.param(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", None, id="close"),
    ],
)
async def test_answers_to_connect(answer, pieces, ca):
    """A 200 is a tunnel, however it is written and cut; it is used for the next request too."""
    async with (
        upstream_of("https", ca, STREAM) as upstream,
        Early(pieces=pieces) as proxy,
        relay_to(upstream.url, ca, proxy.url) as relay,
    ):
        proxy.established = answer
        for _ in range(2):
            assert await stream(relay) == b"".join(FRAMES)
        assert proxy.connects == 1


@pytest.mark.parametrize("scheme", UPSTREAMS)
@pytest.mark.parametrize("kind", KINDS)
async def test_answers_of_any_proxy_may_come_byte_by_byte(kind, scheme, ca):
    """No read is taken for a whole answer."""
    async with (
        upstream_of(scheme, ca, STREAM) as upstream,
        proxy_of(kind, ca, auth=LOGIN, pieces=1) as proxy,
        relay_to(upstream.url, ca, url_of(proxy, kind)) as relay,
    ):
        assert await stream(relay) == b"".join(FRAMES)


class Talkative(HttpProxy):
    """A proxy that refuses with a page, of which it sends the beginning, and keeps the line."""

    page = b"<html>" + b"blocked " * 1000

    async def _refuse(self, connection, status):
        lines = f"HTTP/1.1 {status} No\r\nContent-Type: text/html\r\nContent-Length: 1000000\r\n"
        await self.answer(connection, f"{lines}\r\n".encode() + self.page)
        await connection.gone.wait()


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "proxy_refused", "refused to connect to"),
        (407, "proxy_refused", "wants a user name and password"),
        (302, "proxy_refused", "refused to connect to"),
        (502, "upstream_unreachable", "could not reach"),
        (503, "upstream_unreachable", "could not reach"),
        (405, "proxy_protocol", "is it an HTTP proxy?"),
    ],
)
@pytest.mark.parametrize("kind", ["http", "https"])
async def test_a_refusal_with_a_body(kind, status, code, words, ca):
    """Its status says enough: nobody waits for the body, and the connection is not used again."""
    tls = ca.server if kind == "https" else None
    async with (
        upstream_of("https", ca, PLAIN) as upstream,
        Talkative(refuse=status, ssl=tls) as proxy,
        relay_to(upstream.url, ca, proxy.url) as relay,
    ):
        for number in (1, 2):
            said = await refused(relay)
            assert said[0] == code
            assert words in said[1]
            assert f"127.0.0.1:{proxy.port}" in said[1]
            assert proxy.connections == number
            await proxy.until(lambda: proxy.open_connections == 0)
        proxy.refuse = None
        assert await ask(relay) == (200, BODY)


async def test_a_407_to_a_plain_request(ca):
    """Without CONNECT too it is the proxy that wants a password, and not the upstream."""
    async with (
        Upstream(PLAIN) as upstream,
        Talkative(refuse=407) as proxy,
        relay_to(upstream.url, ca, proxy.url) as relay,
    ):
        code, message = await refused(relay)
        assert code == "proxy_refused"
        assert f"proxy 127.0.0.1:{proxy.port} wants a user name" in message
        await proxy.until(lambda: proxy.open_connections == 0)


async def test_other_answers_to_a_plain_request_are_answers(ca):
    """They cannot be told from the upstream's own: status and body go to the client."""
    async with (
        Upstream(PLAIN) as upstream,
        HttpProxy(garbage=b"HTTP/1.1 403 No\r\nContent-Length: 7\r\n\r\nblocked") as proxy,
        relay_to(upstream.url, ca, proxy.url) as relay,
    ):
        assert await ask(relay) == (403, b"blocked")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_proxy_that_hangs_up_on_tls(kind, ca):
    """Proxies that answer before they have dialled, as a local Clash does, tell it that way."""

    class Hasty(SocksProxy if kind.startswith("socks") else HttpProxy):
        async def tunnel(self, connection, target):
            await connection.reader.read(1)
            target[1].close()
            connection.reset()

    tls = ca.server if kind == "https" else None
    async with (
        upstream_of("https", ca, PLAIN) as upstream,
        Hasty(ssl=tls) as proxy,
        relay_to(upstream.url, ca, proxy.url_as(kind)) as relay,
    ):
        code, message = await refused(relay)
        assert code == "upstream_unreachable"
        assert (
            f"proxy 127.0.0.1:{proxy.port} broke off the connection to {upstream_at(upstream)}"
            in message
        )


def upstream_at(upstream):
    """Return 127.0.0.1:PORT."""
    return f"127.0.0.1:{upstream.port}"


@pytest.mark.parametrize("kind", ["direct", *KINDS])
async def test_an_upstream_that_is_silent_in_its_tls_handshake(kind, ca):
    """The clock `connect` covers it, and nothing of the attempt is left."""
    clock = FakeClock()
    async with (
        HttpProxy(silent=True) as silent,
        proxy_of(kind, ca) as proxy,
        relay_to(f"https://127.0.0.1:{silent.port}", ca, way_of(proxy, kind), clock=clock) as relay,
    ):
        asking = asyncio.create_task(ask(relay))
        await silent.until(lambda: silent.connections == 1)
        await clock.armed(1000 + CONNECT)
        clock.advance(CONNECT)
        status, body = await asking
        error = json.loads(body)["error"]
        assert status == 504
        assert error["code"] == ("upstream_unreachable" if kind == "direct" else "proxy_timeout")
        assert f"within {CONNECT} s" in error["message"]
        await silent.until(lambda: silent.open_connections == 0)


def way_of(proxy, kind):
    """Return the proxy's URL, or `direct`."""
    return kind if kind == "direct" else proxy.url_as(kind)


@pytest.mark.parametrize("kind", ["socks4", "socks5h"])
async def test_no_clock_but_the_relays_own(kind, ca, monkeypatch):
    """python-socks gives a proxy 60 s where nobody says otherwise; here it is none at all."""
    monkeypatch.setattr(socks_client, "DEFAULT_TIMEOUT", 0)
    async with (
        Upstream(PLAIN) as upstream,
        SocksProxy() as proxy,
        relay_to(upstream.url, ca, proxy.url_as(kind)) as relay,
    ):
        assert await ask(relay) == (200, BODY)


# --- trust


@contextmanager
def untrusting(relay):
    """Forget the tests' authority: the system's are in force again."""
    for lane in relay.gateway._lanes.values():
        lane._tls = None
    yield


@pytest.mark.parametrize("kind", ["direct", *KINDS])
async def test_an_upstream_whose_certificate_nobody_knows(kind, ca):
    """The system's authorities did not sign it: its name, the way to it, the setting that helps."""
    async with (
        upstream_of("https", ca, PLAIN) as upstream,
        proxy_of("http" if kind == "https" else kind, ca) as proxy,
        relay_to(upstream.url, ca, way_of(proxy, "http" if kind == "https" else kind)) as relay,
    ):
        with untrusting(relay):
            code, message = await refused(relay)
        assert code == "upstream_tls"
        assert message.startswith(f"the certificate of {upstream_at(upstream)}")
        assert "ca_file" in message
        assert upstream.requests == []


@pytest.mark.parametrize("scheme", UPSTREAMS)
async def test_a_proxy_whose_certificate_nobody_knows(scheme, ca):
    """It is the proxy's, and not the upstream's."""
    async with (
        upstream_of(scheme, ca, PLAIN) as upstream,
        proxy_of("https", ca) as proxy,
        relay_to(upstream.url, ca, proxy.url) as relay,
    ):
        with untrusting(relay):
            code, message = await refused(relay)
        assert code == "proxy_protocol"
        assert message.startswith(f"the certificate of proxy 127.0.0.1:{proxy.port}")
        assert upstream.connections == 0


async def test_a_proxy_whose_certificate_is_anothers(ca):
    """The name in it is looked at for the hop too."""
    tls = ca.server_for("other.test")
    async with (
        upstream_of("https", ca, PLAIN) as upstream,
        HttpProxy(ssl=tls) as proxy,
        relay_to(upstream.url, ca, proxy.url) as relay,
    ):
        code, message = await refused(relay)
        assert code == "proxy_protocol"
        assert message.startswith(f"the certificate of proxy 127.0.0.1:{proxy.port}")


async def test_an_https_url_for_a_plain_proxy(ca):
    """The proxy's URL is wrong, not the upstream's."""
    async with (
        upstream_of("https", ca, PLAIN) as upstream,
        HttpProxy(garbage=NO_HTTP) as proxy,
        relay_to(upstream.url, ca, proxy.url_as("https")) as relay,
    ):
        code, message = await refused(relay)
        assert code == "proxy_protocol"
        assert f"proxy 127.0.0.1:{proxy.port} does not speak TLS" in message
        assert "http://" in message


async def test_an_http_url_for_a_tls_proxy(ca):
    """A plain CONNECT is no TLS handshake: what listens there is not what the URL says."""
    async with (
        upstream_of("https", ca, PLAIN) as upstream,
        HttpProxy(ssl=ca.server) as proxy,
        relay_to(upstream.url, ca, proxy.url_as("http")) as relay,
    ):
        code, message = await refused(relay)
        assert code == "proxy_protocol"
        assert f"127.0.0.1:{proxy.port}" in message


async def test_an_upstream_that_refuses_the_handshake(ca):
    """It speaks TLS, and says no: here it has no version in common with us."""
    ca_of_its_own = ca.server_for("127.0.0.1")
    ca_of_its_own.set_ciphers("PSK")
    ca_of_its_own.maximum_version = ca_of_its_own.minimum_version.TLSv1_2
    async with (
        Upstream(PLAIN, ssl=ca_of_its_own) as upstream,
        relay_to(upstream.url, ca) as relay,
    ):
        code, message = await refused(relay)
        assert code == "upstream_tls"
        assert f"{upstream_at(upstream)} refused the TLS handshake" in message


@pytest.mark.parametrize(
    ("text", "says"),
    [(None, "No such file"), ("", "not PEM"), ("no certificate", "not PEM")],
)
async def test_a_ca_file_that_is_none(text, says, tmp_path, ca):
    """The start fails, names the key and what was expected."""
    file = tmp_path / "ca.pem"
    if text is not None:
        file.write_text(text)
    toml = f'[[upstream]]\nname = "a"\nurl = "https://a"\nca_file = {json.dumps(str(file))}\n'
    with pytest.raises(SettingsError) as refusal:
        async with relaying(toml=toml):
            pass
    assert "upstream[0].ca_file" in str(refusal.value)
    assert f"{says}: expected a PEM file" in str(refusal.value)


async def test_a_ca_file_is_trusted_instead_of_the_system(ca):
    """Nothing but the authorities in it."""
    async with relay_to("https://127.0.0.1:1", ca) as relay:
        (lane,) = relay.gateway._lanes.values()
        assert len(lane._tls.get_ca_certs()) == 1


# --- environment

BY_ENV = "env"


@pytest.mark.parametrize(
    ("scheme", "names"),
    [
        ("https", ["HTTPS_PROXY"]),
        ("https", ["https_proxy"]),
        ("https", ["ALL_PROXY"]),
        ("http", ["http_proxy"]),
        ("http", ["all_proxy"]),
        ("http", ["ALL_PROXY"]),
    ],
)
@pytest.mark.parametrize("kind", ["http", "socks5h"])
async def test_env_goes_by_the_variables(kind, scheme, names, ca):
    """With `env` in the list they are obeyed, whatever kind of proxy they name."""
    async with upstream_of(scheme, ca, STREAM) as upstream, proxy_of(kind, ca) as proxy:
        environ = dict.fromkeys(names, proxy.url_as(kind))
        async with relay_to(upstream.url, ca, BY_ENV, environ=environ) as relay:
            assert await stream(relay) == b"".join(FRAMES)
        assert len(proxy.targets) == 1


@pytest.mark.parametrize(
    ("scheme", "names"),
    [("http", ["HTTP_PROXY"]), ("http", ["HTTPS_PROXY", "https_proxy"]), ("https", ["http_proxy"])],
)
async def test_env_of_another_scheme_is_not_meant(scheme, names, ca):
    """HTTP_PROXY in capitals is what a CGI server makes of a request's header `Proxy`."""
    async with upstream_of(scheme, ca, STREAM) as upstream, HttpProxy() as proxy:
        environ = dict.fromkeys(names, proxy.url)
        async with relay_to(upstream.url, ca, BY_ENV, environ=environ) as relay:
            assert await stream(relay) == b"".join(FRAMES)
        assert proxy.connections == 0


EXCEPTED = [
    ("127.0.0.1", "127.0.0.1", True),
    ("127.0.0.1", "127.0.0.0/8", True),
    ("127.0.0.1", "10.0.0.0/8, 127.0.0.0/30", True),
    ("127.0.0.1", "127.0.0.1:PORT", True),
    ("127.0.0.1", "127.0.0.1:1", False),
    ("127.0.0.1", "10.0.0.0/8", False),
    ("127.0.0.1", "27.0.0.1", False),
    ("127.0.0.1", "", False),
    ("localhost", "localhost", True),
    ("localhost", "LocalHost.", False),
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
]


@pytest.mark.parametrize(("host", "exceptions", "direct"), EXCEPTED)
async def test_no_proxy(host, exceptions, direct, ca, monkeypatch):
    """Hosts, suffixes, ports and networks: what it excepts goes direct, all else does not."""
    monkeypatch.setattr(aiohttp.DefaultResolver, "resolve", resolve_to_loopback)
    async with Upstream(STREAM) as upstream, HttpProxy() as proxy:
        proxy.resolve = {host: ("127.0.0.1", upstream.port)}
        environ = {
            "ALL_PROXY": proxy.url,
            "NO_PROXY": exceptions.replace("PORT", str(upstream.port)),
        }
        url = f"http://{host}:{upstream.port}"
        async with relay_to(url, ca, BY_ENV, environ=environ) as relay:
            assert await stream(relay) == b"".join(FRAMES)
        assert upstream.connections == 1
        assert proxy.connections == (0 if direct else 1)


async def resolve_to_loopback(_self, host, port=0, family=socket.AF_INET):
    """Resolve any name as 127.0.0.1."""
    found = {"hostname": host, "host": "127.0.0.1", "port": port}
    return [{**found, "family": family, "proto": 0, "flags": socket.AI_NUMERICHOST}]


@pytest.mark.parametrize("way", ["direct", "http", "socks5h", None])
@pytest.mark.parametrize("scheme", UPSTREAMS)
async def test_the_environment_is_not_obeyed_by_accident(way, scheme, ca, monkeypatch):
    """Without `env` the variables mean nothing, not even to the libraries."""
    names = ["http_proxy", "https_proxy", "all_proxy"]
    async with (
        upstream_of(scheme, ca, STREAM) as upstream,
        HttpProxy() as trap,
        proxy_of(way or "http", ca) as proxy,
    ):
        environ = {n: trap.url for name in names for n in (name, name.upper())}
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        ways = [way_of(proxy, way)] if way else []
        async with relay_to(upstream.url, ca, *ways, environ=environ) as relay:
            assert await exchange(relay) == b"".join(FRAMES)
        assert trap.connections == 0
        assert proxy.connections == (way in {"http", "socks5h"})


async def exchange(relay):
    """Stream with a client that does not look at the environment either."""
    assert not relay.session.trust_env
    return await stream(relay)


# --- lists


def failing(how, dead_port):
    """Return a proxy that cannot be dialled through: its maker, and its URL's kind."""
    return {
        "refused": (lambda: None, f"http://127.0.0.1:{dead_port}"),
        "socks refused": (lambda: None, f"socks5h://127.0.0.1:{dead_port}"),
        "407": (lambda: HttpProxy(auth=LOGIN), "http"),
        "403": (lambda: HttpProxy(refuse=403), "http"),
        "502": (lambda: HttpProxy(refuse=502), "http"),
        "garbage": (lambda: HttpProxy(garbage=b"SSH-2.0-OpenSSH\r\n"), "http"),
        "hangs up": (lambda: HttpProxy(garbage=b""), "http"),
        "socks password": (lambda: SocksProxy(auth=LOGIN), "socks5"),
        "socks forbids": (lambda: SocksProxy(refuse=2), "socks5h"),
        "socks4 rejects": (lambda: SocksProxy(refuse=91), "socks4"),
        "socks garbage": (lambda: SocksProxy(garbage=NO_HTTP), "socks5"),
    }[how]


HOW_IT_FAILS = [
    *["refused", "socks refused", "407", "403", "502", "garbage", "hangs up", "socks password"],
    *["socks forbids", "socks4 rejects", "socks garbage"],
]


class Failing:
    """A proxy that cannot be dialled through, as an async context manager; `url` is its URL."""

    def __init__(self, how, dead_port):
        make, self.url = failing(how, dead_port)
        self.fake = make()

    async def __aenter__(self):
        if self.fake is not None:
            await self.fake.__aenter__()
            self.url = f"{self.url}://127.0.0.1:{self.fake.port}"
        return self

    async def __aexit__(self, *error):
        if self.fake is not None:
            await self.fake.__aexit__(*error)


@pytest.mark.parametrize("how", HOW_IT_FAILS)
async def test_the_next_one_when_one_cannot_be_dialled(how, dead_port, ca):
    """The client learns nothing of it; the request is sent once, through the second."""
    async with (
        upstream_of("https", ca, STREAM) as upstream,
        Failing(how, dead_port) as first,
        SocksProxy() as second,
        relay_to(upstream.url, ca, first.url, second.url_as("socks5h")) as relay,
    ):
        assert await stream(relay) == b"".join(FRAMES)
        assert len(second.targets) == len(upstream.requests) == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_the_next_one_when_one_is_silent(kind, ca):
    """Each has the whole time of the clock `connect`, and no more."""
    clock = FakeClock()
    async with (
        upstream_of("https", ca, STREAM) as upstream,
        proxy_of(kind, ca, silent=True) as first,
        HttpProxy() as second,
        relay_to(upstream.url, ca, first.url_as(kind), second.url, clock=clock) as relay,
    ):
        asking = asyncio.create_task(stream(relay))
        await first.until(lambda: first.connections == 1)
        await clock.armed(1000 + CONNECT)
        clock.advance(CONNECT - 0.001)
        await settled()
        assert second.connections == 0
        clock.advance(0.001)
        assert await asking == b"".join(FRAMES)
        assert first.open_connections == 0


@pytest.mark.parametrize("how", HOW_IT_FAILS)
async def test_the_last_cause_when_none_is_left(how, dead_port, ca):
    """The message is about the last of the list, and the upstream saw nobody: fail closed."""
    async with (
        upstream_of("https", ca, STREAM) as upstream,
        HttpProxy(refuse=403) as first,
        Failing(how, dead_port) as last,
        relay_to(upstream.url, ca, first.url, last.url) as relay,
    ):
        code, message = await refused(relay)
        assert last.url.rpartition("/")[2] in message
        assert f":{first.port}" not in message
        assert code.startswith(("proxy_", "upstream_unreachable"))
        async with relay.get("/chat", question="Hi") as response:
            *_, error = await read_events(response)
        assert (error.name, error.data["code"]) == ("error", code)
        assert error.data["message"] == message
        assert upstream.connections == 0


async def test_direct_is_one_of_the_list(dead_port, ca):
    """Only where it is listed, and only when its turn comes."""
    async with (
        upstream_of("https", ca, STREAM) as upstream,
        HttpProxy() as proxy,
        relay_to(upstream.url, ca, f"http://127.0.0.1:{dead_port}", "direct") as by_turn,
        relay_to(upstream.url, ca, proxy.url, "direct") as last,
        relay_to(upstream.url, ca, "direct", proxy.url) as first,
    ):
        assert await stream(by_turn) == b"".join(FRAMES)
        assert await stream(first) == b"".join(FRAMES)
        assert (upstream.connections, proxy.connections) == (2, 0)
        assert await stream(last) == b"".join(FRAMES)
        assert proxy.connections == 1


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


# --- tunnels


@pytest.mark.parametrize("scheme", UPSTREAMS)
@pytest.mark.parametrize("kind", KINDS)
async def test_ten_requests_one_tunnel(kind, scheme, ca):
    """Streams, chats and plain answers one after the other go through one connection."""
    async with (
        upstream_of(scheme, ca, by_request) as upstream,
        proxy_of(kind, ca, auth=LOGIN) as proxy,
        relay_to(upstream.url, ca, url_of(proxy, kind)) as relay,
    ):
        for _ in range(4):
            assert await stream(relay) == b"".join(FRAMES)
        for _ in range(3):
            async with relay.get("/chat", question="Hi") as response:
                assert (await read_events(response))[-1].name == "done"
        for _ in range(3):
            assert await ask(relay) == (200, BODY)
        assert len(upstream.requests) == 10
        assert (proxy.connections, upstream.connections) == (1, 1)
        assert len(proxy.targets) == (10 if (kind[:4], scheme) == ("http", "http") else 1)


async def by_request(request, wire):
    """Stream if that was asked for."""
    await (STREAM if request.json().get("stream") else PLAIN)(request, wire)


@pytest.mark.parametrize("kind", KINDS)
async def test_streams_at_the_same_time_have_tunnels_of_their_own(kind, ca):
    """Three at once are three connections, which the next three use again."""
    async with (
        upstream_of("https", ca) as upstream,
        proxy_of(kind, ca) as proxy,
        relay_to(upstream.url, ca, proxy.url_as(kind)) as relay,
    ):
        for _ in range(2):
            asking = [asyncio.create_task(stream(relay)) for _ in range(3)]
            wires = [(await upstream.next())[1] for _ in asking]
            for wire in wires:
                await wire.head(content_type="text/event-stream")
                await wire.chunk(b"".join(FRAMES))
                await wire.end()
            assert await asyncio.gather(*asking) == [b"".join(FRAMES)] * 3
        assert (proxy.connections, upstream.connections) == (3, 3)


async def broken_off(how, relay, wire, proxy):
    """Bring a stream that has begun to an early end."""
    async with relay.get("/chat", question="Hi") as response:
        opened = wire if how == "unused" else await wire
        if how == "upstream":
            opened.reset()
        elif how == "proxy":
            proxy.reset_connections()
        elif how == "client":
            response.close()
            return
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


@pytest.mark.parametrize("how", ["upstream", "proxy", "client"])
@pytest.mark.parametrize("scheme", UPSTREAMS)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_tunnel_that_was_cut_is_not_used_again(kind, scheme, how, ca):
    """Cut by the upstream or the proxy, or left by the client: the next has a new one, all whole."""

    async def begin():
        _, wire = await upstream.next()
        await wire.head(content_type="text/event-stream")
        await wire.chunk(FRAMES[1])
        return wire

    async with (
        upstream_of(scheme, ca) as upstream,
        proxy_of(kind, ca) as proxy,
        relay_to(upstream.url, ca, proxy.url_as(kind)) as relay,
    ):
        await broken_off(how, relay, asyncio.create_task(begin()), proxy)
        await upstream.until(lambda: upstream.open_connections == 0)
        assert await ask_by_hand(relay, upstream) == BODY
        assert (proxy.connections, upstream.connections) == (2, 2)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stream_that_does_not_end_after_done_gives_its_tunnel_up(kind, ca):
    """Its answer was complete; the rest of the body is waited for no longer than a moment."""
    clock = FakeClock()
    async with (
        upstream_of("https", ca) as upstream,
        proxy_of(kind, ca) as proxy,
        relay_to(upstream.url, ca, proxy.url_as(kind), clock=clock) as relay,
    ):
        asking = asyncio.create_task(stream(relay))
        _, wire = await upstream.next()
        await wire.head(content_type="text/event-stream")
        await wire.chunk(b"".join(FRAMES))
        await clock.armed(1000.1)
        clock.advance(0.1)
        assert await asking == b"".join(FRAMES)
        await wire.closed.wait()
        assert await ask_by_hand(relay, upstream) == BODY
        assert proxy.connections == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_a_tunnel_that_was_closed_while_idle_is_not_used_again(kind, ca):
    """The proxy closed it meanwhile: the next request is not lost."""
    async with (
        upstream_of("https", ca, PLAIN) as upstream,
        proxy_of(kind, ca) as proxy,
        relay_to(upstream.url, ca, proxy.url_as(kind)) as relay,
    ):
        assert await ask(relay) == (200, BODY)
        proxy.reset_connections()
        await until(lambda: not idle(relay))
        assert await ask(relay) == (200, BODY)
        assert proxy.connections == 2


def idle(relay):
    """Return how many connections are kept for the next request."""
    (lane,) = relay.gateway._lanes.values()
    connectors = [session.connector for session in lane._sessions.values()]
    return sum(
        protocol.is_connected()
        for connector in connectors
        for kept in connector._conns.values()
        for protocol, _ in kept
    )
