"""A provider's faults, and what the client gets: the truth without a fallback, an answer with one.

Yardstick     every fault × /chat, /v1 streamed, /v1 plain, /v1/messages × alone, with a fallback
Recovery      a fault that passes is not noticed
Once          what may make something is never sent twice, nor to another upstream
Rules         other statuses, large bodies, model names, credentials, early opening
Circuit       an upstream that does not work is passed by, and used again within seconds
Connections   a kept one that was closed costs nothing
"""

import asyncio
import json
from contextlib import AsyncExitStack
from types import SimpleNamespace

import pytest

from fakes import Upstream, chat, in_turn, sse
from faults import (
    BACK_OFF,
    CLIENTS_KEY,
    FAULTS,
    JSON,
    OPENAI,
    PLAIN,
    QUIET,
    RETRY,
    STREAMED,
    USAGE,
    WAYS,
    Way,
    alone,
    ask,
    begins,
    events_of,
    faulty,
    moved,
    pair,
    reset,
    says,
    text_of,
    typed,
    upstream,
)
from line import dial
from relaying import relaying, settled, until
from service import gateway
from service.adapters.dial import connector
from service.core.circuit import FAILURES

pytestmark = pytest.mark.usefixtures("heard_at_once")

CHAT, STREAM, WHOLE = WAYS["/chat"], WAYS["/v1 streamed"], WAYS["/v1 plain"]
ONE_ATTEMPT = f"{QUIET}[retry]\nattempts = 1\n"
CASES = [
    pytest.param(name, asked, id=f"{name}: {asked}")
    for name, fault in FAULTS.items()
    for asked in fault.ways
]


@pytest.fixture(autouse=True)
def _no_chance(monkeypatch):
    monkeypatch.setattr(gateway, "random", SimpleNamespace(random=lambda: 0.5))


@pytest.fixture(autouse=True)
def _no_names(monkeypatch):
    """Let no name be known, without asking anybody."""

    async def resolve(*_args, **_kwargs):
        raise OSError("no such name")

    monkeypatch.setattr("aiohttp.DefaultResolver.resolve", resolve)


def same(requests):
    """Assert that all requests are the same bytes."""
    for request in requests[1:]:
        assert (request.head, request.body) == (requests[0].head, requests[0].body)


async def over(relay):
    """Wait until no stream is under way."""
    await until(lambda: not relay.streams)


# --- yardstick


@pytest.mark.parametrize(("name", "asked"), CASES)
async def test_with_a_fallback_the_client_gets_an_answer(name, asked, clock, dead_port):
    """Whole, the fallback's own, and named as such; both upstreams saw the same bytes."""
    fault, way = FAULTS[name], WAYS[asked]
    async with AsyncExitStack() as stack:
        url, requests = await faulty(stack, name, way, dead_port)
        backup = await stack.enter_async_context(Upstream(way.good))
        relay = await stack.enter_async_context(relaying(toml=pair(url, backup.url), clock=clock))
        answer = await ask(relay, way, clock=clock, moves=fault.moves)
        await over(relay)
        metrics = relay.gateway.metrics
        assert (metrics._streams["b", "ok"], metrics._tokens["b", "prompt"]) == (1, 5)
    assert (answer.status, answer.whole) == (200, True)
    assert len(requests) == fault.seen
    same(requests)
    [request] = backup.requests
    for sent in requests:
        assert (sent.target, sent.body) == (request.target, request.body)
    if way is CHAT:
        event, data = events_of(answer)[-1]
        assert (event, text_of(answer)) == ("done", "Hello")
        assert (data["upstream"], data["attempts"]) == ("b", fault.seen + 1)
        assert (data["usage"], data["model"]) == (USAGE, "m-2026")
    else:
        assert request.body == way.sent
        assert answer.get("teleprinter-upstream") == "b"
        assert answer.body == way.answer


