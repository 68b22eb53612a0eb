"""The fakes do what their docstrings say, on both event loops."""

import asyncio
import socket
import struct
from contextlib import suppress

import aiohttp
import pytest
from aiohttp_socks import ProxyConnector, ProxyError, ProxyType

from clock import PATIENCE, FakeClock
from fakes import Dial, HttpProxy, SocksProxy, Upstream, begun, chat, frame, in_turn, reply, sse

pytestmark = pytest.mark.both_loops

GET = b"GET /x?q=%2F HTTP/1.1\r\nHost: a\r\nX-b: 1\r\nx-B: 2\r\n\r\n"
DIRECT_TIMEOUT = aiohttp.ClientTimeout(total=10)


async def talk(port, data=b""):
    """Connect, send, return (reader, writer)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    await writer.drain()
    return reader, writer


async def leave(writer):
    """Close; the other side may have reset the connection."""
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def fetch(url, *, connector=None, **options):
    """GET or POST through aiohttp; return (status, body)."""
    async with (
        aiohttp.ClientSession(connector=connector, timeout=DIRECT_TIMEOUT) as session,
        session.request(options.pop("method", "GET"), url, **options) as response,
    ):
        return response.status, await response.read()


def socks(proxy, kind=ProxyType.SOCKS5, *, rdns=True, auth=(None, None), **options):
    """Return aiohttp-socks' connector for a fake proxy."""
    user, password = auth
    return ProxyConnector(
        proxy_type=kind,
        host="127.0.0.1",
        port=proxy.port,
        username=user,
        password=password,
        rdns=rdns,
        **options,
    )


# --- the upstream


