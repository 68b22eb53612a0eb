"""`/chat`: a question in, named events out, and every text arrives as it was sent."""

import json
from io import BytesIO
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from fakes import HttpProxy, Upstream, chat, chat_frame, frame, reply, sse
from fakes.frames import DONE
from relaying import arrived, events, read_cut, read_events, relaying

CUT = aiohttp.ClientPayloadError
FAMILY = "👩‍👩‍👧"
SAID = f'He said "}}" \\n 你好 {FAMILY}'
CALLS = [
    {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}},
    {"x-vendor": [1, 2.5, None, {"z": 1, "a": "你"}], "index": 1},
]
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "details": {"cached": 0}}
PROMPTS = {
    "quotes": """He said: "it's" `this` “that” «»""",
    "backslashes": r"C:\new\table \\ \" \u0041 \n",
    "newlines": "one\ntwo\r\nthree\rfour\n\n",
    "controls": "tab\t bell\a nul\0 del\x7f nel\x85 ls\u2028 ps\u2029 bom\ufeff",
    "emoji": f"{FAMILY} 🏳️‍🌈 e\u0301",
    "cjk": "你好，世界。こんにちは 안녕",
    "json": '"}], "model": "x", "messages": [{"content": "',
    "sse": "data: x\n\nevent: y\nid: 1\n\n",
    "url": "a+b=c&question=d #e ?f /g %41 100% ;h",
    "spaces": "  in front, behind  ",
}


def names(found):
    """Return the names of events."""
    return [event.name for event in found]


def text(found, name="answer"):
    """Return the contents of the events of that name, joined."""
    return "".join(event.data["content"] for event in found if event.name == name)


def tokens(*contents):
    """Return a stream with these tokens, each the content of one frame."""
    return sse(*chat(contents))


async def asked(relay, upstream, **query):
    """Return what the upstream gets of GET /chat with that query, as JSON."""
    async with relay.get("/chat", **query) as response:
        await read_events(response)
    return upstream.requests[-1].json()


async def posted(relay, upstream, body):
    """Return what the upstream gets of POST /chat with that body, as JSON."""
    async with relay.post("/chat", body) as response:
        await read_events(response)
    return upstream.requests[-1].json()


async def refused(response):
    """Return the error of a response that must be a refusal in the contract's form."""
    body = await response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "code", "stage", "retryable"}
    return body["error"]


# --- the case of the article


async def test_a_question_is_typed_out_through_a_proxy(clock):
    """GET /chat through an HTTP proxy: `stream: true`, a token a second named answer, an end."""
    async with (
        Upstream(tokens("Hel", "lo", "!")) as upstream,
        HttpProxy() as proxy,
        relaying(upstream.url, clock=clock, proxy=proxy.url, delay_ms="1000") as relay,
        relay.get("/chat", question="你好, who are you?") as response,
    ):
        stream = events(response)
        found = [await anext(stream), await anext(stream)]
        for second in (1001, 1002):
            await clock.armed(second)
            clock.advance(0.999)
            assert await arrived(response) == b""
            clock.advance(0.001)
            found.append(await anext(stream))
        found += [event async for event in stream]
        (sent,) = upstream.requests
        assert proxy.targets == [f"127.0.0.1:{upstream.port}"]
        assert upstream.connections == 1
    assert sent.target == "/v1/chat/completions"
    assert sent.json() == {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": "你好, who are you?"}],
        "stream": True,
    }
    assert names(found) == ["start", "answer", "answer", "answer", "done"]
    assert text(found) == "Hello!"


# --- events, fields, ids


