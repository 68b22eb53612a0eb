"""The vendors, as they are: through `/v1` unchanged, through `/chat` with the right events.

Quirks   what each vendor's stream has that OpenAI's has not, from the recordings in wires/vendors
Ollama   its own API beside the one below /v1
Keys     `api` of an upstream says how it is shown its key
Ends     and what ends its streams
Errors   and what the relay's own errors look like there
"""

import json
from typing import Any, NamedTuple

import pytest

from clock import FakeClock
from fakes import Upstream, chat, frame, reply, sse
from fakes.frames import DONE
from line import LAST_CHUNK, dial, exchange
from relaying import relaying
from wires import anthropic, openai_responses, vendors

pytestmark = pytest.mark.usefixtures("heard_at_once")

JSON = ("Content-Type", "application/json")
ASK = b'{"model": "m", "stream": true}'


def upstream_table(url: str, api: str = "openai", key: str = "") -> str:
    """Return the settings of one upstream."""
    return f'[[upstream]]\nname = "u"\nurl = "{url}"\napi = "{api}"\nkey = "{key}"\n'


async def post(toml: str, path: str, *pairs: tuple[str, str], body: bytes = ASK):
    """Send one request through a relay of these settings; return the answer."""
    async with relaying(toml=toml) as relay:
        return await exchange(relay.port, "POST", f"/v1/{path}", JSON, *pairs, body=body)


async def ask_chat(toml: str) -> list[tuple[str, Any]]:
    """Ask `/chat` for the model `m`; return the events behind `start`, to the last byte.

    A stream that ends with `done` is whole.
    """
    async with relaying(toml=toml, clock=FakeClock()) as relay:
        answer = await exchange(relay.port, "GET", "/chat?question=Hi&model=m")
    *blocks, rest = answer.body.decode().split("\n\n")
    start, *events = [_event(block) for block in blocks]
    assert rest == ""
    assert start == ("start", {"stream": answer.get("teleprinter-stream"), "model": "m"})
    assert answer.whole or events[-1][0] == "error"
    return events


def _event(block: str) -> tuple[str, Any]:
    """Return the name and the data of an event, which has an id and nothing else."""
    (_, _), (_, name), (_, data) = fields = [line.split(": ", 1) for line in block.split("\n")]
    assert [field for field, _ in fields] == ["id", "event", "data"]
    return name, json.loads(data)


# --- quirks


@pytest.mark.parametrize(
    "vendor", [pytest.param(each, id=f"{name}: v1") for name, each in vendors.STREAMS.items()]
)
async def test_v1(vendor):
    """Byte for byte what the vendor sent, nothing added, and a clean end."""
    async with Upstream(sse(*vendor.frames)) as upstream:
        answer = await post(upstream_table(f"{upstream.url}/v1"), "chat/completions")
    assert answer.body == vendor.body
    assert (answer.status, answer.whole) == (200, True)


@pytest.mark.parametrize(
    "vendor", [pytest.param(each, id=f"{name}: chat") for name, each in vendors.STREAMS.items()]
)
async def test_chat(vendor):
    """Exactly the events of its content in their order, and one ending."""
    async with Upstream(sse(*vendor.frames)) as upstream:
        events = await ask_chat(upstream_table(f"{upstream.url}/v1"))
    assert events == [*vendor.told, ending_of(vendor, upstream)]


def ending_of(vendor, upstream):
    """Return the last event: `done` with what the vendor said, or `error` with its words."""
    if "said" not in vendor.ending:
        relays = {"upstream": "u", "attempts": 1, "malformed": 0}
        times = {"first_token_ms": 0, "elapsed_ms": 0}
        return ("done", {**vendor.ending, **relays, **times})
    partial, status = vendor.ending["partial"], vendor.ending["status"]
    error = {
        "message": f"the upstream 127.0.0.1:{upstream.port} said: {vendor.ending['said']}",
        "code": "upstream_error",
        "stage": "stream" if partial else "first_token",
        "retryable": status is not None,
        "status": status or 502,
        "partial": partial,
    }
    return ("error", error)


