"""The cases of npm eventsource-parser and of npm eventsource, which is built on it.

https://github.com/rexxars/eventsource-parser: test/parse.test.ts with test/fixtures.ts, and
test/stream.test.ts; https://github.com/EventSource/eventsource: test/tests.ts with
test/helpers/server.ts. A piece of a case is what their fixture hands on at once; where theirs waits
in between, or draws a piece's length by lot, the pieces here are cut at a place of our own.
"""

import hashlib

from cases import Answer, Case, Seen, case, messages

DONE: Seen = ("done", "✔", "")
_DONE = "event: done\ndata: ✔\n\n"
_MOMENT = "2026-01-02T03:04:05.678Z"
_EMOJI = ("😶‍🌫️", "❤️‍🔥", "🫱🏻‍🫲🏿", "👩🏽‍❤️‍💋‍👨🏾", "🧑‍🍼", "🐈‍⬛")
_LINES = (
    "Blåbærsyltetøy må da være mulig å oppdrive?",
    "بالتأكيد يجب أن يكون المرء قادرا على شراء مربى التوت؟",
    "一定能买到蓝莓果酱吗？",
    "בטח אפשר להשיג ריבת אוכמניות?",
    "ಖಂಡಿತವಾಗಿಯೂ ಒಬ್ಬರು ಬ್ಲೂಬೆರ್ರಿ ಜಾಮ್",
    "確かにブルーベリージャムを調達できなければなりませんか？",
    "แน่นอนว่าจะต้องสามารถจัดหาแยมบลูเบอร์รี่ได้?",
)
_LONG = "x" * 2049
_JSON = '{"error":"Internal Server Error","message":"The server could not process your request"}'
_HUGE = " ".join((*_LINES, *_EMOJI)) * 14_000
"""As long as theirs: ten megabytes in one event."""
_DIGEST = f"sha256 {hashlib.sha256(_HUGE.encode()).hexdigest()}"
"""What tests/clients/cases.mjs says of a text so long."""


def _multibyte() -> list[str]:
    """Return a message a line; each second one comes in two `data:` lines."""
    pieces = []
    for number, line in enumerate(_LINES):
        pieces.append(f"id: {number}\n")
        if number % 2:
            pieces.append(f"data:{line}\n\n")
        else:
            pieces += [f"data:{line[:5]}\n", f"data:{line[5:]}\n\n"]
    return [*pieces, _DONE]


_MULTIBYTE: list[Seen] = [
    ("message", line if number % 2 else f"{line[:5]}\n{line[5:]}", str(number))
    for number, line in enumerate(_LINES)
]
_TIMES = [f"id: {n}\nevent: time\ndata: {_MOMENT}\n\n" for n in range(30)]

