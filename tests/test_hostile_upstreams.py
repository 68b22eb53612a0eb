r"""Upstreams and proxies that mean harm, or are broken: what the client is told, what is left.

Heads      status lines and headers that are none, or that would be more than they seem
Bodies     longer, shorter or other than announced, packed, with trailers
Floods     what never ends: the relay gives up after a bounded number of bytes, or by its clock
Callers    nothing of one caller's answer is another's: cookies, answers that nobody asked for
Proxies    answers to CONNECT and to SOCKS handshakes

A table is asked through one relay, case by case; after each case a good request is served.
"""

import gzip
import json
import zlib
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import aiohttp.compression_utils
import pytest
from structlog.testing import capture_logs

from fakes import HttpProxy, SocksProxy, Upstream, chat, chat_frame, reply
from line import dial, exchange
from proxying import BODY, relay_to, upstream_of
from relaying import relaying, settled, until

pytestmark = pytest.mark.usefixtures("heard_at_once")

JSON = ("Content-Type", "application/json")
PATH = "/v1/chat/completions"
PLAINLY = b'{"model": "m", "messages": [{"role": "user", "content": "Hi"}]}'
STREAMED = PLAINLY[:-1] + b', "stream": true}'
GOOD = b'{"fine": true}'
KIB, MIB = 1024, 1024 * 1024
ALL = b"".join(chat(["Hi"]))
TOKEN = chat_frame({"content": "Hi"})


class Told(NamedTuple):
    """What a client is told: status, the error's code if it is the relay's; the line in the log."""

    status: int
    code: str | None
    outcome: str
    whole: bool = True


MALFORMED = Told(502, "upstream_malformed", "error")
CUT = Told(502, "upstream_cut", "cut")
SERVED = Told(200, None, "ok")
TORN = Told(200, None, "cut", whole=False)


def answer(*fields, body=b"{}", start=b"HTTP/1.1 200 OK", sized=True):
    """Return an answer's bytes; Content-Length unless a field says how long it is."""
    said = b"".join(fields).lower()
    sized = sized and b"content-length" not in said and b"transfer-encoding" not in said
    size = [b"Content-Length: %d" % len(body)] if sized else []
    kind = [] if b"content-type" in said else [b"Content-Type: application/json"]
    return b"\r\n".join([start, *kind, *size, *fields, b"", body])


class Hostile(Upstream):
    """An upstream that answers `said` and hangs up; to /v1/good it is good.

    taken   the bytes that were sent before the relay hung up, of what never ends
    """

    def __init__(self):
        super().__init__(self._answer)
        self.said = b""
        self.taken = 0

    async def _answer(self, request, wire):
        if request.target == "/v1/good":
            return await wire.reply(200, GOOD, content_type="application/json")
        if isinstance(self.said, bytes):
            await wire.send(self.said)
            return wire.close()
        self.taken = 0
        with suppress(OSError):
            for data in self.said:
                await wire.send(data)
                self.taken += len(data)
        return await wire.closed.wait()


async def said_to(relay, body=PLAINLY, path=PATH):
    """Ask, wait until the stream is over; return the answer and what the client was told."""
    with capture_logs() as logs:
        found = await exchange(relay.port, "POST", path, JSON, body=body)
        await until(lambda: not relay.streams)
        await until(lambda: any(line["event"] == "request" for line in logs))
    [line] = [line for line in logs if line["event"] == "request"]
    assert not [line for line in logs if line["event"] not in {"request", "proxy is down"}]
    return found, Told(found.status, code_of(found), line["outcome"], found.whole)


def code_of(found):
    """Return the code of the relay's own error in an answer, None if there is none."""
    last = found.body.rpartition(b"data: ")[2].strip()
    try:
        error = json.loads(last)
        error = error.get("error", error)
    except ValueError:
        return None
    return error.get("code") if isinstance(error, dict) else None


async def served(relay):
    """Check that the next request is served."""
    found = await exchange(relay.port, "GET", "/v1/good")
    assert (found.status, found.body) == (200, GOOD)


async def asked(cases, body=PLAINLY):
    """Ask for each of the answers; return what the client was told of each, and each answer."""
    seen, answers = {}, {}
    async with Hostile() as upstream, relaying(upstream.url) as relay:
        for name, said in cases.items():
            upstream.said = said
            answers[name], seen[name] = await said_to(relay, body)
            await served(relay)
            await upstream.until(lambda: upstream.open_connections <= 1)  # the good one's
    return seen, answers


# --- heads