async def test_a_plain_answer_behind_blank_lines():
    """DeepSeek's blank lines before a JSON answer stay: they keep the client's line alive too."""
    body = vendors.DEEPSEEK_PLAIN
    async with Upstream(reply(200, body, content_type="application/json")) as upstream:
        answer = await post(upstream_table(upstream.url), "chat/completions", body=b"{}")
    assert (answer.status, answer.body, answer.whole) == (200, body, True)
    assert answer.json() == {"object": "chat.completion", "choices": []}


# --- Ollama's own API: a base URL without /v1 serves it


async def ollama(request, wire):
    """Answer as Ollama does."""
    if request.target == "/v1/chat/completions":
        await sse(*vendors.OLLAMA.frames)(request, wire)
    else:
        await wire.reply(404, "404 page not found", content_type="text/plain")


@pytest.mark.parametrize(
    "body", [pytest.param(b'{"model": "m"}', id="default"), pytest.param(ASK, id="stream")]
)
@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(vendors.OLLAMA_LINES, id="whole"),
        pytest.param(vendors.OLLAMA_ERROR_LINES, id="error"),
    ],
)
async def test_ollamas_lines_pass_one_by_one(body, lines):
    """NDJSON goes on as it is, each line when it comes, an error at status 200 too."""
    async with (
        Upstream() as upstream,
        relaying(toml=upstream_table(upstream.url)) as relay,
        dial(relay.port) as line,
    ):
        await line.send("POST", "/v1/api/chat", JSON, body=body)
        request, wire = await upstream.next()
        assert (request.target, request.body) == ("/api/chat", body)
        await wire.head(content_type="application/x-ndjson")
        for each in lines:
            await wire.chunk(each)
            await line.until(each)
        await wire.end()
        answer = await line.answer()
    assert (answer.status, answer.body, answer.whole) == (200, b"".join(lines), True)
    assert answer.get("content-type") == "application/x-ndjson"


async def test_ollamas_lines_that_were_cut_are_not_whole():
    """Nothing can be added to them, so that the missing end tells of a cut."""

    async def cut(_request, wire):
        await wire.head(content_type="application/x-ndjson")
        await wire.chunk(vendors.OLLAMA_LINES[0])
        wire.close()

    async with Upstream(cut) as upstream:
        answer = await post(upstream_table(upstream.url), "api/chat")
    assert (answer.status, answer.body, answer.whole) == (200, vendors.OLLAMA_LINES[0], False)


async def test_the_api_below_v1_of_a_base_url_without_it():
    """The same upstream serves it at /v1/v1, and a stream that does not say its end is a cut."""
    torso = vendors.OLLAMA.frames[:4]
    async with Upstream(ollama) as upstream:
        whole = await post(upstream_table(upstream.url), "v1/chat/completions")
    async with Upstream(sse(*torso)) as upstream:
        cut = await post(upstream_table(upstream.url), "v1/chat/completions")
    assert (whole.body, whole.whole) == (vendors.OLLAMA.body, True)
    assert not cut.whole
    told_in("chat", cut.body.removeprefix(b"".join(torso)), "upstream_cut")


async def test_chat_needs_the_api_below_v1():
    """`/chat` asks for chat completions, which Ollama has below /v1 only, and says what it met."""
    async with Upstream(ollama) as upstream:
        [(name, error)] = await ask_chat(upstream_table(upstream.url))
    assert (name, error["code"], error["status"]) == ("error", "upstream_error", 404)
    assert [request.target for request in upstream.requests] == ["/chat/completions"]


# --- keys

THEIRS = [
    ("Authorization", "Bearer sk-client"),
    ("x-api-key", "sk-client"),
    ("api-key", "sk-client"),
]
SHOWN = {
    "openai": [("authorization", "Bearer sk-up")],
    "anthropic": [("x-api-key", "sk-up"), ("authorization", "Bearer sk-up")],
    "azure": [("api-key", "sk-up")],
}
ASKED = ["/v1/chat/completions", "/v1/messages", "/chat?question=Hi"]


