"""What one client can take: bytes of a request, time, streams, memory; and what it is told then.

Uploads   a body that is not JSON goes upstream as it comes; nobody holds it
"""

import asyncio
import json
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

import service.app
import service.web
from fakes import Upstream, chat, chat_frame, reply
from fakes.server import Server
from line import dial, exchange
from relaying import relaying, settled, until
from serving import serving

JSON = ("Content-Type", "application/json")
AUDIO = ("Content-Type", "audio/mpeg")
CHUNKED = ("Transfer-Encoding", "chunked")
ASK = b'{"model": "m", "stream": true}'
ASK_EITHER = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "x"}]}'
OK = reply(200, "{}", content_type="application/json")
KIB = 1024


class Slot(Server):
    """An upstream that shows a request's head and hands over its connection, the body unread."""

    scheme = "http"

    def __init__(self):
        super().__init__()
        self.taken = asyncio.Queue()
        self.done = asyncio.Event()

    async def serve(self, connection):
        """Read the head only."""
        head = await connection.reader.readuntil(b"\r\n\r\n")
        self.taken.put_nowait((head.decode().lower(), connection))
        await self.done.wait()


# --- uploads


async def test_a_body_that_is_not_json_arrives_piece_by_piece():
    """The upstream has the first bytes while the client has not sent the last; the length stays."""
    async with Slot() as upstream, relaying(upstream.url) as relay, dial(relay.port) as line:
        await line.send("POST", "/v1/audio", AUDIO, ("Content-Length", "10"), body=b"first")
        head, connection = await upstream.taken.get()
        assert await connection.reader.readexactly(5) == b"first"
        assert "content-length: 10\r\n" in head
        assert "transfer-encoding" not in head
        await line.write(b"later")
        assert await connection.reader.readexactly(5) == b"later"
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")
        assert (await line.answer()).body == b"OK"
        upstream.done.set()


async def test_a_body_of_unknown_length_arrives_in_chunks():
    """Chunked in, chunked out, and it may be empty."""
    async with Upstream(OK) as upstream, relaying(upstream.url) as relay:
        for body in (b"5\r\nfirst\r\n5\r\nlater\r\n0\r\n\r\n", b"0\r\n\r\n"):
            answer = await exchange(relay.port, "PUT", "/v1/files/1", AUDIO, CHUNKED, body=body)
            assert answer.status == 200
    assert [request.body for request in upstream.requests] == [b"firstlater", b""]
    assert upstream.requests[0].get_all("content-length") == []


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/merge+json", None])
async def test_a_body_that_may_be_json_is_whole_before_it_goes(kind):
    """It is looked into, so that its model decides; what curl and fetch forget to label, too."""
    pairs = [("Content-Type", kind)] if kind else []
    toml = '[[upstream]]\nname = "u"\nurl = "{}/v1"\nmodels = ["m"]\n'
    async with Upstream(OK) as upstream, relaying(toml=toml.format(upstream.url)) as relay:
        assert (await exchange(relay.port, "POST", "/v1/x", *pairs, body=ASK)).status == 200
        other = ASK.replace(b'"m"', b'"n"')
        assert (await exchange(relay.port, "POST", "/v1/x", *pairs, body=other)).status == 404


async def test_a_large_upload_is_not_held():
    """While the upstream does not read, the relay stops reading the client."""
    async with Slot() as upstream, relaying(upstream.url) as relay, dial(relay.port) as line:
        size = 32_000_000
        await line.send("POST", "/v1/audio", AUDIO, ("Content-Length", str(size)))
        sent = []
        sending = asyncio.create_task(send(line, size, sent))
        _, connection = await upstream.taken.get()
        connection.writer.transport.pause_reading()
        await stable(lambda: len(sent))
        assert not sending.done(), "all that does not fit in the kernel waits with the client"
        connection.writer.transport.resume_reading()
        assert len(await connection.reader.readexactly(size)) == size
        await sending
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")
        assert (await line.answer()).body == b"OK"
        upstream.done.set()


