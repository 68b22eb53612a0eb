"""The cases of web-platform-tests' eventsource/, for an EventSource and for a parser.

https://github.com/web-platform-tests/wpt, folder eventsource/. Its servers' `message.py` ends a
message with a blank line unless it is told not to; here it stands in the bytes.
"""

from cases import STREAM, Answer, Case, case, messages

_X = "x" * 2048
_LATER = "retry: 2\n"
"""Comes back after 2 ms instead of seconds, as their servers say it."""


def _again(source: str, *bodies: str, events: tuple[str, ...], status: int = 200) -> Case:
    """Return a case of several connections, the last one with that status."""
    answers = [Answer((body.encode(),)) for body in bodies]
    if status != 200:
        answers.append(Answer((), status=status))
    return Case(source, tuple(answers), messages(*events), closed=status != 200)


FORMAT = (
    case(
        "event-data.any.js",
        "data:msg\ndata: msg\n\n:\nfalsefield:msg\n\n",
        "falsefield:msg\nData:data\n\ndata\n\ndata:end\n\n",
        events=messages("msg\nmsg", "", "end"),
    ),
    case(
        "format-bom.any.js",
        "\ufeffdata:1\n\n\ufeffdata:2\n\ndata:3\n\n",
        events=messages("1", "3"),
    ),
    case(
        "format-bom-2.any.js",
        "\ufeff\ufeffdata:1\n\ndata:2\n\ndata:3\n\n",
        events=messages("2", "3"),
    ),
    case(
        "format-comments.any.js",
        f"data:1\r:\0\n:\r\ndata:2\n:{_X}\rdata:3\n:data:fail\r:{_X}\ndata:4\n\n",
        events=messages("1\n2\n3\n4"),
    ),
    case(
        "format-data-before-final-empty-line.any.js",
        "retry:1000\ndata:test1\n\nid:test\ndata:test2",
        events=messages("test1"),
    ),
    case(
        "format-field-data.any.js",
        "data:\n\ndata\ndata\n\ndata:test\n\n",
        events=messages("", "\n", "test"),
    ),
    case("format-field-event-empty.any.js", "event: \ndata:data\n\n", events=messages("data")),
    case(
        "format-field-event.any.js",
        "event:test\ndata:x\n\ndata:x\n\n",
        events=[("test", "x", ""), *messages("x")],
    ),
    case(
        "format-field-id.any.js",
        "id: …\nretry: 200\ndata: hello\n\n",
        events=messages("hello", last_id="…"),
    ),
    case(
        "format-field-id-2.any.js",
        "id: …\nretry: 200\ndata: hello\n\ndata: …\n\n",
        events=messages("hello", "…", last_id="…"),
    ),
    case(
        "format-field-id-3.window.js: persists",
        "id: 1\ndata: 1\n\ndata: 2\n\nid: 2\ndata:3\n\ndata:4\n\n",
        events=[*messages("1", "2", last_id="1"), *messages("3", "4", last_id="2")],
    ),
    case(
        "format-field-id-3.window.js: resets",
        "id: 1\ndata: 1\n\nid:\ndata:2\n\ndata:3\n\n",
        events=[*messages("1", last_id="1"), *messages("2", "3")],
    ),
    case(
        "format-field-id-3.window.js: resets (id without colon)",
        "id: 1\ndata: 1\n\nid\ndata:2\n\ndata:3\n\n",
        events=[*messages("1", last_id="1"), *messages("2", "3")],
    ),
    *(
        case(
            f"format-field-id-null.window.js: {value!r}",
            f"id: {value}\nretry: 200\ndata: hello\n\n",
            events=messages("hello"),
        )
        for value in ("\0\0", "x\0", "\0x", "x\0x", " \0")
    ),
    case(
        "format-field-parsing.any.js",
        "data:\0\ndata:  2\rData:1\ndata\0:2\ndata:1\r\0data:4\nda-ta:3\rdata_5\n"
        "data:3\rdata:\r\n data:32\ndata:4\n\n",
        events=messages("\0\n 2\n1\n3\n\n4"),
    ),
    case("format-field-retry.any.js", "retry:03000\ndata:x\n\n", events=messages("x")),
    case("format-field-retry-bogus.any.js", "retry:3000\nretry:1000x\ndata:x\n\n",
         events=messages("x")),
    case("format-field-retry-empty.any.js", "retry\ndata:test\n\n", events=messages("test")),
    case(
        "format-field-unknown.any.js",
        "data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacommentyay\ndata:test\n\n",
        events=messages("test\n\ntest"),
    ),
    case(
        "format-leading-space.any.js",
        "data:\ttest\rdata: \ndata:test\n\n",
        events=messages("\ttest\n\ntest"),
    ),
    case("format-newlines.any.js", "data:test\r\ndata\ndata:test\r\n\r",
         events=messages("test\n\ntest")),
    case("format-null-character.any.js", "data:\0\n\n\n\n", events=messages("\0")),
    case(
        "format-utf-8.any.js",
        "data:ok…\n\n",
        kind=f"{STREAM};charset=windows-1252",
        events=messages("ok…"),
    ),
    case("format-mime-trailing-semicolon.any.js", "data: data\n\n", kind=f"{STREAM};",
         events=messages("data")),
)  # fmt: skip
"""One response, and what an EventSource dispatches of it."""

