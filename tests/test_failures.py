"""Every failure says whose it is, at which stage, and what to do; and never a secret.

Proxy      what is dialled first: unreachable, silent, unwilling, of another kind
Upstream   its name, its port, its TLS, its silence, its words
Clocks     headers, first_token, idle, each on the test's clock to the moment
Client     what the relay itself refuses
Secrets    a password, a key, a prompt, a query: in no answer, no log line, no repr
"""

import asyncio
import io
import json
import logging
import socket
from contextlib import asynccontextmanager

import pytest
import structlog

from clock import FakeClock
from fakes import HttpProxy, SocksProxy, Upstream, chat, chat_frame, frame, reply, sse
from line import dial, exchange
from line import parse as answer_of
from relaying import relaying, settled, until
from service.adapters import logs
from service.app import draining
from service.core.proxy import Proxy, parse
from service.core.secret import Secret
from service.errors import CODES, Failure, Whose
from service.gateway import Gateway

pytestmark = pytest.mark.usefixtures("heard_at_once")

JSON = ("Content-Type", "application/json")
PLAIN = b'{"model": "m"}'
STREAM = b'{"model": "m", "stream": true}'
AT_ONCE = "[heartbeat]\nafter = 0\nopen_after = 0\n"
SOCKS = ["socks4", "socks4a", "socks5", "socks5h"]
ROLE, TOKEN = chat(["Hi"], finish=None, done=False)


async def ask(url, *pairs, path="/v1/chat/completions", body=STREAM, clock=None, after=0, **how):
    """Send one request through a relay; return the answer. `after`: move the clock so far.

    The clock is moved when somebody waits for that moment, not before.
    """
    clock = clock or FakeClock()
    how.setdefault("toml", AT_ONCE)
    async with relaying(url, clock=clock, **how) as relay, dial(relay.port) as line:
        await line.send("POST", path, JSON, *pairs, body=body)
        if after:
            await clock.armed(clock.now() + after)
            clock.advance(after)
        return await line.answer()


def check(answer, code, *words, stage="dial", status=None, retryable=None):
    """Assert that this is that error, in the form of the contract; its message has the words."""
    rule = CODES[code]
    error = answer.error
    assert set(error) == {"message", "type", "code", "stage", "retryable"}
    assert (error["code"], error["type"]) == (code, rule.type), error
    assert error["stage"] == stage
    assert answer.status == (rule.status if status is None else status)
    assert error["retryable"] is (rule.retryable if retryable is None else retryable)
    assert answer.get("x-should-retry") == (None if error["retryable"] else "false")
    assert answer.get("content-type") == "application/json"
    assert answer.whole
    for word in words:
        assert str(word) in error["message"]


# --- proxies


@pytest.mark.parametrize("scheme", ["http", *SOCKS])
async def test_a_proxy_that_refuses_tcp(scheme, dead_port):
    """Nothing listens there: the address, and the question whether it runs."""
    async with Upstream() as upstream:
        answer = await ask(upstream.url, proxy=f"{scheme}://127.0.0.1:{dead_port}")
    words = f"proxy 127.0.0.1:{dead_port} refused the connection", "is it running?"
    check(answer, "proxy_unreachable", *words)
    assert answer.status == 502


@pytest.fixture
async def no_dns(monkeypatch):
    """Let names below .invalid be unknown without asking anybody."""
    loop = asyncio.get_running_loop()
    real = loop.getaddrinfo

    async def getaddrinfo(host, *args, **kwargs):
        if str(host).endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return await real(host, *args, **kwargs)

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize("scheme", ["http", *SOCKS])
async def test_a_proxy_whose_name_is_unknown(scheme, no_dns):
    """The name that cannot be resolved is the proxy's, not the upstream's."""
    async with Upstream() as upstream:
        answer = await ask(upstream.url, proxy=f"{scheme}://proxy.invalid:7890")
    check(answer, "proxy_unreachable", "proxy proxy.invalid:7890", "resolved")


@pytest.mark.parametrize(("kind", "scheme"), [(HttpProxy, "http"), (SocksProxy, "socks5h")])
async def test_a_silent_proxy(kind, scheme, ca):
    """It takes the connection and says nothing: the connect clock, 10 s."""
    async with kind(silent=True) as proxy, Upstream(ssl=ca.server) as upstream:
        answer = await ask(upstream.url, proxy=proxy.url_as(scheme), tls=ca.client, after=10)
        words = f"proxy 127.0.0.1:{proxy.port}", f"127.0.0.1:{upstream.port}", "10 s"
    check(answer, "proxy_timeout", *words)
    assert answer.status == 504


