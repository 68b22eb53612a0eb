r"""Clients that mean harm: what they are told, what reaches the upstream, who is served next.

Shapes      bytes that are no request, or two where one is: request smuggling
Places      paths, targets and hosts that would lead elsewhere, past the keys, or upwards
Methods     TRACE, CONNECT, made-up ones; Upgrade and Expect
Echoes      line ends in every value that comes back, as header, as event, on a terminal
Floods      slow bytes, packed bytes, bytes that nobody reads, ten thousand connections

A table is sent through one relay, case by case; after each case a good request is served.
"""

import asyncio
import gzip
import io
import json
import logging
import re
import resource
import socket
import zlib
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import aiohttp.compression_utils
import pytest
import structlog
from structlog.testing import capture_logs

from fakes import Upstream, chat_frame, frame, reply, sse
from fakes.frames import DONE
from fakes.server import Server
from line import dial, exchange, parse
from relaying import relaying, settled, until
from service.adapters import logs
from service.settings import SettingsError
from serving import serving, upstream_toml

JSON = ("Content-Type", "application/json")
GOOD = b'{"fine": true}'
ANSWERS = reply(200, GOOD, content_type="application/json")
KIB, MIB = 1024, 1024 * 1024
SMUGGLED = b"GET /v1/smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def post(*fields, body=b"{}", start=b"POST /v1/x HTTP/1.1"):
    """Return a request's bytes; its host and `Connection: close` unless a field says."""
    named = [b"Host: 127.0.0.1", b"Content-Type: application/json"]
    closes = [] if any(field.startswith(b"Connection:") for field in fields) else [CLOSE]
    return b"\r\n".join([start, *named, *closes, *fields, b"", body])


def get(*fields, start=b"GET /v1/x HTTP/1.1", body=b""):
    """Return a request's bytes."""
    return post(*fields, body=body, start=start)


CLOSE = b"Connection: close"
CHUNKED = b"Transfer-Encoding: chunked"
SIZE = b"Content-Length: "


@asynccontextmanager
async def standing(script=ANSWERS, **settings):
    """Run a relay to an upstream; afterwards nothing of a stream is left."""
    async with Upstream(script) as upstream, relaying(upstream.url, **settings) as relay:
        yield relay, upstream
        await until(lambda: not relay.streams)


async def said_to(relay, data):
    """Send bytes; return all that comes, to the end of the connection."""
    async with dial(relay.port) as line:
        with suppress(ConnectionError):  # it was hung up on while it was still sending
            await line.write(data)
        with suppress(ConnectionError):
            await line.answer()
        return line.received


async def served(relay, upstream, *pairs):
    """Check that the next request is served, and that it is the next that the upstream sees."""
    before = len(upstream.requests)
    found = await exchange(relay.port, "GET", "/v1/good", *pairs)
    assert (found.status, found.body) == (200, GOOD)
    assert [request.target for request in upstream.requests[before:]] == ["/v1/good"]


# --- shapes