async def test_a_request_is_recorded_as_it_came():
    """Target, order and spelling of headers stay; `get` finds them in any case."""
    async with Upstream(reply(200, b"ok", X_Kind="plain")) as upstream:
        reader, writer = await talk(upstream.port, GET)
        answer = await reader.readuntil(b"ok")
        await leave(writer)
        (request,) = upstream.requests
    assert request.target == "/x?q=%2F"
    assert request.headers == [("Host", "a"), ("X-b", "1"), ("x-B", "2")]
    assert request.get_all("X-B") == ["1", "2"]
    assert request.head == GET
    assert answer.startswith(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Kind: plain\r\n\r\n")


async def test_a_chunked_body_is_recorded_without_its_frames():
    """A body may come in chunks, with extensions and trailers."""
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b'2;x=y\r\n{"\r\n5\r\na":1}\r\n0\r\nTrailer: x\r\n\r\n'
    async with Upstream(reply()) as upstream:
        reader, writer = await talk(upstream.port, head + body)
        await reader.readline()
        await leave(writer)
        assert upstream.requests[0].json() == {"a": 1}


async def test_a_connection_carries_several_requests():
    """Keep-alive after a sized and after a chunked response; HEAD gets no body."""
    async with Upstream(in_turn(reply(200, "one"), sse(b"two"), reply(200, "none"))) as upstream:
        async with aiohttp.ClientSession() as session:
            for method, body in [("GET", b"one"), ("GET", b"two"), ("HEAD", b"")]:
                async with session.request(method, upstream.url) as response:
                    assert await response.read() == body
        assert upstream.connections == 1
        assert len(upstream.requests) == 3


async def test_each_frame_is_one_chunk_and_a_split_makes_smaller_ones():
    """`sse` keeps frames whole, `split` cuts the bytes evenly."""
    frames = chat(["Hé"], role=False, finish=None)
    async with Upstream(in_turn(sse(*frames), sse(*frames, split=7))) as upstream:
        whole, cut = [await read_chunks(upstream.url) for _ in range(2)]
    assert whole == frames
    assert b"".join(cut) == b"".join(frames)
    assert {len(piece) for piece in cut[:-1]} == {7}


async def read_chunks(url):
    """Return the HTTP chunks of a response."""
    chunks, current = [], b""
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        async for data, end in response.content.iter_chunks():
            current += data
            if end and current:
                chunks.append(current)
                current = b""
    return chunks


def test_chat_has_the_frames_of_the_api():
    """Role, tokens, finish, usage, [DONE]; each can be left out."""
    frames = chat(["a"], usage={"total_tokens": 3})
    assert [b'"role"' in one for one in frames] == [True, False, False, False, False]
    assert b'"content":"a"' in frames[1]
    assert b'"finish_reason":"stop"' in frames[2]
    assert b'"choices":[]' in frames[3]
    assert b'"usage":{"total_tokens":3}' in frames[3]
    assert frames[4] == b"data: [DONE]\n\n"
    assert len(chat(["a"], role=False, finish=None, done=False)) == 1


def test_a_frame_names_its_event_and_splits_lines():
    """One data line for each line of the text."""
    assert frame("a\nb", event="e") == b"event: e\ndata: a\ndata: b\n\n"


async def test_the_test_itself_can_answer():
    """Without a script the test holds the wire; bytes go out when it says so."""
    async with Upstream() as upstream:
        reader, writer = await talk(upstream.port, GET)
        request, wire = await upstream.next()
        assert request.method == "GET"
        await wire.send(b"HTTP/1.1 200 OK\r\n")
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        assert not wire.closed.is_set()
        await leave(writer)
        await wire.closed.wait()


async def test_it_sees_fin_and_reset_while_a_script_waits():
    """`closed` is set, `open_connections` falls, though nobody reads or writes."""
    for rst in (False, True):
        async with Upstream() as upstream:
            _, writer = await talk(upstream.port, GET)
            _, wire = await upstream.next()
            assert upstream.open_connections == 1
            if rst:
                writer.transport.abort()
            await leave(writer)
            await upstream.until(lambda upstream=upstream: upstream.open_connections == 0)
            assert wire.closed.is_set()


async def test_reset_sends_rst_and_close_sends_fin():
    """A reset is an error for the client, a close an end; what was sent before arrives."""
    async with Upstream() as upstream:
        reader, writer = await talk(upstream.port, GET)
        _, wire = await upstream.next()
        await wire.send(b"x")
        wire.reset()
        assert await reader.readexactly(1) == b"x"
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await leave(writer)
        reader, writer = await talk(upstream.port, GET)
        _, wire = await upstream.next()
        await wire.send(b"x")
        wire.close()
        assert await reader.read() == b"x"
        await leave(writer)


async def test_a_response_without_its_end_is_cut():
    """The client sees an incomplete body."""
    async with Upstream(sse(b"data: 1\n\n", end=False)) as upstream:
        with pytest.raises(aiohttp.ClientPayloadError):
            await fetch(upstream.url)


async def test_a_body_can_end_with_the_connection():
    """chunked=False and no length: EOF is the end."""

    async def script(_request, wire):
        await wire.head(chunked=False)
        await wire.send(b"till the end")

    async with Upstream(script) as upstream:
        assert await fetch(upstream.url) == (200, b"till the end")


async def test_send_waits_for_a_client_that_does_not_read():
    """Back-pressure: 64 MB are more than the kernel's buffers take."""
    size = 64 << 20
    async with Upstream() as upstream:
        reader, writer = await talk(upstream.port, GET)
        _, wire = await upstream.next()
        sending = asyncio.create_task(wire.send(bytes(size)))
        await reader.readexactly(1)
        assert not sending.done()
        await reader.readexactly(size - 1)
        await sending
        await leave(writer)


async def test_what_a_script_raises_fails_the_test():
    """An assertion inside a script is not lost."""

    async def script(_request, _wire):
        raise AssertionError("wrong request")

    async def ask():
        async with Upstream(script) as upstream:
            with pytest.raises(aiohttp.ServerDisconnectedError):
                await fetch(upstream.url)

    with pytest.raises(AssertionError, match="wrong request"):
        await ask()


async def test_it_closes_with_open_connections():
    """The end of `async with` waits for nobody; the port is free again."""
    async with Upstream() as upstream:
        reader, writer = await talk(upstream.port, GET)
        await upstream.next()
    with suppress(ConnectionResetError):
        assert await reader.read() == b""
    await leave(writer)
    with pytest.raises(ConnectionRefusedError):
        await talk(upstream.port)


@pytest.mark.parametrize("turns", range(8))
async def test_it_closes_whom_it_let_in_at_the_end(turns):
    """A client that comes while it closes, however far it has come in, finds the end too."""
    with socket.socket() as client:
        async with Upstream() as upstream:
            client.connect(("127.0.0.1", upstream.port))  # the kernel lets it in at once
            for _ in range(turns):
                await asyncio.sleep(0)
        client.settimeout(0)
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionResetError):
                assert await asyncio.get_running_loop().sock_recv(client, 1) == b""