LOGINS = {"none": ("", "wants a user name and password"), "wrong": ("u:pw@", "did not accept")}


@pytest.mark.parametrize("login", LOGINS)
@pytest.mark.parametrize(
    ("kind", "scheme", "tls"),
    [(HttpProxy, "http", True), (HttpProxy, "http", False), (SocksProxy, "socks5", False)],
)
async def test_a_proxy_that_wants_a_password(kind, scheme, tls, login, ca):
    """407 and its kin: what is missing, or that what there is was not accepted."""
    who, words = LOGINS[login]
    async with (
        kind(auth=("me", "secret")) as proxy,
        Upstream(ssl=ca.server if tls else None) as upstream,
    ):
        url = f"{scheme}://{who}127.0.0.1:{proxy.port}"
        answer = await ask(upstream.url, proxy=url, tls=ca.client)
        assert upstream.requests == []
    check(answer, "proxy_refused", f"proxy 127.0.0.1:{proxy.port}", words)


@pytest.mark.parametrize(
    ("kind", "scheme", "refuse"),
    [(HttpProxy, "http", 403), (SocksProxy, "socks5", 2), (SocksProxy, "socks5h", 2)],
)
async def test_a_proxy_that_forbids_the_upstream(kind, scheme, refuse, ca):
    """Its policy is no outage: no use in trying again."""
    async with kind(refuse=refuse) as proxy, Upstream(ssl=ca.server) as upstream:
        answer = await ask(upstream.url, proxy=proxy.url_as(scheme), tls=ca.client)
    words = f"proxy 127.0.0.1:{proxy.port}", f"127.0.0.1:{upstream.port}"
    check(answer, "proxy_refused", *words)


@pytest.mark.parametrize("garbage", [b"", b"\x00\x01\x02\x03garbage\r\n\r\n", b"SSH-2.0-x\r\n"])
@pytest.mark.parametrize(("kind", "scheme"), [(HttpProxy, "http"), (SocksProxy, "socks5")])
async def test_what_is_no_proxy_at_all(kind, scheme, garbage, ca):
    """Something listens there and does not speak as a proxy does."""
    async with kind(garbage=garbage) as proxy, Upstream(ssl=ca.server) as upstream:
        answer = await ask(upstream.url, proxy=proxy.url_as(scheme), tls=ca.client)
    check(answer, "proxy_protocol", f"127.0.0.1:{proxy.port}", scheme)


async def test_http_spoken_to_a_socks_port(ca):
    """The wrong kind of port: the message asks whether it is a SOCKS one."""
    async with SocksProxy() as proxy, Upstream(ssl=ca.server) as upstream:
        answer = await ask(upstream.url, proxy=proxy.url_as("http"), tls=ca.client)
    check(answer, "proxy_protocol", f"127.0.0.1:{proxy.port}", "is it a port for SOCKS?")


@pytest.mark.parametrize("scheme", SOCKS)
async def test_socks_spoken_to_an_http_port(scheme):
    """The other way round: an HTTP server answers what it cannot read with 400."""
    said = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
    async with HttpProxy(garbage=said) as proxy, Upstream() as upstream:
        answer = await ask(upstream.url, proxy=proxy.url_as(scheme))
    check(answer, "proxy_protocol", f"127.0.0.1:{proxy.port}", "is it a port for HTTP?")


@pytest.mark.parametrize("garbage", [b"", b"\x05\xff"])
async def test_a_plain_request_to_what_is_no_http_proxy(garbage):
    """Without CONNECT the request itself is what the wrong port gets: its address is named."""
    async with HttpProxy(garbage=garbage) as proxy, Upstream() as upstream:
        answer = await ask(upstream.url, proxy=proxy.url)
    code = "upstream_malformed" if garbage else "upstream_cut"
    check(answer, code, f"through http://127.0.0.1:{proxy.port}", stage="headers")


