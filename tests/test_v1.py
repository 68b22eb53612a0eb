"""`/v1/*` hands a request and its answer on: any method, any body, byte for byte.

Bytes    what is sent arrives, both ways, however it was cut on the way
Privacy  nothing tells the upstream who asks, nothing tells the client where the answer was made
"""

import gzip
import json
import random
import zlib

import pytest

from fakes import HttpProxy, Upstream, chat, frame, in_turn, reply, sse
from line import dial, exchange, parse
from relaying import relaying

JSON = ("Content-Type", "application/json")
ASK = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "Hi"}]}'
EMBED = b'{"model": "m", "input": "Hi"}'
NOISE = random.Random(7).randbytes(300_000)  # noqa: S311  no secret
TELL = "tells-on-you"
MALFORMED = [b"data: {not json\n\n", b"data\n\n", b"nonsense\n\n", b"data: \xff\xfe\n\n", b"\n\n\n"]


async def ask(upstream, method, target, *pairs, body=b"", **settings):
    """Send one request through a relay before this upstream; return the answer."""
    async with relaying(upstream.url, **settings) as relay:
        return await exchange(relay.port, method, target, *pairs, body=body)


# --- requests


@pytest.mark.parametrize(
    "method", ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "PROPFIND"]
)
@pytest.mark.parametrize("body", [b"", b'{"a" : 1}'])
async def test_any_method_with_and_without_a_body(method, body):
    """Method, path, query and body arrive as sent; status and body come back."""
    async with Upstream(reply(202, b"done", content_type="text/x")) as upstream:
        answer = await ask(upstream, method, "/v1/things/1?x=y", JSON, body=body)
    request = upstream.requests[0]
    assert (request.method, request.target, request.body) == (method, "/v1/things/1?x=y", body)
    assert (answer.status, answer.reason, answer.whole) == (202, "Accepted", True)
    assert answer.body == (b"" if method == "HEAD" else b"done")


async def test_json_is_not_written_anew():
    """Blanks, order, doubled keys, number forms and escapes of the JSON stay as they were."""
    body = b'\n{ "b":1.0e0, "a":"\\u00e9\xe4\xbd\xa0", "a":2,\t"stream": false }\r\n'
    async with Upstream(reply(200, body, content_type="application/json")) as upstream:
        answer = await ask(upstream, "POST", "/v1/embeddings", JSON, body=body)
    assert upstream.requests[0].body == answer.body == body
    assert upstream.requests[0].get_all("content-type") == ["application/json"]
    assert upstream.requests[0].get_all("content-length") == [str(len(body))]


async def test_a_multipart_upload_keeps_its_boundary_and_its_bytes():
    """A file of any bytes arrives whole, between the client's own boundaries."""
    form = b"--b0--x\r\nContent-Disposition: form-data; name=file; filename=\xe5.wav\r\n\r\n"
    form += NOISE + b"\r\n--b0--x--\r\n"
    kind = ("Content-Type", 'multipart/form-data; boundary="b0--x"')
    async with Upstream(reply(200, "{}")) as upstream:
        answer = await ask(upstream, "POST", "/v1/audio/transcriptions", kind, body=form)
    assert answer.status == 200
    assert upstream.requests[0].body == form
    assert upstream.requests[0].get_all("content-type") == [kind[1]]


async def test_a_chunked_upload_arrives_whole():
    """A body of unknown length is handed on with its length."""
    chunked = b"5\r\nHello\r\n7;x=y\r\n, world\r\n0\r\nX-Trailer: 1\r\n\r\n"
    coding = ("Transfer-Encoding", "chunked")
    async with Upstream(reply(200)) as upstream:
        await ask(upstream, "POST", "/v1/files", coding, body=chunked)
    assert upstream.requests[0].body == b"Hello, world"
    assert "x-trailer" not in upstream.requests[0].names()