async def shown(api, key, path):
    """Return the credentials that an upstream is shown, and all of the request's head."""
    async with Upstream(sse(*chat(["Hi"]))) as upstream:
        toml = upstream_table(f"{upstream.url}/base", api, key)
        async with relaying(toml=toml) as relay:
            method = "POST" if path.startswith("/v1") else "GET"
            body = ASK if method == "POST" else b""
            await exchange(relay.port, method, path, JSON, *THEIRS, body=body)
    [request] = upstream.requests
    names = {name.lower() for name, _ in THEIRS}
    found = [(name.lower(), value) for name, value in request.headers if name.lower() in names]
    return found, request.head


@pytest.mark.parametrize("path", ASKED)
@pytest.mark.parametrize("api", SHOWN)
async def test_the_key_is_sent_as_the_api_wants_it(api, path):
    """In the headers of that API, and none of the client's own credentials beside it."""
    found, head = await shown(api, "sk-up", path)
    assert found == SHOWN[api]
    assert b"sk-client" not in head


@pytest.mark.parametrize("path", ASKED)
@pytest.mark.parametrize("api", SHOWN)
async def test_without_a_key_the_clients_own_passes(api, path):
    """All that the client sent, as it sent it, and nothing of the relay's."""
    found, _ = await shown(api, "", path)
    assert found == [(name.lower(), value) for name, value in THEIRS]


# --- ends


class Way(NamedTuple):
    """A path of an upstream of some `api`, and the form of what it streams."""

    api: str
    path: str
    form: str


DEPLOYMENT = "openai/deployments/gpt-4o"
VERSION = "?api-version=2024-10-21"
WAYS = [
    Way("openai", "chat/completions", "chat"),
    Way("openai", "messages", "anthropic"),
    Way("openai", "responses", "responses"),
    Way("anthropic", "messages", "anthropic"),
    Way("anthropic", "messages?beta=true", "anthropic"),
    Way("anthropic", "v1/messages", "anthropic"),
    Way("anthropic", "projects/p/models/claude:streamRawPredict", "anthropic"),
    Way("anthropic", "chat/completions", "chat"),
    Way("azure", "chat/completions", "chat"),
    Way("azure", f"{DEPLOYMENT}/chat/completions{VERSION}", "chat"),
    Way("azure", f"deployments/gpt-4o/chat/completions{VERSION}", "chat"),
    Way("azure", "openai/v1/chat/completions", "chat"),
    Way("azure", f"openai/responses{VERSION}", "responses"),
]
EACH_WAY = pytest.mark.parametrize("way", [pytest.param(w, id=f"{w.api}: {w.path}") for w in WAYS])
_MESSAGE = anthropic.stream(["Hel", "lo"])
_RESPONSE = openai_responses.framed(
    openai_responses.whole(openai_responses.text_events(["Hel", "lo"]))
)
STREAMS = {  # the frames before the end, and the end
    "chat": (chat(["Hel", "lo"], finish=None, done=False), DONE),
    "anthropic": (_MESSAGE[:-1], _MESSAGE[-1]),
    "responses": (_RESPONSE[:-1], _RESPONSE[-1]),
}


def told_in(form: str, error: bytes, code: str) -> None:
    """Assert that this is one error frame, in this form."""
    *first, line = error.decode().removesuffix("\n\n").split("\n")
    assert first == ([] if form == "chat" else ["event: error"])
    told = json.loads(line.removeprefix("data: "))
    assert told["error"]["code"] == code
    assert told.get("type") == (None if form == "chat" else "error")
    assert ("sequence_number" in told) is (form == "responses")


@EACH_WAY
async def test_the_end_of_the_form_ends_a_stream(way):
    """Then it is whole, however the upstream hangs up."""
    before, end = STREAMS[way.form]
    async with Upstream(sse(*before, end, end=False)) as upstream:
        answer = await post(upstream_table(f"{upstream.url}/base", way.api), way.path)
    assert upstream.requests[0].target == f"/base/{way.path}"
    assert answer.body == b"".join([*before, end])
    assert (answer.status, answer.whole) == (200, True)