@pytest.mark.parametrize(("name", "asked"), CASES)
async def test_without_a_fallback_the_client_hears_the_truth(name, asked, clock, dead_port):
    """The upstream's own words where it has some, the relay's where it has none."""
    fault, way = FAULTS[name], WAYS[asked]
    async with AsyncExitStack() as stack:
        url, requests = await faulty(stack, name, way, dead_port)
        relay = await stack.enter_async_context(relaying(toml=alone(url), clock=clock))
        answer = await ask(relay, way, clock=clock, moves=fault.moves)
        await over(relay)
    assert len(requests) == fault.seen
    same(requests)
    if way is CHAT:
        tell_chat(answer, fault)
    elif fault.code is None:
        assert (answer.status, answer.whole) == (fault.status, True)
        assert answer.get("teleprinter-upstream") == "a"
        assert answer.get("retry-after") == {"429, in 2 s": "2", "429, in 6 s": "6"}.get(
            name, answer.get("retry-after")
        )
        assert b"Not now." in answer.body or fault.seen == 1
    elif answer.status == 200:  # the head of the last attempt has gone out
        assert (asked, answer.whole) == ("/v1 plain", False)
    else:
        assert (answer.status, answer.error["code"]) == (fault.status, fault.code)
        assert (answer.get("x-should-retry") is None) is answer.error["retryable"]


def tell_chat(answer, fault):
    """Assert that /chat ends with that error; an upstream that said [DONE] is believed."""
    event, data = events_of(answer)[-1]
    if fault is FAULTS["[DONE] and no more"]:
        assert (event, data["finish_reason"], data["usage"]) == ("done", None, None)
        return
    assert (event, data["partial"]) == ("error", False)
    assert data["code"] == (fault.code or "upstream_error")
    if fault.code is None:
        assert "Not now." in data["message"] or fault.seen == 1
        assert fault.status in {200, data["status"]}


@pytest.mark.parametrize("asked", STREAMED)
@pytest.mark.parametrize("cut", ["close", "reset"])
async def test_a_cut_in_the_middle_is_never_repeated(cut, asked, clock):
    """Content has gone out: nobody else is asked, and the client is told."""
    way = WAYS[asked]
    async with (
        Upstream(begins(way, way.begun, then=cut)) as first,
        Upstream(way.good) as backup,
        relaying(toml=pair(first.url, backup.url), clock=clock) as relay,
    ):
        answer = await ask(relay, way)
    assert (len(first.requests), len(backup.requests)) == (1, 0)
    assert (answer.status, answer.whole) == (200, False)
    if way is CHAT:
        event, data = events_of(answer)[-1]
        assert (event, data["code"], data["partial"]) == ("error", "upstream_cut", True)
        assert text_of(answer) == "Hel"
    else:
        assert answer.body.startswith(way.begun)
        assert b"upstream_cut" in answer.body
        assert answer.get("teleprinter-upstream") == "a"


# --- recovery


@pytest.mark.parametrize("asked", WAYS)
@pytest.mark.parametrize("name", ["503", "reset before the status line", "reset after the head"])
async def test_a_fault_that_passes(name, asked, clock):
    """Twice it fails, the third time it does not: the client gets that answer and no more."""
    way, script = WAYS[asked], FAULTS[name].script(WAYS[asked])
    async with (
        Upstream(in_turn(script, script, way.good)) as first,
        Upstream() as backup,
        relaying(toml=pair(first.url, backup.url), clock=clock) as relay,
    ):
        answer = await ask(relay, way, clock=clock, moves=BACK_OFF)
    assert (answer.status, answer.whole) == (200, True)
    assert (len(first.requests), len(backup.requests)) == (3, 0)
    if way is CHAT:
        event, data = events_of(answer)[-1]
        assert (event, data["upstream"], data["attempts"]) == ("done", "a", 3)
        assert [name for name, _ in events_of(answer)].count("start") == 1
    else:
        assert answer.body == way.answer
        assert answer.get("teleprinter-upstream") == "a"


RESPONSES = [
    typed("response.created", sequence_number=0, response={"model": "m", "status": "queued"}),
    typed("response.output_text.delta", sequence_number=1, delta="Hello"),
    typed("response.completed", sequence_number=2, response={"model": "m", "usage": USAGE}),
]
STREAMS = {
    "responses": Way("/v1/responses", {"model": "m", "input": "Hi", "stream": True}, RESPONSES),
    "completions": Way("/v1/completions", {"model": "m", "prompt": "Hi", "stream": True}, OPENAI),
}
BROKEN = {
    "cut": lambda first: begins(STREAM, first, then="close"),
    "failed": lambda first: sse(
        first, typed("response.failed", response={"error": {"code": "server_error"}})
    ),
    "error": lambda first: sse(first, typed("error", code="server_error", message="Not now.")),
    "503": lambda _: says(503)(STREAM),
}


