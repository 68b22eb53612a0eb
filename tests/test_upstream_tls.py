"""TLS with the upstream: whom it believes, what it shows, and what it says when it fails.

Trust      client certificates, `server_name`
Failures   which name was expected, which were shown, who issued them
Look       how a certificate that was not accepted is looked at again
Settings   files that are none
"""

import asyncio
import json
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization as form

from clock import FakeClock
from fakes import HttpProxy, SocksProxy, Upstream
from proxying import (
    ALL,
    BODY,
    DIRECT,
    PLAIN,
    STREAM,
    ask,
    at,
    proxy_of,
    refused,
    relay_to,
    stream,
    url_of,
)
from relaying import relaying, settled
from service.settings import SettingsError

pytestmark = pytest.mark.both_loops

WAYS = [DIRECT, "http", "https", "socks4", "socks5h"]
each_way = pytest.mark.parametrize("kind", WAYS)


@pytest.fixture(scope="module")
def firewall():
    """Return an authority that nobody trusts."""
    return trustme.CA(organization_name="Fortinet CA")


def serving(leaf, **settings):
    """Return the TLS of a server with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    for name, value in settings.items():
        setattr(context, name, value)
    return context


def asking_for_certificates(ca, mode=ssl.CERT_REQUIRED):
    """Return the TLS of a server that lets in who has a certificate of the tests' authority."""
    context = ca.server_for("127.0.0.1", "::1", "localhost")
    context.verify_mode = mode
    context.load_verify_locations(ca.file)
    return context


@pytest.fixture(scope="module")
def client(ca, tmp_path_factory):
    """Return the paths of a client's certificate and of its key, and of a file with both."""
    folder = tmp_path_factory.mktemp("client")
    both = ca.write_server(folder / "both.pem", "client.test")
    parts = both.read_text().partition("-----BEGIN CERTIFICATE")
    (folder / "key.pem").write_text(parts[0])
    (folder / "cert.pem").write_text(parts[1] + parts[2])
    return {"cert": str(folder / "cert.pem"), "key": str(folder / "key.pem"), "both": str(both)}


# --- trust


@each_way
@pytest.mark.parametrize("files", ["two", "one"])
async def test_a_client_certificate_is_shown_to_who_asks(files, kind, ca, client):
    """Through every kind of proxy; the key may be in the same file."""
    own = {"client_cert": client["both"]}
    if files == "two":
        own = {"client_cert": client["cert"], "client_key": client["key"]}
    async with (
        Upstream(STREAM, ssl=asking_for_certificates(ca)) as upstream,
        proxy_of(kind, ca) as proxy,
        relay_to(upstream.url, ca, url_of(proxy, kind), **own) as relay,
    ):
        assert await stream(relay) == ALL


@pytest.mark.parametrize("chained", [False, True])
async def test_no_proxy_is_shown_the_certificate(chained, ca, client):
    """Though it asks: it is the upstream's business who the client is."""

    class Curious(HttpProxy):
        """Notes what its clients show."""

        shown: list = []  # noqa: RUF012

        async def speak(self, connection):
            """Note it."""
            self.shown.append(connection.writer.get_extra_info("peercert"))
            await super().speak(connection)

    curious = asking_for_certificates(ca, ssl.CERT_OPTIONAL)
    Curious.shown.clear()
    async with (
        Upstream(PLAIN, ssl=asking_for_certificates(ca)) as upstream,
        Curious(ssl=curious) as proxy,
        SocksProxy() as other,
    ):
        way = [proxy.url_as("https"), other.url_as("socks5h")] if chained else proxy.url_as("https")
        async with relay_to(upstream.url, ca, way, client_cert=client["both"]) as relay:
            assert await ask(relay) == (200, BODY)
        assert proxy.shown in ([{}], [None])


@each_way
async def test_server_name_is_sent_and_verified(kind, ca):
    """Instead of the URL's host, whose certificate it is not; the request's Host stays."""
    seen = []
    tls = ca.server_for("upstream.test")
    tls.sni_callback = lambda _socket, name, _context: seen.append(name)
    async with (
        Upstream(STREAM, ssl=tls) as upstream,
        proxy_of(kind, ca) as proxy,
        relay_to(upstream.url, ca, url_of(proxy, kind), server_name="upstream.test") as relay,
    ):
        assert await stream(relay) == ALL
        assert seen == ["upstream.test"]
        assert upstream.requests[0].get("host") == at(upstream)


