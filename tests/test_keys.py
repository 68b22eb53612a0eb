"""Keys and what they grant: models, requests a minute, open streams, tokens a day.

Secrets   the caller's key never goes upstream, the upstream's key never comes down
Budgets   by the upstream's own usage; what the relay had to ask for, the client does not see
Redis     two relays count together
"""

import asyncio
import hashlib
import json

import pytest

import real
from clock import PATIENCE
from fakes import Upstream, chat, reply, sse
from line import exchange
from relaying import read_events, relaying, until

JSON = ("Content-Type", "application/json")
PATH = "/v1/chat/completions"
MODELS = reply(200, "{}", content_type="application/json")
KEY = "canary-of-the-caller"
UP = "canary-of-the-upstream"
USAGE = {"prompt_tokens": 30, "completion_tokens": 12, "total_tokens": 42}
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
FORMS = {
    "name:key": [f"alice:{KEY}"],
    "name:sha256:": [f"alice:sha256:{DIGEST}"],
    "table": [{"name": "alice", "key": KEY}],
    "table, sha256": [{"name": "alice", "sha256": DIGEST}],
}
HEADERS = {
    "Bearer": ("Authorization", f"Bearer {KEY}"),
    "x-api-key": ("x-api-key", KEY),
    "Teleprinter-Key": ("Teleprinter-Key", KEY),
}


def keys(*rows):
    """Return [server] with these keys, as texts or tables."""

    def row(value):
        if isinstance(value, str):
            return json.dumps(value)
        return "{" + ", ".join(f"{name} = {json.dumps(each)}" for name, each in value.items()) + "}"

    return f"[server]\nkeys = [{', '.join(map(row, rows))}]\n"


def granting(**grant):
    """Return the settings of one key and what it grants."""
    return keys({"name": "alice", "key": KEY, **grant})