@pytest.mark.parametrize(
    "target",
    [
        "/v1/files/a%2Fb?x=%20+",
        "/v1/files/%E4%BD%A0%e4%bd%a0?q=%E4%BD%A0&q=;&&=&c=%26%3D%23",
        "/v1/a//b///?a=b?c=d/../e",
        "/v1/~u/a:b@c,d'e(f)*!$&+;=_-.%7E%41",
        "/v1/a%20b/%25%2e%00?%zz=%",
        "/v1/...?.",
        "/v1/a..b/..c/d..",
        '/v1/x?a=[1]|{2}^`"<>\\',
    ],
)
@pytest.mark.parametrize("through", ["direct", "proxy"])
async def test_path_and_query_keep_their_encoding(target, through):
    """Not one byte of path and query changes, directly and in a proxy's absolute form."""
    async with HttpProxy() as proxy, Upstream(reply(200)) as upstream:
        way = "direct" if through == "direct" else proxy.url
        answer = await ask(upstream, "GET", target, proxy=way)
    assert answer.status == 200
    assert upstream.requests[0].target == target


async def test_an_absolute_request_target_is_taken_by_its_path():
    """`GET http://relay/v1/…`, as a client that takes the relay for a proxy sends it, works."""
    async with Upstream(reply(200, "hi")) as upstream, relaying(upstream.url) as relay:
        target = f"http://127.0.0.1:{relay.port}/v1/files/a%2Fb?x=%20+"
        answer = await exchange(relay.port, "GET", target)
    assert (answer.status, answer.body) == (200, b"hi")
    assert upstream.requests[0].target == "/v1/files/a%2Fb?x=%20+"


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_a_compressed_request_arrives_as_what_it_says(coding, pack):
    """A body that the relay unpacked goes on plain: with its own length and no coding named."""
    async with Upstream(reply(200)) as upstream:
        pairs = (JSON, ("Content-Encoding", coding))
        answer = await ask(upstream, "POST", "/v1/embeddings", *pairs, body=pack(EMBED))
    request = upstream.requests[0]
    assert answer.status == 200
    assert request.body == EMBED
    assert "content-encoding" not in request.names()
    assert request.get_all("content-length") == [str(len(EMBED))]


async def test_a_coding_that_the_relay_does_not_know_stays_named():
    """A body that was not unpacked goes on with the name of its coding, both ways."""
    coding = ("Content-Encoding", "x-own")
    async with Upstream(reply(200, b"packed", coding)) as upstream:
        answer = await ask(upstream, "POST", "/v1/x", coding, body=b"packed too")
    assert upstream.requests[0].body == b"packed too"
    assert upstream.requests[0].get("content-encoding") == "x-own"
    assert (answer.body, answer.get("content-encoding")) == (b"packed", "x-own")


@pytest.mark.parametrize("form", ["length", "chunked", "gzip"])
async def test_a_body_over_the_limit_is_refused(form):
    """limits.body is the largest body, unpacked; one byte more gets 413, the upstream nothing."""
    fits, over = b"a" * 1000, b"a" * 1001
    pairs = {
        "length": (),
        "chunked": (("Transfer-Encoding", "chunked"),),
        "gzip": (("Content-Encoding", "gzip"),),
    }[form]

    def packed(body):
        chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        return {"length": body, "chunked": chunked, "gzip": gzip.compress(body)}[form]

    toml = "[limits]\nbody = 1000"
    async with Upstream(reply(200)) as upstream, relaying(upstream.url, toml=toml) as relay:
        answer = await exchange(relay.port, "POST", "/v1/x", *pairs, body=packed(over))
        assert (answer.status, answer.error["code"]) == (413, "too_large")
        assert "limits.body" in answer.error["message"]
        assert upstream.requests == []
        answer = await exchange(relay.port, "POST", "/v1/x", *pairs, body=packed(fits))
        assert answer.status == 200
    assert upstream.requests[0].body == fits


# --- answers


@pytest.mark.parametrize("sized", [True, False])
async def test_a_binary_answer_arrives_byte_for_byte(sized):
    """Audio comes back as it was made, with its length if the upstream gave it."""

    async def speak(request, wire):
        if sized:
            return await wire.reply(200, NOISE, content_type="audio/mpeg")
        await wire.head(content_type="audio/mpeg")
        for start in range(0, len(NOISE), 50_000):
            await wire.chunk(NOISE[start : start + 50_000])
        return await wire.end()

    async with Upstream(speak) as upstream:
        answer = await ask(upstream, "POST", "/v1/audio/speech", JSON, body=b'{"input": "Hi"}')
    assert (answer.body, answer.whole) == (NOISE, True)
    assert answer.get("content-type") == "audio/mpeg"
    assert answer.get_all("content-length") == ([str(len(NOISE))] if sized else [])