HEADS = {
    "nothing": (b"", CUT),
    "half a status line": (b"HTTP/1.1 20", CUT),
    "an empty line": (b"\r\n\r\n", CUT),
    "a head without its end": (b"HTTP/1.1 200 OK\r\nContent-Ty", CUT),
    "HTTP/0.9": (b"<html>Hello</html>\n", MALFORMED),
    "HTTP/0.9 JSON": (b"{}", MALFORMED),
    "SETTINGS of HTTP/2": (bytes.fromhex("000012040000000000000300000064000400100000"), MALFORMED),
    "GOAWAY of HTTP/2": (bytes.fromhex("0000080700000000000000000000000001"), MALFORMED),
    "preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", MALFORMED),
    "a TLS alert": (bytes.fromhex("15030100020228"), MALFORMED),
    "SSH": (b"SSH-2.0-OpenSSH_9.2\r\n", MALFORMED),
    "a request": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", MALFORMED),
    "HTTP/2 200": (answer(start=b"HTTP/2 200"), MALFORMED),
    "HTTP/9.9": (answer(start=b"HTTP/9.9 200 OK"), MALFORMED),
    "ICY": (answer(start=b"ICY 200 OK"), MALFORMED),
    "status 99": (answer(start=b"HTTP/1.1 99 No"), MALFORMED),
    "status 000": (answer(start=b"HTTP/1.1 000 No"), MALFORMED),
    "status -1": (answer(start=b"HTTP/1.1 -1 No"), MALFORMED),
    "status 600": (answer(start=b"HTTP/1.1 600 No"), MALFORMED),
    "status 999": (answer(start=b"HTTP/1.1 999 No"), MALFORMED),
    "status 2000": (answer(start=b"HTTP/1.1 2000 No"), MALFORMED),
    "no status": (answer(start=b"HTTP/1.1 OK"), MALFORMED),
    "101 that nobody asked for": (
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nraw",
        MALFORMED,
    ),
    "101 without Upgrade": (b"HTTP/1.1 101 Switching\r\n\r\n" + answer(), MALFORMED),
    "199 and no more": (b"HTTP/1.1 199 Soon\r\n\r\n", CUT),
    "CR in the reason": (answer(start=b"HTTP/1.1 200 O\rX-Evil: 1"), MALFORMED),
    "NUL in the reason": (answer(start=b"HTTP/1.1 200 O\0K"), MALFORMED),
    "VT in the reason": (answer(start=b"HTTP/1.1 200 O\x0bK"), MALFORMED),
    "ESC in the reason": (answer(start=b"HTTP/1.1 200 \x1b[31mOK"), MALFORMED),
    "CR in a value": (answer(b"X-A: b\rX-Evil: 1"), MALFORMED),
    "NUL in a value": (answer(b"X-A: b\0c"), MALFORMED),
    "BEL in a value": (answer(b"X-A: b\x07c"), MALFORMED),
    "DEL in a value": (answer(b"X-A: b\x7fc"), MALFORMED),
    "ESC in the type": (answer(b"Content-Type: application/json\x1b"), MALFORMED),
    "CR in Location": (
        answer(b"Location: http://evil.test/\rSet-Cookie: a=1", start=b"HTTP/1.1 302 Found"),
        MALFORMED,
    ),
    "ESC in Location": (
        answer(b"Location: http://evil.test/\x1b", start=b"HTTP/1.1 302 Found"),
        MALFORMED,
    ),
    "no colon": (answer(b"garbage"), MALFORMED),
    "no name": (answer(b": b"), MALFORMED),
    "a blank in a name": (answer(b"X A: b"), MALFORMED),
    "a blank before the colon": (answer(b"X-A : b"), MALFORMED),
    "NUL in a name": (answer(b"X\0A: b"), MALFORMED),
    "a name that is not ASCII": (answer("X-é: b".encode()), MALFORMED),
    "a field of 70 KiB": (answer(b"X-A: " + b"y" * 70 * KIB), MALFORMED),
    "200 fields": (answer(*(b"X-%d: y" % number for number in range(200))), MALFORMED),
    "chunked and a length": (
        answer(b"Transfer-Encoding: chunked", b"Content-Length: 2", body=b"2\r\n{}\r\n0\r\n\r\n"),
        MALFORMED,
    ),
    "a length and chunked": (
        answer(b"Content-Length: 2", b"Transfer-Encoding: chunked", body=b"2\r\n{}\r\n0\r\n\r\n"),
        MALFORMED,
    ),
    "a length twice": (answer(b"Content-Length: 2", b"Content-Length: 2"), MALFORMED),
    "two lengths": (answer(b"Content-Length: 2", b"Content-Length: 20"), MALFORMED),
    "a list of lengths": (answer(b"Content-Length: 2, 2"), MALFORMED),
    "a negative length": (answer(b"Content-Length: -2"), MALFORMED),
    "a hexadecimal length": (answer(b"Content-Length: 0x2"), MALFORMED),
    "a length of no number": (answer(b"Content-Length: 9" + b"9" * 30), MALFORMED),
    "a coding that is not there": (answer(b"Content-Encoding: br"), MALFORMED),
}
"""What comes instead of a head, at once and whole."""