async def ask(relay, path=PATH, *pairs, key=KEY, **body):
    """Send a request with the key; return the answer."""
    asked = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True} | body
    shown = ("Teleprinter-Key", key)
    return await exchange(
        relay.port, "POST", path, JSON, shown, *pairs, body=json.dumps(asked).encode()
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("header", HEADERS)
async def test_every_form_of_a_key_opens_by_every_header(form, header):
    """And does not go upstream in any of them; a wrong one is 401."""
    async with (
        Upstream(MODELS) as upstream,
        relaying(upstream.url, toml=keys(*FORMS[form])) as relay,
    ):
        right = HEADERS[header]
        assert (await exchange(relay.port, "GET", "/v1/models", right)).status == 200
        wrong = (right[0], right[1] + "x")
        answer = await exchange(relay.port, "GET", "/v1/models", wrong)
        assert (answer.status, answer.error["code"]) == (401, "unauthorized")
        assert KEY not in answer.body.decode()
    [request] = upstream.requests
    assert KEY not in str(request.headers)


@pytest.mark.parametrize("path", [PATH, "/chat", "/v1/models", "/metrics", "/tickets", "/x"])
async def test_all_else_needs_a_key(path):
    """401 without one; the page, /healthz and /readyz are open."""
    async with Upstream(MODELS) as upstream, relaying(upstream.url, toml=granting()) as relay:
        assert (await exchange(relay.port, "POST", path, JSON, body=b"{}")).status == 401
        for free in ("/", "/healthz", "/readyz"):
            assert (await exchange(relay.port, "GET", free)).status == 200
    assert upstream.requests == []


async def test_the_callers_key_and_the_sdks_own_part():
    """Teleprinter-Key lets in, and the SDK's own key goes upstream; a doubled one goes nowhere."""
    async with Upstream(MODELS) as upstream, relaying(upstream.url, toml=granting()) as relay:
        own = ("Authorization", "Bearer sk-own")
        pairs = [HEADERS["Teleprinter-Key"], own, HEADERS["x-api-key"]]
        await exchange(relay.port, "GET", "/v1/models", *pairs)
    request = upstream.requests[0]
    assert request.get_all("authorization") == ["Bearer sk-own"]
    assert KEY not in str(request.headers)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("status", [200, 401, 500])
async def test_the_upstreams_key_does_not_come_down(stream, status):
    """An upstream that repeats it, in headers, an error or an answer, is not repeated."""

    async def echo(request, wire):
        said = request.get_all("authorization")[0]
        kind = "text/event-stream" if stream and status == 200 else "application/json"
        await wire.head(status, ("X-Echo", said), content_type=kind)
        frame = b'{"error": {"message": "Incorrect API key provided: %s"}}' % said.encode()
        frame = b"data: %s\n\n" % frame if "event" in kind else frame
        for piece in (frame[:60], frame[60:70], frame[70:]):
            await wire.chunk(piece)
        await wire.end()

    async with Upstream(echo) as upstream, relaying(upstream.url, upstream_key=UP) as relay:
        for path in (PATH, "/chat"):
            answer = await exchange(relay.port, "POST", path, JSON, body=ask_body(stream=stream))
            assert UP not in str(answer)
            if path == PATH or stream or status != 200:  # else /chat has nothing to show
                assert "*" * len(UP) in answer.body.decode()
    assert upstream.requests[0].get_all("authorization") == [f"Bearer {UP}"]


def ask_body(**more):
    """Return a request's JSON."""
    messages = [{"role": "user", "content": "Hi"}]
    return json.dumps({"model": "m", "messages": messages} | more).encode()


# --- models


@pytest.mark.parametrize("path", [PATH, "/chat"])
async def test_a_key_may_use_its_models_only(path):
    """Globs; another model is 403 and reaches nobody, also if it is /chat's own default."""
    async with Upstream(sse(*chat(["Hi"]))) as upstream:
        toml = granting(models=["gpt-4*", "o1"])
        async with relaying(upstream.url, toml=toml, model="other") as relay:
            for model in ("gpt-4o", "o1"):
                assert (await ask(relay, path, model=model)).status == 200
            for body in ({"model": "o3"}, {"model": "xgpt-4"}):
                answer = await ask(relay, path, **body)
                assert (answer.status, answer.error["code"]) == (403, "forbidden")
            if path == "/chat":
                assert (await ask(relay, path, model=None)).status == 403
    assert len(upstream.requests) == 2


# --- requests a minute


@pytest.mark.parametrize("path", [PATH, "/chat"])
async def test_requests_a_minute_are_bounded(path):
    """One more is 429 `rate_limited` with Retry-After; other callers are let in."""
    toml = keys({"name": "a", "key": KEY, "requests_per_minute": 2}, "b:other")
    async with (
        Upstream(sse(*chat(["Hi"]))) as upstream,
        relaying(upstream.url, toml=toml) as relay,
    ):
        assert [(await ask(relay, path)).status for _ in range(3)] == [200, 200, 429]
        answer = await ask(relay, path)
        assert answer.error["code"] == "rate_limited"
        assert 1 <= int(answer.get("retry-after")) <= 120
        assert (await ask(relay, path, key="other")).status == 200
    assert len(upstream.requests) == 3


# --- tokens a day


@pytest.mark.parametrize("path", [PATH, "/chat"])
async def test_tokens_a_day_are_bounded_by_the_upstreams_usage(path):
    """A stream may go beyond the budget; then nothing starts until the day is over."""
    async with (
        Upstream(sse(*chat(["Hi"], usage=USAGE))) as upstream,
        relaying(upstream.url, toml=granting(tokens_per_day=80)) as relay,
    ):
        assert (await ask(relay, path)).status == 200
        await spent(relay, 42)
        assert (await ask(relay, path)).status == 200
        await spent(relay, 84)
        answer = await ask(relay, path)
    assert (answer.status, answer.error["code"]) == (429, "rate_limited")
    assert "tokens" in answer.error["message"]
    assert 80_000 < int(answer.get("retry-after")) <= 86_401
    assert len(upstream.requests) == 2


async def spent(relay, tokens):
    """Wait until so many are counted."""
    days = relay.gateway.rates._days
    async with asyncio.timeout(PATIENCE):
        while days.get("alice", (0, 0))[1] != tokens:  # noqa: ASYNC110  anything may do it
            await asyncio.sleep(0)


async def test_a_plain_answer_counts_too():
    """Its usage stands in its JSON."""
    body = json.dumps({"choices": [], "usage": USAGE})
    async with (
        Upstream(reply(200, body, content_type="application/json")) as upstream,
        relaying(upstream.url, toml=granting(tokens_per_day=40)) as relay,
    ):
        assert (await ask(relay, stream=False)).status == 200
        await spent(relay, 42)
        assert (await ask(relay, stream=False)).status == 429


async def test_a_budget_asks_for_the_usage_and_hides_what_it_asked_for():
    """The request gets include_usage, nothing else of it changes; the chunk is not shown."""
    frames = chat(["Hi"], usage=USAGE)
    async with (
        Upstream(sse(*frames)) as upstream,
        relaying(upstream.url, toml=granting(tokens_per_day=1000)) as relay,
    ):
        answer = await ask(relay, temperature=0.5, stream_options={"x": 1})
        await spent(relay, 42)
    sent = json.loads(upstream.requests[0].body)
    assert sent["stream_options"] == {"x": 1, "include_usage": True}
    assert sent["temperature"] == 0.5
    assert answer.body == b"".join([*frames[:-2], frames[-1]])


async def test_a_client_that_asked_for_the_usage_gets_it():
    """Its request and its answer are as it would be without a budget."""
    frames = chat(["Hi"], usage=USAGE)
    async with (
        Upstream(sse(*frames)) as upstream,
        relaying(upstream.url, toml=granting(tokens_per_day=1000)) as relay,
    ):
        answer = await ask(relay, stream_options={"include_usage": True})
    assert answer.body == b"".join(frames)


async def test_chat_tells_the_usage_in_done():
    """The relay asks for it where there is a budget."""
    async with (
        Upstream(sse(*chat(["Hi"], usage=USAGE))) as upstream,
        relaying(upstream.url, toml=granting(tokens_per_day=1000)) as relay,
    ):
        shown = {"Teleprinter-Key": KEY}
        async with relay.get("/chat", headers=shown, question="Hi") as response:
            done = (await read_events(response))[-1]
    assert json.loads(upstream.requests[0].body)["stream_options"] == {"include_usage": True}
    assert done.data["usage"] == USAGE


async def test_without_a_budget_nothing_is_asked_for():
    """The body goes as it came."""
    async with (
        Upstream(sse(*chat(["Hi"]))) as upstream,
        relaying(upstream.url, toml=granting()) as relay,
    ):
        await ask(relay)
    assert "stream_options" not in json.loads(upstream.requests[0].body)


# --- several relays


async def test_two_relays_share_what_a_key_may_spend(tmp_path):
    """Over a real Redis: requests of one count for the other, and so do tokens."""
    with real.redis_server(tmp_path) as redis:
        store = redis.url("redis")
        row = {"name": "alice", "key": KEY, "requests_per_minute": 3}
        toml = keys(row, {"name": "bob", "key": "bobs", "tokens_per_day": 40})
        async with (
            Upstream(sse(*chat(["Hi"], usage=USAGE))) as upstream,
            relaying(upstream.url, toml=toml, store=store) as one,
            relaying(upstream.url, toml=toml, store=store) as two,
        ):
            statuses = [(await ask(relay)).status for relay in (one, two, one, two, one)]
            assert statuses == [200, 200, 200, 429, 429]
            assert (await ask(one, key="bobs")).status == 200
            await until(lambda: not one.gateway._tasks)
            assert (await ask(two, key="bobs")).status == 429