@pytest.mark.parametrize("status", [200, 204, 205, 304, 404])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_empty_answer_stays_empty_and_the_connection_good(method, status):
    """An answer without a body ends after its head, so that the next one follows at once."""
    second = reply(200, "next")
    async with (
        Upstream(in_turn(reply(status, b"", ETag='"1"'), second)) as upstream,
        relaying(upstream.url) as relay,
        dial(relay.port) as line,
    ):
        await line.send(method, "/v1/x", ("Connection", "keep-alive"))
        await line.until(b"\r\n\r\n")
        await line.send("GET", "/v1/x")
        head, _, rest = (await line.answer()).tail.partition(b"HTTP/1.1 200 OK\r\n")
    first = parse(line.received.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    assert (first.status, first.get("etag"), head) == (status, '"1"', b"")
    assert first.get("content-length") == ("0" if status not in {204, 304} else None)
    assert rest.endswith(b"\r\n\r\nnext")


async def test_the_answer_to_head_has_the_length_and_no_body():
    """HEAD tells the length that GET would have; no byte of a body follows, chunked or not."""

    async def chunked(request, wire):
        await wire.head(content_type="audio/mpeg")
        wire.keep_alive = True
        wire.finished.set()

    script = in_turn(reply(200, NOISE, content_type="audio/mpeg"), chunked, reply(200, "next"))
    async with (
        Upstream(script) as upstream,
        relaying(upstream.url) as relay,
        dial(relay.port) as line,
    ):
        for number in (1, 2):
            await line.send("HEAD", "/v1/files/1/content", ("Connection", "keep-alive"))
            await line.until(b"\r\n\r\n")
            first = parse(line.received, "HEAD")
            assert (first.status, first.whole, first.get("content-type")) == (
                200,
                True,
                "audio/mpeg",
            )
            assert first.get("content-length") == (str(len(NOISE)) if number == 1 else None)
            line.received = b""
        await line.send("GET", "/v1/x")
        assert (await line.answer()).body == b"next"


async def test_status_reason_and_headers_of_a_plain_answer():
    """An answer keeps its status, the words of its status line and its headers, also doubled."""
    head = b"HTTP/1.1 429 Slow down, please\r\nX-Request-Id: req_1\r\nRetry-After: 7\r\n"
    head += b"x-ratelimit-remaining-tokens: 0\r\nLink: <a>\r\nLink: <b>\r\nDate: yesterday\r\n"
    head += b"Server: cloud\r\nCache-Control: no-store\r\nContent-Type: application/json; x=y\r\n"

    async def script(request, wire):
        await wire.send(head + b'Content-Length: 11\r\n\r\n{"error":1}')
        wire.finished.set()

    async with Upstream(script) as upstream:
        answer = await ask(upstream, "POST", "/v1/chat/completions", JSON, body=ASK)
    assert (answer.status, answer.reason) == (429, "Slow down, please")
    assert answer.body == b'{"error":1}'
    for line in head.decode().split("\r\n")[1:-1]:
        name, _, value = line.partition(": ")
        assert value in answer.get_all(name)
    assert len(answer.get_all("link")) == 2
    assert len(answer.get_all("date")) == len(answer.get_all("server")) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 500, 503, 529])
async def test_an_error_of_the_upstream_comes_as_it_is(status):
    """4xx and 5xx, also to a request for a stream, are the upstream's own words, untouched."""
    body = b'{"error": {"message": "no",  "code": "x"}}'
    async with Upstream(reply(status, body, content_type="application/json")) as upstream:
        answer = await ask(upstream, "POST", "/v1/chat/completions", JSON, body=ASK)
    assert (answer.status, answer.body) == (status, body)
    assert "x-should-retry" not in answer.names()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_redirect_is_handed_on(method, status):
    """The client decides whether to follow; the relay asks once and sends the key nowhere else."""
    async with Upstream(reply(status, b"", Location="/elsewhere?x=%20")) as upstream:
        answer = await ask(upstream, method, "/v1/x", body=b"{}")
    assert (answer.status, answer.get("location")) == (status, "/elsewhere?x=%20")
    assert len(upstream.requests) == 1