@pytest.mark.both_loops
async def test_heads_that_are_none():
    """A status tells of it, and nothing of the head goes on to the client."""
    seen, answers = await asked({name: said for name, (said, _) in HEADS.items()})
    assert seen == {name: told for name, (_, told) in HEADS.items()}
    for name, found in answers.items():
        assert not found.names() & {"x-evil", "x-a", "set-cookie", "location"}, name
        assert found.error["stage"] == "headers", name
        assert "127.0.0.1:" in found.error["message"], name


FIELDS = {
    "LF in the reason": (answer(start=b"HTTP/1.1 200 O\nX-A: b"), ["b"]),
    "LF in a value": (answer(b"X-A: b\nX-B: c"), ["b"]),
    "a folded value": (answer(b"X-A: b\r\n c"), ["b c"]),
    "a value folded by LF": (answer(b"X-A: b\n c"), ["b c"]),
    "a value folded twice": (answer(b"X-A: b\r\n\t\r\n c: d"), ["b\t c: d"]),
    "Latin-1 in a value": (answer(b"X-A: b\xe9c"), ["bc"]),  # the library leaves the byte out
    "UTF-8 in a value": (answer("X-A: 你\u2028b".encode()), ["你\u2028b"]),
    "an empty value": (answer(b"X-A:"), [""]),
    "a value of 60 KB": (answer(b"X-A: " + b"y" * 60_000), ["y" * 60_000]),
    "100 Continue before": (b"HTTP/1.1 100 Continue\r\nX-A: 1\r\n\r\n" + answer(), []),
    "103 before, with a cookie": (
        b"HTTP/1.1 103 Early Hints\r\nX-A: 1\r\nSet-Cookie: a=1\r\n\r\n" + answer(),
        [],
    ),
    "the relay's own headers": (
        answer(b"Teleprinter-Stream: evil", b"Teleprinter-Upstream: evil", b"teleprinter-x: evil"),
        [],
    ),
    "all of them for this hop": (answer(b"Connection: close, x-a", b"X-A: b"), []),
    "HTTP/1.0": (answer(b"X-A: b", start=b"HTTP/1.0 200 OK", sized=False), ["b"]),
    "HTTP/2.0 in words": (answer(b"X-A: b", start=b"HTTP/2.0 200 OK"), ["b"]),
}


@pytest.mark.both_loops
async def test_headers_are_no_more_than_they_are():
    """What the parser of answers lets pass reaches the client as one value on one line, or not."""
    seen, answers = await asked({name: said for name, (said, _) in FIELDS.items()})
    assert set(seen.values()) == {SERVED}
    for name, (_, values) in FIELDS.items():
        found = answers[name]
        told = [value.encode("latin-1").decode() for value in found.get_all("x-a")]
        assert told == values, name
        assert found.body == b"{}", name
        assert found.get_all("teleprinter-upstream") == ["127.0.0.1"], name
        assert not found.names() & {"set-cookie", "teleprinter-stream", "teleprinter-x"}, name


async def test_a_redirect_leads_nobody_anywhere():
    """It is handed on to the client, wherever it points; the relay speaks to its upstream only."""
    async with Hostile() as elsewhere, Hostile() as upstream, relaying(upstream.url) as relay:
        for status in (301, 302, 303, 307, 308):
            for target in (f"{elsewhere.url}/x", f"//127.0.0.1:{elsewhere.port}/", "/v1/good"):
                start = b"HTTP/1.1 %d Elsewhere" % status
                upstream.said = answer(f"Location: {target}".encode(), start=start)
                found, told = await said_to(relay)
                assert told == Told(status, None, "ok")
                assert found.get_all("location") == [target]
        found, told = await said_to(relay, path="/chat")
        assert told == Told(200, "upstream_malformed", "error", whole=False)
        assert elsewhere.connections == 0
        assert len(upstream.requests) == 16
        await served(relay)


# --- bodies

