"""A stream ends in success only if the upstream said so; whatever else ends it is marked as cut.

Complete   the bytes of the upstream, and the end that HTTP gives a whole body
Cut        whole frames, one error frame in the client's dialect, no last chunk, never [DONE]
Refused    nothing of the answer came: a status, and nothing of the frames that were held back
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from clock import FakeClock
from fakes import Upstream, Wire, chat, chat_frame, frame, reply, sse
from fakes.frames import DONE
from line import LAST_CHUNK, Line, dial, exchange
from relaying import Event, read_events, relaying, until

pytestmark = pytest.mark.usefixtures("heard_at_once")

JSON = ("Content-Type", "application/json")
ASK = b'{"model": "m", "stream": true}'
TORSO = b'event: torso\ndata: {"torso": [DONE]'
QUIET = "[heartbeat]\nafter = 0\n"
IDLE = 120
SSE = "text/event-stream"

# --- the dialects


class Api(NamedTuple):
    """One API's stream: the frames before any content, the content, and how it says its end."""

    path: str
    head: list[bytes]
    content: list[bytes]
    terminal: list[bytes]

    @property
    def said(self) -> list[bytes]:
        """All frames."""
        return [*self.head, *self.content, *self.terminal]

    @property
    def so_far(self) -> bytes:
        """What has come before the end."""
        return b"".join([*self.head, *self.content])


def typed(kind: str, **fields: Any) -> bytes:
    """Return a frame of an API that names its events."""
    return frame({"type": kind, **fields}, kind)


def completion(text: str, finish: str | None = None) -> bytes:
    """Return a frame of the old completions API."""
    choice = {"index": 0, "text": text, "finish_reason": finish}
    return frame({"object": "text_completion", "model": "m", "choices": [choice]})