@EACH_WAY
async def test_nothing_else_ends_a_stream(way):
    """A body that ends as HTTP bodies should is cut without it, and the error is of that form.

    `[DONE]` is no end of a message or a response.
    """
    before, _ = STREAMS[way.form]
    frames = before if way.form == "chat" else [*before, DONE]
    async with Upstream(sse(*frames)) as upstream:
        answer = await post(upstream_table(upstream.url, way.api), way.path)
    sent = b"".join(frames)
    assert answer.body.startswith(sent)
    told_in(way.form, answer.body.removeprefix(sent), "upstream_cut")
    assert not answer.whole
    assert LAST_CHUNK not in answer.tail


@pytest.mark.parametrize("api", ["openai", "azure", "anthropic"])
@pytest.mark.parametrize("end", [True, False])
async def test_a_stream_of_another_path(api, end):
    """It goes on at once, and ends as its transport does; a cut is told in the upstream's form."""
    step = frame({"type": "completion", "completion": "Hi", "stop_reason": None}, "completion")
    ping = frame({"type": "ping"}, "ping")
    async with (
        Upstream() as upstream,
        relaying(toml=upstream_table(upstream.url, api)) as relay,
        dial(relay.port) as line,
    ):
        await line.send("POST", "/v1/complete", JSON, body=ASK)
        _, wire = await upstream.next()
        await wire.head(content_type="text/event-stream")
        await wire.chunk(ping + step)
        await line.until(step)
        await wire.chunk(step)
        await (wire.end() if end else wire.chunk(b"event: tor"))
        wire.close()
        answer = await line.answer()
    error = answer.body.removeprefix(ping + step + step)
    assert answer.whole is end
    if end:
        assert error == b""
    else:
        told = json.loads(error.removeprefix(b"event: error\ndata: "))
        assert told["error"]["code"] == "upstream_cut"
        assert told.get("type") == ("error" if api == "anthropic" else None)


@pytest.mark.parametrize("api", SHOWN)
async def test_chat_speaks_chat_completions_with_every_api(api):
    """`/chat` asks all of them in OpenAI's form, and reads the answer by its rules."""
    frames = chat(["Hel", "lo"], finish=None, done=False)
    async with Upstream(sse(*frames, DONE, end=False)) as upstream:
        whole = await ask_chat(upstream_table(f"{upstream.url}/base", api))
    assert upstream.requests[0].target == "/base/chat/completions"
    assert whole[:-1] == vendors.answers("Hel", "lo")
    assert whole[-1][0] == "done"


# --- errors


@EACH_WAY
async def test_a_refusal_of_the_relay(way, dead_port):
    """A status and JSON: on a path for messages Anthropic's, else OpenAI's."""
    answer = await post(upstream_table(f"http://127.0.0.1:{dead_port}", way.api), way.path)
    assert (answer.status, answer.error["code"]) == (502, "upstream_unreachable")
    messages = way.path.partition("?")[0] in {"messages", "v1/messages"}
    assert set(answer.json()) == ({"type", "error"} if messages else {"error"})
    assert answer.json().get("type") == ("error" if messages else None)


REFUSED = {
    "openai": (
        401,
        {"error": {"message": "Incorrect API key provided.", "type": "invalid_request_error"}},
        "Incorrect API key provided.",
    ),
    "anthropic": (529, anthropic.error(529), "Overloaded"),
    "azure": (401, {"error": {"code": "401", "message": "Access denied."}}, "Access denied."),
}


@pytest.mark.parametrize("api", REFUSED)
async def test_a_refusal_of_the_upstream(api):
    """On `/v1` its own status and bytes, on `/chat` an event with its status and its words."""
    status, body, words = REFUSED[api]
    script = reply(status, json.dumps(body, indent=1), content_type="application/json")
    async with Upstream(script) as upstream:
        toml = upstream_table(upstream.url, api, "sk-up")
        answer = await post(toml, "messages" if api == "anthropic" else "chat/completions")
        [(name, error)] = await ask_chat(toml)
    assert (answer.status, answer.body.decode()) == (status, json.dumps(body, indent=1))
    assert (name, error["code"], error["status"]) == ("error", "upstream_error", status)
    assert error["message"].endswith(f": {words}")