@each_way
async def test_a_server_name_that_is_not_the_certificates(kind, ca):
    """The URL's host, which is, does not count."""
    async with (
        Upstream(PLAIN, ssl=ca.server) as upstream,
        proxy_of(kind, ca) as proxy,
        relay_to(upstream.url, ca, url_of(proxy, kind), server_name="other.test") as relay,
    ):
        code, message = await refused(relay)
        assert code == "upstream_tls"
        assert "expected one for other.test, shown was one for 127.0.0.1, ::1, localhost" in message


# --- failures


def expired(ca, _firewall):
    """Return a certificate that is out of time."""
    past = datetime.now(UTC) - timedelta(days=2)
    leaf = ca._authority.issue_cert("127.0.0.1", not_before=past, not_after=past + timedelta(1))
    return serving(leaf), ("has expired", "shown was one for 127.0.0.1", "date of this machine")


def unknown(_ca, firewall):
    """Return a certificate of an authority that nobody knows."""
    words = (
        "issued by 'Fortinet CA', whom this machine does not trust",
        "does a firewall on the way intercept it?",
        "ca_file",
    )
    return serving(firewall.issue_cert("127.0.0.1")), words


def of_another(ca, _firewall):
    """Return a certificate for another name."""
    words = ("expected one for 127.0.0.1, shown was one for other.test issued by '", "server_name")
    return ca.server_for("other.test"), words


@each_way
@pytest.mark.parametrize("how", [expired, unknown, of_another])
async def test_a_certificate_that_is_not_accepted_is_described(how, kind, ca, firewall):
    """Which name was expected, which it has, who issued it; no request and no secret is sent."""
    tls, words = how(ca, firewall)
    async with (
        Upstream(PLAIN, ssl=tls) as upstream,
        proxy_of(kind, ca) as proxy,
        relay_to(upstream.url, ca, url_of(proxy, kind), key="sk-s3cret") as relay,
    ):
        code, message = await refused(relay)
        assert code == "upstream_tls"
        way = "" if kind == DIRECT else f" (through {kind}://{at(proxy)})"
        assert message.startswith(f"the certificate of {at(upstream)}{way} was not accepted: ")
        for each in words:
            assert each in message
        assert upstream.requests == []
        assert len(proxy.targets) == (0 if kind == DIRECT else 2)
        await upstream.until(lambda: upstream.open_connections == 0)
        assert b"s3cret" not in proxy.up


@pytest.mark.parametrize("before", ["http", "socks5h"])
@pytest.mark.parametrize("after", [None, "http", "socks5"])
async def test_an_https_hop_that_is_not_accepted_is_described(before, after, ca, firewall):
    """Wherever it stands in a chain; its credentials are not sent."""
    async with (
        Upstream(PLAIN, ssl=ca.server) as upstream,
        proxy_of(before, ca) as first,
        HttpProxy(ssl=serving(firewall.issue_cert("127.0.0.1")), auth=("me", "s3cret")) as bad,
        proxy_of(after or "http", ca) as last,
    ):
        way = [url_of(first, before), bad.url, *([url_of(last, after)] if after else [])]
        async with relay_to(upstream.url, ca, way) as relay:
            code, message = await refused(relay)
        assert code == "proxy_protocol"
        assert f"the certificate of proxy {at(bad)}, reached through {at(first)}," in message
        assert "expected one for 127.0.0.1" in message
        assert "issued by 'Fortinet CA'" in message
        assert (bad.requests, upstream.connections) == ([], 0)


@each_way
async def test_an_upstream_that_wants_a_certificate_and_gets_none(kind, ca):
    """It hangs up after the handshake (RFC 8446, appendix E.1), and the request is cut."""
    async with (
        Upstream(PLAIN, ssl=asking_for_certificates(ca)) as upstream,
        proxy_of(kind, ca) as proxy,
        relay_to(upstream.url, ca, url_of(proxy, kind)) as relay,
    ):
        _, body = await ask(relay)
        assert json.loads(body)["error"]["code"] == "upstream_cut"
        assert upstream.requests == []


