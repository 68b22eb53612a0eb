"""One line a request when it ends, with what an operator needs, and nothing that people said."""

import signal
import subprocess
import sys

import pytest

from fakes import Upstream, chat, reply, sse
from line import dial, exchange
from serving import ASK, HELLO, JSON, gone, serving, upstream_toml

PATH = "/v1/chat/completions"
FIELDS = {
    "event", "level", "timestamp", "id", "caller", "client",
    "method", "path", "status", "outcome", "duration_ms", "stream",
    "upstream", "proxy", "model", "attempts", "first_token_ms", "events",
}  # fmt: skip
KEYS = '[server]\nkeys = ["alice:ka"]\n\n'
KEY = ("Teleprinter-Key", "ka")


async def line_of(tmp_path, script, path=PATH, *, body=ASK, key=KEY):
    """Return the one line of a request, from a real process off a terminal."""
    async with (
        Upstream(script) as upstream,
        serving(tmp_path, KEYS + upstream_toml(upstream)) as relay,
    ):
        answer = await exchange(relay.port, "POST", path, JSON, key, body=body)
        [record] = await relay.until(relay.records)
        assert record["id"] == answer.get("teleprinter-request-id")
    return record


@pytest.mark.parametrize("path", [PATH, "/chat"])
async def test_a_stream_has_all_fields(tmp_path, path):
    """JSON, one object a line; the values are those of the stream."""
    record = await line_of(tmp_path, sse(*chat(["Hi", "!"])), path)
    assert set(record) == FIELDS
    told = {name: record[name] for name in ("caller", "upstream", "proxy", "model", "status")}
    assert told["caller"] == "alice"
    assert (told["upstream"], told["proxy"], told["status"]) == ("up", "direct", 200)
    assert told["model"] in {"m", "gpt-4o-mini"}
    assert (record["outcome"], record["attempts"], record["events"]) == ("ok", 1, 5)
    assert record["duration_ms"] >= record["first_token_ms"] >= 0


@pytest.mark.parametrize(
    ("script", "outcome", "error"),
    [
        (sse(HELLO, end=False), "cut", "upstream_cut"),
        (reply(200, "<p>", content_type="text/html"), "error", "upstream_malformed"),
    ],
)
async def test_a_cut_stream_has_its_line(tmp_path, script, outcome, error):
    """With the code and the words of the failure."""
    record = await line_of(tmp_path, script)
    assert set(record) == FIELDS | {"error", "message"}
    assert (record["outcome"], record["error"]) == (outcome, error)


async def test_a_refused_request_has_its_line(tmp_path):
    """Without the fields of a stream, for there was none."""
    record = await line_of(tmp_path, reply(200), key=("Teleprinter-Key", "x"))
    assert (record["status"], record["outcome"], record["error"]) == (
        401,
        "refused",
        "unauthorized",
    )


async def test_a_client_that_left_has_its_line(tmp_path):
    """All fields, the outcome `left`."""
    async with (
        Upstream() as upstream,
        serving(tmp_path, upstream_toml(upstream)) as relay,
    ):
        async with dial(relay.port) as line:
            await line.send("POST", PATH, JSON, body=ASK)
            _, wire = await upstream.next()
            await wire.head(content_type="text/event-stream")
            await wire.chunk(HELLO)
            await line.until(b"Hi")
        await gone(wire)
        [record] = await relay.until(relay.records)
        relay.signal(signal.SIGTERM)
        await relay.code()
    assert set(record) == FIELDS
    assert (record["outcome"], record["status"], record["events"]) == ("left", 200, 1)


async def test_an_upstreams_own_words_are_not_logged(tmp_path):
    """Its error may repeat the prompt: the line has the status that it came with."""
    body = '{"error": {"message": "you said Hello?"}}'
    record = await line_of(tmp_path, reply(400, body, content_type="application/json"), "/chat")
    assert "Hello?" not in str(record)
    assert (record["error"], record["upstream_status"]) == ("upstream_error", 400)


async def test_what_is_no_http_is_not_quoted(tmp_path):
    """The line names the kind of fault; the bytes are the client's own affair."""
    async with Upstream() as upstream, serving(tmp_path, upstream_toml(upstream)) as relay:
        async with dial(relay.port) as line:
            await line.write(b"GET /?secret HTTP/1.1\r\nHost: a\r\nsecret secret\r\n\r\n")
            assert (await line._reader.read()).startswith(b"HTTP/1.0 400 ")
        await relay.said("Error handling request")
    assert "secret" not in relay.text
    assert "Traceback" not in relay.text


async def test_the_trace_goes_through(tmp_path):
    """W3C traceparent and tracestate reach the upstream as the client sent them."""
    pairs = [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]
    pairs += [("tracestate", "a=b")]
    async with (
        Upstream(sse(*chat(["Hi"]))) as upstream,
        serving(tmp_path, upstream_toml(upstream)) as relay,
    ):
        for path in (PATH, "/chat"):
            await exchange(relay.port, "POST", path, JSON, *pairs, body=ASK)
    for request in upstream.requests:
        assert [(name, request.get_all(name)[0]) for name, _ in pairs] == pairs


def test_rich_is_not_there_for_the_log():
    """Its tracebacks show variables, which hold prompts; who wants it elsewhere can have it."""
    look = "import sys, service.adapters.logs; print('rich' in sys.modules); import rich"
    command = [sys.executable, "-c", look]
    found = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    assert found.stdout == "False\n"