CLOSED = (
    case("format-mime-bogus.any.js", "data: data\n\n", kind="x bogus"),
    case("format-mime-valid-bogus.any.js", "data: data\n\n", kind="text/x-bogus"),
    *(
        Case(
            f"request-status-error.window.js: {status}",
            (Answer((b"data: data\n\n",), status=status),),
        )
        for status in (204, 205, 210, 299, 404, 410, 503)
    ),
)
"""Responses for which an EventSource gives up, and shows no event."""

AGAIN = (
    _again("eventsource-reconnect.window.js: 200", _LATER, "data: data\n\n", events=("data",)),
    _again(
        "eventsource-reconnect.window.js: events",
        f"{_LATER}data: ok\n\n",
        "data: data\n\n",
        events=("ok", "data"),
    ),
    _again(
        "eventsource-close.window.js: test events",
        f"{_LATER}data: opened\n\n",
        "data: reconnected\n\n",
        events=("opened", "reconnected"),
        status=204,
    ),
    *(
        Case(
            f"request-redirect.any.window.js: {status}",
            (
                Answer((), status=status, headers=(("Location", "?moved"),)),
                Answer((b"data: data\n\n",)),
            ),
            messages("data"),
        )
        for status in (301, 302, 303, 307)
    ),
)
"""Several connections: the EventSource comes back, or goes where it is told to."""

NOT_IN_CHROMIUM = {
    "format-utf-8.any.js": "it wants no other charset than UTF-8, and closes the connection",
}
"""Cases that Chromium itself does not pass: there it must fail with the relay as without it."""

CASES = (*FORMAT, *(one._replace(closed=True) for one in CLOSED), *AGAIN)

ELSEWHERE = {
    "request-accept.any.js, request-cache-control.any.js": "test_what_the_upstream_is_asked",
    "eventsource-close.window.js: close() in onopen": "test_close",
    "eventsource-request-cancellation.any.window.js": "test_window_stop",
    "eventsource-onopen.any.js, eventsource-onmessage.any.js": "test_wpt, every case",
}
"""Cases that no table of bytes can hold, and the tests of test_cases_chromium.py that do."""

NOT_FOR_A_RELAY = {
    "eventsource-constructor-*.js, eventsource-prototype.any.js, eventsource-url.any.js,"
    " eventsource-eventtarget.any.js, eventsource-onmessage-{realm,trusted}.*, interfaces.html": (
        "of the browser's object alone: no byte of the server's comes into it"
    ),
    "eventsource-cross-origin*.js, eventsource-constructor-non-same-origin.window.js,"
    " eventsource-constructor-document-domain.window.js": (
        "need another origin that lets the page in; the relay's origins are its own setting, the"
        " upstream's CORS headers are left out on purpose (test_browsers.py, test_cors.py)"
    ),
    "request-credentials.any.window.js": (
        "wants the page's cookies at the server: no cookie goes either way (test_v1.py)"
    ),
    "format-field-id*.js: Last-Event-ID at the server": (
        "it would tell the upstream an id of the relay's; the relay answers it itself, on /chat"
        " and /streams (test_resume.py), and never hands it on"
    ),
    "format-field-retry*.js: the time until it comes back": (
        "no test looks at a clock; that the relay hands `retry` on is seen by the bytes, and by"
        " eventsource-parser's onRetry (test_cases_node.py)"
    ),
    "eventsource-bfcache.window.js": "of the browser's page cache, and of a second page",
    "dedicated-worker/, shared-worker/": "the same cases in a worker, for which the page has none",
    "submissions/MOSQUITO/": "their server is gone; the fields are those of format-field-event",
}
"""Which of their cases cannot pass through a relay, and why."""