ROLE, *TOKENS = chat(["Hel", "lo 你好"], finish=None, done=False)
FINISH = chat_frame({}, finish="stop")
APIS = {
    "chat": Api("chat/completions", [ROLE], TOKENS, [FINISH, DONE]),
    "completions": Api(
        "completions", [], [completion("Hel"), completion("lo")], [completion("", "stop"), DONE]
    ),
    "responses": Api(
        "responses",
        [typed("response.created", sequence_number=0, response={"model": "m"})],
        [typed("response.output_text.delta", sequence_number=n, delta="Hi") for n in (1, 2)],
        [typed("response.completed", sequence_number=3, response={"usage": {"total_tokens": 1}})],
    ),
    "anthropic": Api(
        "messages",
        [
            typed("message_start", message={"model": "m", "role": "assistant", "usage": {}}),
            typed("content_block_start", index=0, content_block={"type": "text", "text": ""}),
            typed("ping"),
        ],
        [
            typed("content_block_delta", index=0, delta={"type": "text_delta", "text": text})
            for text in ("Hel", "lo")
        ],
        [
            typed("content_block_stop", index=0),
            typed("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 2}),
            typed("message_stop"),
        ],
    ),
    "transcription": Api(
        "audio/transcriptions",
        [],
        [frame({"type": "transcript.text.delta", "delta": text}) for text in ("Hel", "lo")],
        [frame({"type": "transcript.text.done", "text": "Hello"})],
    ),
    "images": Api(
        "images/generations",
        [],
        [typed("image_generation.partial_image", b64_json="AAAA", partial_image_index=0)],
        [typed("image_generation.completed", b64_json="AAAA")],
    ),
    "unknown": Api("agents/run", [b": hi\n\n"], [frame({"step": 1}), frame({"step": 2})], []),
}
KNOWN = [name for name in APIS if name != "unknown"]


def check_error(name: str, data: bytes, **expected: Any) -> None:
    """Assert that this is one error frame in the form that clients of that API understand."""
    text = data.decode()
    assert text.endswith("\n\n")
    assert text.count("\n\n") == 1
    *first, line = text[:-2].split("\n")
    assert first == ([] if name in {"chat", "completions"} else ["event: error"])
    told = json.loads(line.removeprefix("data: "))
    error = told.pop("error")
    assert set(error) == {"message", "type", "code", "stage", "retryable"}
    assert {key: error[key] for key in expected} == expected
    assert error["type"] in {"api_error", "timeout_error"}
    assert told == {
        "anthropic": {"type": "error"},
        "responses": {
            "type": "error",
            "code": error["code"],
            "message": error["message"],
            "param": None,
            "sequence_number": 3,
        },
    }.get(name, {})


# --- the ways to end


class Source:
    """The upstream's side of one stream; `sized`: with a Content-Length that is too long."""

    def __init__(self, wire: Wire, clock: FakeClock, *, sized: bool) -> None:
        self.wire = wire
        self._clock = clock
        self._sized = sized

    async def begin(self, content_type: str = SSE, status: int = 200) -> None:
        """Send the head."""
        length = [("Content-Length", "1000000")] if self._sized else []
        await self.wire.head(status, *length, content_type=content_type)

    async def put(self, data: bytes) -> None:
        """Send bytes of the body."""
        await (self.wire.send if self._sized else self.wire.chunk)(data)

    async def cut(self, how: str) -> None:
        """End without a word."""
        if how == "stall":
            await self._clock.armed(self._clock.now() + IDLE)
            self._clock.advance(IDLE)
        elif how == "eof":
            await self.wire.end()
        elif how == "reset":
            self.wire.reset()
        else:
            self.wire.close()


CUTS = ["eof", "reset", "no last chunk", "length", "stall"]
"""`eof`: the body ends as HTTP bodies should; `length`: its Content-Length promised more."""


@asynccontextmanager
async def asked(
    path: str, how: str = "", *, clock: FakeClock | None = None, body: bytes = ASK, toml: str = ""
) -> AsyncIterator[tuple[Source, Line]]:
    """Yield both ends of a stream that was asked for: the upstream's and the client's."""
    clock = clock or FakeClock()
    async with (
        Upstream() as upstream,
        relaying(upstream.url, clock=clock, toml=QUIET + toml) as relay,
        dial(relay.port) as line,
    ):
        await line.send("POST", f"/v1/{path}", JSON, body=body)
        _, wire = await upstream.next()
        yield Source(wire, clock, sized=how == "length"), line
        clock.advance(1)  # what is left of a body that is over is waited for


# --- complete


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("name", KNOWN)
async def test_a_stream_that_said_its_end_is_complete(name, how):
    """Once the upstream said so, it does not matter how it hangs up: a clean end."""
    api = APIS[name]
    async with asked(api.path, how) as (source, line):
        await source.begin()
        await source.put(b"".join(api.said))
        await line.until(api.terminal[-1])
        await source.cut(how)
        answer = await line.answer()
    assert answer.body == b"".join(api.said)
    assert (answer.status, answer.whole) == (200, True)


@pytest.mark.parametrize("rest", [b"", TORSO])
async def test_an_unknown_dialect_ends_as_its_transport_ends(rest):
    """Where the relay knows no ending, a body that ends as HTTP bodies should is whole."""
    api = APIS["unknown"]
    async with asked(api.path) as (source, line):
        await source.begin()
        await source.put(api.so_far + rest)
        await source.cut("eof")
        answer = await line.answer()
    assert (answer.body, answer.whole) == (api.so_far + rest, True)


@pytest.mark.parametrize("how", CUTS)
async def test_every_finish_reason_is_an_ending(how):
    """Cut after the finish_reason but before [DONE]: a clean end, and no [DONE] is invented."""
    sent = b"".join([ROLE, *TOKENS, FINISH])
    async with asked("chat/completions", how) as (source, line):
        await source.begin()
        await source.put(sent)
        await line.until(FINISH)
        await source.cut(how)
        answer = await line.answer()
    assert (answer.body, answer.whole) == (sent, True)


async def test_done_is_an_ending_without_a_finish_reason():
    """[DONE] alone completes a stream."""
    sent = b"".join([ROLE, *TOKENS, DONE])
    async with Upstream(sse(sent, end=False)) as upstream, relaying(upstream.url) as relay:
        answer = await exchange(relay.port, "POST", "/v1/chat/completions", JSON, body=ASK)
    assert (answer.body, answer.whole) == (sent, True)


async def test_the_client_is_not_kept_waiting_after_done():
    """After [DONE] the client's stream ends, even if the upstream leaves its own open."""
    sent = b"".join([*TOKENS, DONE])
    async with asked("chat/completions") as (source, line):
        await source.begin()
        await source.put(sent)
        answer = await line.answer()
    assert (answer.body, answer.whole) == (sent, True)


async def test_a_finish_reason_of_one_choice_does_not_end_the_others():
    """With two choices under way one finish_reason is not the end."""

    def choice(index, finish=None):
        delta = {"index": index, "delta": {"content": "Hi"}, "finish_reason": finish}
        return frame({"choices": [delta]})

    sent = choice(0) + choice(1) + choice(0, "stop")
    async with Upstream(sse(sent)) as upstream, relaying(upstream.url) as relay:
        answer = await exchange(relay.port, "POST", "/v1/chat/completions", JSON, body=ASK)
    assert answer.body.startswith(sent)
    assert not answer.whole
    check_error("chat", answer.body.removeprefix(sent), code="upstream_cut")


@pytest.mark.parametrize("name", APIS)
async def test_malformed_frames_pass_and_change_nothing(name):
    """What is no JSON goes on as it came; the stream's ending is read all the same."""
    api = APIS[name]
    bad = b'data: {"choices": [\n\ndata: \xff\n\nevent: odd\ndata\n\ndata: [1, null]\n\n'
    frames = [*api.head, *api.content, bad, *api.terminal]
    async with Upstream(sse(*frames)) as upstream, relaying(upstream.url) as relay:
        answer = await exchange(relay.port, "POST", f"/v1/{api.path}", JSON, body=ASK)
    assert (answer.body, answer.whole) == (b"".join(frames), True)


async def test_an_event_stream_that_nobody_asked_for_is_read_too():
    """The upstream's head decides: a request without `stream` may be answered by a stream."""
    api = APIS["transcription"]
    kind = ("Content-Type", "multipart/form-data; boundary=x")
    async with Upstream(sse(api.so_far)) as upstream, relaying(upstream.url) as relay:
        answer = await exchange(relay.port, "POST", f"/v1/{api.path}", kind, body=b"--x--")
    assert not answer.whole
    check_error("transcription", answer.body.removeprefix(api.so_far), code="upstream_cut")


# --- cut


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("name", KNOWN)
async def test_a_stream_that_was_cut_says_so(name, how):
    """One error frame of the client's dialect, the torso dropped, no [DONE], no last chunk."""
    await check_a_cut(name, how)


@pytest.mark.parametrize("how", [how for how in CUTS if how != "eof"])
async def test_a_stream_of_an_unknown_dialect_that_was_cut_says_so(how):
    """What its transport did not end as it should is cut there too."""
    await check_a_cut("unknown", how)


async def check_a_cut(name: str, how: str) -> None:
    """Cut a stream after its content, in the middle of a frame, and look at what the client got."""
    api = APIS[name]
    async with asked(api.path, how) as (source, line):
        await source.begin()
        await source.put(api.so_far + TORSO)
        await line.until(api.content[-1])
        await source.cut(how)
        answer = await line.answer()
    assert answer.status == 200
    assert answer.body.startswith(api.so_far)
    code = "upstream_stalled" if how == "stall" else "upstream_cut"
    error = answer.body.removeprefix(api.so_far)
    check_error(name, error, code=code, stage="stream", retryable=True)
    assert b"torso" not in answer.body
    assert b"[DONE]" not in answer.body
    assert not answer.whole
    assert LAST_CHUNK not in answer.tail


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("name", KNOWN)
async def test_a_stream_cut_before_its_content_is_a_status(name, how):
    """Frames without content are held back, so that the client gets a status and none of them."""
    api = APIS[name]
    clock = FakeClock()
    toml = f"[clocks]\nfirst_token = {IDLE}\n[heartbeat]\nopen_after = 0\n"
    async with (
        Upstream() as upstream,
        relaying(upstream.url, clock=clock, toml=toml) as relay,
        dial(relay.port) as line,
    ):
        await line.send("POST", f"/v1/{api.path}", JSON, body=ASK)
        _, wire = await upstream.next()
        source = Source(wire, clock, sized=how == "length")
        await source.begin()
        await source.put(b"".join(api.head) + TORSO)
        [stream] = relay.streams
        await until(lambda: stream._stage == "first_token" and stream.frames == len(api.head))
        await source.cut(how)
        answer = await line.answer()
    code = "upstream_timeout_first_token" if how == "stall" else "upstream_cut"
    assert answer.status == (504 if how == "stall" else 502)
    assert set(answer.json()) == ({"type", "error"} if name == "anthropic" else {"error"})
    assert (answer.error["code"], answer.error["stage"]) == (code, "first_token")
    assert answer.error["retryable"] is True
    assert (answer.whole, answer.get("content-type")) == (True, "application/json")
    assert "x-should-retry" not in answer.names()


@pytest.mark.parametrize("pace", ["off", "smooth"])
@pytest.mark.parametrize("name", ["chat", "anthropic", "responses", "unknown"])
async def test_a_frame_over_the_limit_cuts_the_stream(name, pace):
    """limits.frame: the whole frames before it arrive, it does not, and the error says so, last."""
    api = APIS[name]
    huge = b"data: " + b"x" * 3000 + b"\n\n"
    frames = api.so_far + huge + b"".join(api.content)
    toml = "[limits]\nframe = 1000"
    async with Upstream(sse(frames)) as upstream, relaying(upstream.url, toml=toml) as relay:
        paced = ("Teleprinter-Pace", pace)
        answer = await exchange(relay.port, "POST", f"/v1/{api.path}", JSON, paced, body=ASK)
    assert answer.body.startswith(api.so_far)
    error = answer.body.removeprefix(api.so_far)
    check_error(name, error, code="upstream_malformed", stage="stream")
    assert b"1000 bytes" in error
    assert not answer.whole


async def test_a_first_frame_over_the_limit_is_a_status():
    """Before any content a frame over the limit, ended or not, is refused with 502."""
    toml = "[limits]\nframe = 1000"
    for frames in (b"data: " + b"x" * 3000, ROLE + b"data: " + b"x" * 3000 + b"\n\n"):
        async with Upstream(sse(frames)) as upstream, relaying(upstream.url, toml=toml) as relay:
            answer = await exchange(relay.port, "POST", "/v1/chat/completions", JSON, body=ASK)
        assert (answer.status, answer.error["code"]) == (502, "upstream_malformed")


# --- bodies that are no event streams

LINES = b'{"message": {"content": "Hel"}}\n{"message": {"content": "lo"}}\n{"done": true}\n'
BODIES = {
    "json": ("application/json", b'{"choices": []}', b'{"model": "m"}'),
    "ndjson": ("application/x-ndjson", LINES, b'{"model": "m"}'),
    "ndjson stream": ("application/x-ndjson", LINES, ASK),
    "json stream": ("application/json", b'{"choices": []}', ASK),
    "audio stream": ("audio/mpeg", bytes(range(256)), ASK),
    "html": ("text/html", b"<html></html>", b'{"model": "m"}'),
}


@pytest.mark.parametrize("how", ["eof", "to the end of the connection"])
@pytest.mark.parametrize("kind", BODIES)
async def test_a_whole_body_is_whole(kind, how):
    """JSON, NDJSON, audio and pages: unchanged, nothing added, a clean end."""
    content_type, data, body = BODIES[kind]
    async with asked("x", how, body=body) as (source, line):
        await source.wire.head(content_type=content_type, chunked=how == "eof")
        await (source.put if how == "eof" else source.wire.send)(data)
        await source.cut(how)
        answer = await line.answer()
    assert (answer.status, answer.body, answer.whole) == (200, data, True)


@pytest.mark.parametrize("how", [how for how in CUTS if how != "eof"])
@pytest.mark.parametrize("kind", BODIES)
async def test_a_body_that_was_cut_is_not_whole(kind, how):
    """Nothing can be added to it: the connection closes before the length or the last chunk."""
    content_type, data, body = BODIES[kind]
    async with asked("x", how, body=body) as (source, line):
        await source.begin(content_type)
        await source.put(data)
        await line.until(data)
        await source.cut(how)
        answer = await line.answer()
    assert (answer.status, answer.body) == (200, data)
    assert not answer.whole
    assert LAST_CHUNK not in answer.tail


@pytest.mark.parametrize("name", ["chat", "anthropic"])
async def test_a_page_where_a_stream_was_due_is_malformed(name):
    """An HTML page with status 200 (a portal, a wrong URL) is no answer of a model."""
    page = reply(200, "<html>Welcome!</html>", content_type="text/html; charset=utf-8")
    async with Upstream(page) as upstream, relaying(upstream.url) as relay:
        target = f"/v1/{APIS[name].path}"
        answer = await exchange(relay.port, "POST", target, JSON, body=ASK)
    assert answer.status == 502
    assert answer.error["code"] == "upstream_malformed"
    assert "text/html" in answer.error["message"]
    assert b"Welcome" not in answer.body
    assert answer.json().get("type") == ("error" if name == "anthropic" else None)


# --- what the upstream says itself

ERROR = {"message": "overloaded", "type": "server_error", "code": None}
SAID = {
    "chat": ("chat", frame({"error": ERROR})),
    "chat, named": ("chat", frame({"error": ERROR}, "error")),
    "chat, a text": ("chat", frame({"error": "overloaded"})),
    "chat, vLLM": ("chat", frame({"object": "error", "message": "overloaded", "code": 500})),
    "chat, llama.cpp": ("chat", b'error: {"code":500,"message":"overloaded"}\n\n'),
    "chat, OpenRouter": (
        "chat",
        frame({"error": ERROR, "choices": [{"delta": {"content": ""}, "finish_reason": "error"}]}),
    ),
    "completions": ("completions", frame({"error": ERROR})),
    "responses": ("responses", typed("error", code="x", message="overloaded", sequence_number=3)),
    "responses, failed": (
        "responses",
        typed("response.failed", sequence_number=3, response={"error": ERROR}),
    ),
    "responses, failed without a word": ("responses", typed("response.failed", response={})),
    "anthropic": ("anthropic", typed("error", error={"type": "overloaded_error", "message": "o"})),
    "transcription": ("transcription", frame({"error": ERROR})),
    "images": ("images", typed("error", error=ERROR)),
    "unknown": ("unknown", typed("error", error=ERROR)),
}


@pytest.mark.parametrize("content", [True, False])
@pytest.mark.parametrize("which", SAID)
async def test_an_error_of_the_upstreams_own_passes_unchanged(which, content):
    """Before and after content: its frame arrives as it was, and the relay adds none of its own."""
    name, error = SAID[which]
    api = APIS[name]
    sent = (api.so_far if content else b"") + error
    async with Upstream(sse(sent)) as upstream, relaying(upstream.url) as relay:
        answer = await exchange(relay.port, "POST", f"/v1/{api.path}", JSON, body=ASK)
    assert (answer.status, answer.body, answer.whole) == (200, sent, True)


@pytest.mark.parametrize("how", ["reset", "no last chunk", "stall"])
@pytest.mark.parametrize("which", [which for which in SAID if which != "unknown"])
async def test_nothing_is_added_to_the_upstreams_error_when_it_hangs_up(which, how):
    """Who said that it failed, and then broke off, has said enough."""
    name, error = SAID[which]
    api = APIS[name]
    async with asked(api.path, how) as (source, line):
        await source.begin()
        await source.put(api.so_far + error)
        await line.until(error)
        await source.cut(how)
        answer = await line.answer()
    assert answer.body == api.so_far + error


# --- /chat


def told(event: Any) -> tuple[Any, ...]:
    """Return code, stage, retryable and partial of an `error`, which has no more than these."""
    assert event.name == "error"
    assert set(event.data) == {"code", "message", "stage", "retryable", "partial"}
    return tuple(event.data[name] for name in ("code", "stage", "retryable", "partial"))


async def events_of(line: Line) -> tuple[list[Any], bool]:
    """Return the events of `/chat` and whether the body was whole."""
    answer = await line.answer()
    assert answer.status == 200
    blocks = answer.body.decode().split("\n\n")
    assert blocks.pop() == ""
    found = []
    for block in blocks:
        fields = dict(row.split(": ", 1) for row in block.split("\n"))
        found.append(Said(fields["event"], json.loads(fields["data"])))
    return found, answer.whole


class Said(NamedTuple):
    """An event of `/chat`."""

    name: str
    data: Any


@asynccontextmanager
async def chatting(how: str = "", toml: str = "") -> AsyncIterator[tuple[Source, Line]]:
    """Yield both ends of a stream of `/chat`."""
    clock = FakeClock()
    toml = f"{QUIET}{toml}[clocks]\nfirst_token = {IDLE}\n"
    async with (
        Upstream() as upstream,
        relaying(upstream.url, clock=clock, toml=toml) as relay,
        dial(relay.port) as line,
    ):
        await line.send("GET", "/chat?question=Hi")
        _, wire = await upstream.next()
        yield Source(wire, clock, sized=how == "length"), line


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("when", ["role", "content"])
async def test_chat_tells_of_a_cut(when, how):
    """`error` has code, stage, retryable, whether tokens were sent; no `done`, no last chunk."""
    async with chatting(how) as (source, line):
        await source.begin()
        await source.put(b"".join([ROLE, *(TOKENS if when == "content" else [])]) + TORSO)
        await line.until("你好".encode() if when == "content" else b"start")
        if when == "role" and how == "stall":
            await source._clock.armed(source._clock.now() + IDLE)
        await source.cut(how)
        events, whole = await events_of(line)
    stage, partial = ("stream", True) if when == "content" else ("first_token", False)
    stalled = "upstream_stalled" if partial else "upstream_timeout_first_token"
    code = stalled if how == "stall" else "upstream_cut"
    answers = ["answer"] * (2 if partial else 0)
    assert [event.name for event in events] == ["start", *answers, "error"]
    assert told(events[-1]) == (code, stage, True, partial)
    assert not whole


async def test_chat_tells_of_a_frame_over_the_limit():
    """The tokens before it arrive, then the error."""
    async with chatting(toml="[limits]\nframe = 1000\n") as (source, line):
        await source.begin()
        await source.put(b"".join([ROLE, *TOKENS]) + b"data: " + b"x" * 2000)
        events, whole = await events_of(line)
    assert [event.name for event in events] == ["start", "answer", "answer", "error"]
    assert told(events[-1]) == ("upstream_malformed", "stream", True, True)
    assert not whole


async def test_chat_tells_of_a_page():
    """An HTML page with status 200 is `upstream_malformed`."""
    async with chatting() as (source, line):
        await source.wire.reply(200, "<html>Welcome!</html>", content_type="text/html")
        events, whole = await events_of(line)
    assert [event.name for event in events] == ["start", "error"]
    assert told(events[-1]) == ("upstream_malformed", "headers", True, False)
    assert "Welcome" not in events[-1].data["message"]
    assert not whole


@pytest.mark.parametrize(
    ("status", "retryable"),
    [(400, False), (401, False), (404, False), (408, True), (429, True), (500, True), (503, True)],
)
async def test_chat_tells_the_upstreams_status_and_message(status, retryable):
    """A 4xx or 5xx of the upstream is `upstream_error` with its status and its words."""
    async with chatting() as (source, line):
        body = json.dumps({"error": {"message": "you may not", "type": "x"}})
        await source.wire.reply(status, body, content_type="application/json")
        events, _ = await events_of(line)
    assert [event.name for event in events] == ["start", "error"]
    data = events[-1].data
    assert "you may not" in data["message"]
    assert str(status) in data["message"]
    data.pop("message")
    assert data == {
        "code": "upstream_error",
        "status": status,
        "stage": "headers",
        "retryable": retryable,
        "partial": False,
    }


@pytest.mark.parametrize("which", [which for which in SAID if which.startswith("chat")])
async def test_chat_tells_what_the_upstream_said_within_the_stream(which):
    """An error object of the stream is `upstream_error` with its words, after the tokens."""
    async with chatting() as (source, line):
        await source.begin()
        await source.put(b"".join([ROLE, *TOKENS, SAID[which][1]]))
        await source.cut("eof")
        events, _ = await events_of(line)
    assert [event.name for event in events] == ["start", "answer", "answer", "error"]
    data = events[-1].data
    assert (data["code"], data["stage"], data["partial"]) == ("upstream_error", "stream", True)
    assert "overloaded" in data["message"]


async def chatted(*frames: bytes) -> list[Event]:
    """Return the events that `/chat` makes of these frames."""
    async with (
        Upstream(sse(*frames)) as upstream,
        relaying(upstream.url) as relay,
        relay.get("/chat", question="Hi") as response,
    ):
        return await read_events(response)


async def test_chat_counts_malformed_frames():
    """`/chat` passes over what is no JSON, and says in `done` how many frames that were."""
    frames = [ROLE, b"data: {\n\n", TOKENS[0], b"data: \xff\n\n", TOKENS[1], FINISH, DONE]
    events = await chatted(*frames)
    assert [event.name for event in events] == ["start", "answer", "answer", "done"]
    assert events[-1].data["malformed"] == 2


async def test_chat_invents_no_usage_and_no_reason():
    """What the upstream did not say is null in `done`."""
    events = await chatted(ROLE, *TOKENS, DONE)
    assert (events[-1].name, events[-1].data["usage"]) == ("done", None)
    assert events[-1].data["finish_reason"] is None