async def test_every_event_has_its_fields_and_its_id(clock):
    """Ids count the upstream's frames from 1, `+N` where one gives several; the end's is one more.

    Frames: 1 the role, 2 to 5 content, 6 the finish, 7 the usage, 8 [DONE].
    """
    role, finish, usage, done = chat([], usage=USAGE, model="gpt-4o-mini-2024")
    frames = [
        role,
        chat_frame({"reasoning_content": "Hm"}),
        chat_frame({"reasoning_content": ".", "content": "H", "tool_calls": CALLS}),
        chat_frame({"content": "i"}),
        chat_frame({"tool_calls": CALLS}),
        finish,
        usage,
        done,
    ]
    async with (
        Upstream(sse(*frames)) as upstream,
        relaying(upstream.url, clock=clock) as relay,
        relay.get("/chat", question="Hi?") as response,
    ):
        start, *rest = await read_events(response)
    stream = start.data["stream"]
    assert start == ("start", f"{stream}.0", {"stream": stream, "model": "gpt-4o-mini"})
    assert rest[:-1] == [
        ("reasoning", f"{stream}.2", {"content": "Hm"}),
        ("reasoning", f"{stream}.3+1", {"content": "."}),
        ("answer", f"{stream}.3+2", {"content": "H"}),
        ("tool_calls", f"{stream}.3", {"tool_calls": CALLS}),
        ("answer", f"{stream}.4", {"content": "i"}),
        ("tool_calls", f"{stream}.5", {"tool_calls": CALLS}),
    ]
    assert rest[-1] == (
        "done",
        f"{stream}.9",
        {
            "finish_reason": "stop",
            "model": "gpt-4o-mini-2024",
            "upstream": "127.0.0.1",
            "attempts": 1,
            "usage": USAGE,
            "first_token_ms": 0,
            "elapsed_ms": 0,
            "malformed": 0,
        },
    )


async def test_an_event_is_three_lines_and_a_blank_one():
    """The bytes of an event: id, event and data, each line ended by LF, the JSON on one line."""
    async with (
        Upstream(tokens("a\nb")) as upstream,
        relaying(upstream.url) as relay,
        relay.get("/chat", question="Hi?") as response,
    ):
        stream = response.headers["Teleprinter-Stream"]
        lines = (await response.content.read()).split(b"\n")
    assert lines[4:8] == [
        b"id: %s.2" % stream.encode(),
        b"event: answer",
        b'data: {"content":"a\\nb"}',
        b"",
    ]


async def test_start_comes_before_the_upstream_said_a_word():
    """`start` is sent as soon as the request is accepted."""
    async with (
        Upstream() as upstream,
        relaying(upstream.url) as relay,
        relay.get("/chat", question="Hi?", model="m-1") as response,
    ):
        start = await anext(events(response))
        await upstream.next()
    assert start.name == "start"
    assert start.data["model"] == "m-1"


async def test_the_times_in_done_are_measured_from_the_request_on(clock):
    """`first_token_ms` and `elapsed_ms` count from the request to the content and to the end."""
    async with (
        Upstream() as upstream,
        relaying(upstream.url, clock=clock) as relay,
        relay.get("/chat", question="Hi?") as response,
    ):
        stream = events(response)
        await anext(stream)
        _, wire = await upstream.next()
        clock.advance(0.25)
        await wire.head(content_type="text/event-stream")
        await wire.chunk(chat_frame({"content": "Hi"}))
        await anext(stream)
        clock.advance(1.2501)
        await wire.chunk(DONE)
        await wire.end()
        (done,) = [event async for event in stream]
    assert (done.data["first_token_ms"], done.data["elapsed_ms"]) == (250, 1500)


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
async def test_reasoning_has_its_own_event(field):
    """Either spelling of the upstream gives `reasoning`, and is no part of the answer."""
    frames = [chat_frame({field: "I think"}), *chat(["so"])]
    async with (
        Upstream(sse(*frames)) as upstream,
        relaying(upstream.url) as relay,
        relay.get("/chat", question="Hi?") as response,
    ):
        found = await read_events(response)
    assert names(found) == ["start", "reasoning", "answer", "done"]
    assert (text(found, "reasoning"), text(found)) == ("I think", "so")


