"""The same frames on every wire: bytes as they came for /v1, named events for /chat."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.frames import chat_frame
from service.core import sse
from service.core.dialect import Anthropic, Chat, Responses
from service.core.events import (
    COMMENT,
    MALFORMED,
    OPAQUE,
    QUIET,
    USAGE,
    Ending,
    Event,
    Frame,
    Summary,
)
from service.core.view import ChatView, Piece, PlainView, RawView
from service.errors import Failure

NASTY = 'He said "}" \\n {quote}\n\r\n\u2028 你好 👩‍👩‍👧 \x00'
CUT = Failure("upstream_cut", "the upstream ended early", stage="stream")
CALLS = [{"index": 0, "function": {"name": "f", "arguments": '{"a":"\n"}'}}]


def event_of(data):
    """Return (id, event, data) of one event as a browser reads it."""
    found = dict(sse.fields(data))
    assert sse.Framer(1 << 20).feed(data) == [data]
    assert sorted(found) == [b"data", b"event", b"id"]
    return found[b"id"].decode(), found[b"event"].decode(), json.loads(found[b"data"])


def ending(failure=None, *, number=9, said=False, **summary):
    """Return an ending."""
    return Ending(number, "ok" if failure is None else "cut", Summary(**summary), failure, said)


class TestRaw:
    """`/v1`: the upstream's own bytes."""

    @pytest.mark.parametrize(
        "raw", [chat_frame({"content": "x"}), b": c\r\n\r\n", b"\ndata: {\n\n", b"data: [DONE]"]
    )
    def test_bytes_as_they_came(self, raw):
        """Comments, malformed frames and a last one without its blank line included."""
        assert RawView(Chat()).frame(Frame(1, raw, QUIET)) == [Piece(raw, token=False)]

    @pytest.mark.parametrize(
        ("event", "token"),
        [
            (Event(content=True, text="x"), True),
            (Event(content=True, reasoning="x"), True),
            (Event(content=True, tool_calls=CALLS), False),
            (OPAQUE, False),
            (QUIET, False),
            (COMMENT, False),
            (MALFORMED, False),
        ],
    )
    def test_tokens(self, event, token):
        """Only text and reasoning may be held by a pace."""
        [piece] = RawView(Chat()).frame(Frame(1, b"data: x\n\n", event))
        assert piece.token is token

    @pytest.mark.parametrize(
        "raw", [b"data: x\n\n", b"\ndata: x\n\n", b"\r\ndata: x\n\n", sse.BOM + b"data: x\n\n"]
    )
    def test_ids(self, raw):
        """A kept stream gets an id before each frame, as a line of that frame."""
        [piece] = RawView(Chat(), "s-_1").frame(Frame(1, raw, QUIET))
        assert piece.data == b"id: s-_1.1\ndata: x\n\n"

    def test_a_byte_order_mark_in_the_middle_stays(self):
        """Only the first one of a stream is no part of it: later its line is an unknown field."""
        raw = sse.BOM + b"data: x\n\n"
        (piece,) = RawView(Chat(), "S").frame(Frame(2, raw, QUIET))
        assert piece.data == b"id: S.2\n" + raw

    @pytest.mark.parametrize(
        ("raw", "expected"),
        [
            (b"id: 5\ndata: x\n\n", b"data: x\n\n"),
            (b"data:x\nid:5\n\n", b"data:x\n\n"),
            (b"id\r\ndata: x\r\nid: 6\r\n\r\n", b"data: x\r\n\r\n"),
            (b"id: 5\rdata: x\r\r", b"data: x\r\r"),
            (b"idle: 5\ndata: id: 5\n\n", b"idle: 5\ndata: id: 5\n\n"),
            (b": id\nevent: e\ndata: x\n\n", b": id\nevent: e\ndata: x\n\n"),
            (b"data: x\nid: 5", b"data: x\nid: 5"),
        ],
    )
    def test_the_upstream_s_own_ids(self, raw, expected):
        """They give way to the relay's; every other byte stays."""
        [piece] = RawView(Chat(), "s").frame(Frame(7, raw, OPAQUE))
        assert piece.data == b"id: s.7\n" + expected

    @pytest.mark.parametrize(
        ("raw", "expected"),
        [
            (b": c\n\n", b": c\n"),
            (b": c\r\n: d\r\n\r\n", b": c\r\n: d\n"),
            (b"id: 5\n: c\nevent: e\n\n", b": c\n"),
            (b"retry: 9\n\n", b"retry: 9\n"),
            (b"event: e\n\n", b""),
            (b"\n\n", b""),
        ],
    )
    def test_frames_without_data_among_ids(self, raw, expected):
        """They go without an id and without a blank line, which would be an event for some."""
        [piece] = RawView(Chat(), "s").frame(Frame(7, raw, Chat().read(raw)))
        assert piece == Piece(expected, token=False)
        [piece] = RawView(Chat()).frame(Frame(7, raw, COMMENT))
        assert piece.data == raw

    @pytest.mark.parametrize(("stream", "blank"), [(None, True), ("s", False)])
    def test_blank_lines(self, stream, blank):
        """After an id no comment may be followed by one."""
        assert RawView(Chat(), stream).blank_lines is blank

    def test_long_texts_can_be_cut(self):
        """The parts have ids up to where they go; short ones and other APIs' stay as they are."""
        raw = chat_frame({"content": "one two three " * 3})
        view = RawView(Chat(), "s")
        [piece] = view.frame(Frame(7, raw, Chat().read(raw)))
        text, part = piece.cut()
        assert text == "one two three " * 3
        assert [part(0, 7).split(b"\n")[0], part(7, 42).split(b"\n")[0]] == [
            b"id: s.7+7",
            b"id: s.7",
        ]
        assert part(0, 7).count(b"\n") == 3
        short = chat_frame({"content": "one two three"})
        assert view.frame(Frame(7, short, Chat().read(short)))[0].cut is None
        [piece] = RawView(Responses()).frame(Frame(7, raw, Event(content=True, text="x" * 99)))
        assert piece.cut() is None

    @pytest.mark.parametrize("stream", [None, "s"])
    @pytest.mark.parametrize(("sent", "rest"), [(1, "ne two"), (6, "o"), (7, None), (99, None)])
    def test_after_a_part(self, stream, sent, rest):
        """Of the one frame the rest, of any other all."""
        raw = chat_frame({"role": "assistant", "content": "one two"}, finish="stop")
        view = RawView(Chat(), stream)
        view.after(7, sent)
        frame = Frame(7, raw, Chat().read(raw))
        [piece] = view.frame(frame)
        [choice] = json.loads(sse.payload(piece.data))["choices"]
        said = {} if rest is None else {"content": rest}
        assert (choice["delta"], choice["finish_reason"]) == (said, "stop")
        assert (b"id: s.7\n" in piece.data) is (stream is not None)
        frame.number = 8
        assert view.frame(frame) == RawView(Chat(), stream).frame(frame)

    def test_after_a_part_of_what_cannot_be_cut(self):
        """It comes again rather than not at all."""
        raw = chat_frame({"content": [{"type": "text", "text": "one two"}]})
        view = RawView(Chat())
        view.after(7, 3)
        assert [piece.data for piece in view.frame(Frame(7, raw, Chat().read(raw)))] == [raw]

    def test_usage_that_the_client_did_not_ask_for(self):
        """It is left out where the relay has asked for it, and nothing else is."""
        raw = b"data: x\n\n"
        hiding = RawView(Chat(), hide_usage=True)
        assert hiding.frame(Frame(1, raw, USAGE)) == []
        assert RawView(Chat()).frame(Frame(1, raw, USAGE)) == [Piece(raw, token=False)]
        for event in (QUIET, COMMENT, MALFORMED, OPAQUE):
            assert hiding.frame(Frame(1, raw, event)) == [Piece(raw, token=False)]

    def test_the_ending_of_a_whole_stream(self):
        """Nothing is added to it."""
        assert RawView(Chat()).ending(ending()) == b""

    @pytest.mark.parametrize("dialect", [Chat, Anthropic])
    def test_the_ending_of_a_cut_stream(self, dialect):
        """One error frame of the client's API."""
        assert RawView(dialect()).ending(ending(CUT)) == dialect().error_frame(CUT)

    def test_what_the_upstream_said_is_not_said_again(self):
        """Its own error went to the client with its bytes."""
        assert RawView(Chat()).ending(ending(CUT, said=True)) == b""