PARSED = (
    case(
        "basic unnamed events stream",
        *(f"data: {n}\n\n" for n in range(5)),
        _DONE,
        events=[*messages(*"01234"), DONE],
    ),
    case(
        "stream of `time` event name",
        *(f"event: time\ndata: {_MOMENT}\n\n" for _ in range(5)),
        _DONE,
        events=[*[("time", _MOMENT, "")] * 5, DONE],
    ),
    case(
        "stream of `time` event names, unbalanced chunks",
        *(part for n, one in enumerate(_TIMES) for part in (one[: n + 1], one[n + 1 :])),
        events=[("time", _MOMENT, str(n)) for n in range(30)],
    ),
    case(
        "stream of identified messages + retry interval",
        "event: tick\nretry: 50\nid: 1337\ndata: 1337\n\n",
        "event: tick\nretry: 50\nid: 1338\ndata: 1338\n\n",
        _DONE,
        events=[("tick", "1337", "1337"), ("tick", "1338", "1338"), ("done", "✔", "1338")],
    ),
    case(
        "stream of heartbeat comments, unnamed events",
        *(f"{part}" for letter in "ABCDE" for part in (": ♥\n\n", f"data: {letter}\n\n")),
        _DONE,
        events=[*messages(*"ABCDE"), DONE],
    ),
    case(
        "stream of multi-line data events",
        *("event: stock\n", "data: YHOO\n", "data: +2\n", "data: 10\n\n"),
        *("event: stock\n", "data: GOOG\n", "data: -8\n", "data: 1881\n\n"),
        _DONE,
        events=[("stock", "YHOO\n+2\n10", ""), ("stock", "GOOG\n-8\n1881", ""), DONE],
    ),
    case(
        "stream of multi-byte events",
        *_multibyte(),
        events=[*_MULTIBYTE, ("done", "✔", str(len(_LINES) - 1))],
    ),
    case(
        "stream of multi-byte events with some empty lines thrown in",
        "\n\n\n\nid: 1\ndata: 我現在都看實況不玩遊戲\n\n",
        _DONE,
        events=[("message", "我現在都看實況不玩遊戲", "1"), ("done", "✔", "1")],
    ),
    case(
        "stream of leading bom",
        "\ufeffdata: bomful 1\n\n",
        "data: bomless 2\n\n",
        _DONE,
        events=[*messages("bomful 1", "bomless 2"), DONE],
    ),
    case(
        "stream containing byte-order mark (multiple places)",
        "\ufeffdata: bomful 1\n\n",
        "\ufeffdata: bomful 2\n\n",
        "data: bomless 3\n\n",
        _DONE,
        events=[*messages("bomful 1", "bomless 3"), DONE],
    ),
    case("UTF-8 BOM before two lines", "\ufeffdata: first\ndata: second\n\n",
         events=messages("first\nsecond")),
    case(
        "stream using carriage returns",
        *("data: dog\r", "data: bark\r\r", "data: cat\r", "data: meow\r\r"),
        _DONE,
        events=[*messages("dog\nbark", "cat\nmeow"), DONE],
    ),
    case(
        "stream using line feeds",
        *("data: cow\n", "data: moo\n\n", "data: horse\n", "data: neigh\n\n"),
        _DONE,
        events=[*messages("cow\nmoo", "horse\nneigh"), DONE],
    ),
    case(
        "stream using carriage returns and line feeds",
        *("data: sheep\r\n", "data: bleat\r\n\r\n", "data: pig\r\n", "data: oink\r\n\r\n"),
        _DONE,
        events=[*messages("sheep\nbleat", "pig\noink"), DONE],
    ),
    case(
        "stream with varying odd uses of comments",
        *(": Hello\n\n", ":" * 300, "\n", "data: First\n\n", ": Первый", ": 第二", "\n"),
        *("data: Second\n\n", *[": Moop \n"] * 10, ": ثالث", "\n", "data: Third\n\n"),
        *(":നാലാമത്തെ", "\n", "data: Fourth\n\n", f": {' '.join(_EMOJI)} :", "\n"),
        "data: Fifth\n\n",
        _DONE,
        events=[*messages("First", "Second", "Third", "Fourth", "Fifth"), DONE],
    ),
    case(
        "stream with even more odd uses of comments",
        "data:1\r\r:\0\n:\r\ndata:2\n\n:",
        _LONG,
        "\rdata:3\n\n:data:fail\r:",
        _LONG,
        "\ndata:4\n\n",
        "data:5",
        events=messages(*"1234"),
    ),
    case(
        "stream with empty `event` field",
        *("event:\ndata: Hello 1\n\n", "event:\n\n"),
        _DONE,
        events=[*messages("Hello 1"), DONE],
    ),
    case("stream with empty `retry` field: 1", "retry: 500\nid: 1\ndata: 🥌\n\n",
         events=messages("🥌", last_id="1")),
    case("stream with empty `retry` field: 2", "id:2\nretry:\ndata:🧹\n\n",
         events=messages("🧹", last_id="2")),
    case("stream with empty `retry` field: 3", "id: 3\ndata: ✅\n\n",
         events=messages("✅", last_id="3")),
    case(
        "stream with oddly shaped data field",
        "data:\n\ndata\ndata\n\ndata:test\n\n",
        _DONE,
        events=[*messages("", "\n", "test"), DONE],
    ),
    case(
        "stream with cr separating chunks of same event",
        *("data: A\r\n", "data: B\r", "\n", "data: C\r\n", "\n"),
        events=messages("A\nB\nC"),
    ),
    case("stream with partially incorrect retry fields", "retry:1000\nretry:2000x\ndata:x\n\n",
         events=messages("x")),
    case("stream with `id` field containing a NULL character",
         "id: 123\nid: bad\0id\ndata: hello\n\n", events=messages("hello", last_id="123")),
    case("reports an `id` from a block without data", "id: 42\n", "\n", "id: bad\0id\n\n",
         "id:\n\n"),
    case("reports an `id` before dispatching an event", "id: 42\ndata: hello\n\n",
         events=messages("hello", last_id="42")),
    case("reports an `id` from a block using CR line endings", "id: 42\r\r"),
    case("reports an `id` from a block using CRLF line endings", "id: 42\r\n\r\n"),
    case("stream with incorrect retry fields",
         "\nretry: 500\n\ndata: first\n\nretry: 50x\n\ndata: second\n\n",
         events=messages("first", "second")),
    case(
        "stream with unknown fields in the stream",
        "data:abc\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacommentyay\ndata:123\n\n",
        _DONE,
        events=[*messages("abc\n\n123"), DONE],
    ),
    case("stream with huge data chunks", ": hello\n\n", f"data: {_HUGE}", "\n\n",
         ": END-OF-STREAM\n\n", _DONE, events=[*messages(_DIGEST), DONE]),
    case("skips onError when the stream is invalid but not newline-terminated", _JSON),
    case("calls onError when the stream is invalid (through newline)", f"{_JSON}\n"),
    case("calls onError when the stream is invalid (no field separator)",
         "Well, this is not what I expected\n"),
    case("discards unterminated unknown fields", "unknown-field",
         ": this content is ignored even without a terminator", "\ndata: ok\n\n",
         events=messages("ok")),
    case("discards invalid lines", "datax", ": this started like data, but is not a valid field",
         "\ndata: ok\n\n", events=messages("ok")),
    case("preserves split valid fields", "da", "ta\n\n", events=messages("")),
    case("discards unterminated comments", ":" * 64, "this content is ignored",
         "\ndata: ok\n\n", events=messages("ok")),
    case("discarded unterminated comments consume crlf as one line terminator", "data: one\n:",
         "ignored\r\ndata: two\n\n", events=messages("one\ntwo")),
    case("discarded lines consume a crlf split across chunks", "data: one\n:", "ignored\r",
         "\ndata: two\n\n", events=messages("one\ntwo")),
    case("discarded lines terminated by a bare cr resume parsing on the next chunk",
         "data: one\n:", "ignored\r", "data: two\n\n", events=messages("one\ntwo")),
    case("discarded lines arriving with their own bare cr do not swallow the next line",
         "data: one\n:ignored\r", "data: two\n\n", events=messages("one\ntwo")),
    case("discarded lines arriving with a trailing cr consume a following lf",
         "data: one\n:ignored\r", "\ndata: two\n\n", events=messages("one\ntwo")),
    case("bare field lines terminated by a cr at a chunk boundary are processed",
         "data: one\ndata\r", "\ndata: two\n\n", events=messages("one\n\ntwo")),
    case("unknown field lines completed by a cr at a chunk boundary", "garbage\r",
         "data: ok\n\n", events=messages("ok")),
    case("a blank cr line ending a chunk dispatches the pending event exactly once",
         "data: one\r", "\r", "\n", events=messages("one")),
    case(
        "stream.test.ts: can use `EventSourceParserStream`",
        "".join(f"event: foo\nid: evt-{n}\ndata: Hello {n}\n\n" for n in range(10)),
        events=[("foo", f"Hello {n}", f"evt-{n}") for n in range(10)],
    ),
)  # fmt: skip
"""What eventsource-parser makes of a body."""


