"""Requests as bytes: those that clients send, cut, spliced, doubled and spoilt.

Each gets an answer with a code of the relay's own, or aiohttp's 400, or none if it is not whole;
never a fault. What goes upstream is whole HTTP for the configured host. The next client is served.
"""

import asyncio
import json
import logging
from contextlib import AsyncExitStack

import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st

from fakes import Upstream, chat
from line import exchange, parse
from relaying import relaying
from service.errors import CODES
from strategies import examples

KEY = "sk-hunter2-canary"
HOST = b"Host: HOST\r\n"
ASK = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "Hi"}]}'
TURNS = 80
IDLE = 15
"""Turns of the loop without a byte, after which no answer is on its way."""


def request(line: bytes, *fields: bytes, body: bytes = b"") -> bytes:
    """Return a request with its Host."""
    size = [b"Content-Length: %d" % len(body)] if body else []
    return b"\r\n".join([line + b" HTTP/1.1", b"Host: HOST", *fields, *size, b"", body])


JSON = b"Content-Type: application/json"
CHUNKED = b"Transfer-Encoding: chunked"
CORPUS = [
    request(b"GET /chat?question=Hi&pace=typewriter&delay_ms=1&keep=1"),
    request(b"GET /chat?ticket=x", b"Last-Event-ID: abc.1+2"),
    request(b"POST /chat", JSON, body=b'{"question": "Hi", "model": "m", "keep": 0.5}'),
    request(b"POST /chat", JSON, b"Last-Event-ID: abc.1", body=b'{"pace": "smooth"}'),
    request(b"POST /v1/chat/completions", JSON, b"Teleprinter-Pace: smooth", body=ASK),
    request(b"POST /v1/chat/completions", JSON, b"Teleprinter-Keep: 1", body=ASK),
    request(b"POST /v1/messages", JSON, b"x-api-key: k", b"anthropic-version: 1", body=ASK),
    request(b"POST /v1/embeddings", JSON, b"Authorization: Bearer k", body=b'{"model": "m"}'),
    request(b"POST /v1/files", b"Content-Type: multipart/form-data; boundary=b", body=b"--b--"),
    request(b"POST /v1/files", CHUNKED, body=b"")[:-2] + b"\r\n5;x=y\r\nhello\r\n0\r\nT: 1\r\n\r\n",
    request(b"POST /v1/x", b"Expect: 100-continue", JSON, body=b"{}"),
    request(b"POST /v1/x", b"Content-Encoding: gzip", JSON, body=b"\x1f\x8b\x08\0\0\0\0\0"),
    request(b"GET /v1/models"),
    request(b"HEAD /v1/models/m%2Fn?a=b%20c"),
    request(b"GET http://HOST/v1/models"),
    request(b"GET /streams/abc?after=abc.1&as=openai"),
    request(b"DELETE /streams/abc"),
    request(b"POST /tickets"),
    request(b"OPTIONS /chat", b"Origin: http://HOST", b"Access-Control-Request-Method: POST"),
    request(b"GET /v1/realtime", b"Connection: Upgrade", b"Upgrade: websocket"),
    request(b"GET /", b'If-None-Match: "x", W/"y"', b"Sec-Fetch-Mode: navigate"),
    request(b"GET /pages/typewriter.js"),
    request(b"GET /status.json"),
    request(b"GET /status/events"),
    request(b"GET /metrics"),
    request(b"GET /readyz") + request(b"GET /healthz"),
]
SPICES = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b"%",
    b"%2e%2e%2f",
    b"%00",
    b"../",
    b"//",
    b"@evil/",
    b"http://evil/",
    b"?",
    b"#",
    b"&",
    b"\xff\xfe",
    "é".encode(),
    b"A" * 9000,
    b"9" * 400,
    b"-1",
    b"nan",
    b"{",
    b"[" * 2000,
    b'"\\ud83d"',
    b"\r\nContent-Length: 3",
    b"\r\nContent-Length: +3",
    b"\r\nTransfer-Encoding: chunked",
    b"\r\nTransfer-Encoding: gzip, chunked",
    b"\r\nHost: evil",
    b"\r\nOrigin: null",
    b"\r\nConnection: close, Content-Length",
    b"\r\nLast-Event-ID: abc.0",
    b"\r\nLast-Event-ID: ",
    b"\r\nTeleprinter-Keep: 1e9",
    b"\r\nTeleprinter-Delay: 5",
    b"\r\nContent-Encoding: deflate",
    b"\r\nContent-Type: ;;;",
    b"\r\nX-Forwarded-For: 1, x",
    b"\r\nRange: bytes=0-",
    b"\r\n X: folded",
    b"\r\nHTTP2-Settings: x\r\nUpgrade: h2c",
]


@st.composite
def spoilt(draw):
    """Draw a request of the corpus with a few changes."""
    data = draw(st.sampled_from(CORPUS))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        to = min(len(data), at + draw(st.integers(0, 12)))
        match draw(st.sampled_from("isdcxb")):
            case "i":
                data = data[:at] + draw(st.sampled_from(SPICES)) + data[at:]
            case "s":
                data = data[:at] + draw(st.sampled_from(SPICES)) + data[to:]
            case "d":
                data = data[:at] + data[at:to] + data[at:]
            case "c":
                data = data[:at]
            case "x":
                other = draw(st.sampled_from(CORPUS))
                data = data[:at] + other[draw(st.integers(0, len(other))) :]
            case _:
                data = data[:at] + draw(st.binary(min_size=1, max_size=3)) + data[to:]
    return data