CHUNKED = b"Transfer-Encoding: chunked"
PACKED = gzip.compress(b'{"answer": 42}')
BODIES = {
    "shorter than announced": (answer(b"Content-Length: 9"), TORN),
    "far shorter": (answer(b"Content-Length: 999999999999"), TORN),
    "longer than announced": (answer(b"Content-Length: 1"), MALFORMED),
    "something where nothing was": (answer(b"Content-Length: 0"), MALFORMED),
    "a body to 204": (answer(start=b"HTTP/1.1 204 No Content"), MALFORMED),
    "a body to 304": (answer(start=b"HTTP/1.1 304 Not Modified"), MALFORMED),
    "garbage behind it": (answer() + b"junk", MALFORMED),
    "no last chunk": (answer(CHUNKED, body=b"2\r\n{}\r\n"), TORN),
    "half a chunk": (answer(CHUNKED, body=b"5\r\n{}"), TORN),
    "half a chunk's size": (answer(CHUNKED, body=b"2\r\n{}\r\n1"), TORN),
    "half a last chunk": (answer(CHUNKED, body=b"2\r\n{}\r\n0\r\n"), TORN),
    "a negative chunk": (answer(CHUNKED, body=b"-2\r\n{}\r\n0\r\n\r\n"), MALFORMED),
    "a chunk of no size": (answer(CHUNKED, body=b"\r\n{}\r\n0\r\n\r\n"), MALFORMED),
    "a chunk that is too long": (answer(CHUNKED, body=b"2\r\n{}}\r\n0\r\n\r\n"), MALFORMED),
    "a chunk of 2^72 bytes": (answer(CHUNKED, body=b"f" * 18 + b"\r\n{}\r\n"), MALFORMED),
    "lines ended by LF": (answer(CHUNKED, body=b"2\n{}\n0\n\n"), MALFORMED),
    "packed and none": (
        answer(b"Content-Encoding: gzip", body=b"junk"),
        Told(200, None, "error", whole=False),
    ),
    "packed twice as long": (
        answer(b"Content-Encoding: gzip", b"Content-Length: 99", body=PACKED),
        TORN,
    ),
}


@pytest.mark.both_loops
async def test_bodies_that_are_none():
    """Never taken for whole: a status, or the connection ends before the body does."""
    seen, answers = await asked({name: said for name, (said, _) in BODIES.items()})
    assert seen == {name: told for name, (_, told) in BODIES.items()}
    assert {found.error["stage"] for found in answers.values() if found.status != 200} == {
        "headers"  # they came with it, in one piece
    }


WHOLE = {
    "packed": answer(b"Content-Encoding: gzip", body=PACKED),
    "packed, as deflate": answer(
        b"Content-Encoding: deflate", body=zlib.compress(b'{"answer": 42}')
    ),
    "chunk extensions": answer(CHUNKED, body=b'e;a;b="c"\r\n{"answer": 42}\r\n0;x\r\n\r\n'),
    "a long extension": answer(
        CHUNKED, body=b"e;" + b"x" * 100_000 + b'\r\n{"answer": 42}\r\n0\r\n\r\n'
    ),
    "trailers": answer(
        CHUNKED,
        b"Trailer: X-T, Set-Cookie",
        body=b'e\r\n{"answer": 42}\r\n0\r\nX-T: 1\r\nSet-Cookie: a=1\r\n\r\n',
    ),
    "to the end of the connection": answer(
        b"Connection: close", body=b'{"answer": 42}', sized=False
    ),
}


async def test_bodies_that_are_whole_in_odd_ways():
    """They arrive, without their packing and their trailers."""
    seen, answers = await asked(WHOLE)
    assert seen == dict.fromkeys(WHOLE, SERVED)
    for name, found in answers.items():
        assert found.body == b'{"answer": 42}', name
        assert not found.names() & {"content-encoding", "trailer", "x-t", "set-cookie"}, name
        assert b"Set-Cookie" not in found.tail, name


KIND = b"Content-Type: text/event-stream"
TELLS = {
    "shorter than announced": answer(KIND, b"Content-Length: 9999", body=TOKEN),
    "no last chunk": answer(KIND, CHUNKED, body=b"%x\r\n%s\r\n" % (len(TOKEN), TOKEN)),
    "half a chunk": answer(KIND, CHUNKED, body=b"ffff\r\n" + TOKEN),
    "no [DONE]": answer(KIND, body=TOKEN),
    "half an event": answer(KIND, body=TOKEN + TOKEN[:-2]),
    "torn packing": answer(
        KIND, b"Content-Encoding: gzip", body=gzip.compress(TOKEN + bytes(1000))[:-12]
    ),
}


async def test_streams_that_end_too_early():
    """The token arrives, then an error of the dialect, then the cut."""
    seen, answers = await asked(TELLS, STREAMED)
    assert seen == dict.fromkeys(TELLS, Told(200, "upstream_cut", "cut", whole=False))
    assert {found.body[: len(TOKEN)] for found in answers.values()} == {TOKEN}
    assert not [name for name, found in answers.items() if b"[DONE]" in found.body]


# --- what never ends


def endless(begin, data):
    """Yield the beginning, and then the same without an end."""
    yield begin
    while True:
        yield data


LINES = {
    "a status line": (b"HTTP/1.1 200 ", b"K" * KIB),
    "a header's value": (b"HTTP/1.1 200 OK\r\nX-A: ", b"y" * KIB),
    "a header's name": (b"HTTP/1.1 200 OK\r\n", b"X" * KIB),
    "a folded value": (b"HTTP/1.1 200 OK\r\nX-A: b", b"\r\n " + b"c" * KIB),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"y" * 100 + b"\r\n"),
    "cookies": (b"HTTP/1.1 200 OK\r\n", b"Set-Cookie: a=b\r\n"),
}


