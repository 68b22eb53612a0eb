"""What the tests of proxies share: fakes of every kind, a relay through them, and questions to it.

async with scene("socks5h", "https", ca, STREAM, auth=LOGIN) as (upstream, proxy, relay):
    assert await stream(relay) == ALL
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec

from clock import FakeClock
from conftest import Authority
from fakes import HttpProxy, Request, Script, SocksProxy, Upstream, Wire, chat, reply, sse
from fakes.tunnel import Proxy
from relaying import Event, Relay, events, relaying, until

KINDS = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"]
DIRECT = "direct"
UPSTREAMS = ["http", "https"]
LOGIN = ("me", "s3cret")
PATH = "/v1/chat/completions"
ASKED = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
FRAMES = chat(["Hel", "lo"], usage={"total_tokens": 3})
ALL = b"".join(FRAMES)
STREAM = sse(*FRAMES)
BODY = b'{"object": "chat.completion", "choices": []}'
PLAIN = reply(200, BODY, content_type="application/json")
NO_PROXY_HERE = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
CONNECT = 10
"""Seconds of the clock `connect`, as by default."""


async def either(request: Request, wire: Wire) -> None:
    """Stream if a stream is asked for."""
    await (STREAM if request.json().get("stream") else PLAIN)(request, wire)


def proxy_of(kind: str, ca: Authority, **options: Any) -> Proxy:
    """Return a fake proxy of that kind."""
    if kind.startswith("socks"):
        return SocksProxy(**options)
    return HttpProxy(ssl=ca.server if kind == "https" else None, **options)


def url_of(proxy: Proxy, kind: str) -> str:
    """Return the proxy's URL as a user of that kind writes it; `direct` has none.

    SOCKS4 has room for a user name, and not for a password.
    """
    if kind == DIRECT:
        return DIRECT
    scheme, _, rest = proxy.url_as(kind).partition("://")
    login, at, host = rest.rpartition("@")
    user = login.partition(":")[0] if kind.startswith("socks4") else login
    return f"{scheme}://{user}{at}{host}"


def self_signed(folder: Path, *names: str) -> tuple[ssl.SSLContext, Path]:
    """Return the TLS of a server with a certificate of its own making, and that as a PEM file."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(1))
        .not_valid_after(now + timedelta(1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    alternatives = [x509.IPAddress(ip_address(each)) for each in names]
    builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    made = builder.sign(key, hashes.SHA256()).public_bytes(form.Encoding.PEM)
    plain = form.PrivateFormat.PKCS8, form.NoEncryption()
    (folder / "own.pem").write_bytes(made)
    (folder / "own.key").write_bytes(key.private_bytes(form.Encoding.PEM, *plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "own.pem", folder / "own.key")
    return context, folder / "own.pem"


def at(server: Any) -> str:
    """Return 127.0.0.1:PORT of a fake."""
    return f"127.0.0.1:{server.port}"


def upstream_of(scheme: str, ca: Authority, script: Script | None = None) -> Upstream:
    """Return a fake upstream that speaks HTTP, or HTTP over TLS."""
    return Upstream(script, ssl=ca.server if scheme == "https" else None)


def relay_to(
    url: str,
    ca: Authority,
    *ways: str | list[str],
    clock: FakeClock | None = None,
    environ: Mapping[str, str] | None = None,
    clocks: str = "",
    **own: str,
) -> AbstractAsyncContextManager[Relay]:
    """Run a relay with one upstream, which trusts the tests' authority, through these proxies.

    A way that is a list is a chain; `clocks` is the text of a table, `own` the upstream's own keys.
    """
    pool = f'[[pool]]\nname = "ways"\nproxies = {json.dumps(ways)}\n' if ways else ""
    upstream = f'name = "api"\nurl = "{url}/v1"\nca_file = {json.dumps(str(ca.file))}\n'
    upstream += "".join(f"{key} = {json.dumps(value)}\n" for key, value in own.items())
    toml = f"[clocks]\n{clocks}\n[[upstream]]\n{upstream}{pool}"
    return relaying(toml=toml, clock=clock, environ=environ)


class Scene(NamedTuple):
    """An upstream, a proxy and a relay between them."""

    upstream: Upstream
    proxy: Any
    relay: Relay


@asynccontextmanager
async def scene(  # noqa: PLR0913  each is a part of it
    kind: str,
    scheme: str,
    ca: Authority,
    script: Script | None = None,
    *,
    host: str = "127.0.0.1",
    clock: FakeClock | None = None,
    **options: Any,
) -> AsyncIterator[Scene]:
    """Set up all three; `host` is the upstream's in its URL, the options are the proxy's."""
    async with upstream_of(scheme, ca, script) as upstream, proxy_of(kind, ca, **options) as proxy:
        url = f"{scheme}://{host}:{upstream.port}"
        async with relay_to(url, ca, url_of(proxy, kind), clock=clock) as relay:
            yield Scene(upstream, proxy, relay)


async def ask(relay: Relay) -> tuple[int, bytes]:
    """Ask for a plain answer; return its status and its body."""
    async with relay.post(PATH, ASKED) as response:
        return response.status, await response.read()


async def ask_by_hand(relay: Relay, upstream: Upstream) -> bytes:
    """Ask for a plain answer, which is sent by hand; return its body."""
    asking = asyncio.create_task(ask(relay))
    _, wire = await upstream.next()
    await wire.reply(200, BODY, content_type="application/json")
    return (await asking)[1]


async def refused(relay: Relay) -> tuple[str, str]:
    """Ask for a plain answer where nothing can be dialled; return the error's code and message."""
    status, body = await ask(relay)
    error = json.loads(body)["error"]
    assert status in {502, 504}, error
    assert error["stage"] == "dial"
    return error["code"], error["message"]


async def stream(relay: Relay) -> bytes:
    """Ask for a stream; return its bytes."""
    async with relay.stream() as response:
        return await response.read()


async def stream_by_halves(relay: Relay, upstream: Upstream) -> bytes:
    """Ask for a stream whose second half is sent when the first has arrived; return its bytes."""
    first, second = b"".join(FRAMES[:2]), b"".join(FRAMES[2:])
    beginning = asyncio.create_task(begin(upstream, first))
    async with relay.stream() as response:
        wire = await beginning
        assert await response.content.readexactly(len(first)) == first
        await wire.chunk(second)
        await wire.end()
        return first + await response.read()


async def begin(upstream: Upstream, data: bytes) -> Wire:
    """Begin the next request's stream with these bytes."""
    _, wire = await upstream.next()
    await wire.head(content_type="text/event-stream")
    await wire.chunk(data)
    return wire


async def last_event(relay: Relay) -> Event:
    """Ask /chat; return its last event."""
    last = None
    async with relay.get("/chat", question="Hi") as response:
        async for event in events(response):
            last = event
            if last.name in {"done", "error"}:
                break
    assert last is not None
    return last


def idle(relay: Relay) -> int:
    """Return how many connections are kept for the next request."""
    (lane,) = relay.gateway._lanes.values()
    connectors = [session.connector for session in lane._sessions.values()]
    kept = [pair for each in connectors for pairs in each._conns.values() for pair in pairs]
    return sum(protocol.is_connected() for protocol, _ in kept)


async def rested(relay: Relay, count: int = 1) -> None:
    """Wait until so many connections are kept: a client may be done before the relay is."""
    await until(lambda: idle(relay) == count)