async def send(line, size, sent):
    """Send so many bytes, as fast as they are taken; `sent`: the pieces."""
    for _ in range(size // 64_000):
        await line.write(bytes(64_000))
        sent.append(64_000)


async def stable(measure):
    """Return a measure when it no longer moves."""
    before, same = None, 0
    while same < 5:
        await settled()
        now = measure()
        before, same = now, same + 1 if now == before else 0
    return before


@pytest.mark.parametrize("pairs", [[("Content-Length", "11")], [CHUNKED]])
@pytest.mark.parametrize("kind", [JSON, AUDIO])
async def test_a_body_over_the_limit_is_413(kind, pairs):
    """As announced before a byte of it is read, or as it comes; the upstream gets no whole one."""
    body = b"b\r\nhello world\r\n0\r\n\r\n" if pairs == [CHUNKED] else b"hello world"
    toml = "[limits]\nbody = 10"
    async with Upstream(OK) as upstream, relaying(upstream.url, toml=toml) as relay:
        answer = await exchange(relay.port, "POST", "/v1/x", kind, *pairs, body=body)
    assert (answer.status, answer.error["code"]) == (413, "too_large")
    assert "limits.body" in answer.error["message"]
    assert upstream.requests == []


async def test_an_announced_body_over_the_limit_is_not_waited_for():
    """413 comes although no byte of the body was sent."""
    async with Upstream(OK) as upstream, relaying(upstream.url) as relay, dial(relay.port) as line:
        huge = ("Content-Length", str(32 * KIB * KIB + 1))
        await line.send("POST", "/v1/x", AUDIO, huge)
        await line.until(b"(limits.body)")  # the connection lingers for what may be on its way
    assert line.received.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("kind", [JSON, AUDIO])
async def test_a_body_that_does_not_arrive_is_408(clock, kind):
    """After limits.body_timeout, dripped bytes or not."""
    async with Slot() as upstream, relaying(upstream.url, clock=clock) as relay:
        async with dial(relay.port) as line:
            await line.send("POST", "/v1/x", kind, ("Content-Length", "10"), body=b"{")
            await clock.armed(1060)
            clock.advance(30)
            await line.write(b" ")
            await settled()
            await clock.armed(1060)
            clock.advance(29)
            await settled()
            assert line.received == b""
            clock.advance(1)
            await line.until(b"(limits.body_timeout)")
        upstream.done.set()
    assert line.received.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in line.received


async def test_a_slow_upload_is_not_the_upstreams_fault(clock):
    """The upstream's clock stands while the client is waited for, and runs once it has all."""
    toml = "[clocks]\nheaders = 5\n"
    async with Slot() as upstream, relaying(upstream.url, clock=clock, toml=toml) as relay:
        async with dial(relay.port) as line:
            await line.send("POST", "/v1/x", AUDIO, ("Content-Length", "2"), body=b"1")
            _, connection = await upstream.taken.get()
            assert await connection.reader.readexactly(1) == b"1"
            clock.advance(50)
            await settled()
            await line.write(b"2")
            assert await connection.reader.readexactly(1) == b"2"
            await clock.armed(1055)
            clock.advance(5)
            answer = await line.answer()
        upstream.done.set()
    assert answer.error["code"] == "upstream_timeout_headers"


async def test_a_client_that_leaves_an_upload_takes_it_along():
    """The upstream sees the end of a connection whose body is not whole."""
    async with Slot() as upstream, relaying(upstream.url) as relay:
        async with dial(relay.port) as line:
            await line.send("POST", "/v1/x", AUDIO, ("Content-Length", "9"), body=b"1")
            _, connection = await upstream.taken.get()
        await upstream.until(connection.gone.is_set)
        upstream.done.set()
        await until(lambda: len(relay.gateway.streams) == 0)


async def test_a_limited_key_cannot_hide_its_model_in_an_upload():
    """Where the models are limited, a body that nobody looks into is refused."""
    keys = '[server]\nkeys = [{ name = "a", key = "k", models = ["m"] }, "b:free"]\n'
    async with Upstream(OK) as upstream, relaying(upstream.url, toml=keys) as relay:
        pair = ("Teleprinter-Key", "k")
        answer = await exchange(relay.port, "POST", "/v1/x", AUDIO, pair, body=b"1")
        assert (answer.status, answer.error["code"]) == (403, "forbidden")
        pair = ("Teleprinter-Key", "free")
        answer = await exchange(relay.port, "POST", "/v1/x", AUDIO, pair, body=b"1")
        assert answer.status == 200


# --- headers


@pytest.mark.parametrize(
    ("size", "statuses"), [(30 * KIB, {200}), (40 * KIB, {400, 431}), (4000 * KIB, {400, 431})]
)
async def test_a_header_may_have_so_many_bytes(size, statuses):
    """32 KiB; more is refused, and the upstream hears nothing of it."""
    async with Upstream(OK) as upstream, relaying(upstream.url) as relay, dial(relay.port) as line:
        try:
            await line.send("GET", "/v1/models", ("X-Long", "x" * size))
            answer = await line.answer()
        except ConnectionError:  # it hung up while we were still sending
            assert 200 not in statuses
        else:
            assert answer.status in statuses
    assert len(upstream.requests) == (200 in statuses)


async def test_headers_may_be_so_many():
    """A thousand of them are refused."""
    pairs = [(f"X-{number}", "x") for number in range(1000)]
    async with Upstream(OK) as upstream, relaying(upstream.url) as relay:
        assert (await exchange(relay.port, "GET", "/v1/x", *pairs)).status in {400, 431}
    assert upstream.requests == []


async def test_headers_that_do_not_arrive_end_the_connection(monkeypatch):
    """Dripped bytes do not put it off."""
    monkeypatch.setattr(service.app, "_KEEPALIVE", 0.2)
    async with Upstream(OK) as upstream, relaying(upstream.url) as relay, dial(relay.port) as line:
        await line.write(b"GET /healthz HTTP/1.1\r\n")

        async def drip():
            while True:
                await line.write(b"X-A: b\r\n")
                await asyncio.sleep(0.01)

        dripping = asyncio.create_task(drip())
        async with asyncio.timeout(10):
            with suppress(ConnectionError):  # FIN, or RST for a byte that came after it
                assert b"200 OK" not in await line._reader.read()
        dripping.cancel()
        with pytest.raises((asyncio.CancelledError, ConnectionError)):
            await dripping


# --- streams


@pytest.mark.parametrize("path", ["/chat", "/v1/chat/completions"])
async def test_streams_are_bounded_in_all(path):
    """One more is 429 `too_many_streams` with Retry-After; when one has ended, it may begin."""
    async with (
        Upstream() as upstream,
        relaying(upstream.url, toml="[limits]\nstreams = 2") as relay,
        AsyncExitStack() as stack,
    ):
        lines = [await stack.enter_async_context(dial(relay.port)) for _ in range(2)]
        for line in lines:
            await line.send("POST", path, JSON, body=ASK_EITHER)
        _, wire = await upstream.next()
        await upstream.next()
        answer = await exchange(relay.port, "POST", path, JSON, body=ASK_EITHER)
        assert (answer.status, answer.error["code"]) == (429, "too_many_streams")
        assert answer.get("retry-after") == "1"
        assert answer.error["retryable"]
        assert "limits.streams" in answer.error["message"]
        await wire.reply(500, "{}", content_type="application/json")
        await until(lambda: len(relay.gateway.streams) == 1)
        asked = asyncio.create_task(exchange(relay.port, "POST", path, JSON, body=ASK_EITHER))
        _, wire = await upstream.next()
        await wire.reply(200, "{}", content_type="application/json")
        await asked


@pytest.mark.parametrize("bound", ["[limits]\nstreams_per_caller = 1\n", ""])
async def test_streams_are_bounded_for_one_caller(bound):
    """By limits.streams_per_caller or the key's own; another caller's may begin."""
    grant = "" if bound else ", streams = 1"
    keys = f'[server]\nkeys = [{{ name = "a", key = "one"{grant} }}, "b:two"]\n'
    one, two = ("Teleprinter-Key", "one"), ("Teleprinter-Key", "two")
    async with (
        Upstream() as upstream,
        relaying(upstream.url, toml=bound + keys) as relay,
        dial(relay.port) as first,
        dial(relay.port) as second,
    ):
        await first.send("POST", "/v1/chat/completions", JSON, one, body=ASK)
        await upstream.next()
        answer = await exchange(relay.port, "POST", "/v1/chat/completions", JSON, one, body=ASK)
        assert (answer.status, answer.error["code"]) == (429, "too_many_streams")
        assert answer.get("retry-after") == "1"
        await second.send("POST", "/v1/chat/completions", JSON, two, body=ASK)
        await upstream.next()


# --- descriptors


async def test_the_soft_limit_of_descriptors_is_raised(tmp_path):
    """To the hard one, at the start."""
    async with Upstream(OK) as upstream:
        toml = f'[[upstream]]\nname = "u"\nurl = "{upstream.url}/v1"\n'
        many = ("prlimit", "--nofile=64:4000")
        async with serving(tmp_path, toml, prefix=many) as relay:
            limits = Path(f"/proc/{relay.process.pid}/limits").read_text()  # noqa: ASYNC240  no disk
            row = next(line for line in limits.splitlines() if line.startswith("Max open files"))
            assert row.split()[3:5] == ["4000", "4000"]
            assert "descriptors" not in relay.text


async def test_too_few_descriptors_for_the_streams_are_told(tmp_path):
    """The warning names what is there and what limits.streams needs."""
    toml = '[limits]\nstreams = 1000\n[[upstream]]\nname = "u"\nurl = "http://127.0.0.1:9/v1"\n'
    async with serving(tmp_path, toml, prefix=("prlimit", "--nofile=64:500")) as relay:
        [warning] = [json.loads(line) for line in relay.lines if "too few descriptors" in line]
    assert warning["level"] == "warning"
    assert (warning["allowed"], warning["needed"]) == (500, 2064)


# --- a client that reads slowly


@pytest.fixture
def served(monkeypatch):
    """Collect (response, outlet) of what the relay serves."""
    found = []
    serve = service.web.serve

    async def spy(request, response, outlet, leave):
        found.append((response, outlet))
        return await serve(request, response, outlet, leave)

    monkeypatch.setattr(service.web, "serve", spy)
    return found


def held(stream, response, outlet):
    """Return the bytes of one stream that are in the relay's own memory."""
    return {
        "upstream reader": stream.answer._response.content._size,
        "replay": stream.replay.behind,
        "outlet": len(outlet._buffer),
        "transport": response._payload_writer.transport.get_write_buffer_size(),
    }


async def stuffed(upstream, line, size):
    """Let an answer run against a client that does not read, until nothing moves."""
    _, wire = await upstream.next()
    line._writer.transport.pause_reading()
    await wire.head(content_type="text/event-stream")
    sent = 0

    async def fill():
        nonlocal sent
        while True:
            await wire.chunk(chat_frame({"content": "x" * size}) * max(60_000 // size, 1))
            sent += 1

    filling = asyncio.create_task(fill())
    await stable(lambda: sent)
    filling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await filling
    return wire


@pytest.mark.parametrize("path", ["/chat", "/v1/chat/completions"])
@pytest.mark.parametrize("size", [20, 1000, 15_000])
async def test_a_slow_reader_holds_256_kib_at_most(served, path, size):
    """Of the relay's memory, all places together; the rest waits in the kernel and upstream."""
    async with Upstream() as upstream, relaying(upstream.url) as relay, dial(relay.port) as line:
        await line.send("POST", path, JSON, body=ASK_EITHER)
        await stuffed(upstream, line, size)
        places = held(relay.streams[0], *served[0])
    print(places)  # noqa: T201
    assert sum(places.values()) <= 256 * KIB, places
    assert places["transport"] > 0


@pytest.mark.parametrize("path", ["/chat", "/v1/chat/completions"])
async def test_a_reader_that_takes_nothing_is_cut(clock, served, path):
    """After send_timeout the upstream is cancelled, and the outcome is `slow`."""
    toml = "[limits]\nsend_timeout = 7\n[clocks]\nidle = 0\n[heartbeat]\nafter = 0\n"
    async with (
        Upstream() as upstream,
        relaying(upstream.url, clock=clock, toml=toml) as relay,
        dial(relay.port) as line,
    ):
        await line.send("POST", path, JSON, body=ASK_EITHER)
        wire = await stuffed(upstream, line, 1000)
        await clock.armed(1007)
        clock.advance(6.9)
        await settled()
        assert not wire.closed.is_set()
        clock.advance(0.2)
        await upstream.until(wire.closed.is_set)
        await until(lambda: len(relay.gateway.streams) == 0)
        text = relay.gateway.metrics.expose()[0].decode()
        assert 'teleprinter_streams_total{outcome="slow",upstream="127.0.0.1"} 1.0' in text


async def test_a_slow_reader_gets_all_in_the_end():
    """Nothing is lost by the pause."""
    frames = chat(["x" * 10_000] * 300)
    async with Upstream() as upstream, relaying(upstream.url) as relay, dial(relay.port) as line:
        await line.send("POST", "/v1/chat/completions", JSON, body=ASK)
        _, wire = await upstream.next()
        line._writer.transport.pause_reading()
        await wire.head(content_type="text/event-stream")
        sending = asyncio.create_task(wire.chunk(b"".join(frames)))
        await settled()
        line._writer.transport.resume_reading()
        await sending
        await wire.end()
        answer = await line.answer()
    assert answer.body == b"".join(frames)
    assert answer.whole


async def test_a_lump_of_frames_goes_out_whole():
    """A reader of a kept stream takes a window at a time, and then the rest, unasked."""
    large = chat_frame({"content": "x", "ignored": "y" * 15_000})
    frames = [chat_frame({"content": "y"})] * 60
    toml = "[chat]\nkeep = 60\n"
    async with (
        Upstream() as upstream,
        relaying(upstream.url, toml=toml) as relay,
        dial(relay.port) as line,
    ):
        await line.send("POST", "/chat", JSON, body=ASK_EITHER)
        _, wire = await upstream.next()
        await wire.head(content_type="text/event-stream")
        await wire.chunk(chat_frame({"content": "Hi"}) + large[:12_000])
        await line.until(b'{"content":"Hi"}')
        await wire.chunk(large[12_000:] + b"".join(frames))
        await line.until(b".62\nevent: answer")