@pytest.mark.parametrize("status", [400, 405, 501])
async def test_an_http_server_that_is_no_proxy(status, ca):
    """A web server says 400, 405 or 501 to CONNECT."""
    async with HttpProxy(refuse=status) as proxy, Upstream(ssl=ca.server) as upstream:
        answer = await ask(upstream.url, proxy=proxy.url, tls=ca.client)
    check(answer, "proxy_protocol", f"127.0.0.1:{proxy.port}", status, "HTTP proxy")


@pytest.mark.parametrize(
    ("kind", "scheme", "refuse"),
    [
        (HttpProxy, "http", 502),
        (HttpProxy, "http", 504),
        (SocksProxy, "socks5", 4),
        (SocksProxy, "socks5h", 5),
        (SocksProxy, "socks4a", 91),
    ],
)
async def test_a_proxy_that_cannot_reach_the_upstream(kind, scheme, refuse, ca):
    """The proxy works, and says that the upstream does not: the upstream's fault."""
    async with kind(refuse=refuse) as proxy, Upstream(ssl=ca.server) as upstream:
        answer = await ask(upstream.url, proxy=proxy.url_as(scheme), tls=ca.client)
    words = f"proxy 127.0.0.1:{proxy.port}", "could not reach", f"127.0.0.1:{upstream.port}"
    check(answer, "upstream_unreachable", *words)


async def test_the_last_proxys_cause_is_told(dead_port, ca):
    """When none is left, the failure is that of the last one."""
    async with HttpProxy(refuse=403) as proxy, Upstream(ssl=ca.server) as upstream:
        ways = f"socks5://127.0.0.1:{dead_port},{proxy.url}"
        answer = await ask(upstream.url, proxy=ways, tls=ca.client)
    check(answer, "proxy_refused", f"127.0.0.1:{proxy.port}")


# --- upstreams


async def test_an_upstream_that_refuses_tcp(dead_port):
    """Nothing listens at the upstream's port."""
    answer = await ask(f"http://127.0.0.1:{dead_port}")
    check(answer, "upstream_unreachable", f"127.0.0.1:{dead_port} refused the connection")


@pytest.mark.parametrize("scheme", ["direct", "socks5", "socks4"])
async def test_an_upstream_whose_name_is_unknown(scheme, no_dns):
    """Where names are resolved here, the upstream's that cannot be is named."""
    async with SocksProxy() as proxy:
        way = scheme if scheme == "direct" else proxy.url_as(scheme)
        answer = await ask("http://api.invalid:8000", proxy=way)
        assert proxy.targets == []
    check(answer, "upstream_unreachable", "api.invalid:8000", "name that cannot be resolved")


@pytest.mark.parametrize(("kind", "scheme"), [(HttpProxy, "http"), (SocksProxy, "socks5h")])
async def test_an_upstream_whose_name_the_proxy_does_not_know(kind, scheme, no_dns, ca):
    """Where the proxy resolves names, nothing is looked up here, and the proxy is named too."""
    async with kind() as proxy:
        answer = await ask("https://api.invalid", proxy=proxy.url_as(scheme), tls=ca.client)
        words = f"proxy 127.0.0.1:{proxy.port} could not reach api.invalid:443"
    check(answer, "upstream_unreachable", words)


async def test_an_upstream_that_does_not_take_the_connection_in_time(monkeypatch):
    """A direct dial that hangs is the upstream's: the connect clock, 504."""
    loop = asyncio.get_running_loop()
    hanging = asyncio.Event()

    async def hang(*_args, **_kwargs):
        await hanging.wait()

    clock = FakeClock()
    async with relaying("http://127.0.0.1:9", clock=clock) as relay, dial(relay.port) as line:
        monkeypatch.setattr("aiohappyeyeballs.start_connection", hang)
        await line.send("POST", "/v1/embeddings", JSON, body=PLAIN)
        await clock.armed(clock.now() + 10)
        clock.advance(10)
        answer = await line.answer()
    check(answer, "upstream_unreachable", "127.0.0.1:9", "10 s", status=504)
    assert loop.is_running()


THROUGH = [(None, "direct"), (HttpProxy, "http"), (SocksProxy, "socks5h")]


@asynccontextmanager
async def through(kind, scheme):
    """Yield the URL of a proxy of that kind."""
    if kind is None:
        yield "direct"
    else:
        async with kind() as proxy:
            yield proxy.url_as(scheme)


