"""What a proxy says, or does not say, and whose certificates are believed.

Answers   in pieces, of HTTP/1.0, refusals with a body, silence, other protocols
Trust     `ca_file`, the hop to an https proxy and the way behind it
"""

import asyncio
import json

import pytest
from python_socks.async_.asyncio.v2 import _proxy as socks_client

from clock import FakeClock
from fakes import HttpProxy, SocksProxy, Upstream
from proxying import (
    ALL,
    BODY,
    CONNECT,
    DIRECT,
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
    scene,
    stream,
    upstream_of,
    url_of,
)
from relaying import relaying
from service.settings import SettingsError

pytestmark = pytest.mark.both_loops

# --- answers


class Wordy(HttpProxy):
    """A proxy that grants a CONNECT in words of its own."""

    words = b""

    async def answer(self, connection, data):
        """Send those words where the answer is a success."""
        await super().answer(connection, self.words if b" 200 " in data[:20] else data)


@pytest.mark.parametrize(
    ("words", "pieces"),
    [
        pytest.param(b"HTTP/1.0 200 Connection established\r\n\r\n", None, id="HTTP/1.0"),
        pytest.param(b"HTTP/1.0 200 OK\r\nProxy-agent: x\r\n\r\n", 1, id="HTTP/1.0 in pieces"),
        pytest.param(b"HTTP/1.1 200\r\n\r\n", 3, id="no reason"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", None, id="a length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nVia: a\r\nVia: b\r\n\r\n", 7, id="headers in pieces"),
        pytest.param(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", None, id="close"),
    ],
)
async def test_answers_to_connect(words, pieces, ca):
    """A 200 is a tunnel, however it is written and cut, and it is used for the next request too."""
    async with (
        upstream_of("https", ca, STREAM) as upstream,
        Wordy(pieces=pieces) as proxy,
        relay_to(upstream.url, ca, proxy.url, clock=FakeClock()) as relay,
    ):
        proxy.words = words
        for _ in range(2):
            assert await stream(relay) == ALL
            await rested(relay)
        assert proxy.connects == 1


@pytest.mark.parametrize("scheme", UPSTREAMS)
@pytest.mark.parametrize("kind", KINDS)
async def test_answers_may_come_byte_by_byte(kind, scheme, ca):
    """No read is taken for a whole answer."""
    async with scene(kind, scheme, ca, STREAM, auth=LOGIN, pieces=1) as (_, _, relay):
        assert await stream(relay) == ALL


class Talkative(HttpProxy):
    """A proxy that refuses with a page, of which it sends the beginning, and holds the line."""

    page = b"<html>" + b"blocked " * 1000

    async def _refuse(self, connection, status):
        lines = f"HTTP/1.1 {status} No\r\nContent-Type: text/html\r\nContent-Length: 1000000\r\n"
        await self.answer(connection, f"{lines}\r\n".encode() + self.page)
        await connection.gone.wait()


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (302, "proxy_refused", "refused to connect to"),
        (403, "proxy_refused", "refused to connect to"),
        (405, "proxy_protocol", "is it an HTTP proxy?"),
        (407, "proxy_refused", "wants a user name and password"),
        (502, "upstream_unreachable", "could not reach"),
        (503, "upstream_unreachable", "could not reach"),
    ],
)
@pytest.mark.parametrize("kind", ["http", "https"])
async def test_a_refusal_with_a_body(kind, status, code, words, ca):
    """Its status says enough: nobody waits for the body, and the connection is given up."""
    async with (
        upstream_of("https", ca, PLAIN) as upstream,
        Talkative(refuse=status, ssl=ca.server if kind == "https" else None) as proxy,
        relay_to(upstream.url, ca, proxy.url) as relay,
    ):
        said, message = await refused(relay)
        assert said == code
        assert words in message
        assert at(proxy) in message
        await proxy.until(lambda: proxy.open_connections == 0)
        proxy.refuse = None
        assert await ask(relay) == (200, BODY)
        assert proxy.connections == 2