async def test_it_speaks_tls(ca):
    """With the CA's context, to clients that trust it and no others."""
    async with Upstream(reply(200, "hi"), ssl=ca.server) as upstream:
        assert upstream.url.startswith("https://127.0.0.1:")
        assert await fetch(upstream.url, ssl=ca.client) == (200, b"hi")
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await fetch(upstream.url)


async def test_a_reset_reaches_a_tls_client(ca):
    """RST under TLS."""
    async with Upstream(ssl=ca.server) as upstream:
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port, ssl=ca.client)
        writer.write(GET)
        _, wire = await upstream.next()
        wire.reset()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await leave(writer)


# --- the HTTP proxy


async def test_http_proxy_connects_and_forwards(ca):
    """CONNECT for https, absolute-form for http; both are recorded as the client wrote them."""
    async with (
        Upstream(reply(200, "tls"), ssl=ca.server) as tls,
        Upstream(reply(200, "plain")) as plain,
        HttpProxy() as proxy,
    ):
        assert await fetch(tls.url, proxy=proxy.url, ssl=ca.client) == (200, b"tls")
        assert await fetch(plain.url + "/a?b", proxy=proxy.url) == (200, b"plain")
        assert plain.requests[0].target == "/a?b"
        assert proxy.connects == 1
        assert proxy.connections == 2
        assert proxy.targets == [f"127.0.0.1:{tls.port}", f"127.0.0.1:{plain.port}"]
        assert proxy.requests[1].target == plain.url + "/a?b"
        assert b"plain" in proxy.down
        assert b"tls" not in proxy.down


async def test_http_proxy_forwards_many_requests_of_one_connection():
    """Absolute-form keeps alive, also to another target, and passes bodies on."""
    async with (
        Upstream(reply(200, "1")) as one,
        Upstream(reply(200, "2")) as two,
        HttpProxy() as proxy,
        aiohttp.ClientSession() as session,
    ):
        for upstream, body in [(one, b"1"), (one, b"1"), (two, b"2")]:
            async with session.post(upstream.url, data=b"body", proxy=proxy.url) as response:
                assert await response.read() == body
                assert upstream.requests[-1].body == b"body"
        assert one.connections == 1


async def test_http_proxy_asks_for_a_password():
    """407 without it; with it the upstream does not see it."""
    async with Upstream(reply(200, "hi")) as upstream, HttpProxy(auth=("me", "p@:ss")) as proxy:
        assert await fetch(upstream.url, proxy=proxy.url) == (200, b"hi")
        bare = f"http://127.0.0.1:{proxy.port}"
        assert (await fetch(upstream.url, proxy=bare))[0] == 407
        assert "proxy-authorization" not in upstream.requests[0].names()
        assert len(upstream.requests) == 1


async def test_http_proxy_knows_names_of_its_own(ca):
    """A name in `resolve` works; one that is not there never leaves the machine."""
    async with Upstream(reply(200, "hi"), ssl=ca.server) as upstream, HttpProxy() as proxy:
        proxy.resolve = {"upstream.test": ("127.0.0.1", upstream.port)}
        url = "https://upstream.test/"
        assert await fetch(url, proxy=proxy.url, ssl=ca.client) == (200, b"hi")
        assert proxy.targets == ["upstream.test:443"]
        with pytest.raises(aiohttp.ClientHttpProxyError, match="502"):
            await fetch("https://nowhere.test/", proxy=proxy.url)