async def test_the_relays_own_headers_of_an_answer():
    """An answer names the request and the upstream, a stream itself too; x-request-id stays."""
    script = in_turn(reply(200, "{}", ("x-request-id", "req_1")), sse(*chat(["Hi"])))
    async with Upstream(script) as upstream, relaying(upstream.url) as relay:
        plain = await exchange(relay.port, "GET", "/v1/models")
        stream = await exchange(relay.port, "POST", "/v1/chat/completions", JSON, body=ASK)
    assert plain.get("x-request-id") == "req_1"
    assert plain.get("teleprinter-upstream") == stream.get("teleprinter-upstream") == "127.0.0.1"
    ids = {plain.get("teleprinter-request-id"), stream.get("teleprinter-request-id")}
    assert len(ids - {None}) == 2
    assert len(stream.get("teleprinter-stream")) >= 16
    assert stream.get("content-type").startswith("text/event-stream")
    assert (stream.get("cache-control"), stream.get("x-accel-buffering")) == ("no-cache", "no")


# --- streams


def endings(frames, end):
    """Return the frames with other line ends."""
    return [data.replace(b"\n", end) for data in frames]


TOKENS = chat(["He said ", '"}"', " \\n 你好 👩‍👩‍👧", "\u2028\x85"], usage={"total_tokens": 3})
STREAMS = {
    "plain": TOKENS,
    "comments": [b": hello\n\n", *(part for one in TOKENS for part in (b": ping\n\n", one))],
    "malformed": [TOKENS[0], TOKENS[1], *MALFORMED, *TOKENS[2:]],
    "crlf": endings(TOKENS, b"\r\n"),
    "cr": endings(TOKENS, b"\r"),
    "mixed": [TOKENS[0], *endings(TOKENS[1:3], b"\r\n"), *endings(TOKENS[3:4], b"\r"), *TOKENS[4:]],
    "bom": [b"\xef\xbb\xbf" + TOKENS[0], *TOKENS[1:]],
    "multi-line": [frame(json.dumps(json.loads(one[6:]), indent=1)) for one in TOKENS[:-1]]
    + TOKENS[-1:],
    "fields": [b"event: x\nid: 7\nretry: 10\nother: y\n" + one for one in TOKENS],
    "no blank": [one.replace(b"data: ", b"data:") for one in TOKENS],
    "blank lines": [b"\n\n" + one + b"\n" for one in TOKENS[:-1]] + TOKENS[-1:],
    "done without blank line": [*TOKENS[:-1], b"data: [DONE]"],
    "done with one line end": [*TOKENS[:-1], b"data: [DONE]\n"],
    "no done": TOKENS[:-1],
}


@pytest.mark.parametrize("name", STREAMS)
async def test_a_stream_is_relayed_byte_for_byte(name):
    """Comments, malformed frames, any line ends, a BOM: all arrive as they were sent."""
    frames = STREAMS[name]
    async with Upstream(sse(*frames)) as upstream:
        answer = await ask(upstream, "POST", "/v1/chat/completions", JSON, body=ASK)
    assert answer.body == b"".join(frames)
    assert (answer.status, answer.whole) == (200, True)


def cut(data, seed, most):
    """Return the data in pieces of 1 to `most` bytes."""
    dice, pieces = random.Random(seed), []  # noqa: S311  no secret
    while data:
        size = dice.randint(1, most)
        pieces, data = [*pieces, data[:size]], data[size:]
    return pieces


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("most", [7, 90])
async def test_a_stream_may_be_cut_anywhere(name, most):
    """However the bytes are cut on the way, inside characters and line ends, they arrive."""
    data = b"".join(STREAMS[name])
    async with Upstream(sse(*cut(data, f"{name}{most}", most))) as upstream:
        answer = await ask(upstream, "POST", "/v1/chat/completions", JSON, body=ASK)
    assert answer.body == data
    assert answer.whole


