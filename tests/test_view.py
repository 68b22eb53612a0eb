"""The same frames on every wire: bytes as they came for /v1, named events for /chat."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.frames import chat_frame
from service.core import sse
from service.core.dialect import Anthropic, Chat
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
        [piece] = RawView(Chat(), "s-_1").frame(Frame(7, raw, QUIET))
        assert piece.data == b"id: s-_1.7\ndata: x\n\n"

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
        """Each has an id of its own: STREAM.FRAME+N."""
        event = Event(content=True, text="a", reasoning="r", tool_calls=CALLS)
        assert self.events(event, number=12) == [
            ("s-_1.12+1", "reasoning", {"content": "r"}, True),
            ("s-_1.12+2", "answer", {"content": "a"}, True),
            ("s-_1.12+3", "tool_calls", {"tool_calls": CALLS}, False),
        ]

    @pytest.mark.parametrize("other", ["reasoning", "tool_calls"])
    def test_two_events_of_one_frame(self, other):
        """Text beside something else is not all that there is."""
        values = {"reasoning": "r", "tool_calls": CALLS}
        found = self.events(Event(content=True, text="a", **{other: values[other]}))
        assert {name for _, name, _, _ in found} == {"answer", other}

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