async def test_usage_is_null_if_none_was_sent():
    """The relay invents no usage."""
    async with (
        Upstream(tokens("Hi")) as upstream,
        relaying(upstream.url) as relay,
        relay.get("/chat", question="Hi?") as response,
    ):
        *_, done = await read_events(response)
    assert done.data["usage"] is None


async def test_streams_have_ids_that_nobody_guesses():
    """Each stream has a name of its own, with at least 128 bits of randomness in it."""
    async with Upstream(tokens("Hi")) as upstream, relaying(upstream.url) as relay:
        found = set()
        for _ in range(5):
            async with relay.get("/chat", question="Hi?") as response:
                found.add((await read_events(response))[0].data["stream"])
    assert len(found) == 5
    assert min(map(len, found)) >= 22  # base64 of 16 bytes


async def test_the_answer_s_headers():
    """An event stream that nobody caches or buffers, and that can be found in the log."""
    async with (
        Upstream(tokens("Hi")) as upstream,
        relaying(upstream.url) as relay,
        relay.get("/chat", question="Hi?") as response,
    ):
        start, *_ = await read_events(response)
    headers = response.headers
    assert response.status == 200
    assert headers["Content-Type"] == "text/event-stream"
    assert headers["Cache-Control"] == "no-cache"
    assert headers["X-Accel-Buffering"] == "no"
    assert headers["Teleprinter-Stream"] == start.data["stream"]
    assert headers["Teleprinter-Upstream"] == "127.0.0.1"
    assert headers["Teleprinter-Request-Id"]


# --- questions arrive as sent


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
async def test_a_question_arrives_as_sent_by_get(prompt):
    """Whatever the question holds, it is one JSON string upstream, character for character."""
    async with Upstream(tokens("Hi")) as upstream, relaying(upstream.url) as relay:
        url = URL(f"{relay.url}/chat?question={quote(prompt, safe='')}", encoded=True)
        async with relay.session.get(url) as response:
            assert names(await read_events(response)) == ["start", "answer", "done"]
    assert upstream.requests[0].json()["messages"] == [{"role": "user", "content": prompt}]


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
async def test_a_question_arrives_as_sent_by_post(prompt):
    """The same by POST, as a question and as messages."""
    messages = [{"role": "system", "content": prompt}, {"role": "user", "content": prompt}]
    async with Upstream(tokens("Hi")) as upstream, relaying(upstream.url) as relay:
        question = await posted(relay, upstream, {"question": prompt})
        whole = await posted(relay, upstream, {"messages": messages})
    assert question["messages"] == [{"role": "user", "content": prompt}]
    assert whole["messages"] == messages


async def test_a_megabyte_arrives_by_post():
    """More than 1 MB of text is one question."""
    prompt = '你好 "}" \\ \n 👩‍👩‍👧 ' * 40_000
    body = BytesIO(json.dumps({"question": prompt}).encode())
    assert len(prompt.encode()) > 1 << 20
    async with (
        Upstream(tokens("Hi")) as upstream,
        relaying(upstream.url) as relay,
        relay.session.post(f"{relay.url}/chat", data=body) as response,
    ):
        assert names(await read_events(response)) == ["start", "answer", "done"]
    (message,) = upstream.requests[0].json()["messages"]
    assert message["content"] == prompt


async def test_900_cjk_characters_arrive_by_get():
    """A question of 900 Chinese characters is 8 KB of a request line."""
    prompt = "".join(chr(0x4E00 + number) for number in range(900))
    async with Upstream(tokens("Hi")) as upstream, relaying(upstream.url) as relay:
        body = await asked(relay, upstream, question=prompt)
    assert body["messages"][0]["content"] == prompt


async def test_a_request_line_may_have_64_kib():
    """A line of 64 KiB, its CRLF included, is served."""
    around = len("GET /chat?question= HTTP/1.1\r\n")
    prompt = "x" * (64 * 1024 - around)
    async with Upstream(tokens("Hi")) as upstream, relaying(upstream.url) as relay:
        body = await asked(relay, upstream, question=prompt)
    assert body["messages"][0]["content"] == prompt