async def test_http_proxy_fails_as_told(ca):
    """Refusal, silence, garbage, answers in pieces; options may change while it runs."""
    async with (
        Upstream(reply(200, "hi"), ssl=ca.server) as upstream,
        HttpProxy(pieces=1) as proxy,
    ):
        assert await fetch(upstream.url, proxy=proxy.url, ssl=ca.client) == (200, b"hi")
        proxy.refuse = 403
        with pytest.raises(aiohttp.ClientHttpProxyError, match="403"):
            await fetch(upstream.url, proxy=proxy.url)
        proxy.garbage = b"SSH-2.0-OpenSSH\r\n"
        with pytest.raises(aiohttp.ClientError):
            await fetch(upstream.url, proxy=proxy.url)
        proxy.silent = True
        with pytest.raises(TimeoutError):
            await fetch(upstream.url, proxy=proxy.url, timeout=aiohttp.ClientTimeout(total=0.2))
        assert len(upstream.requests) == 1


async def test_http_proxy_over_tls(ca):
    """A proxy behind TLS, to a target behind TLS."""
    async with (
        Upstream(reply(200, "hi"), ssl=ca.server) as upstream,
        HttpProxy(ssl=ca.server) as proxy,
    ):
        assert proxy.url.startswith("https://")
        assert await fetch(upstream.url, proxy=proxy.url, ssl=ca.client) == (200, b"hi")


async def test_a_stream_that_has_begun_goes_on():
    """`begun` sends head and frames, and leaves the rest to the test."""
    async with Upstream() as upstream:
        asked = asyncio.create_task(fetch(upstream.url))
        wire = await begun(upstream, b"data: 1\n\n", b"data: 2\n\n")
        await wire.chunk(b"data: 3\n\n")
        await wire.end()
        assert await asked == (200, b"data: 1\n\ndata: 2\n\ndata: 3\n\n")


async def test_a_tunnel_ends_at_both_ends():
    """The client's leaving reaches the target, the target's the client, at once."""
    async with Upstream() as upstream, HttpProxy() as proxy:
        for who in ("client", "target"):
            reader, writer = await talk(
                proxy.port, b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\n" % upstream.port
            )
            await reader.readuntil(b"\r\n\r\n")
            writer.write(GET)
            _, wire = await upstream.next()
            if who == "client":
                await leave(writer)
                await wire.closed.wait()
            else:
                wire.close()
                assert await reader.read() == b""
                await leave(writer)
        await proxy.until(lambda: proxy.open_connections == 0)


@pytest.mark.parametrize(
    ("kind", "asks"),
    [
        (HttpProxy, b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\n"),
        (SocksProxy, b"\5\1\0\5\1\0\1\x7f\0\0\1%c%c"),
        (SocksProxy, b"\4\1%c%c\x7f\0\0\1me\0"),
    ],
    ids=["http", "socks5", "socks4"],
)
async def test_a_client_that_leaves_during_the_dial_leaves_no_target(kind, asks):
    """What was dialled for it is closed, though it is never told."""
    dialled = asyncio.Event()

    class Slow(kind):
        async def dial(self, host, port):
            stream = await super().dial(host, port)
            dialled.set()
            await self.until(lambda: self.open_connections == 0)
            return stream

    async with Upstream() as upstream, Slow() as proxy:
        port = (upstream.port,) if kind is HttpProxy else divmod(upstream.port, 256)
        _, writer = await talk(proxy.port, asks % port)
        await dialled.wait()
        rst = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, rst)
        writer.transport.abort()
        await upstream.until(lambda: upstream.connections and not upstream.open_connections)


async def test_connections_can_be_reset_from_outside():
    """As when a proxy's process is killed."""
    async with Upstream() as upstream, HttpProxy() as proxy:
        request = asyncio.create_task(fetch(upstream.url, method="POST", proxy=proxy.url))
        _, wire = await upstream.next()
        proxy.reset_connections()
        with pytest.raises(aiohttp.ClientOSError):
            await request
        await wire.closed.wait()


# --- the SOCKS proxy