@pytest.mark.parametrize(("kind", "scheme"), THROUGH)
async def test_a_certificate_that_nobody_trusts(kind, scheme, ca):
    """The system's authorities did not sign it; retrying does not help."""
    async with through(kind, scheme) as way, Upstream(ssl=ca.server) as upstream:
        answer = await ask(upstream.url, proxy=way)
        assert upstream.requests == []
    words = f"certificate of 127.0.0.1:{upstream.port}", *([f"through {way}"] if kind else [])
    check(answer, "upstream_tls", *words)


@pytest.mark.parametrize(("kind", "scheme"), THROUGH)
async def test_a_certificate_of_another_name(kind, scheme, ca):
    """It is trusted, and for somebody else."""
    tls = ca.server_for("other.test")
    async with through(kind, scheme) as way, Upstream(ssl=tls) as upstream:
        answer = await ask(upstream.url, proxy=way, tls=ca.client)
        assert upstream.requests == []
    check(answer, "upstream_tls", f"certificate of 127.0.0.1:{upstream.port}", "IP address")


@pytest.mark.parametrize(("kind", "scheme"), THROUGH)
async def test_plain_http_where_tls_was_expected(kind, scheme, ca):
    """https:// in the URL of a server that speaks http."""
    async with through(kind, scheme) as way, HttpProxy(garbage=b"HTTP/1.1 400 No\r\n\r\n") as plain:
        url = f"https://127.0.0.1:{plain.port}"
        answer = await ask(url, proxy=way, tls=ca.client)
    words = f"127.0.0.1:{plain.port}", "does not speak TLS", "http://", *([way] if kind else [])
    check(answer, "upstream_tls", *words)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"", "upstream_cut"),
        (b"HTTP/1.1 200 OK\r\nContent-Ty", "upstream_cut"),
        (b"\x15\x03\x01\x00\x02\x02\x0a", "upstream_malformed"),
        (b"no HTTP at all\r\n\r\n", "upstream_malformed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "upstream_malformed"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", "upstream_malformed"),
    ],
)
async def test_an_answer_that_is_no_http(said, code):
    """What comes instead of a status line and headers, or nothing: whose it is, and that it is."""

    async def script(request, wire):
        await wire.send(said)
        wire.close()

    async with Upstream(script) as upstream:
        answer = await ask(upstream.url, body=PLAIN)
    check(answer, code, f"127.0.0.1:{upstream.port}", stage="headers")


# --- clocks


@pytest.mark.parametrize(
    ("body", "seconds", "toml"),
    [(STREAM, 120, ""), (PLAIN, 600, ""), (STREAM, 7, "[clocks]\nheaders = 7")],
)
async def test_the_headers_clock(body, seconds, toml):
    """Request sent, no status line: 120 s for a stream, else 600, or what the settings say."""
    clock = FakeClock()
    async with (
        Upstream() as upstream,
        relaying(upstream.url, clock=clock, toml=AT_ONCE + toml) as relay,
        dial(relay.port) as line,
    ):
        await line.send("POST", "/v1/chat/completions", JSON, body=body)
        _, wire = await upstream.next()
        await clock.armed(clock.now() + seconds)
        clock.advance(seconds - 0.001)
        await settled()
        assert relay.streams[0].replay.ending is None
        clock.advance(0.001)
        answer = await line.answer()
        await wire.closed.wait()
    words = f"127.0.0.1:{upstream.port}", f"{seconds} s"
    check(answer, "upstream_timeout_headers", *words, stage="headers")
    assert answer.status == 504


async def test_a_stream_that_is_open_tells_of_the_headers_clock():
    """After open_after the status is out: the same failure is the last frame of the stream."""
    clock = FakeClock()
    async with (
        Upstream() as upstream,
        relaying(upstream.url, clock=clock, toml="[heartbeat]\nafter = 0") as relay,
        dial(relay.port) as line,
    ):
        await line.send("POST", "/v1/chat/completions", JSON, body=STREAM)
        await upstream.next()
        await clock.armed(clock.now() + 20)
        clock.advance(20)
        await line.until(b"\r\n\r\n")
        clock.advance(100)
        answer = await line.answer()
    assert (answer.status, answer.whole) == (200, False)
    error = json.loads(answer.body.rpartition(b"data: ")[2])["error"]
    assert (error["code"], error["stage"]) == ("upstream_timeout_headers", "headers")