# --- look


class OnlyOnce(SocksProxy):
    """A proxy that lets one connection through, and then says nothing."""

    async def serve(self, connection):
        """Serve, or be silent."""
        self.silent = self.connections > 1
        await super().serve(connection)


async def test_a_look_that_takes_too_long_is_given_up(ca, firewall):
    """Three seconds on the relay's clock; then the message stands without it."""
    clock = FakeClock()
    async with (
        Upstream(PLAIN, ssl=serving(firewall.issue_cert("127.0.0.1"))) as upstream,
        OnlyOnce() as proxy,
        relay_to(upstream.url, ca, proxy.url_as("socks5h"), clock=clock) as relay,
    ):
        asking = asyncio.create_task(refused(relay))
        await proxy.until(lambda: proxy.connections == 2)
        await clock.armed(clock.now() + 3)
        await settled()
        clock.advance(2.999)
        await settled()
        assert not asking.done()
        clock.advance(0.001)
        code, message = await asking
        assert code == "upstream_tls"
        assert "self" in message or "unable to get local issuer certificate" in message
        assert "expected one for 127.0.0.1: does a firewall" in message
        await proxy.until(lambda: proxy.open_connections == 0)


async def test_a_look_at_nothing(ca, firewall):
    """A proxy that refuses the second time, too, changes nothing of the first message."""

    class Refusing(HttpProxy):
        """Lets one connection through."""

        async def speak(self, connection):
            """Serve, or refuse."""
            self.refuse = 502 if self.connections > 1 else None
            await super().speak(connection)

    async with (
        Upstream(PLAIN, ssl=serving(firewall.issue_cert("127.0.0.1"))) as upstream,
        Refusing() as proxy,
        relay_to(upstream.url, ca, proxy.url) as relay,
    ):
        code, message = await refused(relay)
        assert code == "upstream_tls"
        assert message.startswith(f"the certificate of {at(upstream)} (through http://{at(proxy)})")


# --- settings


async def fails(**own):
    """Return the message with which the start fails."""
    lines = "".join(f"{key} = {json.dumps(str(value))}\n" for key, value in own.items())
    with pytest.raises(SettingsError) as refusal:
        async with relaying(toml=f'[[upstream]]\nname = "a"\nurl = "https://a"\n{lines}'):
            pass
    return str(refusal.value)


async def test_files_that_are_none(client, tmp_path):
    """The key is named, and what was expected; nothing is asked of a terminal."""
    no_file, no_pem = tmp_path / "none.pem", tmp_path / "text.pem"
    no_pem.write_text("no certificate")
    cert = client["cert"]
    missing = "No such file or directory: expected a PEM file"
    for own, name, words in [
        ({"client_cert": no_file}, "client_cert", missing),
        ({"client_cert": cert, "client_key": no_file}, "client_key", missing),
        ({"client_cert": no_pem}, "client_cert", "not PEM: expected a PEM file of a certificate"),
        ({"client_cert": cert}, "client_cert", "expected the private key in the same file"),
        ({"client_cert": cert, "client_key": no_pem}, "client_key", "PEM file of a private key"),
        ({"client_cert": tmp_path}, "client_cert", "Is a directory"),
    ]:
        said = await fails(**own)
        assert said.startswith(f"upstream[0].{name} = "), said
        assert words in said


async def test_a_key_of_another_certificate(client, ca, tmp_path):
    """They do not fit together."""
    other = ca.write_server(tmp_path / "other.pem", "other.test")
    said = await fails(client_cert=client["cert"], client_key=other)
    assert said.startswith("upstream[0].client_key = ")
    assert "the certificate's own key" in said


def lock(file, locked):
    """Write the file's key with a passphrase; return where."""
    key = form.load_pem_private_key(file.read_bytes(), None)
    how = form.BestAvailableEncryption(b"s3cret")
    locked.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, how))
    return locked


async def test_a_key_with_a_passphrase(client, tmp_path):
    """OpenSSL would ask the terminal for it."""
    locked = lock(Path(client["key"]), tmp_path / "locked.pem")
    said = await fails(client_cert=client["cert"], client_key=locked)
    assert "expected a private key without a passphrase" in said