class Scene:
    """A relay before an upstream that answers everything, on a loop of their own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.faults: list[object] = []
        self.loop.set_exception_handler(lambda _, context: self.faults.append(context))
        self._parts = AsyncExitStack()
        self.run(self._open())

    def run(self, work):
        """Do something on the loop."""
        return self.loop.run_until_complete(work)

    async def _open(self) -> None:
        self.upstream = await self._parts.enter_async_context(Upstream(_answer))
        settings = relaying(self.upstream.url, upstream_key=KEY)
        self.relay = await self._parts.enter_async_context(settings)

    async def send(self, data: bytes) -> bytes:
        """Send bytes; return what comes back until nothing more does."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.relay.port)
        host = f"127.0.0.1:{self.relay.port}".encode()
        writer.write(data.replace(b"HOST", host))
        silence = turns = 0
        while silence < IDLE and turns < TURNS and not reader.at_eof():
            known = len(reader._buffer)
            await asyncio.sleep(0)
            turns += 1
            silence = 0 if len(reader._buffer) != known else silence + (turns > TURNS // 2)
        got = bytes(reader._buffer)
        writer.transport.abort()
        return got

    async def check(self, data: bytes) -> None:
        """Send a request, look at the answer, and ask for another one."""
        with structlog.testing.capture_logs([structlog.processors.format_exc_info]) as lines:
            got = await self.send(data)
            alive = await exchange(self.relay.port, "GET", "/healthz")
        assert alive.status == 200
        faults = [line for line in lines if line["log_level"] in {"error", "critical"}]
        assert not faults, faults[0].get("exception")
        assert not self.faults, self.faults
        assert KEY.encode() not in got
        assert b"Traceback" not in got
        if b"\r\n\r\n" in got:
            self._check_answer(got)
        for request in self.upstream.requests:
            self._check_request(request)
        self.upstream.requests.clear()

    def _check_answer(self, got: bytes) -> None:
        answer = (
            parse(got)
            if not got.startswith(b"HTTP/1.1 100")
            else parse(b"HTTP" + got.split(b"HTTP", 2)[2])
        )
        if answer.status < 400 or not answer.whole:
            return
        if answer.get("teleprinter-request-id") is None:  # aiohttp's, of what is no HTTP
            assert answer.status in {400, 413, 417, 431}, got[:300]
            return
        if (answer.get("content-type") or "").startswith("application/json"):
            code = json.loads(answer.body)["error"]["code"]
            assert code in CODES, got
            assert code != "internal", got

    def _check_request(self, request) -> None:
        origin = self.upstream.url.removeprefix("http://")
        assert request.target.startswith("/v1/"), request
        assert request.get_all("host") == [origin], request.head
        framing = request.get_all("content-length") + request.get_all("transfer-encoding")
        assert len(framing) <= 1, request.head
        assert request.get_all("authorization") == [f"Bearer {KEY}"], request.head

    def close(self) -> None:
        """Stop; what an upstream could not read is raised here."""
        try:
            self.run(self._parts.aclose())
        finally:
            self.loop.close()


async def _answer(request, wire) -> None:
    if b'"stream": true' in request.body or b'"stream":true' in request.body:
        await wire.head(200, content_type="text/event-stream")
        for frame in chat(["Hi", " there"]):
            await wire.chunk(frame)
        await wire.end()
    else:
        await wire.reply(200, '{"data": []}', content_type="application/json")


@pytest.fixture(scope="module")
def scene():
    """Return a running relay for all requests."""
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # it tells of each bad request
    made = Scene()
    yield made
    made.close()


@examples(120)
@given(data=spoilt())
@example(data=CORPUS[-1])
def test_any_bytes_are_answered(scene, data):
    """No request is a fault, nothing but the upstream is asked, and the next client is served."""
    scene.run(scene.check(data))


@pytest.mark.parametrize("path", [b"/chat", b"/v1/embeddings", b"/v1/files"])
@pytest.mark.parametrize(
    "body",
    [
        request(b"", b"Content-Encoding: gzip", body=b"no gzip"),
        request(b"", b"Content-Encoding: gzip", CHUNKED) + b"2\r\nno\r\n0\r\n\r\n",
    ],
    ids=["sized", "chunked"],
)
@pytest.mark.parametrize("kind", [JSON, b"Content-Type: application/octet-stream"])
def test_a_body_that_is_not_what_it_says_is_the_clients_fault(scene, path, body, kind):
    """What cannot be decoded is bad_request, whether it was to be looked into or handed on."""
    got = scene.run(
        scene.send(b"POST " + path + body.replace(b"\r\n", b"\r\n" + kind + b"\r\n", 1))
    )
    assert (parse(got).status, parse(got).error["code"]) == (400, "bad_request")


@pytest.mark.parametrize("data", CORPUS, ids=lambda data: data.split(b"\r")[0].decode())
def test_the_corpus_itself(scene, data):
    """Unspoilt, each of them gets an answer."""
    got = scene.run(scene.send(data))
    assert got.startswith(b"HTTP/1.1 "), got