@pytest.mark.parametrize("path", ["chat/completions", "messages", "agents/run"])
async def test_frames_are_not_held_back_until_the_next_one(path):
    """A frame goes out when its blank line came, not with the frame behind it."""
    content = {
        "chat/completions": TOKENS[1],
        "messages": frame({"type": "content_block_delta", "delta": {"text": "Hi"}}),
        "agents/run": b"data: 1\n\n",
    }[path]
    async with (
        Upstream() as upstream,
        relaying(upstream.url) as relay,
        dial(relay.port) as line,
    ):
        await line.send("POST", f"/v1/{path}", JSON, body=ASK)
        _, wire = await upstream.next()
        await wire.head(content_type="text/event-stream")
        await wire.chunk(content + b"data: torso")
        await line.until(content)
        assert b"torso" not in line.received


# --- privacy

FROM_THE_CLIENT = [
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Client-Cert",
    "Forwarded",
    "X-Real-IP",
    "CF-Connecting-IP",
    "CF-Ray",
    "CF-IPCountry",
    "CF-Visitor",
    "Via",
    "Cookie",
    "Origin",
    "Referer",
    "Keep-Alive",
    "Proxy-Authorization",
    "Proxy-Connection",
    "TE",
    "Trailer",
    "X-This-Hop",
    "X-That-Hop",
    "Teleprinter-Pace",
    "Teleprinter-Key",
    "Teleprinter-Anything",
    "Last-Event-ID",
    "Sec-Fetch-Mode",
    "Sec-CH-UA",
    "True-Client-IP",
    "X-Client-IP",
]
"""What must not go upstream; the two -Hop are named by Connection."""
HARMLESS = [
    ("User-Agent", "sdk/1"),
    ("Accept", "text/event-stream"),
    ("OpenAI-Organization", "org"),
    ("anthropic-version", "2023-06-01"),
    ("X-Stainless-Lang", "python"),
    ("Idempotency-Key", "1"),
    ("X-Custom", "a"),
    ("X-Custom", "b"),
]


def telling(port):
    """Return the client's headers, each of which says who it is."""
    values = {"Origin": f"http://127.0.0.1:{port}", "Teleprinter-Pace": "off"}
    pairs = [(name, values.get(name, TELL)) for name in FROM_THE_CLIENT]
    return [("Connection", "close, X-This-Hop, x-that-hop"), *pairs, *HARMLESS]


@pytest.mark.parametrize("stream", [True, False])
async def test_nothing_goes_upstream_that_tells_who_asks(stream):
    """None of the client's own and its hop's headers goes up; all others do, in order."""
    script = sse(*chat(["Hi"])) if stream else reply(200, "{}")
    async with Upstream(script) as upstream, relaying(upstream.url) as relay:
        body = ASK if stream else b"{}"
        pairs = telling(relay.port)
        answer = await exchange(relay.port, "POST", "/v1/chat/completions", *pairs, body=body)
        assert answer.status == 200
        request = upstream.requests[0]
        assert request.names() & {name.lower() for name in FROM_THE_CLIENT} == set()
        assert TELL not in request.head.decode()
        assert str(relay.port) not in request.head.decode()
    assert [pair for pair in request.headers if pair in HARMLESS] == HARMLESS


async def test_nothing_of_the_clients_goes_upstream_from_chat():
    """`/chat` is as discreet as `/v1`."""
    async with Upstream(sse(*chat(["Hi"]))) as upstream, relaying(upstream.url) as relay:
        pairs = [pair for pair in telling(relay.port) if pair[0] != "Last-Event-ID"]
        answer = await exchange(relay.port, "GET", "/chat?question=Hi", *pairs)
        assert answer.status == 200
    request = upstream.requests[0]
    assert request.names() & {name.lower() for name in FROM_THE_CLIENT} == set()
    assert TELL not in request.head.decode()


