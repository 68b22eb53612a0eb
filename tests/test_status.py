"""/status.json and /status/events: what they tell, to whom, how often, and what they never tell.

All times are those of a clock that the tests move.
"""

import asyncio
import json
from contextlib import AsyncExitStack
from importlib import resources

import pytest

import service.status
from clock import PATIENCE
from fakes import HttpProxy, SocksProxy, Upstream, chat, chat_frame, reply, sse
from line import dial, exchange
from relaying import arrived, relaying, settled, until
from service import status_page

HELLO = chat_frame({"content": "Hi"})
KEYS = '[server]\nkeys = ["ann:key-of-ann", "bob:key-of-bob"]\n'
ANN = {"Teleprinter-Key": "key-of-ann"}
BOB = {"Teleprinter-Key": "key-of-bob"}
BODY = {"model": "m", "messages": [{"role": "user", "content": "Hello?"}], "stream": True}
PATH = "/v1/chat/completions"
JSON = ("Content-Type", "application/json")
ASK = json.dumps(BODY).encode()
NOT_ALLOWED = 2
"""A SOCKS5 proxy's answer: RFC 1928, section 6."""
MOST = 1000
"""Events that the kernel takes for a client that does not read, at the very most."""


async def look(relay, headers=None):
    """Return the status as it is now."""
    async with relay.get("/status.json", headers) as response:
        assert response.status == 200
        return await response.json()


async def ask(relay):
    """Ask for a stream; return its status."""
    async with relay.stream() as response:
        await response.read()
        return response.status


async def begin(relay, upstream, stack, headers=None):
    """Begin a stream that stays open; return the upstream's wire."""
    asking = asyncio.create_task(stack.enter_async_context(relay.post(PATH, BODY, headers)))
    _, wire = await upstream.next()
    await wire.head(content_type="text/event-stream")
    await wire.chunk(HELLO)
    await asking
    return wire


def seen(status, **expected):
    """Assert that these fields of a state have these values."""
    assert {name: status[name] for name in expected} == expected


# --- pools


async def test_a_proxy_before_while_and_after_it_is_down(clock):
    """Untried, failing, down with its rest and its reason, up again: with all its numbers."""
    async with Upstream(sse(*chat(["Hi"]))) as upstream, SocksProxy() as bad, SocksProxy() as good:
        pool = f'[[pool]]\nname = "asia"\nproxies = ["{bad.url}", "{good.url}"]\n'
        async with relaying(upstream.url, toml=pool, clock=clock) as relay:
            status = await look(relay)
            assert status["findings"][0]["kind"] == "ready"
            [shown] = status["pools"]
            seen(shown, name="asia", policy="ordered", upstreams=["127.0.0.1"])
            first, second = shown["ways"]
            seen(first, state="untried", since=None, dials=[], attempts={}, connect_ms=None)

            bad.refuse = NOT_ALLOWED
            assert await ask(relay) == 200
            first, second = (await look(relay))["pools"][0]["ways"]
            seen(first, state="failing", code="proxy_refused", rests=0, dials=[None])
            seen(second, state="up", since=0, dials=[0], connect_ms=0, attempts={"ok": 1})
            assert first["said"] == (
                f"proxy 127.0.0.1:{bad.port} does not allow 127.0.0.1:{upstream.port}"
            )

            await ask(relay)
            await ask(relay)
            clock.advance(0.5)
            status = await look(relay)
            first, second = status["pools"][0]["ways"]
            seen(first, state="down", since=0.5, dials=[None] * 3, open=0)
            assert first["attempts"] == {"proxy_refused": 3}
            assert 0.2 <= first["rests"] <= 0.8
            seen(second, state="up", since=0.5, attempts={"ok": 3})
            assert status["findings"][0]["text"] == (
                f"Proxy 127.0.0.1:{bad.port} is down (refuses: its login or its rules);"
                " 1 other carries the traffic"
            )

            bad.refuse = None
            clock.advance(1)
            await ask(relay)
            status = await look(relay)
            seen(status["pools"][0]["ways"][0], state="up", since=0, code="", said="")
            assert status["findings"][0]["text"] == "Fine"