async def test_messages_arrive_as_sent():
    """Messages are the client's own, with images, names and fields that nobody knows."""
    messages = [
        {"role": "developer", "content": "Be brief", "x-vendor": [1, 2.5, None, True]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]},
        {"role": "assistant", "content": None, "tool_calls": CALLS},
    ]
    async with Upstream(tokens("Hi")) as upstream, relaying(upstream.url) as relay:
        body = await posted(relay, upstream, {"messages": messages})
    assert body["messages"] == messages


# --- what else goes upstream, and what does not


async def test_other_parameters_of_openai_go_upstream():
    """Whatever the relay does not know is the upstream's business; `stream` is always true."""
    more = {
        "temperature": 0.5,
        "max_tokens": 10,
        "seed": 12345678901234567890,
        "stop": ["\n", "你"],
        "stream_options": {"include_usage": True},
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "n": 1,
        "logit_bias": None,
        "x-vendor": {"a": [1.0]},
    }
    body = {"question": "Hi?", "model": "m-1", "stream": False, **more}
    async with Upstream(tokens("Hi")) as upstream, relaying(upstream.url) as relay:
        sent = await posted(relay, upstream, body)
    messages = [{"role": "user", "content": "Hi?"}]
    assert sent == {"model": "m-1", "messages": messages, "stream": True, **more}


OWN = {"question": "Hi?", "pace": "typewriter", "delay_ms": 1, "keep": 5, "ticket": "t"}


async def test_the_relay_s_own_parameters_never_go_upstream():
    """Neither by POST nor by GET."""
    async with Upstream(tokens("Hi")) as upstream, relaying(upstream.url) as relay:
        by_post = await posted(relay, upstream, OWN)
        by_get = await asked(relay, upstream, **OWN)
    messages = [{"role": "user", "content": "Hi?"}]
    wanted = {"model": "gpt-4o-mini", "messages": messages, "stream": True}
    assert by_post == wanted
    assert by_get == wanted
    assert [request.target for request in upstream.requests] == ["/v1/chat/completions"] * 2


@pytest.mark.parametrize("body", [{}, {"model": ""}, {"model": None}])
async def test_a_request_that_names_no_model_gets_the_settings(body):
    """TELEPRINTER_MODEL is the model of requests without one; an empty name is none."""
    async with Upstream(tokens("Hi")) as upstream, relaying(upstream.url, model="m-9") as relay:
        by_post = await posted(relay, upstream, {"question": "Hi?", **body})
        query = {name: value or "" for name, value in body.items()}
        by_get = await asked(relay, upstream, question="Hi?", **query)
    assert (by_post["model"], by_get["model"]) == ("m-9", "m-9")


async def test_a_request_may_name_its_model():
    """By POST and by GET."""
    async with Upstream(tokens("Hi")) as upstream, relaying(upstream.url, model="m-9") as relay:
        by_post = await posted(relay, upstream, {"question": "Hi?", "model": "m-1"})
        by_get = await asked(relay, upstream, question="Hi?", model="模型 2")
    assert (by_post["model"], by_get["model"]) == ("m-1", "模型 2")


# --- answers arrive as sent


@pytest.mark.parametrize("content", [SAID, *PROMPTS.values()], ids=["said", *PROMPTS])
async def test_an_answer_arrives_as_sent(content):
    """Whatever a token holds, it arrives character for character."""
    async with (
        Upstream(tokens(content)) as upstream,
        relaying(upstream.url) as relay,
        relay.get("/chat", question="Hi?") as response,
    ):
        found = await read_events(response)
    assert [event.data for event in found[1:-1]] == [{"content": content}]