async def test_the_relay_adds_nothing_of_its_own_to_a_request():
    """A bare request gets a host, a length and the wish for an uncompressed answer; no more."""
    async with Upstream(reply(200)) as upstream:
        await ask(upstream, "POST", "/v1/x", body=b"{}")
    assert upstream.requests[0].headers == [
        ("Host", f"127.0.0.1:{upstream.port}"),
        ("Accept-Encoding", "identity"),
        ("Content-Length", "2"),
    ]


TO_THE_CLIENT = [
    ("Set-Cookie", "a=1"),
    ("Set-Cookie", "b=2"),
    ("Strict-Transport-Security", "max-age=1"),
    ("Alt-Svc", "h3"),
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Credentials", "true"),
    ("Access-Control-Allow-Headers", "*"),
    ("Access-Control-Allow-Methods", "*"),
    ("Access-Control-Expose-Headers", "*"),
    ("Access-Control-Max-Age", "1"),
    ("Keep-Alive", "timeout=5"),
    ("Proxy-Authenticate", "Basic"),
    ("Proxy-Connection", "close"),
    ("TE", "trailers"),
    ("Trailer", "x"),
    ("X-This-Hop", "1"),
    ("X-That-Hop", "1"),
]
"""What must not reach the client."""


@pytest.mark.parametrize("stream", [True, False])
async def test_nothing_reaches_the_client_that_is_the_upstreams_own(stream):
    """None of the upstream's cookies, browser policies and hop headers comes down; others do."""

    async def script(request, wire):
        pairs = [*TO_THE_CLIENT, ("Connection", "keep-alive, X-This-Hop,x-that-hop")]
        kind = "text/event-stream" if stream else "text/plain"
        await wire.head(200, *pairs, ("X-Custom", "a"), ("X-Custom", "b"), content_type=kind)
        await wire.chunk(b"".join(TOKENS))
        await wire.end()

    async with Upstream(script) as upstream:
        body = ASK if stream else b"{}"
        answer = await ask(upstream, "POST", "/v1/chat/completions", JSON, body=body)
    assert answer.body == b"".join(TOKENS)
    assert answer.names() & {name.lower() for name, _ in TO_THE_CLIENT} == set()
    assert answer.get("connection") in {"close", None}
    assert answer.get_all("x-custom") == ["a", "b"]


async def test_a_cookie_of_the_upstream_is_never_sent_back():
    """What one caller's answer sets is not kept for the next request."""
    async with (
        Upstream(reply(200, b"", ("Set-Cookie", "a=1; Path=/"))) as upstream,
        relaying(upstream.url) as relay,
    ):
        for _ in range(2):
            await exchange(relay.port, "GET", "/v1/x")
    assert len(upstream.requests) == 2
    assert all("cookie" not in request.names() for request in upstream.requests)


# --- keys


async def test_the_clients_own_key_goes_on_where_the_upstream_has_none():
    """Without TELEPRINTER_UPSTREAM_KEY both of the client's credentials pass."""
    pairs = [("Authorization", "Bearer sk-client"), ("x-api-key", "sk-x")]
    async with Upstream(reply(200)) as upstream:
        await ask(upstream, "POST", "/v1/messages", *pairs, body=b"{}")
    assert [pair for pair in upstream.requests[0].headers if pair in pairs] == pairs


@pytest.mark.parametrize("path", ["/v1/x", "/chat?question=Hi"])
async def test_the_upstreams_key_takes_the_place_of_the_clients(path):
    """With a key of the upstream it is the only credential that goes."""
    pairs = [("Authorization", "Bearer sk-client"), ("x-api-key", "sk-x")]
    async with Upstream(sse(*chat(["Hi"]))) as upstream:
        await ask(upstream, "GET", path, *pairs, upstream_key="sk-up")
    request = upstream.requests[0]
    assert request.get_all("authorization") == ["Bearer sk-up"]
    assert "x-api-key" not in request.names()
    assert "sk-client" not in request.head.decode()