async def test_upstreams_that_share_a_pool_show_it_once():
    """Its health is one; those that do not share it have their own."""
    rows = "".join(
        f'[[upstream]]\nname = "{name}"\nurl = "http://{name}.test/v1"\npool = "{pool}"\n'
        for name, pool in [("a", "p"), ("b", "p"), ("c", "q")]
    )
    pools = "".join(f'[[pool]]\nname = "{n}"\nproxies = ["direct"]\n' for n in "pq")
    async with relaying(toml=rows + pools) as relay:
        status = await look(relay)
    assert [(p["name"], p["upstreams"]) for p in status["pools"]] == [
        ("p", ["a", "b"]),
        ("q", ["c"]),
    ]
    assert [row["pool"] for row in status["upstreams"]] == ["p", "p", "q"]


async def test_open_streams_of_a_proxy(clock):
    """Each way shows how many go through it."""
    async with AsyncExitStack() as stack, Upstream() as upstream, HttpProxy() as proxy:
        relay = await stack.enter_async_context(
            relaying(upstream.url, proxy=proxy.url, clock=clock)
        )
        for count in (1, 2):
            await begin(relay, upstream, stack)
            assert (await look(relay))["pools"][0]["ways"][0]["open"] == count


# --- upstreams


async def test_percentiles_of_first_tokens_and_gaps(clock):
    """400 ms to the first token, ten gaps of 20 ms: each within its bucket."""
    async with AsyncExitStack() as stack, Upstream() as upstream:
        relay = await stack.enter_async_context(relaying(upstream.url, clock=clock))
        asking = asyncio.create_task(ask(relay))
        _, wire = await upstream.next()
        await wire.head(content_type="text/event-stream")
        clock.advance(0.4)
        await wire.chunk(HELLO)
        [stream] = relay.streams
        await until(lambda: stream.frames == 1)
        assert not any(stream.gaps.counts)  # before the first one is no gap
        for frames in range(2, 12):
            clock.advance(0.02)
            await wire.chunk(HELLO)
            await until(lambda frames=frames: stream.frames == frames)
        assert (await look(relay))["upstreams"][0]["success"] is None
        for frame in chat([], role=False):
            await wire.chunk(frame)
        await wire.end()
        await asking
        await until(lambda: not relay.streams)
        [shown] = (await look(relay))["upstreams"]
    seen(shown, ok=1, failed=0, success=1.0, circuit="closed", trouble=None)
    assert shown["first_token"] == {"p50": pytest.approx(0.4), "p95": pytest.approx(0.49)}
    gaps = sum(stream.gaps.counts)
    assert stream.gaps.counts[4] == 10  # over 10 to 25 ms
    at = 0.01 + 0.015 * (gaps / 2 - (gaps - 10)) / 10
    assert shown["gap"]["p50"] == pytest.approx(at)


@pytest.mark.parametrize(("status", "kind"), [(429, "upstream"), (400, "fine")])
async def test_an_upstream_that_refuses(clock, status, kind):
    """429 is its trouble, and the headline names it; 400 is the client's."""
    refusal = reply(status, b'{"error": {"message": "no"}}', content_type="application/json")
    async with Upstream(refusal) as upstream, relaying(upstream.url, clock=clock) as relay:
        for _ in range(3):
            assert await ask(relay) == status
        clock.advance(7)
        told = await look(relay)
    [shown] = told["upstreams"]
    assert shown["trouble"][:2] == ["upstream_error", status]
    seen(shown, ago=7, failures=3 if kind == "upstream" else 0)
    assert told["findings"][0]["kind"] == kind
    if kind == "upstream":
        seen(shown, ok=0, failed=3, success=0.0)
        assert "Upstream 127.0.0.1 answers 429" in told["findings"][0]["text"]
    else:
        seen(shown, ok=0, failed=0, success=None)