async def test_a_stream_in_segments_of_one_byte_arrives_whole():
    """Segments that cut the HTTP framing, the lines and the UTF-8 of a character change nothing."""
    chunks = [{"choices": [{"delta": {"content": text}}]} for text in (SAID, "再见", FAMILY)]
    frames = [frame(chunk) for chunk in [*chunks, {"usage": USAGE}]] + [DONE]

    async def script(_request, wire):
        await wire.head(content_type="text/event-stream")
        await wire.chunk(b"".join(frames).replace(b"\n", b"\r\n"), pieces=1)
        await wire.end()

    async with (
        Upstream(script) as upstream,
        relaying(upstream.url) as relay,
        relay.get("/chat", question="Hi?") as response,
    ):
        found = await read_events(response)
    assert [event.data.get("content") for event in found[1:-1]] == [SAID, "再见", FAMILY]
    assert found[-1].name == "done"
    assert found[-1].data["usage"] == USAGE


async def test_tool_calls_arrive_as_sent():
    """Also fields that no API documents, in their order."""
    frames = [chat_frame({"tool_calls": [call]}) for call in CALLS]
    frames += chat([], role=False, finish="tool_calls")
    async with (
        Upstream(sse(*frames)) as upstream,
        relaying(upstream.url) as relay,
        relay.get("/chat", question="Hi?") as response,
    ):
        found = await read_events(response)
    assert names(found) == ["start", "tool_calls", "tool_calls", "done"]
    sent = [json.dumps(event.data["tool_calls"]) for event in found[1:3]]
    assert sent == [json.dumps([call]) for call in CALLS]
    assert found[-1].data["finish_reason"] == "tool_calls"


MALFORMED = {
    "no JSON": b"data: {oops}\n\n",
    "cut JSON": b'data: {"choices": [\n\n',
    "empty": b"data:\n\n",
    "wrong type, then no JSON": b'data: {"choices": 5, oops}\n\n',
    "wrong type, then no UTF-8": b'data: {"choices": 5, "x": "\xff"}\n\n',
    "no UTF-8": b'data: {"choices": [{"delta": {"content": "\xff"}}]}\n\n',
    "half a character": b'data: {"choices": [{"delta": {"content": "\\ud83d"}}]}\n\n',
    "too deep": b"data: " + b"[" * 100_000 + b"\n\n",
}