@pytest.mark.parametrize(
    ("toml", "seconds"), [("", 600), ("[clocks]\nfirst_token = 5", 5)], ids=["default", "own"]
)
@pytest.mark.parametrize("sent", [b"", ROLE, b": ping\n\n" * 3, ROLE + b": ping\n\n"])
async def test_the_first_token_clock(sent, toml, seconds):
    """Status line, no content: comments and roles do not stop it."""
    clock = FakeClock()
    async with (
        Upstream() as upstream,
        relaying(upstream.url, clock=clock, toml=AT_ONCE + toml) as relay,
        dial(relay.port) as line,
    ):
        await line.send("POST", "/v1/chat/completions", JSON, body=STREAM)
        _, wire = await upstream.next()
        await wire.head(content_type="text/event-stream")
        [stream] = relay.streams
        await until(lambda: stream._stage == "first_token")
        clock.advance(seconds - 1)
        if sent:
            await wire.chunk(sent)
            await until(lambda: stream.frames == sent.count(b"\n\n"))
        clock.advance(0.999)
        await settled()
        assert stream.replay.ending is None
        clock.advance(0.001)
        answer = await line.answer()
        await wire.closed.wait()
    words = f"127.0.0.1:{upstream.port}", f"{seconds} s"
    check(answer, "upstream_timeout_first_token", *words, stage="first_token")