REFUSED = {
    "chunked and a length": post(CHUNKED, SIZE + b"4", body=b"0\r\n\r\n" + SMUGGLED),
    "a length and chunked": post(SIZE + b"4", CHUNKED, body=b"0\r\n\r\n" + SMUGGLED),
    "a length twice": post(SIZE + b"2", SIZE + b"2"),
    "two lengths": post(SIZE + b"2", SIZE + b"90", body=b"{}" + SMUGGLED),
    "a list of lengths": post(SIZE + b"2, 2"),
    "a length with a sign": post(SIZE + b"+2"),
    "a negative length": post(SIZE + b"-2"),
    "a hexadecimal length": post(SIZE + b"0x2"),
    "a length with an underscore": post(SIZE + b"2_0"),
    "a length with a blank": post(SIZE + b"2 0"),
    "a length in other digits": post(SIZE + "٢".encode()),
    "a length of no number": post(SIZE + b"9" * 30),
    "an empty length": post(SIZE),
    "a coding that is none": post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "identity": post(b"Transfer-Encoding: identity", body=b"0\r\n\r\n"),
    "chunked, not last": post(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"),
    "chunked in a list twice": post(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"),
    "chunked twice": post(CHUNKED, CHUNKED, body=b"0\r\n\r\n"),
    "chunked, then identity": post(
        CHUNKED, b"Transfer-Encoding: identity", body=b"0\r\n\r\n" + SMUGGLED
    ),
    "chunked in quotes": post(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"),
    "chunked behind VT": post(b"Transfer-Encoding:\x0bchunked", body=b"0\r\n\r\n"),
    "chunked and a byte": post(b"Transfer-Encoding: chunked\xe9", body=b"0\r\n\r\n"),
    "a blank before the colon": post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"),
    "chunked on a folded line": post(b"Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n"),
    "a length on a folded line": post(b"Content-Length:\r\n 2"),
    "a folded line": get(b"X-A: b\r\n c"),
    "a folded first line": get(start=b"GET /v1/x HTTP/1.1\r\n X-A: b"),
    "LF between fields": get(b"X-A: b\nX-B: c"),
    "LF at the end of all lines": get().replace(b"\r\n", b"\n"),
    "LF as the empty line": get()[:-2] + b"\n",
    "CR between fields": get(b"X-A: b\rX-B: c"),
    "CR CR LF": get(start=b"GET /v1/x HTTP/1.1\r"),
    "NUL in a value": get(b"X-A: b\0c"),
    "BEL in a value": get(b"X-A: b\x07c"),
    "DEL in a value": get(b"X-A: b\x7fc"),
    "ESC in a value": get(b"X-A: \x1b[31m"),
    "NUL in a name": get(b"X-\0A: b"),
    "a blank in a name": get(b"X A: b"),
    "brackets in a name": get(b"X(A): b"),
    "a name that is not ASCII": get(b"X-\xe9: b"),
    "no name": get(b": b"),
    "no colon": get(b"X-A"),
    "no host": b"GET /v1/x HTTP/1.1\r\n\r\n",
    "two hosts": get(b"Host: evil.test"),
    "a host twice": get(b"Host: 127.0.0.1"),
    "HTTP/1.2": get(start=b"GET /v1/x HTTP/1.2"),
    "HTTP/1.10": get(start=b"GET /v1/x HTTP/1.10"),
    "HTTP/3.0": get(start=b"GET /v1/x HTTP/3.0"),
    "http/1.1": get(start=b"GET /v1/x http/1.1"),
    "tabs": get(start=b"GET\t/v1/x\tHTTP/1.1"),
    "a blank in the target": get(start=b"GET /v1/x y HTTP/1.1"),
    "a blank before the method": get(start=b" GET /v1/x HTTP/1.1"),
    "NUL in the target": get(start=b"GET /v1/x\0y HTTP/1.1"),
    "DEL in the target": get(start=b"GET /v1/x\x7fy HTTP/1.1"),
    "UTF-8 in the target": get(start="GET /v1/你 HTTP/1.1".encode()),
    "full stops that are none": get(start="GET /v1/。。/x HTTP/1.1".encode()),
    "a chunk with a sign": post(CHUNKED, body=b"+2\r\n{}\r\n0\r\n\r\n"),
    "a negative chunk": post(CHUNKED, body=b"-2\r\n{}\r\n0\r\n\r\n"),
    "a chunk of 0x2": post(CHUNKED, body=b"0x2\r\n{}\r\n0\r\n\r\n"),
    "a chunk of 0_2": post(CHUNKED, body=b"0_2\r\n{}\r\n0\r\n\r\n"),
    "a blank before a chunk's size": post(CHUNKED, body=b" 2\r\n{}\r\n0\r\n\r\n"),
    "a blank behind a chunk's size": post(CHUNKED, body=b"2 \r\n{}\r\n0\r\n\r\n"),
    "a chunk without a size": post(CHUNKED, body=b"\r\n{}\r\n0\r\n\r\n"),
    "a chunk of words": post(CHUNKED, body=b"two\r\n{}\r\n0\r\n\r\n"),
    "a chunk of 2^72 bytes": post(CHUNKED, body=b"f" * 18 + b"\r\n{}\r\n0\r\n\r\n"),
    "a chunk that is shorter": post(CHUNKED, body=b"3\r\n{}\r\n0\r\n\r\n"),
    "a chunk that is longer": post(CHUNKED, body=b"2\r\n{}}\r\n0\r\n\r\n"),
    "a chunk without its end": post(CHUNKED, body=b"2\r\n{}0\r\n\r\n"),
    "chunks with LF": post(CHUNKED, body=b"2\n{}\n0\n\n"),
    "an extension with LF": post(CHUNKED, body=b"2;a\n{}\r\n0\r\n\r\n"),
    "an extension with CR": post(CHUNKED, body=b"2;a\rb\r\n{}\r\n0\r\n\r\n"),
    "an extension with NUL": post(CHUNKED, body=b"2;a\0b\r\n{}\r\n0\r\n\r\n"),
    "a trailer without a colon": post(CHUNKED, body=b"2\r\n{}\r\n0\r\nX-A\r\n\r\n"),
    "a trailer that is a host": post(
        CHUNKED, body=b"2\r\n{}\r\n0\r\nHost: evil.test\r\nX-A: b\r\n\r\n"
    ),
    "200 trailers": post(CHUNKED, body=b"2\r\n{}\r\n0\r\n" + b"X: y\r\n" * 200 + b"\r\n"),
    "200 fields": get(*(b"X-%d: y" % number for number in range(200))),
    "a field of 40 KiB": get(b"X-A: " + b"y" * 40 * KIB),
    "a name of 40 KiB": get(b"X" * 40 * KIB + b": y"),
    "a path of 70 KB": get(start=b"GET /v1/" + b"x" * 70_000 + b" HTTP/1.1"),
    "a query of 70 KB": get(start=b"GET /v1/x?" + b"x" * 70_000 + b" HTTP/1.1"),
    "a method of 70 KB": get(start=b"A" * 70_000 + b" /v1/x HTTP/1.1"),
    "a request behind the last": get(body=SMUGGLED),
    "a request behind HTTP/1.0's": post(
        CHUNKED, body=b"0\r\n\r\n" + SMUGGLED, start=b"POST /v1/x HTTP/1.0"
    ),
    "a made-up method": get(start=b"BREW /v1/x HTTP/1.1"),
    "a method in lower case": get(start=b"get /v1/x HTTP/1.1"),
    "a method that is no token": get(start=b"G@T /v1/x HTTP/1.1"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 200,
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "SOCKS": b"\x05\x01\x00",
    "the PROXY protocol": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + get(),
    "a WebSocket of the first draft": get(b"Sec-WebSocket-Key1: x"),
}
"""Bytes that are no request, or that two servers may read as two different ones."""


async def test_what_is_no_request_is_400_and_no_more():
    """The connection ends, nothing of it reaches the upstream, and no browser would run it."""
    seen = {}
    async with standing() as (relay, upstream):
        for name, data in REFUSED.items():
            found = parse(await said_to(relay, data))
            kind = found.get("content-type").partition(";")[0]
            seen[name] = found.status, kind, len(upstream.requests)
            await served(relay, upstream)
            upstream.requests.clear()
    assert seen == dict.fromkeys(REFUSED, (400, "text/plain", 0))


ONE = ("POST", "/v1/x", b"{}")
TAKEN = {
    "chunks": (post(CHUNKED, body=b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"), ONE),
    "chunks in capitals": (
        post(b"tRANSFER-eNCODING: CHUNKED", body=b"2\r\n{}\r\n0\r\n\r\n"),
        ONE,
    ),
    "a tab before the coding": (
        post(b"Transfer-Encoding:\tchunked", body=b"2\r\n{}\r\n0\r\n\r\n"),
        ONE,
    ),
    "gzip, chunked": (
        post(b"Transfer-Encoding: gzip, chunked", body=b"2\r\n{}\r\n0\r\n\r\n"),
        ONE,
    ),
    "another name": (post(b"Transfer_Encoding: chunked", SIZE + b"2"), ONE),
    "extensions": (post(CHUNKED, body=b'2;a;b="c"\r\n{}\r\n0;x\r\n\r\n'), ONE),
    "a long extension": (
        post(CHUNKED, body=b"2;" + b"x" * 100_000 + b"\r\n{}\r\n0\r\n\r\n"),
        ONE,
    ),
    "zeros before a size": (post(CHUNKED, body=b"0" * 30 + b"2\r\n{}\r\n0\r\n\r\n"), ONE),
    "trailers": (
        post(CHUNKED, body=b"2\r\n{}\r\n0\r\nX-A: b\r\nAuthorization: Bearer x\r\n\r\n"),
        ONE,
    ),
    "GET with a body": (get(SIZE + b"2", body=b"{}"), ("GET", "/v1/x", b"{}")),
    "an empty line before": (b"\r\n" + get(), ("GET", "/v1/x", b"")),
    "HTTP/1.0": (get(start=b"GET /v1/x HTTP/1.0"), ("GET", "/v1/x", b"")),
    "two blanks": (get(start=b"GET  /v1/x HTTP/1.1"), ("GET", "/v1/x", b"")),
}


@pytest.mark.both_loops
async def test_an_odd_request_is_one_request_upstream():
    """Written anew: its length and no coding, no trailer, no hop header, nothing behind it."""
    async with standing() as (relay, upstream):
        for name, (data, expected) in TAKEN.items():
            found = parse(await said_to(relay, data))
            [request] = upstream.requests
            assert (found.status, found.body) == (200, GOOD), name
            assert (request.method, request.target, request.body) == expected, name
            assert not request.names() & {"transfer-encoding", "trailer", "x-a", "authorization"}
            assert len(request.get_all("content-length")) == (expected[2] != b""), name
            await served(relay, upstream)
            upstream.requests.clear()


async def test_pipelined_requests_are_answered_in_turn():
    """Each has its own answer; with one that is none, nothing is asked of what came with it."""
    first = get(b"Connection: keep-alive")
    async with standing() as (relay, upstream):
        data = await said_to(relay, first * 3 + get())
        assert re.findall(rb"HTTP/1\.[01] ([0-9]{3}) ", data) == [b"200"] * 4
        assert len(upstream.requests) == 4
        data = await said_to(relay, first * 3 + b"GET /v1/ x HTTP/1.1\r\n\r\n" + SMUGGLED)
        assert re.findall(rb"HTTP/1\.[01] ([0-9]{3}) ", data) == [b"400"]
        assert len(upstream.requests) == 4
        await served(relay, upstream)


@pytest.mark.parametrize("version", ["HTTP/0.9", "HTTP/2.0"])
async def test_other_versions_are_505(version):
    """Whatever the request looks like otherwise."""
    async with standing() as (relay, upstream):
        start = f"GET /v1/x {version}".encode()
        found = parse(await said_to(relay, get(start=start)))
        assert (found.status, found.error["code"]) == (505, "bad_request")
        assert "HTTP/1.1" in found.error["message"]
        assert upstream.requests == []
        await served(relay, upstream)


# --- places

HERE = ("not_found", 404)
DOTS = ("bad_request", 400)
TARGETS = {
    "/v1/..%2f": DOTS,
    "/v1/..%2Fx": DOTS,
    "/v1/%2e%2e/x": DOTS,
    "/v1/%2e%2e%2fx": DOTS,
    "/v1/x%2f..%2f..": DOTS,
    "/v1/\\..": DOTS,
    "/v1/..\\x": DOTS,
    "/v1/x\\..\\y": DOTS,
    "/v1/x%5c..%5Cy": DOTS,
    "/v1/..;/x": DOTS,
    "/v1/..;a=b/x": DOTS,
    "/v1/.;/x": DOTS,
    "/v1/%2e%2e%3b/x": DOTS,
    "/v1/x;/../y": DOTS,
    "/v1/x#/../y": DOTS,
    "/v1/../../etc/passwd": DOTS,
    "/chat/../v1/x": DOTS,
    "/pages/%2e%2e/app.py": DOTS,
    "/%2e%2e": DOTS,
    "/pages/%2fetc%2fpasswd": HERE,
    "/pages//etc/passwd": HERE,
    "/pages/index.html%00.js": HERE,
    "/v1": HERE,
    "/v1/": HERE,
    "/V1/x": HERE,
    "/v%31/x": HERE,
    "/v1%2fx": HERE,
    "/%2fv1/x": HERE,
    "//v1/x": HERE,
    "//evil.test/v1/x": HERE,
    "///evil.test/v1/x": HERE,
    "/v1@evil.test": HERE,
    "/v1@evil.test/x": HERE,
    "http://evil.test": HERE,
    "http://evil.test?/v1/x": HERE,
    "http://evil.test/@127.0.0.1/v1/x": HERE,
}
NO_TARGETS = [
    "*", "x", "v1/x", "?x", "@evil.test", "@evil.test/v1/x", "127.0.0.1/v1/x", "evil.test:80",
    "http:/v1/x", "http:v1/x", "http:///v1/x", "file:///v1/x", "file:///etc/passwd",
    "javascript:alert(1)", "data:,x", "http://[::1/v1/x", "http://127.0.0.1:99999/v1/x",
    "http://127.0.0.1:x/v1/x", "http://127.0.0.1#/v1/x", "\\\\evil.test\\v1\\x",
]  # fmt: skip
"""What the parser takes for no target."""
KEPT = {
    "/v1//x": "/v1//x",
    "/v1/%2f": "/v1/%2f",
    "/v1/%2fx": "/v1/%2fx",
    "/v1/;x": "/v1/;x",
    "/v1/...": "/v1/...",
    "/v1/%252e%252e/x": "/v1/%252e%252e/x",
    "/v1/x%00": "/v1/x%00",
    "/v1/x%0d%0aX-Evil:%201": "/v1/x%0d%0aX-Evil:%201",
    "/v1/%0d%0a%0d%0aGET%20/": "/v1/%0d%0a%0d%0aGET%20/",
    "/v1/x?%0d%0aX-Evil:1": "/v1/x?%0d%0aX-Evil:1",
    "/v1/x?/../y": "/v1/x?/../y",
    "/v1/x?url=http://evil.test/": "/v1/x?url=http://evil.test/",
    "/v1/@evil.test": "/v1/@evil.test",
    "/v1/http://evil.test/x": "/v1/http://evil.test/x",
    "/v1/http:%2f%2fevil.test": "/v1/http:%2f%2fevil.test",
    "/v1/[::1]": "/v1/[::1]",
    "/v1/x#y": "/v1/x",
    "http://evil.test/v1/x": "/v1/x",
    "https://evil.test:1/v1/x": "/v1/x",
    "ftp://evil.test/v1/x": "/v1/x",
    "http://evil.test@127.0.0.1/v1/x": "/v1/x",
    "http://127.0.0.1@evil.test/v1/x": "/v1/x",
    "http://[::1]/v1/x": "/v1/x",
}
"""What the upstream sees of it: the path, below its own base, at its own address."""


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_targets_that_lead_elsewhere(method):
    """Upwards is refused, elsewhere there is nothing, and nobody else is asked for it."""
    seen, told = {}, {**TARGETS, **dict.fromkeys(NO_TARGETS, (None, 400))}
    async with standing() as (relay, upstream):
        for target in told:
            found = await exchange(relay.port, method, target)
            plain = found.get("content-type").startswith("text/plain")
            seen[target] = None if plain else found.error["code"], found.status
            assert upstream.requests == [], target
            await served(relay, upstream)
            upstream.requests.clear()
    assert seen == told


async def test_the_upstream_is_the_settings_whatever_is_asked():
    """Encoding kept, one host, one base: a target's authority and a fragment go nowhere."""
    async with standing() as (relay, upstream):
        for target, expected in KEPT.items():
            found = await exchange(relay.port, "GET", target)
            [request] = upstream.requests
            assert (found.status, request.target) == (200, expected), target
            assert request.get_all("host") == [f"127.0.0.1:{upstream.port}"], target
            assert "x-evil" not in request.names(), target
            upstream.requests.clear()
        await served(relay, upstream)


KEYED = [
    "/v1/models", "http://127.0.0.1?/v1/models", "http://a?@127.0.0.1/v1/x", "//pages/x",
    "/healthz;/v1/x", "/healthz%2f..%2fv1/x", "/v1/models?/pages/", "/status%2fv1", "/%2fpages/x",
    "/chat?question=Hi&x=/pages/", "/streams/x", "/metrics/", "/metrics", "/status.json",
]  # fmt: skip
OPEN = [
    "/pages/v1/x", "/pages/chat", "/pages/#/v1/x", "http://127.0.0.1/pages/?/v1/models",
    "/%70ages/v1/x", "/healthz#/v1/x", "/#/v1/x", "/pages/..%5cv1/x", "/pages/%2e%2e%2fv1/x",
    "http://127.0.0.1/pages/..%2f/v1/x", "http://127.0.0.1/?/v1/models",
]  # fmt: skip
"""What looks open, and need not say 401, as long as nothing is asked for it."""


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_no_target_leads_past_the_keys(method):
    """What is not open asks for a key, and what is open asks nobody."""
    async with standing(keys="ann:ka") as (relay, upstream):
        told = {target: (await exchange(relay.port, method, target)).status for target in KEYED}
        assert told == dict.fromkeys(KEYED, 401)
        for target in OPEN:
            await exchange(relay.port, method, target)
        assert upstream.requests == []
        await served(relay, upstream, ("Teleprinter-Key", "ka"))


async def test_no_upstream_lies_where_no_key_is_needed():
    """A prefix below which the pages are would be open to all."""
    toml = '[[upstream]]\nname = "u"\nurl = "http://127.0.0.1:9"\nprefix = "/pages"\n'
    with pytest.raises(SettingsError, match=r"upstream\[0\]\.prefix.* /pages"):
        async with relaying(toml=toml):
            pass


HOSTS = {
    **dict.fromkeys(["127.0.0.1", "127.0.0.1:1", "127.0.0.1:", "localhost", "LOCALHOST:8080"], 200),
    "[::1]": 200,
    **dict.fromkeys(["evil.test", "127.0.0.1.evil.test", "localhost.evil.test", "", "evil"], 421),
    **dict.fromkeys(["evil.test@127.0.0.1", "127.0.0.1@evil.test", "a:b@127.0.0.1"], 421),
    **dict.fromkeys(["127.0.0.1/evil", "127.0.0.1?x", "127.0.0.1#x", "evil\\@127.0.0.1"], 421),
    **dict.fromkeys(["127.0.0.1:evil", "127.0.0.1:1:1", "127.0.0.1, evil.test", "[::1"], 421),
    **dict.fromkeys(["127.0.0.1 evil.test", "http://127.0.0.1", "//127.0.0.1", "::1"], 421),
    **dict.fromkeys(["127.1", "0x7f000001", "2130706433", "0.0.0.0", "127.0.0.2"], 421),
    **dict.fromkeys(
        ["localhost.", "localhost%00", "①localhost", "127.0.0.1\xa0", "[::1%25lo]"], 421
    ),
}


async def test_hosts_that_are_somebody_elses():
    """421 for every name but the relay's own, in its one form; none reaches the upstream."""
    seen = {}
    async with standing() as (relay, upstream):
        for host in HOSTS:
            data = get().replace(b"Host: 127.0.0.1", f"Host: {host}".encode())
            found = parse(await said_to(relay, data))
            seen[host] = found.status
            assert len(upstream.requests) == (found.status == 200), host
            if found.status == 421:
                assert found.error["code"] == "wrong_host"
            upstream.requests.clear()
        await served(relay, upstream)
    assert seen == HOSTS


# --- methods


async def test_trace_is_not_relayed():
    """The upstream would send back what it got: with the relay's key in it."""
    async with standing(upstream_key="sk-up") as (relay, upstream):
        for path in ("/v1/x", "/chat?question=Hi", "/"):
            found = await exchange(relay.port, "TRACE", path)
            assert (found.status, found.error["code"]) == (405, "method_not_allowed")
        assert upstream.requests == []
        await served(relay, upstream)


async def test_connect_opens_no_tunnel():
    """The relay is nobody's proxy; what would go through the tunnel is another request."""
    async with standing() as (relay, upstream):
        for target in (f"127.0.0.1:{upstream.port}", "evil.test:443", "/v1/x"):
            start = f"CONNECT {target} HTTP/1.1".encode()
            found = parse(await said_to(relay, get(start=start)))
            assert (found.status, found.error["code"]) == (404, "not_found"), target
            assert "/v1" in found.error["message"]
        assert upstream.connections == 0
        await served(relay, upstream)


UPGRADES = {
    "h2c": [
        b"Connection: close, Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    ],
    "TLS": [b"Connection: close, Upgrade", b"Upgrade: TLS/1.0"],
    "what nobody knows": [b"Connection: close, Upgrade", b"Upgrade: x/1, y"],
    "without saying so": [CLOSE, b"Upgrade: h2c"],
}


@pytest.mark.parametrize("name", UPGRADES)
async def test_an_upgrade_is_passed_over(name):
    """The request is answered as HTTP/1.1; the upstream hears nothing of it (RFC 9110, 7.8)."""
    async with standing() as (relay, upstream):
        for data in (
            get(*UPGRADES[name]),
            post(*UPGRADES[name], SIZE + b"2"),
            post(*UPGRADES[name], CHUNKED, body=b"2\r\n{}\r\n0\r\n\r\n"),
        ):
            found = parse(await said_to(relay, data))
            assert (found.status, found.body) == (200, GOOD)
        assert [request.body for request in upstream.requests] == [b"", b"{}", b"{}"]
        for request in upstream.requests:
            assert not request.names() & {"upgrade", "connection", "http2-settings"}
        await served(relay, upstream)


async def test_what_follows_an_upgrade_is_never_mistaken():
    """Behind it in one piece nothing is read; the next request on the connection is served."""
    async with standing() as (relay, upstream), dial(relay.port) as line:
        fields = [b"Connection: Upgrade", b"Upgrade: h2c"]
        await line.write(get(*fields, body=SMUGGLED))
        await line.until(GOOD)
        await line.write(get())
        await line.answer()
        assert line.received.count(b"HTTP/1.1 200 OK\r\n") == 2
        assert [request.target for request in upstream.requests] == ["/v1/x", "/v1/x"]


EXPECTS = {
    "100-continue": [b"100", b"200"],
    "100-CONTINUE": [b"100", b"200"],
    "a-pony": [b"417"],
    "100-continue, a-pony": [b"417"],
    "": [b"200"],
}


async def test_expectations():
    """100 where it is waited for, 417 for any other; the upstream hears of none."""
    seen = {}
    async with standing() as (relay, upstream):
        for value in EXPECTS:
            data = await said_to(relay, post(f"Expect: {value}".encode(), SIZE + b"2"))
            seen[value] = re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", data)
            assert len(upstream.requests) == seen[value].count(b"200")
            assert not [one for one in upstream.requests if "expect" in one.names()]
            upstream.requests.clear()
        await served(relay, upstream)
    assert seen == EXPECTS


async def test_one_who_expects_100_for_too_much_is_told_so():
    """413 by what is announced, before a byte of it was sent."""
    async with standing(toml="[limits]\nbody = 10") as (relay, upstream):
        async with dial(relay.port) as line:
            await line.write(post(b"Expect: 100-continue", SIZE + b"11", body=b""))
            await line.until(b"(limits.body)")
        assert upstream.requests == []
        await served(relay, upstream)


# --- echoes

CRLF = "%0d%0aX-Evil:%201%0d%0a%0d%0adata:%20evil%0a%0aevent:%20done%0d"
SAYS = "a\r\nX-Evil: 1\r\n\r\ndata: evil\n\nevent: done\r\u2028data: evil\u0085\0"
FIELD = "a\tX-Evil: 1\xa0é\u2028"
ECHOES = {
    "a question": ("GET", f"/chat?question={CRLF}", [], None),
    "a model": ("GET", f"/chat?question=Hi&model={CRLF}", [], None),
    "a pace": ("GET", f"/chat?question=Hi&pace={CRLF}", [], None),
    "a delay": ("GET", f"/chat?question=Hi&delay_ms={CRLF}", [], None),
    "keep": ("GET", f"/chat?question=Hi&keep={CRLF}", [], None),
    "a ticket": ("GET", f"/chat?question=Hi&ticket={CRLF}", [], None),
    "a parameter's name": ("GET", f"/chat?question=Hi&{CRLF}={CRLF}", [], None),
    "bytes that are no text": ("GET", "/chat?question=%ff%fe&model=%ff%00%ed%a0%80", [], None),
    "a model in JSON": ("POST", "/chat", [], {"question": SAYS, "model": SAYS}),
    "a pace in JSON": ("POST", "/chat", [], {"question": "Hi", "pace": SAYS}),
    "a delay in JSON": ("POST", "/chat", [], {"question": "Hi", "delay_ms": SAYS}),
    "keep in JSON": ("POST", "/chat", [], {"question": "Hi", "keep": SAYS}),
    "a member's name": ("POST", "/chat", [], {"question": "Hi", SAYS: SAYS}),
    "an id": ("GET", "/chat", [("Last-Event-ID", FIELD)], None),
    "an id's stream": ("GET", "/chat", [("Last-Event-ID", "evil.1")], None),
    "a stream's name": ("GET", f"/streams/{CRLF}", [], None),
    "after": ("GET", f"/streams/x?after={CRLF}", [], None),
    "as": ("GET", f"/streams/x?as={CRLF}", [], None),
    "a stream to stop": ("DELETE", f"/streams/{CRLF}", [], None),
    "a path": ("GET", f"/{CRLF}/chat/completions", [], None),
    "a page": ("GET", f"/pages/{CRLF}", [], None),
    "a path below /v1": ("GET", f"/v1/{CRLF}?{CRLF}", [], None),
    "a model of /v1": ("POST", "/v1/chat/completions", [], {"model": SAYS}),
    "Teleprinter-Pace": ("GET", "/v1/x", [("Teleprinter-Pace", FIELD)], None),
    "Teleprinter-Delay": ("GET", "/v1/x", [("Teleprinter-Delay", FIELD)], None),
    "Teleprinter-Keep": ("GET", "/v1/x", [("Teleprinter-Keep", FIELD)], None),
    "a request id": ("GET", "/v1/x", [("Teleprinter-Request-Id", FIELD)], None),
    "x-request-id": ("GET", "/v1/x", [("X-Request-Id", FIELD)], None),
    "an origin": ("GET", "/v1/x", [("Origin", FIELD)], None),
    "a host": ("GET", "/v1/x", [("Host", FIELD)], None),
    "a method that is asked for": (
        "OPTIONS",
        "/v1/x",
        [
            ("Origin", "https://app.test"),
            ("Access-Control-Request-Method", FIELD),
            ("Access-Control-Request-Headers", FIELD),
        ],
        None,
    ),
    "an address": ("GET", "/v1/x", [("X-Forwarded-For", FIELD)], None),
    "an ETag": ("GET", "/", [("If-None-Match", f'"{FIELD}"')], None),
}
NAMES = {
    "teleprinter-request-id", "teleprinter-stream", "teleprinter-upstream", "content-type",
    "content-length", "transfer-encoding", "connection", "date", "server", "x-should-retry",
    "cache-control", "x-accel-buffering", "vary", "access-control-allow-origin", "etag",
    "access-control-expose-headers", "access-control-allow-methods", "access-control-max-age",
    "access-control-allow-headers", "content-security-policy", "cross-origin-opener-policy",
    "x-content-type-options", "referrer-policy",
}  # fmt: skip


def blocks(data):
    """Return the events of a stream as WHATWG's parser has them: {"event", "data", "id"}."""
    found, block = [], {}
    for line in re.split("\r\n|\n|\r", data.decode().removeprefix("\ufeff")):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if "data" in block:
                found.append(block)
            block = {"id": block["id"]} if "id" in block else {}
        elif name == "data":
            block["data"] = block["data"] + "\n" + value if "data" in block else value
        elif (name == "id" and "\0" not in value) or name == "event":
            block[name] = value
    return found


async def test_line_ends_in_what_comes_back():
    """In headers, errors and events a value stays a value: one line, one field, one event."""
    script = sse(chat_frame({"content": "Hi"}), chat_frame({}, finish="stop"), DONE)
    toml = '[server]\norigins = ["https://app.test"]\n[[upstream]]\nname = "u"\nurl = "{}/v1"\n'
    async with Upstream(script) as upstream:
        toml = toml.format(upstream.url) + 'models = ["gpt*", "a*", "%*", "\ufffd*"]\n'
        async with relaying(toml=toml) as relay:
            for name, (method, target, pairs, body) in ECHOES.items():
                data = json.dumps(body).encode() if body else b""
                kind = [JSON] if body else []
                sent = [(field, value.encode().decode("latin-1")) for field, value in pairs]
                found = await exchange(relay.port, method, target, *kind, *sent, body=data)
                assert found.names() <= NAMES, name
                assert found.status < 500, name
                assert found.whole, name
                await check_body(found, name)
            for request in upstream.requests:
                assert "x-evil" not in request.names()
                assert "\r" not in request.target


async def check_body(found, name):
    """Check that a body is one JSON document, or the events of a good answer, or a page."""
    kind = (found.get("content-type") or "").partition(";")[0]
    if kind == "text/event-stream":
        events = [block.get("event", "message") for block in blocks(found.body)]
        assert events in (["start", "answer", "done"], ["message"] * 3), name
    elif kind == "application/json":
        assert set(found.json()) in ({"error"}, {"type", "error"}), name
        assert b"\r" not in found.body, name
        assert b"\n" not in found.body, name
    else:
        assert found.status in {200, 204}, name


EVIL = [
    "\n\ndata: evil\n\n",
    "\r\n\r\nevent: done\r\ndata: {}\r\n\r\n",
    "\r\rdata: evil\r\r",
    "\nid: evil\nretry: 1\n",
    "\u2028data: evil\u2029\x0b\x0c\x1c\x1d\x1e\x85",
    "\ufeff: no comment\n",
    "\0\x1b[31m",
    '"}\n\nevent: error\ndata: {"',
    "</script><script>alert(1)</script>",
]


def evil_frames(text):
    """Return a chat completion that says this wherever there is a place for words."""
    call = {"index": 0, "id": text, "type": text, "function": {"name": text, "arguments": text}}
    return [
        chat_frame({"role": text, "content": text}, model=text, id=text),
        chat_frame({"content": text * 20}, model=text),
        chat_frame({"reasoning_content": text, "tool_calls": [call]}, model=text),
        chat_frame({}, finish=text, model=text),
        chat_frame(usage={"total_tokens": 3, text: text}, model=text),
        DONE,
    ]


@pytest.mark.parametrize("pace", ["off", "typewriter"])
async def test_no_text_of_a_model_becomes_an_event(clock, pace):
    """Events of /chat and frames of /v1 are as many as there are, and say what was said."""
    asked = {"question": "Hi", "pace": pace}
    async with Upstream() as upstream, relaying(upstream.url, clock=clock) as relay:
        for text in EVIL:
            upstream._script = sse(*evil_frames(text))
            events = blocks(await told(relay, clock, "/chat", asked))
            names = [block["event"] for block in events]
            assert names[0] == "start"
            assert names[-1] == "done"
            assert set(names[1:-1]) == {"answer", "reasoning", "tool_calls"}
            said = [json.loads(block["data"]) for block in events]
            assert joined(said, names, "answer") == text * 21
            assert joined(said, names, "reasoning") == text
            assert said[-1]["finish_reason"] == said[-1]["model"] == text
            [calls] = [one["tool_calls"] for one in said if "tool_calls" in one]
            assert calls[0]["id"] == calls[0]["function"]["arguments"] == text
            stream = said[0]["stream"]
            assert all(block["id"].startswith(f"{stream}.") for block in events)
            assert all("\n" not in block["data"] for block in events)


def joined(said, names, wanted):
    """Return the text of the events of that name."""
    pairs = zip(said, names, strict=True)
    return "".join(one["content"] for one, name in pairs if name == wanted)


async def told(relay, clock, path, body, *pairs):
    """Ask, and let the time pass that a pace takes; return the body."""
    data = json.dumps(body).encode()
    asking = asyncio.create_task(exchange(relay.port, "POST", path, JSON, *pairs, body=data))
    while not asking.done():
        await settled()
        clock.advance(1)
    found = asking.result()
    assert (found.status, found.whole) == (200, True)
    return found.body


IDS = [
    b"id: evil.1\n",
    b"id:evil.1\r\n",
    b"id\n",
    b"id: \n",
    b"\xef\xbb\xbfid: evil.1\n",
    b": x\rid: evil.1\r",
    b"event: x\nid: evil.1\nid: evil.2\n",
    b"\r\nid: evil.1\n",
    b"retry: 1\nid: evil\0\n",
]


@pytest.mark.parametrize("pace", ["off", "typewriter"])
async def test_no_id_of_the_upstreams_is_taken_for_the_relays(clock, pace):
    """In a stream that can be resumed the last id is always one that the relay knows."""
    texts = [chat_frame({"content": "so many words that they are cut " * 3}), *IDS]
    frames = [one + texts[0] for one in IDS] + [one + b"\n" for one in IDS]
    frames += [chat_frame({}, finish="stop"), DONE]
    pairs = [("Teleprinter-Keep", "15"), ("Teleprinter-Pace", pace)]
    async with Upstream(sse(*frames)) as upstream, relaying(upstream.url, clock=clock) as relay:
        asked = {"model": "m", "stream": True}
        data = await told(relay, clock, "/v1/chat/completions", asked, *pairs)
        events = blocks(data)
        assert len(events) >= len(IDS) + 2
        named_otherwise = b"\xef\xbb\xbfid: evil.1\n"  # but where it begins the stream
        assert b"evil" not in data.replace(named_otherwise, b"")
        assert all(re.fullmatch(r"[\w-]{22}\.\d+(\+\d+)?", block["id"]) for block in events)
        numbers = [int(block["id"].partition(".")[2].partition("+")[0]) for block in events]
        assert numbers == sorted(numbers)


@pytest.mark.parametrize("path", ["/chat", "/v1/chat/completions", "/v1/messages"])
async def test_no_word_of_an_error_becomes_an_event(path):
    """Errors of the upstream, in its status or in its stream, end as one event with their words."""
    asked = json.dumps({"model": "m", "stream": True, "messages": [{"content": "Hi"}]}).encode()
    async with Upstream() as upstream, relaying(upstream.url) as relay:
        for text in EVIL:
            error = {"type": "error", "error": {"message": text, "code": text, "type": text}}
            for script in (
                sse(frame(error, "error")),
                reply(400, json.dumps(error), content_type="application/json"),
            ):
                upstream._script = script
                found = await exchange(relay.port, "POST", path, JSON, body=asked)
                if found.status == 400:
                    assert found.json() == error
                    continue
                events = blocks(found.body)
                [last] = [block for block in events if block.get("event") != "start"]
                assert last["event"] == "error"
                data = json.loads(last["data"])
                assert text in (data["message"] if path == "/chat" else data["error"]["message"])


@pytest.fixture
def terminal(monkeypatch):
    """Return what is logged, as on a terminal; the logging of the run stays as it was."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr("sys.stderr", screen := Terminal())
    logs.configure("info")
    yield screen
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize(
    "evil", ["%1b%5b31m", "%0aevil", "%0d", "%07", "%c2%9b31m", "%e2%80%ae", "%7f", "%e2%80%a8"]
)
async def test_a_terminal_obeys_nobody(terminal, evil):
    """A path and a model are shown as text: no colour, no line of their own, no way back."""
    asyncio.get_running_loop().set_debug(False)  # it would log what is slow
    async with standing() as (relay, _):
        await exchange(relay.port, "GET", f"/v1/{evil}")
        await exchange(relay.port, "GET", f"/chat?question=Hi&model={evil}")
        await until(lambda: terminal.getvalue().count("\n") == 2)
    lines = terminal.getvalue().split("\n")
    assert len(lines) == 3
    for line in lines:
        shown = re.sub(r"\x1b\[[0-9]{1,2}m", "", line)
        assert shown.isprintable() or not shown, shown
        assert "\x1b[31m\x1b" not in line


# --- slow, packed, unread, many

SLOW = {
    "a body": (post(SIZE + b"9", body=b"{"), b" "),
    "an upload": (
        post(SIZE + b"9", body=b"{").replace(b"application/json", b"audio/mpeg"),
        b" ",
    ),
    "a chunk's size": (post(CHUNKED, body=b"0"), b"0"),
    "an extension": (post(CHUNKED, body=b"2;"), b"x"),
    "a chunk": (post(CHUNKED, body=b"9\r\n"), b" "),
    "trailers": (post(CHUNKED, body=b"2\r\n{}\r\n0\r\nX: "), b"y"),
    "what was to follow 100": (post(b"Expect: 100-continue", SIZE + b"9", body=b""), b" "),
}


@pytest.mark.both_loops
@pytest.mark.parametrize("name", SLOW)
async def test_a_body_that_is_dripped(clock, name):
    """408 after limits.body_timeout, however often a byte comes; the others do not wait for it."""
    head, drop = SLOW[name]
    async with standing(clock=clock) as (relay, upstream), dial(relay.port) as line:
        await line.write(head)
        await clock.armed(1060)
        for _ in range(3):
            await line.write(drop)
            await settled()
            clock.advance(19.9)
        await settled()
        assert b" 408 " not in line.received
        await served(relay, upstream)
        upstream.requests.clear()
        clock.advance(1)
        await line.until(b"(limits.body_timeout)")
        assert b"HTTP/1.1 408 " in line.received
        assert b'"code":"request_timeout"' in line.received
        assert upstream.requests == []


@contextmanager
def counting(monkeypatch):
    """Yield a list of the sizes that are unpacked in this process."""
    sizes = []
    unpack = aiohttp.compression_utils.ZLibDecompressor.decompress_sync

    def counted(decompressor, *args, **kwargs):
        data = unpack(decompressor, *args, **kwargs)
        sizes.append(len(data))
        return data

    patched = aiohttp.compression_utils.ZLibDecompressor
    with monkeypatch.context() as patch:
        patch.setattr(patched, "decompress_sync", counted)
        yield sizes


def bomb(kind):
    """Return a MiB that would be a GiB: JSON that begins and does not end."""
    packer = zlib.compressobj(9, zlib.DEFLATED, {"gzip": 31, "deflate": 15}[kind])
    first = packer.compress(b'{"question": "') + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(b"x" * MIB) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + block * 1000


async def bombarded(relay, path, label, kind="gzip", end=b"}}"):
    """Send a bomb, read the answer while it is sent, up to its end; return it."""
    data = bomb(kind)
    fields = f"Content-Encoding: {kind}".encode(), SIZE + b"%d" % len(data)
    request = post(*fields, body=data, start=f"POST {path} HTTP/1.1".encode())
    async with dial(relay.port) as line:
        line._writer.write(request.replace(b"application/json", label.encode()))
        await line.until(end)
        return parse(line.received)


LABELS = ["application/json", "audio/mpeg"]


@pytest.mark.both_loops
@pytest.mark.parametrize("kind", ["gzip", "deflate"])
@pytest.mark.parametrize("label", LABELS)
async def test_a_packed_body_is_not_unpacked_beyond_the_limit(monkeypatch, kind, label):
    """limits.body holds for what comes out: 413, and the rest is not even looked at."""
    with counting(monkeypatch) as sizes:
        async with standing(toml=f"[limits]\nbody = {MIB}") as (relay, upstream):
            for path in ("/v1/chat/completions", "/v1/audio/transcriptions", "/chat"):
                found = await bombarded(relay, path, label, kind)
                assert (found.status, found.error["code"]) == (413, "too_large")
                assert upstream.requests == []
                assert sum(sizes) < 4 * MIB
                sizes.clear()
            await served(relay, upstream)


class Early(Server):
    """An upstream that answers a request when it has its head."""

    scheme = "http"

    async def serve(self, connection):
        """Answer, and read on."""
        await connection.reader.readuntil(b"\r\n\r\n")
        await connection.send(b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno")
        while not connection.gone.is_set() and await connection.reader.read(MIB):
            pass


@pytest.mark.parametrize(
    ("why", "label"),
    [
        ("no key", LABELS[0]),
        ("no such path", LABELS[0]),
        ("no such path", LABELS[1]),
        ("the upstream's word", LABELS[1]),
    ],
)
async def test_a_packed_body_that_nobody_waits_for_is_not_unpacked(monkeypatch, why, label):
    """Whoever has the answer already sends the rest to nobody."""
    keys = {"keys": "ann:ka"} if why == "no key" else {}
    path = "/nowhere" if why == "no such path" else "/v1/x"
    with counting(monkeypatch) as sizes:
        async with Early() as upstream, relaying(upstream.url, **keys) as relay:
            theirs = why == "the upstream's word"
            found = await bombarded(relay, path, label, end=b"\r\n\r\nno" if theirs else b"}}")
            assert found.status == (404 if why == "no such path" else 401)
            await until(lambda: not relay.streams)
    assert sum(sizes) < 16 * MIB


async def test_what_is_packed_twice_is_not_unpacked(monkeypatch):
    """The relay hands it on as it came, and says so; it has no use for what is in it."""
    data = gzip.compress(gzip.compress(b"x" * MIB))
    with counting(monkeypatch) as sizes:
        async with standing() as (relay, upstream):
            coding = ("Content-Encoding", "gzip, gzip")
            found = await exchange(relay.port, "POST", "/v1/x", JSON, coding, body=data)
            assert found.status == 200
            assert upstream.requests[0].body == data
            assert upstream.requests[0].get_all("content-encoding") == ["gzip, gzip"]
    assert sizes == []


@pytest.mark.both_loops
async def test_an_answer_that_nobody_takes(clock):
    """A plain one too: after send_timeout the upstream is left, and the outcome is `slow`."""

    async def script(request, wire):
        if request.target == "/v1/good":
            return await ANSWERS(request, wire)
        await wire.head(content_type="audio/mpeg")
        with suppress(OSError):
            while True:
                await wire.chunk(bytes(64 * KIB))
                sent.append(64 * KIB)
        return None

    sent = []
    toml = "[limits]\nsend_timeout = 7\n[clocks]\nidle = 0\n"
    with capture_logs() as lines:
        async with standing(script, toml=toml, clock=clock) as (relay, upstream):
            async with dial(relay.port) as line:
                line._writer.transport.pause_reading()
                await line.send("GET", "/v1/x")
                await clock.armed(1007)
                before = -1
                while before != len(sent):
                    before = len(sent)
                    await settled()
                assert sum(sent) < 16 * MIB  # nearly all of it in the kernels
                clock.advance(7)
                await upstream.until(lambda: upstream.open_connections == 0)
                await until(lambda: any(one["event"] == "request" for one in lines))
            await served(relay, upstream)
    [found] = [one for one in lines if one.get("path") == "/v1/x"]
    assert (found["outcome"], found["error"]) == ("slow", "client_too_slow")


HALVES = {
    "nothing": (b"", 0),
    "half a request line": (b"GET /v1/x HT", 0),
    "half a head": (b"GET /v1/x HTTP/1.1\r\nHost: 127.0.0.1\r\n", 0),
    "half a body": (post(SIZE + b"9", body=b"{"), 0),
    "half a chunk": (post(CHUNKED, body=b"9\r\n{"), 0),
    "a request": (get(), 1),
    "a stream": (
        post(SIZE + b"30", body=b'{"model": "m", "stream": true}'),
        1,
    ),
}


@pytest.mark.both_loops
@pytest.mark.parametrize("name", HALVES)
async def test_a_client_that_is_half_closed_has_left(name):
    """Nobody can tell it from one that is gone: what it asked for is ended, at once."""
    data, requests = HALVES[name]
    async with Upstream() as upstream, relaying(upstream.url) as relay, dial(relay.port) as line:
        await line.write(data)
        if requests:
            _, wire = await upstream.next()
        await settled()
        line._writer.write_eof()
        assert await asyncio.wait_for(line._reader.read(), 10) == b""
        if requests:
            await wire.closed.wait()
        await until(lambda: not relay.streams)
        assert len(upstream.requests) == requests
        asking = asyncio.create_task(exchange(relay.port, "GET", "/v1/good"))
        _, wire = await upstream.next()
        await wire.reply(200, GOOD)
        assert (await asking).body == GOOD


@contextmanager
def descriptors():
    """Let this process have as many as it may; yield how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def idle(stack, port, count):
    """Open so many connections that begin a request and do not end it."""
    for _ in range(count):
        one = stack.enter_context(socket.socket())
        one.connect(("127.0.0.1", port))
        one.send(b"GET /v1/x HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ")


def held(relay):
    """Return how many descriptors a process has, and its memory in KiB."""
    folder = Path(f"/proc/{relay.process.pid}")
    status = (folder / "status").read_text()
    return len(list((folder / "fd").iterdir())), int(re.search(r"VmRSS:\s+(\d+)", status)[1])


async def until_held(relay, true):
    """Wait until that is true of the number of a process's descriptors."""
    async with asyncio.timeout(60):
        while not true(held(relay)[0]):  # noqa: ASYNC110  another process
            await asyncio.sleep(0.05)


async def test_ten_thousand_connections(tmp_path):
    """They cost 16 KiB each, nobody else waits for them, and nothing of them is left."""
    async with Upstream(ANSWERS) as upstream:
        with descriptors() as most, ExitStack() as stack:
            count = min(10_000, most - 1000)
            many = ("prlimit", f"--nofile={count + 500}")
            async with serving(tmp_path, upstream_toml(upstream), prefix=many) as relay:
                assert (await exchange(relay.port, "GET", "/v1/good")).body == GOOD
                before, light = held(relay)
                idle(stack, relay.port, count)
                await until_held(relay, lambda found: found >= before + count)
                assert (await exchange(relay.port, "GET", "/v1/good")).body == GOOD
                _, heavy = held(relay)
                print(f"measured: {count} connections: {(heavy - light) / count:.1f} KiB each")  # noqa: T201
                assert heavy - light < count * 16
                stack.close()
                await until_held(relay, lambda found: found <= before + 2)
                assert (await exchange(relay.port, "GET", "/v1/good")).body == GOOD


async def test_more_connections_than_descriptors(tmp_path):
    """Those that do not fit wait in the kernel; when some have left, the next client is served."""
    async with Upstream(ANSWERS) as upstream:
        with descriptors(), ExitStack() as stack:
            few = ("prlimit", "--nofile=200:200")
            async with serving(tmp_path, upstream_toml(upstream), prefix=few) as relay:
                before, _ = held(relay)
                idle(stack, relay.port, 400)
                await until_held(relay, lambda found: found >= 199)
                stack.close()
                await until_held(relay, lambda found: found <= before + 2)
                assert (await exchange(relay.port, "GET", "/v1/good")).body == GOOD
                assert "Traceback" not in relay.text.partition("out of system resource")[0]