class TestPlain:
    """A body that is no event stream."""

    @settings(deadline=None)
    @given(st.binary())
    def test_nothing_is_added(self, raw):
        """The bytes, and at the end nothing, whatever happened."""
        view = PlainView()
        assert view.frame(Frame(1, raw, OPAQUE)) == [Piece(raw, token=False)]
        assert view.ending(ending()) == view.ending(ending(CUT)) == b""


class TestChat:
    """`/chat`: start, answer, reasoning, tool_calls, done, error."""

    VIEW = ChatView("s-_1")

    def events(self, event, number=3):
        """Return the events of a frame, each with its mark as a token."""
        pieces = self.VIEW.frame(Frame(number, b"", event))
        return [(*event_of(piece.data), piece.token) for piece in pieces]

    @pytest.mark.parametrize("model", ["m", None])
    def test_start(self, model):
        """The first event tells the stream's name and the model, with the id STREAM.0."""
        expected = ("s-_1.0", "start", {"stream": "s-_1", "model": model})
        assert event_of(self.VIEW.start(model)) == expected

    @pytest.mark.parametrize("text", [NASTY, "x", "%s %d", " x", "</script>"])
    def test_answer(self, text):
        """Text arrives as it was sent, whatever is in it."""
        expected = [("s-_1.3", "answer", {"content": text}, True)]
        assert self.events(Event(content=True, text=text)) == expected

    @settings(deadline=None)
    @given(st.text(min_size=1))
    def test_any_text(self, text):
        """Any text is one event, and comes back whole."""
        assert self.events(Event(content=True, text=text))[0][2] == {"content": text}
        assert self.events(Event(content=True, reasoning=text))[0][2] == {"content": text}

    def test_reasoning(self):
        """What the model thinks is an event of its own kind, and a token."""
        expected = [("s-_1.3", "reasoning", {"content": NASTY}, True)]
        assert self.events(Event(content=True, reasoning=NASTY)) == expected

    def test_tool_calls(self):
        """They are as the upstream sent them, and never held."""
        expected = [("s-_1.3", "tool_calls", {"tool_calls": CALLS}, False)]
        assert self.events(Event(content=True, tool_calls=CALLS)) == expected

    def test_several_events_of_one_frame(self):
        """STREAM.FRAME+N: N code points of the frame have gone; the last has the plain id."""
        event = Event(content=True, text="你好", reasoning="hmm", tool_calls=CALLS)
        assert self.events(event, number=12) == [
            ("s-_1.12+3", "reasoning", {"content": "hmm"}, True),
            ("s-_1.12+5", "answer", {"content": "你好"}, True),
            ("s-_1.12", "tool_calls", {"tool_calls": CALLS}, False),
        ]
        rest = [("s-_1.12", "answer", {"content": "你好"}, True)]
        assert self.events(Event(content=True, text="你好", reasoning="hmm"), 12)[1:] == rest

    @pytest.mark.parametrize("other", ["reasoning", "tool_calls"])
    def test_two_events_of_one_frame(self, other):
        """Text beside something else is not all that there is."""
        values = {"reasoning": "r", "tool_calls": CALLS}
        found = self.events(Event(content=True, text="a", **{other: values[other]}))
        assert {name for _, name, _, _ in found} == {"answer", other}

    def test_long_texts_can_be_cut(self):
        """The parts are events of their own, with ids up to where they go."""
        event = Event(content=True, reasoning="r" * 40, text="one two three " * 3)
        thought, said = self.VIEW.frame(Frame(3, b"", event))
        text, part = said.cut()
        assert text == event.text
        assert event_of(part(4, 8)) == ("s-_1.3+48", "answer", {"content": "two "})
        assert event_of(part(8, 42)) == ("s-_1.3", "answer", {"content": text[8:]})
        assert event_of(thought.cut().part(39, 40)) == ("s-_1.3+40", "reasoning", {"content": "r"})
        assert thought.data == thought.cut().part(0, 40)
        for short in ("one two three", "天空是蓝色的"):
            assert self.VIEW.frame(Frame(3, b"", Event(text=short)))[0].cut is None
        assert self.VIEW.frame(Frame(3, b"", Event(text="天空是蓝色的。" * 2)))[0].cut is not None

    @pytest.mark.parametrize(
        ("sent", "expected"),
        [
            (0, ["hmm", "你好", CALLS]),
            (1, ["mm", "你好", CALLS]),
            (3, ["你好", CALLS]),
            (4, ["好", CALLS]),
            (5, [CALLS]),
            (6, []),
            (99, []),
        ],
    )
    def test_after_a_part(self, sent, expected):
        """Of the one frame what is left, of any other all."""
        event = Event(content=True, text="你好", reasoning="hmm", tool_calls=CALLS)
        view = ChatView("s")
        view.after(3, sent)
        found = [event_of(piece.data) for piece in view.frame(Frame(3, b"", event))]
        assert [data.get("content") or data["tool_calls"] for _, _, data in found] == expected
        assert [name for name, _, _ in found][-1:] == ["s.3"] * bool(expected)
        assert len(view.frame(Frame(4, b"", event))) == 3

    def test_after_a_part_of_a_single_text(self):
        """The rest has the frame's id."""
        view = ChatView("s")
        view.after(3, 4)
        [piece] = view.frame(Frame(3, b"", Event(content=True, text="one two")))
        assert event_of(piece.data) == ("s.3", "answer", {"content": "two"})

    @pytest.mark.parametrize("event", [QUIET, COMMENT, MALFORMED, OPAQUE])
    def test_nothing_to_show(self, event):
        """A role, a comment, a malformed frame and content of another kind give no event."""
        assert self.events(event) == []

    def test_done(self):
        """The summary, with null where the upstream said nothing, and without the proxy."""
        whole = ending(
            model="m", upstream="u", proxy="http://proxy", attempts=1, finish_reason="stop",
            first_token_ms=3, elapsed_ms=5, malformed=2,
        )  # fmt: skip
        assert event_of(self.VIEW.ending(whole)) == (
            "s-_1.9",
            "done",
            {
                "finish_reason": "stop", "model": "m", "upstream": "u", "attempts": 1,
                "usage": None, "first_token_ms": 3, "elapsed_ms": 5, "malformed": 2,
            },
        )  # fmt: skip

    @pytest.mark.parametrize(("first", "partial"), [(None, False), (0, True), (5, True)])
    def test_error(self, first, partial):
        """What went wrong, where, whether to try again, and whether tokens were sent."""
        cut = ending(CUT, first_token_ms=first)
        told = {"code": "upstream_cut", "message": "the upstream ended early", "stage": "stream",
                "retryable": True, "partial": partial}  # fmt: skip
        assert event_of(self.VIEW.ending(cut)) == ("s-_1.9", "error", told)

    @pytest.mark.parametrize("said", [True, False])
    def test_the_upstreams_own_error(self, said):
        """It comes with the upstream's status; `/chat` tells it, whoever said it first."""
        failure = Failure("upstream_error", "quota", stage="headers", status=429, retryable=True)
        _, name, told = event_of(self.VIEW.ending(ending(failure, said=said)))
        assert (name, told["code"], told["status"]) == ("error", "upstream_error", 429)
        assert told["message"] == "quota"