IDLES = {
    "chat/completions": (TOKEN, b": ping\n\n", chat_frame({})),
    "messages": (
        frame({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hi"}}),
        frame({"type": "ping"}, "ping"),
        frame({"type": "content_block_stop"}),
    ),
    "agents/run": (b"data: 1\n\n", b": ping\n\n", b"data: 2\n\n"),
}


@pytest.mark.parametrize("path", IDLES)
async def test_the_idle_clock(path):
    """Counts from the last event with data: others re-arm it, comments and pings do not."""
    content, ping, data = IDLES[path]
    clock = FakeClock()
    async with (
        Upstream() as upstream,
        relaying(upstream.url, clock=clock, toml=AT_ONCE) as relay,
        dial(relay.port) as line,
    ):
        await line.send("POST", f"/v1/{path}", JSON, body=STREAM)
        _, wire = await upstream.next()
        await wire.head(content_type="text/event-stream")
        [stream] = relay.streams
        for number, (after, sent) in enumerate([(0, content), (119, data), (119, ping)], 1):
            clock.advance(after)
            await wire.chunk(sent)
            await until(lambda number=number: stream.frames == number)
        clock.advance(0.999)
        await settled()
        assert stream.replay.ending is None
        clock.advance(0.001)
        answer = await line.answer()
        await wire.closed.wait()
    assert answer.body.startswith(content + data + ping)
    error = json.loads(answer.body.rpartition(b"data: ")[2])["error"]
    assert (error["code"], error["stage"], error["retryable"]) == (
        "upstream_stalled",
        "stream",
        True,
    )
    assert "120 s" in error["message"]
    assert f"127.0.0.1:{upstream.port}" in error["message"]
    assert not answer.whole


@pytest.mark.parametrize("clock_name", ["headers", "first_token", "idle"])
async def test_a_clock_may_be_off(clock_name):
    """0 = off: a day later the stream is still waited for."""
    clock = FakeClock()
    toml = f"{AT_ONCE}[clocks]\nheaders = 0\nfirst_token = 0\nidle = 0"
    async with (
        Upstream() as upstream,
        relaying(upstream.url, clock=clock, toml=toml) as relay,
        dial(relay.port) as line,
    ):
        await line.send("POST", "/v1/chat/completions", JSON, body=STREAM)
        _, wire = await upstream.next()
        if clock_name != "headers":
            await wire.head(content_type="text/event-stream")
            await until(lambda: relay.streams[0].framed)
        if clock_name == "idle":
            await wire.chunk(TOKEN)
            await line.until(TOKEN)
        clock.advance(86_400)
        await settled()
        if clock_name == "headers":
            await wire.head(content_type="text/event-stream")
        await wire.chunk(TOKEN)
        await wire.chunk(b"data: [DONE]\n\n")
        await wire.end()
        answer = await line.answer()
    assert (answer.status, answer.whole) == (200, True)


# --- the client's own, and the relay's


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/x"])
async def test_anthropics_clients_get_anthropics_form(path, dead_port):
    """On /v1/messages an error is Anthropic's object, with the same fields inside."""
    answer = await ask(f"http://127.0.0.1:{dead_port}", path=path, body=PLAIN)
    check(answer, "upstream_unreachable")
    outer = {"type": "error"} if path == "/v1/messages" else {}
    assert answer.json() == {**outer, "error": answer.error}


KEY = {"keys": "ann:key-of-ann"}
REFUSALS = {
    "bad_request": (("GET", "/chat"), (), b"", {}, "question"),
    "unauthorized": (("GET", "/v1/models"), (), b"", KEY, "x-api-key"),
    "forbidden": (("GET", "/v1/models"), [("Origin", "http://a.test")], b"", {}, "server.origins"),
    "not_found": (("GET", "/nowhere"), (), b"", {}, "/v1"),
    "method_not_allowed": (("DELETE", "/chat"), (), b"", {}, "POST"),
    "too_large": (("POST", "/v1/x"), (), b"x" * 11, {"toml": "[limits]\nbody=10"}, "limits.body"),
    "wrong_host": (("GET", "/"), [("Host", "evil.test")], b"", {}, "server.hosts"),
    "not_implemented": (
        ("GET", "/v1/realtime"),
        [("Upgrade", "websocket"), ("Connection", "close, upgrade")],
        b"",
        {},
        "server-sent events",
    ),
}


@pytest.mark.parametrize("code", REFUSALS)
async def test_what_the_relay_refuses(code):
    """The client's own mistakes: never sent upstream, never worth a retry, and what to do."""
    (method, path), pairs, body, settings, words = REFUSALS[code]
    async with Upstream(reply(200)) as upstream, relaying(upstream.url, **settings) as relay:
        answer = await exchange(relay.port, method, path, *pairs, body=body)
    check(answer, code, words, stage="request")
    assert CODES[code].whose is Whose.CLIENT
    assert answer.get("x-should-retry") == "false"
    assert upstream.requests == []


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat"])
async def test_a_body_that_does_not_come_in_time(path):
    """A request that is dripped in gets 408, not a place for ever."""
    clock = FakeClock()
    async with relaying("http://127.0.0.1:9", clock=clock) as relay, dial(relay.port) as line:
        limit = relay.gateway.settings.limits.body_timeout
        await line.send("POST", path, ("Content-Length", "100"), body=b"")
        await line.write(b"{")
        await clock.armed(clock.now() + limit)
        clock.advance(limit)
        await line.until(b"}}")
        answer = answer_of(line.received)
    check(answer, "request_timeout", "limits.body_timeout", stage="request")


@pytest.mark.parametrize("bound", ["streams", "streams_per_caller"])
async def test_as_many_streams_as_the_settings_allow(bound):
    """One more gets 429 and when to ask again; it does not reach the upstream."""
    toml = f"[limits]\n{bound} = 1"
    async with (
        Upstream() as upstream,
        relaying(upstream.url, toml=toml) as relay,
        dial(relay.port) as line,
    ):
        await line.send("POST", "/v1/chat/completions", JSON, body=STREAM)
        await upstream.next()
        answer = await exchange(relay.port, "POST", "/v1/chat/completions", JSON, body=STREAM)
        assert len(upstream.requests) == 1
    check(answer, "too_many_streams", stage="request")
    assert (answer.status, answer.get("retry-after")) == (429, "1")


async def test_as_many_requests_as_the_key_may_send():
    """The next one of that minute gets 429 and when to ask again; other keys are not held up."""
    keys = '{ name = "ann", key = "key-of-ann", requests_per_minute = 1 }, "bob:key-of-bob"'
    pairs = [("x-api-key", f"key-of-{name}") for name in ("ann", "bob", "ann")]
    async with (
        Upstream(reply(200)) as upstream,
        relaying(upstream.url, toml=f"[server]\nkeys = [{keys}]", clock=FakeClock()) as relay,
    ):
        answers = [await exchange(relay.port, "GET", "/v1/models", pair) for pair in pairs]
        assert len(upstream.requests) == 2
    assert [answer.status for answer in answers] == [200, 200, 429]
    check(answers[2], "rate_limited", "1 request", stage="request")
    assert 1 <= int(answers[2].get("retry-after")) <= 60


async def test_the_end_of_the_process_ends_streams_with_its_own_code():
    """`draining`: before the content a 503, after it the last frame."""
    async with Upstream() as upstream, relaying(upstream.url) as relay, dial(relay.port) as early:
        await early.send("POST", "/v1/chat/completions", JSON, body=STREAM)
        await upstream.next()
        async with dial(relay.port) as late:
            await late.send("POST", "/v1/chat/completions", JSON, body=STREAM)
            _, wire = await upstream.next()
            await wire.head(content_type="text/event-stream")
            await wire.chunk(TOKEN)
            await late.until(TOKEN)
            await relay.gateway.streams.close(draining())
            answers = [await early.answer(), await late.answer()]
    check(answers[0], "draining", stage="stream", status=503)
    error = json.loads(answers[1].body.removeprefix(TOKEN).removeprefix(b"data: "))["error"]
    assert (error["code"], error["retryable"], answers[1].whole) == ("draining", True, False)


@pytest.mark.parametrize("where", ["request", "stream"])
async def test_a_fault_of_the_relay_is_its_own(where, monkeypatch, capsys):
    """An exception that nobody foresaw is `internal`: no traceback, none of its words."""

    def fail(*_args, **_kwargs):
        raise RuntimeError("canary")

    async with Upstream(reply(200)) as upstream, relaying(upstream.url) as relay:
        target = (Gateway, "v1") if where == "request" else (type(lane_of(relay)), "ask")
        monkeypatch.setattr(*target, fail)
        answer = await exchange(relay.port, "POST", "/v1/x", JSON, body=PLAIN)
    stage = "request" if where == "request" else "dial"
    check(answer, "internal", "its log says more", stage=stage)
    assert b"canary" not in answer.tail
    assert b"Traceback" not in answer.tail
    assert "canary" in capsys.readouterr().out  # it is in the log


def lane_of(relay):
    """Return the ways to the relay's upstream."""
    [lane] = relay.gateway._lanes.values()
    return lane


# --- secrets

CANARIES = {
    "proxy password": "canary-proxy-pw",
    "upstream key": "canary-upstream-key",
    "client key": "canary-client-key",
    "prompt": "canary prompt",
    "query": "canary-query",
    "header": "canary-header",
}


@pytest.fixture
def logging_restored():
    """Leave the logging of the run as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def log_of(monkeypatch, logging_restored):
    """Return a function that gives all that was logged, at the loudest level, as JSON lines."""
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    logs.configure("debug")
    logging.getLogger().setLevel(logging.DEBUG)
    return stream.getvalue


SCENES = {
    "refused": {"refuse": {"http": 403, "socks5h": 2}},
    "407": {"proxy": {"auth": ("me", "other")}},
    "garbage": {"proxy": {"garbage": b"garbage"}},
    "closed": {"proxy": {"garbage": b""}},
    "cut": {"script": sse(ROLE, TOKEN, end=False)},
    "cut early": {"script": sse(ROLE, end=False)},
    "page": {"script": reply(200, "<html>", content_type="text/html")},
    "401": {"script": reply(401, '{"error": {"message": "no"}}', content_type="application/json")},
    "fine": {"script": sse(*chat(["Hi"]))},
    "fault": {"fault": True},
    "untrusted": {"untrusted": True},
}


def asked():
    """Return requests that are full of canaries: method, target, headers, body."""
    key = ("Authorization", f"Bearer {CANARIES['client key']}")
    custom = ("X-Custom", CANARIES["header"])
    query = f"k={CANARIES['query']}"
    prompt = json.dumps({"question": CANARIES["prompt"], "stream": True}).encode()
    completion = json.dumps({"stream": True, "messages": [CANARIES["prompt"]]}).encode()
    wrong = ("Teleprinter-Key", CANARIES["client key"] + "x")
    return [
        ("GET", f"/chat?question=canary%20prompt&{query}", [key, custom], b""),
        ("POST", "/chat", [key, JSON], prompt),
        ("POST", "/chat", [key, JSON], prompt[:-1]),
        ("POST", f"/v1/chat/completions?{query}", [key, JSON, custom], completion),
        ("POST", f"/v1/messages?{query}", [("x-api-key", key[1][7:]), JSON], completion),
        ("POST", f"/v1/chat/completions?{query}", [wrong, JSON], completion),
        ("POST", f"/chat/completions?{query}", [key, JSON], completion),
        ("GET", f"/v1/../x?{query}", [key], b""),
    ]


def printed(*things):
    """Return how these show themselves, and what they are made of as far as one can see."""
    return "\n".join(text for thing in things for text in (repr(thing), str(thing), f"{thing}"))


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
@pytest.mark.parametrize("scene", SCENES)
async def test_no_secret_is_told(scene, scheme, ca, log_of, monkeypatch):
    """Whatever goes wrong: no answer, no log line and no repr has a key, a password, a prompt."""
    how = SCENES[scene]
    kind = HttpProxy if scheme == "http" else SocksProxy
    password = CANARIES["proxy password"]
    options = {"auth": ("me", password), "refuse": how.get("refuse", {}).get(scheme)}
    streams = []
    async with (
        kind(**(options | how.get("proxy", {}))) as proxy,
        Upstream(how.get("script", reply(200)), ssl=ca.server) as upstream,
        relaying(
            upstream.url,
            proxy=f"{scheme}://me:{password}@127.0.0.1:{proxy.port}",
            upstream_key=CANARIES["upstream key"],
            keys=f"ann:{CANARIES['client key']}",
            tls=None if "untrusted" in how else ca.client,
        ) as relay,
    ):
        if "fault" in how:
            monkeypatch.setattr("service.adapters.egress.attempt", _fail)
        under_way = relay.gateway.streams
        add = under_way.add
        monkeypatch.setattr(under_way, "add", lambda one: streams.append(one) or add(one))
        told = [
            (await exchange(relay.port, method, target, *pairs, body=body)).tail.decode()
            for method, target, pairs, body in asked()
        ]
        shown = printed(*insides(relay), *(part for one in streams for part in parts(one)))
    logged = log_of()
    assert logged.count('"event": "request"') == len(told)
    assert len(streams) == 4
    if scene == "fine":  # the canaries do fly
        assert CANARIES["upstream key"] in upstream.requests[0].head.decode()
        assert CANARIES["query"] in upstream.requests[2].target
        assert all(CANARIES["prompt"] in one.body.decode() for one in upstream.requests)
    for name, canary in CANARIES.items():
        assert all(canary not in text for text in told), name
        assert canary not in logged, name
        assert canary not in shown, name


async def _fail(*_args, **_kwargs):
    raise RuntimeError("broken")


def insides(relay):
    """Return what a relay is made of."""
    gateway, settings = relay.gateway, relay.gateway.settings
    ways = [way for upstream in settings.upstream for way in settings.ways(upstream)]
    own = [settings, *settings.upstream, *settings.pool, settings.server, settings.server.keys]
    return [gateway, gateway.keys, gateway.doors, *gateway._lanes.values(), *own, *ways]


def parts(stream):
    """Return what a stream is made of."""
    ending = stream.replay.ending
    return [stream, stream._order, stream.summary, stream.task, ending, ending.failure]


def test_a_password_is_hidden_in_every_form():
    """Proxy, Secret and Failure show no password, however they are printed."""
    proxy = parse("socks5h://me:canary%40pw@127.0.0.1:1080")
    failure = Failure("proxy_refused", f"proxy {proxy} said no", stage="dial")
    shown = printed(proxy, [proxy], {proxy: proxy}, proxy.password, Secret("canary"), failure)
    assert "canary" not in shown
    assert "%40pw" in proxy.url
    assert Proxy("http", "a", 1, "u", Secret("x")) == Proxy("http", "a", 1, "u", Secret("x"))


def test_a_traceback_on_a_terminal_shows_no_variables(monkeypatch, logging_restored):
    """Whatever is installed beside structlog, a traceback has no values of variables."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    class Renderer(structlog.dev.ConsoleRenderer):
        def __init__(self, **options):
            super().__init__(**{"exception_formatter": rich} | options)

    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    monkeypatch.setattr(structlog.dev, "ConsoleRenderer", Renderer)
    logs.configure("debug")
    try:
        fail(CANARIES["prompt"])
    except RuntimeError:
        logs.log.exception("a fault")
    assert "RuntimeError" in terminal.getvalue()
    assert "canary" not in terminal.getvalue()


def rich(out, _exc_info):
    """Write a traceback as structlog does by default where rich is installed."""
    out.write("RuntimeError of _prompt = canary")


def fail(_prompt):
    """Raise with a variable that a traceback must not show."""
    raise RuntimeError("by the test")