async def test_a_407_to_a_plain_request(ca):
    """Without CONNECT too it is the proxy that wants a password, and not the upstream."""
    async with (
        upstream_of("http", ca, PLAIN) as upstream,
        Talkative(refuse=407) as proxy,
        relay_to(upstream.url, ca, proxy.url) as relay,
    ):
        code, message = await refused(relay)
        assert code == "proxy_refused"
        assert f"proxy {at(proxy)} wants a user name and password" in message
        await proxy.until(lambda: proxy.open_connections == 0)


async def test_other_answers_to_a_plain_request_are_answers(ca):
    """They cannot be told from the upstream's own: status and body go to the client."""
    said = b"HTTP/1.1 403 No\r\nContent-Length: 7\r\n\r\nblocked"
    async with scene("http", "http", ca, PLAIN, garbage=said) as (_, _, relay):
        assert await ask(relay) == (403, b"blocked")


class HangsUp:
    """A proxy that grants the tunnel and then breaks off, as one that dials only afterwards."""

    async def tunnel(self, connection, target):
        """Wait for the first byte, reset."""
        await connection.reader.read(1)
        target[1].close()
        connection.reset()


class HttpHangsUp(HangsUp, HttpProxy):
    """Such an HTTP proxy."""


class SocksHangsUp(HangsUp, SocksProxy):
    """Such a SOCKS proxy."""


@pytest.mark.parametrize("kind", KINDS)
async def test_a_proxy_that_hangs_up_on_tls(kind, ca):
    """A local Clash says in this way that it cannot reach the upstream; it is no wrong port."""
    fake = SocksHangsUp if kind.startswith("socks") else HttpHangsUp
    async with (
        Upstream() as upstream,
        fake(ssl=ca.server if kind == "https" else None) as proxy,
        relay_to(f"https://{at(upstream)}", ca, url_of(proxy, kind)) as relay,
    ):
        code, message = await refused(relay)
        assert code == "upstream_unreachable"
        assert f"proxy {at(proxy)} broke off the connection to {at(upstream)}" in message


@pytest.mark.parametrize("kind", [DIRECT, *KINDS])
async def test_an_upstream_that_is_silent_in_its_tls_handshake(kind, ca):
    """The clock `connect` covers it, and nothing of the attempt is left."""
    clock = FakeClock()
    async with (
        HttpProxy(silent=True) as silent,
        proxy_of(kind, ca) as proxy,
        relay_to(f"https://{at(silent)}", ca, url_of(proxy, kind), clock=clock) as relay,
    ):
        asking = asyncio.create_task(ask(relay))
        await silent.until(lambda: silent.connections == 1)
        await clock.armed(clock.now() + CONNECT)
        clock.advance(CONNECT)
        status, body = await asking
        error = json.loads(body)["error"]
        assert status == 504
        assert error["code"] == ("upstream_unreachable" if kind == DIRECT else "proxy_timeout")
        assert f"within {CONNECT} s" in error["message"]
        await silent.until(lambda: silent.open_connections == 0)


@pytest.mark.parametrize("kind", ["socks4", "socks4a", "socks5", "socks5h"])
async def test_no_clock_but_the_relays_own(kind, ca, monkeypatch):
    """python-socks gives a proxy 60 s where nobody says otherwise; here it would be no time."""
    monkeypatch.setattr(socks_client, "DEFAULT_TIMEOUT", 0)
    async with scene(kind, "https", ca, PLAIN) as (_, _, relay):
        assert await ask(relay) == (200, BODY)


# --- trust


def distrust(relay):
    """Forget the tests' authority: the system's are in force again."""
    for lane in relay.gateway._lanes.values():
        lane._tls = None