@pytest.mark.both_loops
@pytest.mark.parametrize("name", LINES)
async def test_a_head_without_an_end(name):
    """It is given up after 64 KiB or 128 lines, and what the kernels hold."""
    async with Hostile() as upstream, relaying(upstream.url) as relay:
        upstream.said = endless(*LINES[name])
        _, told = await said_to(relay)
        await upstream.until(lambda: upstream.open_connections == 0)
        assert told == MALFORMED
        assert upstream.taken < MIB
        await served(relay)


@pytest.mark.both_loops
@pytest.mark.parametrize("field", [b"X-T: 1\r\n" * 100, b"y" * KIB], ids=["many", "long"])
async def test_trailers_without_an_end(field):
    """They come behind a body that is there, which is cut for them."""
    async with Hostile() as upstream, relaying(upstream.url) as relay, dial(relay.port) as line:
        upstream.said = endless(answer(CHUNKED, body=b"2\r\n{}\r\n0\r\nX-T: 0"), field)
        await line.send("POST", PATH, JSON, body=PLAINLY)
        found = await line.answer()
        assert (found.status, found.whole) in [(200, False), (502, True)]  # as the bytes came
        await upstream.until(lambda: upstream.open_connections == 0)
        assert upstream.taken < 8 * MIB
        await served(relay)


FIRST = "upstream_timeout_first_token"
FLOODS = {
    "1xx": (b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 100, "upstream_timeout_headers", 120),
    "1xx with headers": (
        b"",
        b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n" * 100,
        "upstream_timeout_headers",
        120,
    ),
    "empty lines": (b"", b"\r\n" * 1000, "upstream_timeout_headers", 120),
    "comments": (answer(KIND, sized=False, body=b""), b": wait\n\n" * 20, FIRST, 600),
    "blank lines": (answer(KIND, sized=False, body=b""), b"\n\n" * 20, FIRST, 600),
    "pings": (answer(KIND, sized=False, body=b""), b"event: ping\n\n" * 20, FIRST, 600),
    "comments after a token": (
        answer(KIND, sized=False, body=TOKEN),
        b": wait\n\n" * 20,
        "upstream_stalled",
        120,
    ),
    "an extension": (
        answer(KIND, CHUNKED, body=b"%x\r\n%s\r\n2;" % (len(TOKEN), TOKEN)),
        b"x" * KIB,
        "upstream_stalled",
        120,
    ),
}


@pytest.mark.both_loops
@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_that_says_nothing(clock, name):
    """It re-arms no clock: when its time is up the client is told, and the upstream is left."""
    begin, data, code, seconds = FLOODS[name]
    async with (
        Hostile() as upstream,
        relaying(upstream.url, clock=clock, toml="[heartbeat]\nafter = 0\nopen_after = 0") as relay,
        dial(relay.port) as line,
    ):
        upstream.said = endless(begin, data)
        await line.send("POST", PATH, JSON, body=STREAMED)
        await upstream.until(lambda: upstream.requests)
        if begin:
            await until(lambda: relay.streams[0].framed)
        if TOKEN in begin:
            await line.until(TOKEN)
        taken = upstream.taken
        for _ in range(2):
            await until(lambda taken=taken: upstream.taken > taken + 10 * len(data))
            taken = upstream.taken
            clock.advance(seconds / 2)
        found = await line.answer()
        assert code_of(found) == code
        assert found.status == (504 if found.whole else 200)
        await until(lambda: not relay.streams)
        await upstream.until(lambda: upstream.open_connections == 0)
        await served(relay)


class Unpacked:
    """Counts the bytes that are unpacked in this process."""

    def __init__(self, monkeypatch):
        self.size = 0
        unpack = aiohttp.compression_utils.ZLibDecompressor.decompress_sync

        def counted(decompressor, *args, **kwargs):
            data = unpack(decompressor, *args, **kwargs)
            self.size += len(data)
            return data

        monkeypatch.setattr(aiohttp.compression_utils.ZLibDecompressor, "decompress_sync", counted)


def bomb(begin=b""):
    """Yield gzip without an end, a thousandth of what is in it: MiBs of `x` behind the beginning.

    RFC 1952: the header; RFC 1951: blocks that end at a byte and refer to none before them.
    """
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = packer.compress(begin + b"x") + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(b"x" * MIB) + packer.flush(zlib.Z_FULL_FLUSH)
    yield bytes.fromhex("1f8b08000000000000ff") + first
    while True:
        yield block


def after(head, pieces):
    """Yield a head, and then these."""
    yield head
    yield from pieces