@pytest.mark.parametrize(
    ("kind", "rdns", "dial"),
    [
        (ProxyType.SOCKS5, True, ("5", "name", "upstream.test")),
        (ProxyType.SOCKS5, False, ("5", "ipv4", "127.0.0.1")),
        (ProxyType.SOCKS4, True, ("4a", "name", "upstream.test")),
        (ProxyType.SOCKS4, False, ("4", "ipv4", "127.0.0.1")),
    ],
)
async def test_socks_versions(kind, rdns, dial):
    """SOCKS 4, 4a, 5, with a name or an address, which is recorded as it came."""
    version, what, host = dial
    async with Upstream(reply(200, "hi")) as upstream, SocksProxy() as proxy:
        proxy.resolve = {"upstream.test": ("127.0.0.1", upstream.port)}
        url = f"http://{host}:{upstream.port}/"
        assert await fetch(url, connector=socks(proxy, kind, rdns=rdns)) == (200, b"hi")
        assert proxy.targets == [Dial(version, what, host, upstream.port)]
        assert b"GET / HTTP/1.1" in proxy.up


@pytest.mark.parametrize("kind", [ProxyType.SOCKS5, ProxyType.SOCKS4])
async def test_socks_asks_for_a_password(kind):
    """The right one opens, another or none does not. SOCKS4 has a user only."""
    auth = ("me", "pass") if kind == ProxyType.SOCKS5 else ("me", None)
    async with Upstream(reply(200, "hi")) as upstream, SocksProxy(auth=("me", "pass")) as proxy:
        assert await fetch(upstream.url, connector=socks(proxy, kind, auth=auth)) == (200, b"hi")
        for wrong in [("you", "pass"), (None, None)]:
            with pytest.raises(ProxyError):
                await fetch(upstream.url, connector=socks(proxy, kind, auth=wrong))
        assert proxy.url == f"socks5://me:pass@127.0.0.1:{proxy.port}"
        assert proxy.url_as("socks5h").startswith("socks5h://me:pass@")


async def test_socks_fails_as_told():
    """Refusal with a code, garbage, silence; names that it does not know are refused."""
    async with Upstream(reply(200, "hi")) as upstream, SocksProxy(pieces=1) as proxy:
        assert await fetch(upstream.url, connector=socks(proxy)) == (200, b"hi")
        with pytest.raises(ProxyError):
            await fetch("http://nowhere.test/", connector=socks(proxy))
        proxy.refuse = 2
        with pytest.raises(ProxyError) as refused:
            await fetch(upstream.url, connector=socks(proxy))
        assert refused.value.error_code == 2
        proxy.garbage = b"HTTP/1.1 400 Bad Request\r\n\r\n"
        with pytest.raises(ProxyError):
            await fetch(upstream.url, connector=socks(proxy))
        proxy.silent = True
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await fetch(upstream.url, connector=socks(proxy))


# --- the clock


def test_the_clock_fires_in_order_each_at_its_time():
    """Also what is put off while it moves; what is cancelled or later does not fire."""
    clock, seen = FakeClock(), []
    clock.call_at(1002, lambda: seen.append(("b", clock.now())))
    clock.call_at(1001, lambda: clock.call_at(1001.5, lambda: seen.append(("a", clock.now()))))
    clock.call_at(1001, lambda: seen.append(("c", clock.now()))).cancel()
    late = clock.call_at(1003.000001, lambda: seen.append(("late", clock.now())))
    clock.advance(3)
    assert seen == [("a", 1001.5), ("b", 1002)]
    assert clock.now() == 1003
    assert clock.next_due() == 1003.000001
    late.cancel()
    assert clock.next_due() is None


def test_the_clock_does_not_drift():
    """Ten tenths are one."""
    clock, seen = FakeClock(), []
    clock.call_at(1001, lambda: seen.append(clock.now()))
    for _ in range(10):
        clock.advance(0.1)
    assert seen == [1001]


async def test_armed_waits_for_a_timer():
    """The test goes on when the code under test waits for that moment."""
    clock = FakeClock()
    waiting = asyncio.create_task(clock.armed(1005))
    asyncio.get_running_loop().call_soon(clock.call_at, 1004, print)
    assert await clock.armed() == 1004
    assert not waiting.done()
    clock.call_at(1005, print)
    assert await waiting == 1005