async def test_headers_of_the_settings_win():
    """`headers` of an upstream take the place of the client's, whatever their case."""
    async with Upstream(reply(200)) as upstream:
        toml = f"""[[upstream]]
            name = "u"
            url = "{upstream.url}/base"
            headers = {{ "X-API-KEY" = "mine", "OpenAI-Project" = "p" }}"""
        pairs = [("x-api-key", "theirs"), ("openai-project", "q")]
        async with relaying(toml=toml) as relay:
            await exchange(relay.port, "GET", "/v1/x", *pairs)
    request = upstream.requests[0]
    assert request.target == "/base/x"
    assert (request.get_all("x-api-key"), request.get_all("openai-project")) == (["mine"], ["p"])


# --- what is refused


@pytest.mark.parametrize(
    "path", ["chat/completions", "completions", "embeddings", "models", "responses", "messages"]
)
async def test_an_api_path_without_v1_gets_told_where_it_is(path):
    """A base URL without /v1 is the commonest slip: the 404 names the right path."""
    async with Upstream(reply(200)) as upstream:
        answer = await ask(upstream, "POST", f"/{path}", JSON, body=ASK)
    assert (answer.status, answer.error["code"]) == (404, "not_found")
    assert f"/v1/{path}" in answer.error["message"]
    assert answer.get("x-should-retry") == "false"
    assert upstream.requests == []


async def test_the_right_path_below_a_prefix_is_named_with_it():
    """Where an upstream has a prefix, the path that the 404 names has it too."""
    async with Upstream(reply(200)) as upstream:
        toml = f'[[upstream]]\nname = "u"\nurl = "{upstream.url}"\nprefix = "/tokyo"'
        async with relaying(toml=toml) as relay:
            answer = await exchange(relay.port, "POST", "/tokyo/chat/completions", body=ASK)
    assert answer.status == 404
    assert "/tokyo/v1/chat/completions" in answer.error["message"]


@pytest.mark.parametrize("path", ["/v1/realtime?model=m", "/chat", "/"])
async def test_a_websocket_upgrade_is_not_implemented(path):
    """The relay speaks server-sent events, and says so to a WebSocket client."""
    pairs = [
        ("Connection", "Upgrade"),
        ("Upgrade", "WebSocket"),
        ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
        ("Sec-WebSocket-Version", "13"),
    ]
    async with (
        Upstream(reply(200)) as upstream,
        relaying(upstream.url) as relay,
        dial(relay.port) as line,
    ):
        await line.send("GET", path, *pairs)
        await line.until(b"}}")
        answer = parse(line.received)
    assert (answer.status, answer.error["code"]) == (501, "not_implemented")
    assert upstream.requests == []


@pytest.mark.parametrize(
    "target",
    [
        "/v1/../x",
        "/v1/..",
        "/v1/./x",
        "/v1/x/..",
        "/v1/%2e%2e/x",
        "/v1/%2E./x",
        "/v1/.%2e",
        "/v1/a%2f..%2fb",
        "/v1/a%2F%2E%2E",
        "/v1/x/../../admin",
        "/pages/../v1/x",
    ],
)
@pytest.mark.parametrize("absolute", [False, True])
async def test_a_dot_segment_is_refused(target, absolute):
    """A path that could mean another one upstream is not sent, in any spelling."""
    async with Upstream(reply(200)) as upstream, relaying(upstream.url) as relay:
        origin = relay.url if absolute else ""
        answer = await exchange(relay.port, "GET", origin + target)
    assert (answer.status, answer.error["code"]) == (400, "bad_request")
    assert upstream.requests == []


# --- the status of an event stream


@pytest.mark.parametrize("status", [201, 210, 299])
async def test_an_event_stream_has_the_upstreams_status(status):
    """A stream that does not come with 200 is none to an EventSource: so it stays."""
    async with Upstream(sse(b"data: 1\n\n", status=status)) as upstream:
        answer = await ask(upstream, "GET", "/v1/events")
    assert (answer.status, answer.body) == (status, b"data: 1\n\n")


@pytest.mark.parametrize("status", [204, 205])
async def test_no_content_is_no_event_stream(status):
    """204 tells an EventSource not to come back, whatever Content-Type stands there."""
    async with Upstream(reply(status, b"", content_type="text/event-stream")) as upstream:
        answer = await ask(upstream, "GET", "/v1/events")
    assert (answer.status, answer.body, answer.whole) == (status, b"", True)