def _coming_back(source: str, *answers: Answer, events: list[Seen], closed: bool = False) -> Case:
    return Case(f"tests.ts: {source}", answers, tuple(events), closed)


_HEART = "Espen ❤️ Kokos"
_SPLIT = len(b"event: unicode\ndata: Espen ") + 2
_COUNTED = tuple(
    f"event: counter\nid: {n}\ndata: Counter is at {n}\n\n".encode() for n in (1, 2, 3)
)

FOLLOWED = (
    _coming_back(
        "can connect, receive message",
        Answer((b"event: welcome\ndata: Hello, world!\n\n", b":\n")),
        events=[("welcome", "Hello, world!", "")],
    ),
    _coming_back(
        "can handle unicode data correctly",
        Answer((
            "event: unicode\ndata: 🥌🧹 — 你好\n\n".encode(),
            f"event: unicode\ndata: {_HEART}".encode()[:_SPLIT],
            f"event: unicode\ndata: {_HEART}".encode()[_SPLIT:],
            b"\n\n\n\n",
        )),
        events=[("unicode", "🥌🧹 — 你好", ""), ("unicode", _HEART, "")],
    ),
    _coming_back(
        "message event contains correct properties",
        Answer((b"retry: 50\n\n", *_COUNTED)),
        events=[("counter", f"Counter is at {n}", str(n)) for n in (1, 2, 3)],
    ),
    _coming_back(
        "the last event id survives an event without one",
        Answer((b"id: 1\ndata: First, with id\n\n", b"data: Second, without id\n\n")),
        events=[("message", text, "1") for text in ("First, with id", "Second, without id")],
    ),
    _coming_back(
        "will reconnect if server disconnects",
        Answer((b"retry: 50\n\n", b"data: 1\n\n")),
        Answer((b"data: 2\n\n",)),
        events=[*messages("1", "2")],
    ),
    _coming_back(
        "will close stream on HTTP 204",
        Answer((b"retry: 50\n\n", b"event: progress\nid: prct-100\ndata: 100%\n\n")),
        Answer((), status=204),
        events=[("progress", "100%", "prct-100")],
        closed=True,
    ),
    _coming_back(
        "an invalid stream: text/plain",
        Answer((b"This response is not a usable event stream.",), kind="text/plain"),
        events=[],
        closed=True,
    ),
    _coming_back(
        "an invalid stream: 403",
        Answer((b"This response is not a usable event stream.",), status=403),
        events=[],
        closed=True,
    ),
    *(
        _coming_back(
            f"redirects: handles {status} to same origin",
            Answer((), status=status, headers=(("Location", "?moved"),)),
            Answer((b"data: moved\n\n",)),
            events=[*messages("moved")],
        )
        for status in (301, 302, 307, 308)
    ),
)  # fmt: skip
"""What npm's eventsource makes of one response after the other."""

OWN = {
    "maxBufferSize…, reset(), createParser(function)": "options of the parser's own",
    "onopen, onerror, onmessage set anew, readyState, URL": "of the client's object alone",
    "withCredentials, cross-origin": "no other origin and no cookie gets through a relay",
    "will reconnect with last received message id": (
        "a Last-Event-ID is the relay's to answer, and goes to no upstream (test_resume.py)"
    ),
}
"""Which of their cases have nothing that passes through a relay."""