@pytest.mark.parametrize("kind", [DIRECT, *(kind for kind in KINDS if kind != "https")])
async def test_an_upstream_whose_certificate_nobody_knows(kind, ca):
    """Its name, and the setting that helps; it gets no request."""
    async with scene(kind, "https", ca, PLAIN) as (upstream, _, relay):
        distrust(relay)
        code, message = await refused(relay)
        assert code == "upstream_tls"
        assert message.startswith(f"the certificate of {at(upstream)}")
        assert "ca_file" in message
        assert upstream.requests == []


@pytest.mark.parametrize("scheme", UPSTREAMS)
async def test_a_proxy_whose_certificate_nobody_knows(scheme, ca):
    """It is the proxy's, and not the upstream's."""
    async with scene("https", scheme, ca, PLAIN) as (upstream, proxy, relay):
        distrust(relay)
        code, message = await refused(relay)
        assert code == "proxy_protocol"
        assert message.startswith(f"the certificate of proxy {at(proxy)}")
        assert "ca_file" in message
        assert upstream.connections == 0


async def test_a_proxy_with_the_certificate_of_another(ca):
    """A trusted authority is not enough: the name is looked at too."""
    async with (
        upstream_of("https", ca, PLAIN) as upstream,
        HttpProxy(ssl=ca.server_for("other.test")) as proxy,
        relay_to(upstream.url, ca, proxy.url) as relay,
    ):
        code, message = await refused(relay)
        assert code == "proxy_protocol"
        assert message.startswith(f"the certificate of proxy {at(proxy)}")


@pytest.mark.parametrize("kind", ["https", "socks5h"])
async def test_an_upstream_with_the_certificate_of_another(kind, ca):
    """Behind any proxy it is the upstream's name that is looked for."""
    async with (
        Upstream(PLAIN, ssl=ca.server_for("other.test")) as upstream,
        proxy_of(kind, ca) as proxy,
        relay_to(upstream.url, ca, url_of(proxy, kind)) as relay,
    ):
        code, message = await refused(relay)
        assert code == "upstream_tls"
        assert message.startswith(f"the certificate of {at(upstream)} (through {kind}://")


async def test_an_https_url_for_a_plain_proxy(ca):
    """The proxy's URL is wrong, and not the upstream's."""
    async with (
        upstream_of("https", ca, PLAIN) as upstream,
        HttpProxy(garbage=NO_PROXY_HERE) as proxy,
        relay_to(upstream.url, ca, proxy.url_as("https")) as relay,
    ):
        code, message = await refused(relay)
        assert code == "proxy_protocol"
        assert message.startswith(f"proxy {at(proxy)} does not speak TLS: is it an http://")


async def test_an_http_url_for_a_tls_proxy(ca):
    """A plain CONNECT is no TLS handshake: what listens there is not what the URL says."""
    async with (
        upstream_of("https", ca, PLAIN) as upstream,
        HttpProxy(ssl=ca.server) as proxy,
        relay_to(upstream.url, ca, proxy.url_as("http")) as relay,
    ):
        code, message = await refused(relay)
        assert code == "proxy_protocol"
        assert at(proxy) in message


ALERT = bytes.fromhex("15 0303 0002 02 28")
"""RFC 5246, section 7.2: fatal, handshake_failure."""


@pytest.mark.parametrize("kind", [DIRECT, "http", "socks5"])
async def test_an_upstream_that_refuses_the_handshake(kind, ca):
    """It speaks TLS, and says no: http:// would not help."""
    async with (
        HttpProxy(garbage=ALERT) as upstream,
        proxy_of(kind, ca) as proxy,
        relay_to(f"https://{at(upstream)}", ca, url_of(proxy, kind)) as relay,
    ):
        code, message = await refused(relay)
        assert code == "upstream_tls"
        assert f"{at(upstream)}" in message
        assert "refused the TLS handshake" in message


@pytest.mark.parametrize(
    ("text", "says"),
    [(None, "No such file or directory"), ("", "not PEM"), ("no certificate", "not PEM")],
)
async def test_a_ca_file_that_is_none(text, says, tmp_path):
    """The start fails, names the key, and says what was expected."""
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
        assert len(lane._tls.upstream.get_ca_certs()) == 1