@pytest.mark.parametrize(
    ("name", "how"),
    [*(("responses", how) for how in BROKEN), ("completions", "cut"), ("completions", "503")],
)
async def test_the_other_endpoints_that_stream(name, how, clock):
    """What goes before the first content of Responses is held back like a role."""
    way = STREAMS[name]
    async with (
        Upstream(BROKEN[how](way.frames[0])) as first,
        Upstream(way.good) as backup,
        relaying(toml=pair(first.url, backup.url), clock=clock) as relay,
    ):
        answer = await ask(relay, way, clock=clock, moves=BACK_OFF)
    assert (answer.status, answer.whole, answer.body) == (200, True, way.answer)
    assert (len(first.requests), len(backup.requests)) == (3, 1)


async def test_embeddings(clock):
    """They make nothing and are no stream."""
    way = Way("/v1/embeddings", {"model": "m", "input": "Hi"}, [])
    async with (
        Upstream(reset) as first,
        Upstream(way.good) as backup,
        relaying(toml=pair(first.url, backup.url), clock=clock) as relay,
    ):
        answer = await ask(relay, way, clock=clock, moves=BACK_OFF)
    assert (answer.status, answer.body, answer.get("teleprinter-upstream")) == (200, PLAIN, "b")


async def test_an_error_first_is_not_waited_for(clock):
    """The upstream says what is wrong and keeps the line open: the next attempt begins at once."""
    busy = b'data: {"error": {"type": "server_error", "message": "Not now."}}\n\n'
    async with (
        Upstream(begins(STREAM, busy, then="silence")) as first,
        Upstream(STREAM.good) as backup,
        relaying(toml=pair(first.url, backup.url), clock=clock) as relay,
    ):
        answer = await ask(relay, STREAM, clock=clock, moves=BACK_OFF)
        await first.until(lambda: first.open_connections == 0)
    assert answer.body == STREAM.answer
    assert len(first.requests) == 3


async def test_an_error_that_hangs_is_an_error(clock):
    """With no remedy it is handed on, and counted as what it is when the clock ends it."""
    wrong = b'data: {"error": {"type": "invalid_request_error", "message": "No."}}\n\n'
    async with (
        Upstream(begins(STREAM, wrong, then="silence")) as first,
        relaying(toml=alone(first.url), clock=clock) as relay,
    ):
        asking = asyncio.create_task(ask(relay, STREAM))
        await until(lambda: relay.streams and relay.streams[0].frames == 1)
        await moved(clock, 20)
        answer = await asking
        await over(relay)
        counted = relay.gateway.metrics._streams
        assert (counted["a", "error"], counted["a", "ok"]) == (1, 0)
    assert (answer.status, answer.body) == (200, wrong)


async def test_the_last_of_several_fallbacks(clock, dead_port):
    """They are asked in their order; the client hears of the last if all fail."""
    dead = f"http://127.0.0.1:{dead_port}"
    async with Upstream(says(401)(STREAM)) as last:
        names = 'fallback = ["b", "c"]'
        toml = QUIET + RETRY + upstream("a", dead, names) + upstream("b", dead)
        async with relaying(toml=toml + upstream("c", last.url), clock=clock) as relay:
            answer = await ask(relay, STREAM)
    assert (answer.status, answer.get("teleprinter-upstream")) == (401, "c")
    assert b"Not now." in answer.body


async def test_a_client_that_leaves_while_it_is_waited(clock):
    """During a back-off nobody is asked any more, and nothing is left."""
    async with (
        Upstream(says(503)(STREAM)) as first,
        Upstream(STREAM.good) as backup,
        relaying(toml=pair(first.url, backup.url), clock=clock) as relay,
    ):
        async with dial(relay.port) as line:
            await line.send("POST", STREAM.path, JSON, body=STREAM.sent)
            await clock.armed(clock.now() + 0.5)
        await over(relay)
        assert clock.pending() == []
    assert (len(first.requests), len(backup.requests)) == (1, 0)


# --- once