EVENTS = {
    "an event": lambda begin: after(
        answer(KIND, sized=False, body=begin + b"data: "), endless(b"", b"x" * 16 * KIB)
    ),
    "an event of many lines": lambda begin: after(
        answer(KIND, sized=False, body=begin), endless(b"", b"data: x\n" * 2 * KIB)
    ),
    "a comment": lambda begin: after(
        answer(KIND, sized=False, body=begin), endless(b":", b"x" * 16 * KIB)
    ),
    "a packed event": lambda begin: after(
        answer(KIND, b"Content-Encoding: gzip", sized=False, body=b""), bomb(begin + b"data: ")
    ),
}


@pytest.mark.both_loops
@pytest.mark.parametrize("begin", [b"", TOKEN], ids=["first", "later"])
@pytest.mark.parametrize("name", EVENTS)
async def test_an_event_without_an_end(monkeypatch, name, begin):
    """limits.frame bytes and no gigabyte: the cause is told, and the rest is not read."""
    unpacked = Unpacked(monkeypatch)
    async with (
        Hostile() as upstream,
        relaying(upstream.url, toml=f"[limits]\nframe = {256 * KIB}\n") as relay,
    ):
        for path in (PATH, "/chat"):
            upstream.said = EVENTS[name](begin)
            found, told = await said_to(relay, STREAMED, path)
            await upstream.until(lambda: upstream.open_connections == 0)
            refused = path == PATH and not begin
            expected = MALFORMED if refused else Told(200, MALFORMED.code, "error", whole=False)
            assert told == expected
            assert (b'"Hi"' in found.body) is bool(begin)
            assert upstream.taken < 8 * MIB  # most of it in the kernels
            await served(relay)
    assert unpacked.size < 2 * MIB


async def test_a_bomb_that_nobody_reads(monkeypatch):
    """A packed answer is unpacked no faster than its client takes it."""
    unpacked = Unpacked(monkeypatch)
    async with (
        Hostile() as upstream,
        relaying(upstream.url) as relay,
        dial(relay.port) as line,
    ):
        upstream.said = after(answer(b"Content-Encoding: gzip", sized=False, body=b""), bomb())
        await line.send("POST", PATH, JSON, body=PLAINLY)
        await line.until(b"\r\n\r\n")
        line._writer.transport.pause_reading()
        before, still = -1, 0
        while still < 5:
            await settled()
            still = still + 1 if unpacked.size == before else 0
            before = unpacked.size
        assert unpacked.size < 16 * MIB  # most of it in the kernels: unpacked, it would be no end
        await line.close()
        await upstream.until(lambda: upstream.open_connections == 0)
        await served(relay)


# --- one caller and the next

KEYS = '[server]\nkeys = ["ann:ka", "bob:kb"]\n'


def key(name):
    """Return the header of that caller."""
    return ("Teleprinter-Key", f"k{name[0]}")


@pytest.mark.parametrize("path", [PATH, "/chat"])
async def test_a_cookie_is_nobodys(path):
    """Not the one's whose answer set it, nor the next one's: it goes neither way."""
    cookies = [b"Set-Cookie: a=%d; Path=/; Domain=127.0.0.1" % number for number in range(5)]
    early = b"HTTP/1.1 103 Early Hints\r\nSet-Cookie: early=1\r\n\r\n"
    async with Hostile() as upstream, relaying(upstream.url, toml=KEYS) as relay:
        upstream.said = early + answer(KIND, *cookies, b"Set-Cookie2: b=1", body=ALL)
        for name in ("ann", "bob", "ann"):
            pairs = JSON, key(name), ("Cookie", "mine=1")
            found = await exchange(relay.port, "POST", path, *pairs, body=STREAMED)
            assert found.status == 200
            assert not found.names() & {"set-cookie", "set-cookie2"}
    assert len(upstream.requests) == 3
    assert all("cookie" not in request.names() for request in upstream.requests)


async def test_an_answer_that_nobody_asked_for_is_nobodys():
    """Two answers to one question, at once or later: the second is not the next one's."""

    async def script(request, wire):
        await wire.reply(200, request.target, content_type="text/plain")
        await wire.send(answer(body=b"poison"))
        poisoned.append(request.target)

    poisoned = []
    async with Upstream(script) as upstream, relaying(upstream.url, toml=KEYS) as relay:
        for number in range(4):
            name = ("ann", "bob")[number % 2]
            found = await exchange(relay.port, "GET", f"/v1/{number}", key(name))
            assert (found.status, found.body) == (200, f"/v1/{number}".encode())
            await until(lambda number=number: len(poisoned) == number + 1)
            await settled()
    assert len(upstream.requests) == 4


# --- proxies


class Odd(HttpProxy):
    """An HTTP proxy that answers a CONNECT in words of its own, or with what never ends."""

    words = b""

    async def answer(self, connection, data):
        """Say so instead, where the tunnel is granted."""
        if not data.startswith(b"HTTP/1.1 200"):
            return await super().answer(connection, data)
        self.taken = 0
        with suppress(OSError):  # it was not believed
            for piece in [self.words] if isinstance(self.words, bytes) else self.words:
                await connection.send(piece, self.pieces)
                self.taken += len(piece)
        return None