async def test_an_upstream_is_fine_again_when_it_answers(clock):
    """One answer, and the trouble is over."""
    async with Upstream() as upstream, relaying(upstream.url, clock=clock) as relay:
        for status in (500, 200):
            asking = asyncio.create_task(ask(relay))
            _, wire = await upstream.next()
            if status == 500:
                await wire.reply(500, b"{}", content_type="application/json")
            else:
                await sse(*chat(["Hi"]))(None, wire)
            await asking
            [shown] = (await look(relay))["upstreams"]
            assert bool(shown["trouble"]) == (status == 500)


async def test_an_open_circuit_and_its_fallback(clock):
    """Five failures in a row: the first is not asked for a second, and the second answers."""
    failing = reply(500, b"{}", content_type="application/json")
    async with Upstream(failing) as first, Upstream(sse(*chat(["Hi"]))) as second:
        toml = (
            f'[[upstream]]\nname = "a"\nurl = "{first.url}/v1"\nfallback = ["b"]\n'
            f'[[upstream]]\nname = "b"\nurl = "{second.url}/v1"\n'
        )
        async with relaying(toml=toml, clock=clock) as relay:
            for _ in range(5):
                assert await ask(relay) == 200
            clock.advance(0.4)
            status = await look(relay)
    a, b = status["upstreams"]
    seen(a, circuit="open", retry_in=0.6, failures=5, fallbacks=["b"], ok=0, failed=0)
    seen(b, circuit="closed", retry_in=0, failures=0, ok=5)
    text = "Upstream a answers 500; b may answer in its place"
    assert (status["findings"][0]["level"], status["findings"][0]["text"]) == ("warn", text)


# --- the relay itself


async def test_a_relay_that_is_late(clock):
    """The average of the last looks at the loop's lag, as far as they reach."""
    async with relaying("http://127.0.0.1:9", clock=clock) as relay:
        assert (await look(relay))["relay"]["lag"] is None
        for lag in [9.0, *[0.1] * 10, *[0.3] * 10]:
            relay.gateway.metrics.lag(lag)
        status = await look(relay)
        assert status["relay"]["lag"] == 0.2
        assert status["findings"][0]["kind"] == "late"


async def test_a_relay_that_is_full(clock):
    """As many streams as the settings allow are its own fault."""
    async with AsyncExitStack() as stack, Upstream() as upstream:
        toml = "[limits]\nstreams = 1\n"
        relay = await stack.enter_async_context(relaying(upstream.url, toml=toml, clock=clock))
        await begin(relay, upstream, stack)
        status = await look(relay)
        seen(status["relay"], open=1, bound=1)
        assert status["findings"][0]["kind"] == "full"


# --- rates


async def test_outcomes_by_the_minute(clock):
    """Each stream in the minute in which it ended, under what came of it."""
    async with Upstream() as upstream, relaying(upstream.url, clock=clock) as relay:

        async def cut(request, wire):
            await sse(HELLO, end=False)(request, wire)
            wire.close()

        async def one(play):
            asking = asyncio.create_task(exchange(relay.port, "POST", PATH, JSON, body=ASK))
            _, wire = await upstream.next()
            await play(None, wire)
            await asking
            await until(lambda: not relay.streams)

        await one(sse(*chat(["Hi"])))
        await one(sse(*chat(["Hi"])))
        clock.advance(120)
        await one(cut)
        await one(reply(503, b"{}", content_type="application/json"))
        await exchange(relay.port, "POST", "/chat", JSON, body=b"{}")
        minutes = (await look(relay))["rates"]["minutes"]
        assert minutes == {
            "ok": [0] * 12 + [2, 0, 0],
            "cut": [0] * 14 + [1],
            "error": [0] * 14 + [1],
            "refused": [0] * 14 + [1],
        }
        clock.advance(900)
        assert (await look(relay))["rates"]["minutes"] == {}