ONCE = {
    "files": ("/v1/files", b'{"purpose": "batch"}', JSON),
    "batches": ("/v1/batches", b'{"input_file_id": "f"}', JSON),
    "fine-tuning": ("/v1/fine_tuning/jobs", b'{"model": "m"}', JSON),
    "message batches": ("/v1/messages/batches", b'{"requests": []}', JSON),
    "background": ("/v1/responses", b'{"model": "m", "input": "Hi", "background": true}', JSON),
    "images": ("/v1/images/generations", b'{"model": "m", "prompt": "Hi"}', JSON),
    "upload": ("/v1/audio/transcriptions", b"\0" * 5000, ("Content-Type", "multipart/form-data")),
    "binary chat": ("/v1/chat/completions", b"\0", ("Content-Type", "application/octet-stream")),
}


@pytest.mark.parametrize("fault", ["503", "reset before the status line", "garbage"])
@pytest.mark.parametrize("name", ONCE)
async def test_what_is_sent_once(name, fault, clock):
    """It may have made something: neither again nor elsewhere, and the client hears why."""
    path, body, kind = ONCE[name]
    async with (
        Upstream(FAULTS[fault].script(WHOLE)) as first,
        Upstream() as backup,
        relaying(toml=pair(first.url, backup.url), clock=clock) as relay,
        dial(relay.port) as line,
    ):
        await line.send("POST", path, kind, body=body)
        answer = await line.answer()
    assert answer.status == {"503": 503}.get(fault, 502)
    assert [request.body for request in first.requests] == [body]
    assert backup.connections == 0


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("name", ["files", "background", "upload"])
async def test_what_belongs_to_one_upstream_stays_there(name, method, clock, dead_port):
    """What was made at one is not at another: no fallback, though nothing has been sent."""
    path, body, kind = ONCE[name]
    async with (
        Upstream() as backup,
        relaying(toml=pair(f"http://127.0.0.1:{dead_port}", backup.url), clock=clock) as relay,
    ):
        for asked in [("POST", path, kind, body), (method, path, kind, b"")]:
            async with dial(relay.port) as line:
                await line.send(*asked[:3], body=asked[3])
                answer = await line.answer()
            assert (answer.status, answer.error["code"]) == (502, "upstream_unreachable")
        assert backup.connections == 0


# --- rules


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 451, 501])
async def test_other_statuses_are_handed_on(status, clock):
    """They are about the request: asked once, and no one else."""
    async with (
        Upstream(says(status)(STREAM)) as first,
        Upstream() as backup,
        relaying(toml=pair(first.url, backup.url), clock=clock) as relay,
    ):
        answer = await ask(relay, STREAM)
    assert (answer.status, b"Not now." in answer.body) == (status, True)
    assert (len(first.requests), backup.connections) == (1, 0)


@pytest.mark.parametrize("size", [0, 1])
async def test_a_body_that_is_too_large_to_keep(size, clock):
    """Up to retry.body it is sent again; above, it is not, and the error says so."""
    toml = RETRY + f"body = {len(STREAM.sent) - size}\n" + QUIET
    async with (
        Upstream(reset) as first,
        Upstream(STREAM.good) as backup,
    ):
        toml += upstream("a", first.url, 'fallback = ["b"]') + upstream("b", backup.url)
        async with relaying(toml=toml, clock=clock) as relay:
            answer = await ask(relay, STREAM, clock=clock, moves=[] if size else BACK_OFF)
    if size == 0:
        assert (answer.status, len(first.requests), len(backup.requests)) == (200, 3, 1)
        return
    assert (answer.status, answer.error["code"]) == (502, "upstream_cut")
    assert f"larger than the {len(STREAM.sent) - 1} bytes of retry.body" in answer.error["message"]
    assert (len(first.requests), backup.connections) == (1, 0)


async def test_a_large_body_that_was_not_sent_goes_to_the_fallback(clock, dead_port):
    """A dial that failed cost nothing."""
    async with Upstream(WHOLE.good) as backup:
        tables = upstream("a", f"http://127.0.0.1:{dead_port}", 'fallback = ["b"]')
        toml = f"{RETRY}body = 1\n" + tables + upstream("b", backup.url)
        async with relaying(toml=toml, clock=clock) as relay:
            answer = await ask(relay, WHOLE)
    assert (answer.status, answer.body) == (200, PLAIN)