GRANTED = b"HTTP/1.1 200 OK\r\n\r\n"
CONNECTS = {
    "as it should be": (GRANTED, None),
    "100 before": (b"HTTP/1.1 100 Continue\r\n\r\n" + GRANTED, None),
    "103 before": (b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n" * 9 + GRANTED, None),
    "a body of no bytes": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", None),
    "a length that does not count": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", None),
    "no HTTP": (b"\x00\x01\x02\r\n\r\n", "proxy_protocol"),
    "another protocol": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "proxy_protocol"),
    "HTTP/2": (bytes.fromhex("000012040000000000") + b"\r\n\r\n", "proxy_protocol"),
    "no status": (b"HTTP/1.1 OK\r\n\r\n", "proxy_protocol"),
    "a status of two digits": (b"HTTP/1.1 20 OK\r\n\r\n", "proxy_protocol"),
    "a status of four digits": (b"HTTP/1.1 2000 OK\r\n\r\n", "proxy_protocol"),
    "5000 headers": (b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 5000, "proxy_protocol"),
    "a line of 200 KB": (b"HTTP/1.1 200 OK\r\nX-A: " + b"b" * 200_000, "proxy_protocol"),
    "a refusal": (b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno", "proxy_refused"),
    "a redirect": (b"HTTP/1.1 302 No\r\nLocation: http://evil.test\r\n\r\n", "proxy_refused"),
}
"""What is said to a CONNECT, and what the client is told."""


ONCE = reply(200, BODY, ("Connection", "close"), content_type="application/json")
"""So that each request has a tunnel of its own."""


@asynccontextmanager
async def through(proxy, scheme, ca, *, chained=False, clock=None):
    """Run a relay through this proxy, alone or as the first of two, to an upstream with TLS."""
    async with upstream_of("https", ca, ONCE) as upstream, proxy, SocksProxy() as second:
        ways = [proxy.url_as(scheme), second.url] if chained else proxy.url_as(scheme)
        async with relay_to(upstream.url, ca, ways, clock=clock) as relay:
            yield relay
            [lane] = relay.gateway._lanes.values()
            assert [member.open for member in lane.pool.members] == [0]
        await proxy.until(lambda: proxy.open_connections == 0)
        await upstream.until(lambda: upstream.open_connections == 0)


async def tunnelled(relay, proxy, cases):
    """Let the proxy say each of these; return what was told of each. Then it says what it should.

    After each case it does so, and the next request is served.
    """
    seen, good = {}, proxy.words
    for name, words in cases.items():
        proxy.words = words
        found, told = await said_to(relay)
        await proxy.until(lambda: proxy.open_connections == 0)
        proxy.words = good
        assert (await said_to(relay))[1] == SERVED, name
        seen[name] = told.code
        if told.code is None:
            assert (told, found.body) == (SERVED, BODY), name
        else:
            assert (told.status, told.outcome, told.whole) == (502, "error", True), name
            assert found.error["stage"] == "dial", name
            assert f"127.0.0.1:{proxy.port}" in found.error["message"], name
    return seen


@pytest.mark.parametrize("chained", [False, True], ids=["alone", "chained"])
@pytest.mark.parametrize("pieces", [None, 1])
async def test_answers_to_connect(ca, pieces, chained):
    """However it is cut, a 200 is a tunnel, and all else is told as what it is."""
    cases = {name: words for name, (words, _) in CONNECTS.items()}
    if pieces is not None:
        cases = {name: words for name, words in cases.items() if len(words) < KIB}
    async with through(proxy := Odd(pieces=pieces), "http", ca, chained=chained) as relay:
        proxy.words = GRANTED
        seen = await tunnelled(relay, proxy, cases)
    assert seen == {name: CONNECTS[name][1] for name in cases}


@pytest.mark.parametrize("chained", [False, True], ids=["alone", "chained"])
async def test_bytes_before_the_tunnel_are_not_the_upstreams(ca, chained):
    """A page behind a 200 is no part of an answer: it is passed over, or it ends the dial."""
    async with through(proxy := Odd(), "http", ca, chained=chained) as relay:
        proxy.words = GRANTED
        for length in (b"", b"Content-Length: 5\r\n"):
            words = b"HTTP/1.1 200 OK\r\n%s\r\nhello" % length
            [code] = (await tunnelled(relay, proxy, {"a page": words})).values()
            assert code in {None, "upstream_tls", "proxy_protocol"}


STALLS = {
    "half a head": lambda: iter([b"HTTP/1.1 200 OK\r\nX-A: b\r\n"]),
    "half a status line": lambda: iter([b"HTTP/1.1 2"]),
    "1xx without an end": lambda: endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
}


@pytest.mark.both_loops
@pytest.mark.parametrize("chained", [False, True], ids=["alone", "chained"])
@pytest.mark.parametrize("name", STALLS)
async def test_an_answer_to_connect_without_an_end(ca, clock, name, chained):
    """The clock `connect` covers it, whatever trickles; the next request gets through."""
    proxy = Odd()
    async with through(proxy, "http", ca, chained=chained, clock=clock) as relay:
        proxy.words = STALLS[name]()
        async with dial(relay.port) as line:
            await line.send("POST", PATH, JSON, body=PLAINLY)
            await proxy.until(lambda: proxy.connects)
            for _ in range(2):
                await settled()
                clock.advance(5)
            found = await line.answer()
        assert (found.status, code_of(found)) == (504, "proxy_timeout")
        await proxy.until(lambda: proxy.open_connections == 0)
        proxy.words = GRANTED
        assert (await said_to(relay))[1] == SERVED


class OddSocks(SocksProxy):
    """A SOCKS proxy whose answer number `turn` of each handshake is in words of its own."""

    turn, words = 0, None

    async def speak(self, connection):
        """Count its answers."""
        connection.said = 0
        await super().speak(connection)

    async def answer(self, connection, data):
        """Say so instead."""
        odd = self.words is not None and connection.said == self.turn
        connection.said += 1
        with suppress(OSError):  # it was not believed
            await super().answer(connection, self.words if odd else data)


OF_5 = {
    "version 4": (0, b"\x04\x00", "proxy_protocol"),
    "version 0": (0, b"\x00\x00", "proxy_protocol"),
    "a method that was not offered": (0, b"\x05\x01", "proxy_refused"),
    "a password that was not offered": (0, b"\x05\x02", "proxy_refused"),
    "no method fits": (0, b"\x05\xff", "proxy_refused"),
    "HTTP": (0, b"HTTP/1.1 400 Bad Request\r\n\r\n", "proxy_protocol"),
    "a name": (1, b"\x05\x00\x00\x03\x09localhost\x00\x50", None),
    "an empty name": (1, b"\x05\x00\x00\x03\x00\x00\x50", None),
    "a name of 255 bytes": (1, b"\x05\x00\x00\x03\xff" + b"n" * 255 + b"\x00\x50", None),
    "a name that is no text": (1, b"\x05\x00\x00\x03\x02\xff\xfe\x00\x50", "proxy_protocol"),
    "an IPv6 address": (1, b"\x05\x00\x00\x04" + bytes(16) + b"\x00\x50", None),
    "another type of address": (1, b"\x05\x00\x00\x09" + bytes(6), "proxy_protocol"),
    "version 4 in the reply": (1, b"\x04\x00\x00\x01" + bytes(6), "proxy_protocol"),
    "a reserved byte": (1, b"\x05\x00\xff\x01" + bytes(6), "proxy_protocol"),
    "a code that nobody knows": (1, b"\x05\x77\x00\x01" + bytes(6), "proxy_protocol"),
}
OF_4 = {
    "version 4 in the reply": (0, b"\x04\x5a" + bytes(6), "proxy_protocol"),
    "version 5 in the reply": (0, b"\x05\x5a" + bytes(6), "proxy_protocol"),
    "a code that nobody knows": (0, b"\x00\x77" + bytes(6), "proxy_protocol"),
    "HTTP": (0, b"HTTP/1.1 400 Bad Request\r\n\r\n", "proxy_protocol"),
    "an odd address": (0, b"\x00\x5a\xff\xff\xff\xff\xff\xff", None),
}


@pytest.mark.both_loops
@pytest.mark.parametrize("pieces", [None, 1])
@pytest.mark.parametrize(
    ("scheme", "cases"), [("socks5h", OF_5), ("socks4a", OF_4)], ids=["socks5", "socks4"]
)
async def test_answers_of_socks(ca, scheme, cases, pieces):
    """Addresses of every type are a tunnel, in pieces too; all else is told as what it is."""
    seen = {}
    async with through(proxy := OddSocks(pieces=pieces), scheme, ca) as relay:
        for name, (proxy.turn, words, _) in cases.items():
            seen |= await tunnelled(relay, proxy, {name: words})
    assert seen == {name: code for name, (_, _, code) in cases.items()}


async def test_bytes_behind_a_socks_reply_are_not_the_upstreams(ca):
    """An answer that came before the question is none: passed over, or no TLS."""
    async with through(proxy := OddSocks(), "socks5h", ca) as relay:
        proxy.turn = 1
        words = b"\x05\x00\x00\x01" + bytes(6) + answer(body=b"poison")
        [code] = (await tunnelled(relay, proxy, {"early": words})).values()
        assert code in {None, "upstream_tls"}