async def test_events_a_second_also_of_open_streams(clock):
    """Ten events in ten seconds are one a second, before the stream has ended and after."""
    async with AsyncExitStack() as stack, Upstream() as upstream:
        relay = await stack.enter_async_context(relaying(upstream.url, clock=clock))
        asking = asyncio.create_task(stack.enter_async_context(relay.post(PATH, BODY)))
        _, wire = await upstream.next()
        await wire.head(content_type="text/event-stream")
        for count in range(1, 12):
            await wire.chunk(HELLO)
            await until(lambda count=count: relay.streams[0].frames == count)
            clock.advance(1)
        await asking
        during = (await look(relay))["rates"]["events"]
        assert during[-2:] == [11.0 / 10, 0]
        wire.reset()
        await until(lambda: not relay.streams)
        after = (await look(relay))["rates"]["events"]
        assert after == [0] * 88 + [1, 1]


# --- streams, and who sees what


async def test_an_open_stream_with_all_that_its_caller_may_know(clock):
    """Its age, its events, how far it is, its way."""
    async with AsyncExitStack() as stack, Upstream() as upstream, HttpProxy() as proxy:
        relay = await stack.enter_async_context(
            relaying(upstream.url, proxy=proxy.url, clock=clock)
        )
        wire = await begin(relay, upstream, stack)
        clock.advance(2)
        await wire.chunk(HELLO)
        await until(lambda: relay.streams[0].frames == 2)
        clock.advance(3)
        streams = (await look(relay))["streams"]
        [stream] = streams.pop("shown")
        assert streams == {"open": 1, "own": 1, "oldest": None}
        assert stream == {
            "id": relay.streams[0].name,
            "caller": "anyone",
            "upstream": "127.0.0.1",
            "proxy": proxy.url,
            "model": "m",
            "stage": "stream",
            "age": 5,
            "quiet": 3,
            "events": 2,
            "attempts": 1,
            "first_token_ms": 0,
        }


async def test_the_stages_of_a_stream(clock):
    """Connecting, waiting for the head, for the first token, streaming."""
    async with AsyncExitStack() as stack, Upstream() as upstream:
        relay = await stack.enter_async_context(relaying(upstream.url, clock=clock))

        async def stage():
            return (await look(relay))["streams"]["shown"][0]["stage"]

        asking = asyncio.create_task(stack.enter_async_context(relay.post(PATH, BODY)))
        _, wire = await upstream.next()
        assert await stage() == "headers"
        await wire.head(content_type="text/event-stream")
        await until(lambda: relay.streams[0].framed)
        assert await stage() == "first_token"
        await wire.chunk(HELLO)
        await asking
        assert await stage() == "stream"


async def test_of_others_streams_only_number_and_age(clock):
    """A caller sees its own streams; of those of others no id, no model, no name."""
    async with AsyncExitStack() as stack, Upstream() as upstream:
        relay = await stack.enter_async_context(relaying(upstream.url, toml=KEYS, clock=clock))
        await begin(relay, upstream, stack, ANN)
        clock.advance(4)
        await begin(relay, upstream, stack, BOB)
        clock.advance(1)
        of_ann, of_bob = relay.streams
        for headers, own, other, oldest in [(ANN, of_ann, of_bob, 1), (BOB, of_bob, of_ann, 5)]:
            status = await look(relay, headers)
            seen(status["streams"], open=2, own=1, oldest=oldest)
            assert [row["id"] for row in status["streams"]["shown"]] == [own.name]
            assert other.name not in json.dumps(status)


async def test_many_streams_are_a_number(clock, monkeypatch):
    """The oldest are shown one by one, so that the answer stays small."""
    monkeypatch.setattr("service.status.SHOWN", 2)
    async with AsyncExitStack() as stack, Upstream() as upstream:
        relay = await stack.enter_async_context(relaying(upstream.url, clock=clock))
        for _ in range(3):
            await begin(relay, upstream, stack)
        streams = (await look(relay))["streams"]
        seen(streams, open=3, own=3)
        assert [s["id"] for s in streams["shown"]] == [s.name for s in relay.streams[:2]]