@pytest.mark.parametrize("asked", WAYS)
async def test_a_fallback_has_its_own_names_for_models(asked, clock):
    """Each upstream is asked by its own map; all else in the body is as the client sent it."""
    way = WAYS[asked]
    maps = 'model_map = { "m" = "NAME", "other" = "x" }'
    async with (
        Upstream(says(429, ("Retry-After", "60"))(way)) as first,
        Upstream(way.good) as second,
    ):
        toml = pair(first.url, second.url, maps.replace("NAME", "a/m"), maps.replace("NAME", "b-m"))
        async with relaying(toml=toml, clock=clock) as relay:
            answer = await ask(relay, way)
    assert answer.status == 200
    one, two = first.requests[0].json(), second.requests[0].json()
    assert (one.pop("model"), two.pop("model")) == ("a/m", "b-m")
    assert one == two
    if way is not CHAT:
        assert one == {name: value for name, value in way.body.items() if name != "model"}


@pytest.mark.parametrize("header", ["Authorization", "x-api-key", "api-key"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat"])
async def test_the_clients_key_is_not_for_a_fallback_elsewhere(path, header, clock):
    """The upstream that it asked gets it, another origin never; a key of its own is sent."""
    async with Upstream(says(503)(STREAM)) as first, Upstream(STREAM.good) as second:
        tables = upstream("b", second.url) + upstream("c", first.url, 'key = "sk-of-c"')
        for names, key in [('["b"]', None), ('["c", "b"]', "Bearer sk-of-c")]:
            first.requests.clear()
            second.requests.clear()
            toml = ONE_ATTEMPT + upstream("a", first.url, f"fallback = {names}")
            async with relaying(toml=toml + tables, clock=clock) as relay, dial(relay.port) as line:
                body = {"question": "Hi"} if path == "/chat" else STREAM.body
                pairs = [JSON, (header, "sk-client")]
                await line.send("POST", path, *pairs, body=json.dumps(body).encode())
                assert (await line.answer()).status == 200
            assert b"sk-client" in first.requests[0].head
            assert b"sk-client" not in second.requests[0].head
            if key is not None:
                assert first.requests[1].get("authorization") == key
                assert b"sk-client" not in first.requests[1].head


async def test_the_clients_key_goes_to_a_fallback_at_the_same_place(clock):
    """The same origin is the same provider: another path of it may see the key."""
    script = in_turn(says(429, ("Retry-After", "60"))(STREAM), STREAM.good)
    async with Upstream(script) as one:
        toml = QUIET + RETRY + upstream("a", one.url, 'fallback = ["b"]')
        toml += f'[[upstream]]\nname = "b"\nurl = "{one.url}/other"\n'
        async with relaying(toml=toml, clock=clock) as relay:
            assert (await ask(relay, STREAM)).status == 200
    assert [request.target for request in one.requests] == [
        "/v1/chat/completions",
        "/other/chat/completions",
    ]
    assert {request.get("authorization") for request in one.requests} == {CLIENTS_KEY[1]}


async def test_a_stream_that_was_opened_early_may_still_be_tried_again(clock):
    """After open_after the client has the status; what fails before content is not seen."""
    async with Upstream() as first, Upstream(STREAM.good) as backup:
        tables = upstream("a", first.url, 'fallback = ["b"]') + upstream("b", backup.url)
        toml = f"[heartbeat]\nafter = 0\nopen_after = 3\n[clocks]\nheaders = 30\n{RETRY}{tables}"
        async with relaying(toml=toml, clock=clock) as relay, dial(relay.port) as line:
            await line.send("POST", STREAM.path, JSON, body=STREAM.sent)
            _, wire = await first.next()
            await wire.head(content_type="text/event-stream")
            await until(lambda: relay.streams[0].framed)
            wire.close()
            await clock.armed(clock.now() + 0.5)
            clock.advance(0.5)
            await first.next()
            await moved(clock, 2.5)
            await line.until(b"\r\n\r\n")
            await moved(clock, 27.5)
            answer = await line.answer()
    assert (answer.status, answer.whole, answer.body) == (200, True, STREAM.answer)
    assert answer.get("content-type").startswith("text/event-stream")


async def test_a_plain_answer_whose_head_has_gone_out_is_not_repeated(clock):
    """After open_after a slow body is handed on as it comes, and its cut with it."""
    async with Upstream() as first, Upstream(WHOLE.good) as backup:
        tables = upstream("a", first.url, 'fallback = ["b"]') + upstream("b", backup.url)
        toml = f"[heartbeat]\nafter = 0\nopen_after = 3\n{RETRY}{tables}"
        async with relaying(toml=toml, clock=clock) as relay, dial(relay.port) as line:
            await line.send("POST", WHOLE.path, JSON, body=WHOLE.sent)
            _, wire = await first.next()
            await wire.head(content_type="application/json", content_length=str(len(PLAIN)))
            await moved(clock, 3)
            await line.until(b"\r\n\r\n")
            wire.close()
            answer = await line.answer()
            await over(relay)
    assert (answer.status, answer.whole, answer.body) == (200, False, b"")
    assert (len(first.requests), backup.connections) == (1, 0)


async def test_a_plain_request_is_never_opened_between_two_attempts(clock):
    """What was to open the first answer opens nothing once that one is forgotten."""
    async with Upstream() as first, Upstream() as backup:
        tables = upstream("a", first.url, 'fallback = ["b"]') + upstream("b", backup.url)
        toml = f"[heartbeat]\nafter = 0\nopen_after = 3\n[retry]\nattempts = 1\n{tables}"
        async with relaying(toml=toml, clock=clock) as relay, dial(relay.port) as line:
            await line.send("POST", WHOLE.path, JSON, body=WHOLE.sent)
            _, wire = await first.next()
            await wire.head(content_type="application/json", content_length=str(len(PLAIN)))
            await clock.armed(clock.now() + 3)
            wire.close()
            _, wire = await backup.next()
            clock.advance(4)
            await settled()
            assert line.received == b""
            await wire.reply(200, PLAIN, content_type="application/json")
            answer = await line.answer()
    assert (answer.status, answer.body, answer.whole) == (200, PLAIN, True)


async def test_a_long_plain_answer_is_not_kept_back(clock):
    """More than 16 KiB go out as they come, so that a torso of it is one to the client too."""
    async with (
        Upstream() as first,
        Upstream() as backup,
        relaying(toml=pair(first.url, backup.url), clock=clock) as relay,
        dial(relay.port) as line,
    ):
        await line.send("POST", WHOLE.path, JSON, body=WHOLE.sent)
        _, wire = await first.next()
        await wire.head(content_type="application/json")
        await wire.chunk(b" " * 20_000)
        await line.until(b" " * 1000)
        wire.close()
        answer = await line.answer()
        await over(relay)
    assert (answer.status, answer.whole) == (200, False)
    assert (len(first.requests), backup.connections) == (1, 0)


# --- circuit


async def test_a_circuit_opens_and_closes_and_nothing_is_lost(clock):
    """Five failures in a row: passed by, tried once a while, used again after a second."""
    works = False

    async def script(request, wire):
        await (STREAM.good if works else says(503)(STREAM))(request, wire)

    async with Upstream(script) as first, Upstream(STREAM.good) as backup:
        toml = ONE_ATTEMPT + upstream("a", first.url, 'fallback = ["b"]')
        async with relaying(toml=toml + upstream("b", backup.url), clock=clock) as relay:

            async def served(count):
                answers = [await ask(relay, STREAM) for _ in range(count)]
                assert {(each.status, each.body) for each in answers} == {(200, STREAM.answer)}
                return [each.get("teleprinter-upstream") for each in answers]

            assert await served(FAILURES) == ["b"] * FAILURES
            assert await served(10) == ["b"] * 10
            assert len(first.requests) == FAILURES  # it was passed by
            clock.advance(1)
            assert await served(3) == ["b"] * 3
            assert len(first.requests) == FAILURES + 1  # one has tried
            works = True
            clock.advance(1.9)
            assert await served(3) == ["b"] * 3
            clock.advance(0.1)
            assert await served(5) == ["a"] * 5


async def test_others_do_not_wait_for_the_trial(clock):
    """While one request tries the upstream, which is silent, the others are served."""
    async with Upstream() as first, Upstream(STREAM.good) as backup:
        toml = pair(first.url, backup.url)
        async with relaying(toml=toml, clock=clock) as relay:
            for _ in range(FAILURES):
                relay.gateway._circuits["a"].failed(clock.now())
            clock.advance(1)
            trial = asyncio.create_task(ask(relay, STREAM))
            _, wire = await first.next()
            for _ in range(3):
                assert (await ask(relay, STREAM)).get("teleprinter-upstream") == "b"
            await STREAM.good(None, wire)
            assert (await trial).get("teleprinter-upstream") == "a"
            assert relay.gateway._circuits["a"].lets_pass(clock.now())


async def test_without_a_fallback_no_circuit_refuses(clock):
    """There is nobody else: each request is an attempt of its own."""
    async with (
        Upstream(says(404)(STREAM)) as only,
        relaying(toml=alone(only.url), clock=clock) as relay,
    ):
        for _ in range(2 * FAILURES):
            relay.gateway._circuits["a"].failed(clock.now())
        assert (await ask(relay, STREAM)).status == 404
        assert not relay.gateway._circuits["a"].open  # it has answered


@pytest.mark.parametrize("name", ["files", "upload"])
async def test_a_circuit_sends_nothing_elsewhere_that_belongs_to_one(name, clock):
    """Files go where they were sent for, though that upstream is passed by for chats."""
    path, body, kind = ONCE[name]
    async with (
        Upstream(WHOLE.good) as first,
        Upstream() as backup,
        relaying(toml=pair(first.url, backup.url), clock=clock) as relay,
        dial(relay.port) as line,
    ):
        for _ in range(FAILURES):
            relay.gateway._circuits["a"].failed(clock.now())
        await line.send("POST", path, kind, body=body)
        answer = await line.answer()
    assert (answer.status, answer.get("teleprinter-upstream")) == (200, "a")
    assert backup.connections == 0


async def test_what_a_client_does_wrong_opens_nothing(clock):
    """Refused requests show that the upstream answers; uploads that stop show nothing."""
    async with Upstream(says(400)(STREAM)) as first, Upstream() as backup:
        toml = pair(first.url, backup.url) + "[limits]\nbody_timeout = 5\n"
        async with relaying(toml=toml, clock=clock) as relay:
            circuit = relay.gateway._circuits["a"]
            for _ in range(2 * FAILURES):
                assert (await ask(relay, STREAM)).status == 400
            assert not circuit.open
            for _ in range(FAILURES):
                circuit.failed(clock.now())
            async with dial(relay.port) as line:
                kind, size = ONCE["upload"][2], ("Content-Length", "10")
                await line.send("POST", "/v1/audio/transcriptions", kind, size)
                await moved(clock, 5)
                await line.until(b"408")
            await over(relay)
            assert circuit.open


# --- connections


@pytest.mark.skipif(not hasattr(connector, "Dialled"), reason="dials do not tell of reuse")
@pytest.mark.parametrize("asked", WAYS)
async def test_a_kept_connection_that_was_closed_is_replaced_at_once(asked, clock):
    """The POST is sent again over a new one: no wait, no failure of the upstream's."""
    way = WAYS[asked]
    stale = []

    async def script(request, wire):
        if wire._connection in stale:
            wire.reset()
            return
        stale.append(wire._connection)
        await way.good(request, wire)

    async with Upstream(script) as first, relaying(toml=alone(first.url), clock=clock) as relay:
        for asked_before in range(3):
            answer = await ask(relay, way)
            assert (answer.status, answer.whole) == (200, True)
            assert first.connections == asked_before + 1
            assert relay.gateway._circuits["a"]._failures == 0
            await until(lambda: not relay.streams)
    assert len(first.requests) == 5
    same(first.requests)


async def test_the_head_names_no_upstream_that_may_change(clock):
    """Where a fallback may yet serve, `done` says who did; the head of /chat comes too early."""
    async with Upstream(sse(*chat(["Hi"]))) as one, Upstream(sse(*chat(["Hi"]))) as two:
        toml = (
            f'[[upstream]]\nname = "a"\nurl = "{one.url}/v1"\nfallback = ["b"]\n'
            f'[[upstream]]\nname = "b"\nurl = "{two.url}/v1"\n'
        )
        async with relaying(toml=toml, clock=clock) as relay:
            async with relay.get("/chat", question="Hi") as response:
                assert "Teleprinter-Upstream" not in response.headers
                await response.read()
            async with relay.stream() as response:
                assert response.headers["Teleprinter-Upstream"] == "a"
                await response.read()