@pytest.mark.parametrize("bad", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_frame_is_passed_over_and_counted(bad):
    """`done` tells how many there were; their neighbours arrive, and the ids count them all."""
    frames = [*chat(["a", "b"], done=False), DONE]
    frames[2:2] = [bad]
    frames[4:4] = [bad]
    async with (
        Upstream(sse(*frames)) as upstream,
        relaying(upstream.url) as relay,
        relay.get("/chat", question="Hi?") as response,
    ):
        found = await read_events(response)
    assert names(found) == ["start", "answer", "answer", "done"]
    assert [event.id.rpartition(".")[2] for event in found] == ["0", "2", "4", "8"]
    assert found[-1].data["malformed"] == 2


async def test_comments_and_frames_of_other_kinds_are_no_events():
    """A comment, a ping, JSON that is no chunk: passed over, not counted."""
    others = [b": PROCESSING\n\n", b"event: ping\n\n", frame([1]), frame("5"), frame({"x": 1})]
    frames = [*others, *chat(["a"])]
    async with (
        Upstream(sse(*frames)) as upstream,
        relaying(upstream.url) as relay,
        relay.get("/chat", question="Hi?") as response,
    ):
        found = await read_events(response)
    assert names(found) == ["start", "answer", "done"]
    assert found[-1].data["malformed"] == 0


# --- what fails


UPSTREAM_SAYS = [
    (401, '{"error": {"message": "Incorrect API key", "code": "k"}}', "Incorrect API key", False),
    (429, '{"error": "Slow down, 请稍候"}', "Slow down, 请稍候", True),
    (500, '{"detail": "Out of memory"}', "Out of memory", True),
    (503, "<html>Service Unavailable</html>", "503 Service Unavailable", True),
    (400, '{"object": "error", "message": "No such model"}', "No such model", False),
    (502, "[" * 100_000, "502 Bad Gateway", True),
]


@pytest.mark.parametrize(("status", "body", "said", "retryable"), UPSTREAM_SAYS)
async def test_an_upstream_that_refuses_is_an_error_event(status, body, said, retryable):
    """`upstream_error` with its status and its own words, at the id that ends the stream."""
    async with (
        Upstream(reply(status, body)) as upstream,
        relaying(upstream.url) as relay,
        relay.get("/chat", question="Hi?") as response,
    ):
        stream = events(response)
        start, error = await anext(stream), await anext(stream)
        with pytest.raises(CUT):
            await anext(stream)
    assert error.name == "error"
    assert error.id == f"{start.data['stream']}.1"
    message = error.data.pop("message")
    assert str(status) in message
    assert said in message
    assert error.data == {
        "code": "upstream_error",
        "status": status,
        "stage": "headers",
        "retryable": retryable,
        "partial": False,
    }


@pytest.mark.parametrize(
    ("given", "headers", "named"),
    [
        ({}, {}, True),
        ({"upstream_key": "sk-relay"}, {}, False),
        ({}, {"Authorization": "Bearer sk-client"}, False),
        ({}, {"x-api-key": "sk-client"}, False),
    ],
    ids=["no key", "the relay's", "the client's", "the client's, as Anthropic's"],
)
async def test_an_upstream_that_wants_a_key_names_the_setting(given, headers, named):
    """A 401 to a request without a key names where to set one; to one with a key it does not."""
    words = '{"error": {"message": "You did not provide an API key"}}'
    async with (
        Upstream(reply(401, words)) as upstream,
        relaying(upstream.url, **given) as relay,
        relay.get("/chat", headers, question="Hi?") as response,
    ):
        *_, error = await read_cut(response)
    message = error.data["message"]
    assert ("TELEPRINTER_UPSTREAM_KEY" in message) == named
    assert message.endswith(": You did not provide an API key")
    assert "sk-" not in message


async def test_a_cut_is_an_error_event_behind_the_text():
    """What came is sent, then `error` with `partial`; no `done`, and the body has no last chunk."""
    frames = chat(["Hel", "lo"], finish=None, done=False)
    async with (
        Upstream(sse(*frames, end=False)) as upstream,
        relaying(upstream.url) as relay,
        relay.get("/chat", question="Hi?") as response,
    ):
        stream = events(response)
        found = [await anext(stream) for _ in range(4)]
        with pytest.raises(CUT):
            await anext(stream)
    assert names(found) == ["start", "answer", "answer", "error"]
    error = found[-1]
    assert error.id == f"{found[0].data['stream']}.4"
    assert error.data.pop("message")
    assert error.data == {
        "code": "upstream_cut",
        "stage": "stream",
        "retryable": True,
        "partial": True,
    }


@pytest.mark.parametrize(("last", "status"), [("x.7", 410), ("nonsense", 400), ("", 400)])
async def test_a_browser_that_comes_back_is_told_to_stop(last, status):
    """No EventSource tries again after such a status; the upstream is not asked a second time."""
    headers = {"Last-Event-ID": last}
    async with Upstream(tokens("Hi")) as upstream, relaying(upstream.url) as relay:
        async with relay.get("/chat", headers, question="Hi?") as by_get:
            assert by_get.status == status
        async with relay.post("/chat", {"question": "Hi?"}, headers) as by_post:
            assert by_post.status == status
    assert upstream.connections == 0


BAD_BODIES = {
    "no question": (b"{}", "question"),
    "no body": (b"", "JSON"),
    "empty question": (b'{"question": ""}', "question"),
    "blank question": (b'{"question": " \\n"}', "question"),
    "question no text": (b'{"question": ["Hi?"]}', "question"),
    "both": (b'{"question": "Hi?", "messages": [{}]}', "question and messages"),
    "messages no list": (b'{"messages": "Hi?"}', "messages"),
    "messages empty": (b'{"messages": []}', "messages"),
    "model no text": (b'{"question": "Hi?", "model": 4}', "model"),
    "two answers": (b'{"question": "Hi?", "n": 2}', "n must be 1"),
    "no answers": (b'{"question": "Hi?", "n": 0}', "n must be 1"),
    "n no number": (b'{"question": "Hi?", "n": [2]}', "n must be 1"),
    "pace unknown": (b'{"question": "Hi?", "pace": "fast"}', "pace"),
    "pace no text": (b'{"question": "Hi?", "pace": 3}', "pace"),
    "delay negative": (b'{"question": "Hi?", "delay_ms": -1}', "delay_ms"),
    "delay no number": (b'{"question": "Hi?", "delay_ms": "soon"}', "delay_ms"),
    "delay not whole": (b'{"question": "Hi?", "delay_ms": 1.5}', "delay_ms"),
    "delay a truth": (b'{"question": "Hi?", "delay_ms": true}', "delay_ms"),
    "delay too long": (b'{"question": "Hi?", "delay_ms": 60001}', "delay_ms"),
    "delay without the pace": (b'{"question": "Hi?", "pace": "off", "delay_ms": 5}', "delay_ms"),
    "no JSON": (b"question=Hi?", "JSON"),
    "no UTF-8": (b'{"question": "\xff"}', "JSON"),
    "no object": (b'["Hi?"]', "JSON object"),
    "too deep": (b"[" * 100_000, "JSON"),
}


@pytest.mark.parametrize(("body", "names_it"), BAD_BODIES.values(), ids=BAD_BODIES)
async def test_a_bad_post_is_refused_by_name(body, names_it):
    """400 bad_request names the field, SDKs need not retry, the upstream is not asked."""
    async with (
        Upstream(tokens("Hi")) as upstream,
        relaying(upstream.url) as relay,
        relay.session.post(f"{relay.url}/chat", data=body) as response,
    ):
        error = await refused(response)
    assert (response.status, error["code"]) == (400, "bad_request")
    assert names_it in error["message"]
    assert response.headers["x-should-retry"] == "false"
    assert upstream.connections == 0


BAD_QUERIES = {
    "no question": ({}, "question"),
    "empty question": ({"question": ""}, "question"),
    "pace unknown": ({"question": "Hi?", "pace": "fast"}, "pace"),
    "delay no number": ({"question": "Hi?", "delay_ms": "soon"}, "delay_ms"),
    "delay empty": ({"question": "Hi?", "delay_ms": ""}, "delay_ms"),
    "delay too long": ({"question": "Hi?", "delay_ms": "60001"}, "delay_ms"),
    "delay of many digits": ({"question": "Hi?", "delay_ms": "9" * 5000}, "delay_ms"),
}


@pytest.mark.parametrize(("query", "names_it"), BAD_QUERIES.values(), ids=BAD_QUERIES)
async def test_a_bad_get_is_refused_by_name(query, names_it):
    """The same for GET."""
    async with (
        Upstream(tokens("Hi")) as upstream,
        relaying(upstream.url) as relay,
        relay.get("/chat", **query) as response,
    ):
        error = await refused(response)
    assert (response.status, error["code"]) == (400, "bad_request")
    assert names_it in error["message"]
    assert upstream.connections == 0


async def test_n_may_be_1():
    """`n: 1` and `n: null` ask for what there is."""
    async with Upstream(tokens("Hi")) as upstream, relaying(upstream.url) as relay:
        for number in (1, None):
            async with relay.post("/chat", {"question": "Hi?", "n": number}) as response:
                assert names(await read_events(response)) == ["start", "answer", "done"]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
async def test_other_methods_are_refused(method):
    """/chat takes GET and POST."""
    async with (
        Upstream(tokens("Hi")) as upstream,
        relaying(upstream.url) as relay,
        relay.session.request(method, f"{relay.url}/chat?question=Hi") as response,
    ):
        error = await refused(response)
    assert (response.status, error["code"]) == (405, "method_not_allowed")
    assert upstream.connections == 0