async def test_never_a_secret_nor_a_prompt(clock):
    """Credentials of proxies, keys of the relay and of callers, questions, answers: nowhere."""
    secrets = ["s3cret", "proxyuser", "sk-up", "key-of-ann", "key-of-bob", "Hello?", "Hi", "a-q"]
    async with (
        AsyncExitStack() as stack,
        Upstream() as upstream,
        HttpProxy(auth=("proxyuser", "s3cret")) as proxy,
    ):
        way = f"http://proxyuser:s3cret@127.0.0.1:{proxy.port}"
        toml = (
            f'{KEYS}[[pool]]\nname = "p"\nproxies = ["{way}", "http://proxyuser:s3cret@x.test"]\n'
        )
        relay = await stack.enter_async_context(
            relaying(upstream.url, toml=toml, clock=clock, upstream_key="sk-up")
        )
        await begin(relay, upstream, stack, ANN)
        proxy.auth = ("other", "other")
        proxy.reset_connections()
        async with relay.post(f"{PATH}?q=a-q", BODY, BOB) as response:
            assert response.status >= 500
        async with relay.get("/status.json", ANN) as response:
            told = await response.text()
            assert response.headers["Cache-Control"] == "no-store"
        async with relay.get("/status/events", ANN) as response:
            told += (await response.content.readuntil(b"\r\n\r\n")).decode()
    assert "proxy_refused" in told
    assert [secret for secret in secrets if secret in told] == []


# --- keys


@pytest.mark.parametrize("path", ["/status.json", "/status/events"])
async def test_the_data_need_a_key(path):
    """Without one 401, with a wrong one too; with a right one the status."""
    async with relaying("http://127.0.0.1:9", toml=KEYS) as relay:
        for headers in ({}, {"Teleprinter-Key": "other"}, {"Authorization": "Bearer x"}):
            async with relay.get(path, headers) as response:
                assert response.status == 401
        for headers in (ANN, {"Authorization": "Bearer key-of-ann"}):
            async with relay.get(path, headers) as response:
                assert response.status == 200


async def test_the_page_itself_holds_nothing_and_is_open():
    """The file of the package, the same for everybody: a browser can send no key for it."""
    async with relaying("http://127.0.0.1:9", toml=KEYS) as relay:
        async with relay.get("/status") as response:
            assert (response.status, response.content_type) == (200, "text/html")
            page, policy = await response.text(), response.headers["Content-Security-Policy"]
        for path in ("/status/", "/status/x", "/status.html"):
            async with relay.get(path) as response:
                assert response.status == 401
    assert page == (resources.files("service") / "pages" / "status.html").read_text()
    assert policy.startswith("default-src ")
    assert "unsafe" not in policy


async def test_a_link_from_elsewhere_may_lead_to_the_page_not_to_its_data():
    """As with the page at /: navigation is welcome, another site's fetch is not."""
    site = ("Sec-Fetch-Site", "cross-site")
    navigating = ("Sec-Fetch-Mode", "navigate")
    async with relaying("http://127.0.0.1:9") as relay:
        assert (await exchange(relay.port, "GET", "/status", site, navigating)).status == 200
        for path in ("/status.json", "/status/events"):
            assert (await exchange(relay.port, "GET", path, site, navigating)).status == 403


# --- live


async def next_event(response):
    """Return the next event's data."""
    async with asyncio.timeout(PATIENCE):
        block = (await response.content.readuntil(b"\r\n\r\n")).decode()
    name, data = block.rstrip().split("\r\n")
    assert name == "event: status"
    return json.loads(data.removeprefix("data: "))


@pytest.mark.both_loops
async def test_an_event_at_once_and_then_every_second(clock):
    """Not before the second is over; what has changed meanwhile is in it."""
    async with AsyncExitStack() as stack, Upstream() as upstream:
        relay = await stack.enter_async_context(relaying(upstream.url, clock=clock))
        watching = await stack.enter_async_context(relay.get("/status/events"))
        assert watching.content_type == "text/event-stream"
        assert (await next_event(watching))["relay"]["open"] == 0
        await begin(relay, upstream, stack)
        for second in (1, 2):
            await clock.armed(1000 + second)
            clock.advance(0.999)
            assert await arrived(watching) == b""
            clock.advance(0.001)
            seen((await next_event(watching))["relay"], open=1, uptime=second)


async def test_nothing_is_computed_for_nobody(clock, monkeypatch):
    """No look, and no timer, before somebody watches and after they left."""
    looks = counted(monkeypatch)
    async with relaying("http://127.0.0.1:9", clock=clock) as relay:
        clock.advance(60)
        await settled()
        assert (looks, clock.pending()) == ([], [])
        async with relay.get("/status/events") as watching:
            await next_event(watching)
            await clock.armed()
        await until(lambda: not clock.pending())
        clock.advance(60)
        await settled()
        assert looks == [1]


def counted(monkeypatch):
    """Return a list to which every computation of the common part adds one."""
    looks = []
    real = service.status._overview
    monkeypatch.setattr("service.status._overview", lambda *a: looks.append(1) or real(*a))
    return looks


async def test_many_watchers_share_a_look(clock, monkeypatch):
    """What is the same for all is computed once a second; each sees its own streams in it."""
    looks = counted(monkeypatch)
    async with AsyncExitStack() as stack, Upstream() as upstream:
        relay = await stack.enter_async_context(relaying(upstream.url, toml=KEYS, clock=clock))
        watching = []
        for headers in (ANN, BOB, ANN):
            watching.append(await stack.enter_async_context(relay.get("/status/events", headers)))
            await next_event(watching[-1])
        assert len(looks) == 3  # who comes sees what is now
        await begin(relay, upstream, stack, BOB)
        await until(lambda: clock.pending().count(1001) == 3)
        clock.advance(1)
        told = [await next_event(one) for one in watching]
        assert len(looks) == 4
        assert [each["streams"]["own"] for each in told] == [0, 1, 0]
        assert [each["relay"]["open"] for each in told] == [1] * 3
        await look(relay, ANN)
        assert len(looks) == 5


@pytest.mark.both_loops
async def test_it_ends_at_drain(clock):
    """The last event says so, and the stream ends as a whole one."""
    async with relaying("http://127.0.0.1:9", clock=clock) as relay:
        async with relay.get("/status/events") as watching:
            await next_event(watching)
            await clock.armed()
            relay.gateway.draining = True
            clock.advance(1)
            assert (await next_event(watching))["findings"][0]["kind"] == "draining"
            assert await watching.content.read() == b""
        assert clock.pending() == []


async def test_a_shutdown_does_not_wait_for_watchers(clock):
    """Though time stands still they are let go, with the last chunk."""
    async with AsyncExitStack() as stack:
        async with relaying("http://127.0.0.1:9", clock=clock) as relay:
            line = await stack.enter_async_context(dial(relay.port))
            await line.send("GET", "/status/events")
            await line.until(b"\r\n\r\n")
            await clock.armed()
        answer = await line.answer()
    assert answer.whole
    assert answer.body.count(b"event: status") == 2


@pytest.mark.parametrize("size", [30_000, 8_000_000])
async def test_a_watcher_that_does_not_read_is_cut_off(clock, monkeypatch, size):
    """Nothing more is made for it, and after `limits.send_timeout` it is gone."""
    looks = []
    monkeypatch.setattr(status_page, "_look", lambda *_: looks.append(1) or b"x" * size)
    toml = "[limits]\nsend_timeout = 30\n"
    async with (
        relaying("http://127.0.0.1:9", toml=toml, clock=clock) as relay,
        dial(relay.port) as line,
    ):
        await line.send("GET", "/status/events")
        await line.until(b"event: status")
        line._writer.transport.pause_reading()
        made = still = 0
        while clock.pending():
            clock.advance(1)
            await settled()
            still = still + 1 if len(looks) == made else 0
            made = len(looks)
            assert made < MOST
        assert still == pytest.approx(30, abs=2)
        line._writer.transport.resume_reading()
        assert not (await line.answer()).whole


async def test_a_look_of_several_takes_the_settings_that_are_in_force(clock):
    """After a reload the new upstreams are shown, and the old ones are gone."""
    async with relaying("http://127.0.0.1:9", clock=clock) as one:
        async with relaying(toml='[[upstream]]\nname = "new"\nurl = "http://x.test"\n') as other:
            one.gateway.adopt(other.gateway.settings)
        assert [row["name"] for row in (await look(one))["upstreams"]] == ["new"]
