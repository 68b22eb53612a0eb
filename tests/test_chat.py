"""What a request asks of /chat, and what can be told of a /v1 body without changing it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.chat import (
    TYPEWRITER_MS,
    Glance,
    Pacing,
    counted,
    from_json,
    from_query,
    glance,
    pacing,
    pacing_of_headers,
)
from service.errors import Failure

NASTY = 'He said "}" \\n {quote} ```\n\r\n你好 👩‍👩‍👧 </script> \u2028\x00'
OFF = Pacing("off", 0)
DEEP = b'{"question":"x","a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def posted(**fields):
    """Read a POST with these fields."""
    return from_json(json.dumps(fields).encode())


def sent(ask, model="default"):
    """Return the JSON that goes upstream."""
    return json.loads(ask.payload(model))


def refusal(read, *args):
    """Return the message with which this is refused; the client's fault, not to be retried."""
    with pytest.raises(Failure) as caught:
        read(*args)
    assert (caught.value.code, caught.value.status) == ("bad_request", 400)
    assert not caught.value.retryable
    return caught.value.message


class TestQuery:
    """GET /chat?question=…"""  # noqa: D400

    @settings(deadline=None)
    @given(st.text(min_size=1).filter(str.strip))
    def test_a_question(self, question):
        """It is the one message of the user, whatever is in it."""
        assert sent(from_query({"question": question})) == {
            "model": "default",
            "messages": [{"role": "user", "content": question}],
            "stream": True,
        }

    @pytest.mark.parametrize("question", [NASTY, "你" * 900, " x "])
    def test_it_arrives_as_sent(self, question):
        """Quotes, newlines, emoji, Chinese; nothing is trimmed."""
        ask = from_query({"question": question})
        assert sent(ask)["messages"][0]["content"] == question

    @pytest.mark.parametrize(
        ("query", "model"), [({"model": "m"}, "m"), ({"model": ""}, None), ({}, None)]
    )
    def test_model(self, query, model):
        """The request's model, or none, for which the default stands in."""
        ask = from_query({"question": "x", **query})
        assert ask.model == model
        assert sent(ask)["model"] == (model or "default")

    def test_pace(self):
        """Pace and delay are read, and do not go upstream."""
        ask = from_query({"question": "x", "pace": "typewriter", "delay_ms": "60000"})
        assert (ask.pace, ask.delay_ms) == ("typewriter", 60_000)
        assert sent(ask).keys() == {"model", "messages", "stream"}

    def test_other_fields(self):
        """What is not the relay's own is passed over; only a POST may carry parameters."""
        ask = from_query({"question": "x", "keep": "5", "ticket": "t", "temperature": "2"})
        assert (ask.pace, ask.delay_ms) == (None, None)
        assert sent(ask).keys() == {"model", "messages", "stream"}

    @pytest.mark.parametrize("query", [{}, {"question": ""}, {"question": " \n"}, {"q": "x"}])
    def test_no_question(self, query):
        """Without a question there is nothing to ask."""
        assert "question" in refusal(from_query, query)

    @pytest.mark.parametrize(
        "delay", ["", "x", "-1", "60001", "1.5", "1e3", "+1", " 1", "٣", "²", "1_0", "9" * 5000]
    )
    def test_delays_refused(self, delay):
        """Whole milliseconds up to a minute; the message tells what came, if it is short."""
        message = refusal(from_query, {"question": "x", "delay_ms": delay})
        assert message.startswith("delay_ms must be a whole number from 0 to 60000, not '")
        assert delay[:10] in message
        assert len(message) < 200


class TestBody:
    """POST /chat."""

    def test_a_question(self):
        """As in a query."""
        assert sent(posted(question=NASTY, model="m")) == {
            "model": "m",
            "messages": [{"role": "user", "content": NASTY}],
            "stream": True,
        }

    def test_a_megabyte(self):
        """A long text arrives whole."""
        text = "你好 " * 150_000
        assert sent(posted(question=text))["messages"][0]["content"] == text

    def test_messages_and_parameters(self):
        """Messages and any parameter of the API go upstream as they came."""
        body = {
            "messages": [{"role": "system", "content": NASTY}, {"role": "user", "content": [1]}],
            "temperature": 0.1,
            "stream_options": {"include_usage": True},
            "tools": [{"a": None}],
            "unknown": NASTY,
            "seed": 2**60,
        }
        assert sent(posted(**body)) == {**body, "model": "default", "stream": True}

    @pytest.mark.parametrize("stream", [True, False, None, "x", {}])
    def test_stream_is_ignored(self, stream):
        """`/chat` always asks for a stream."""
        assert sent(posted(question="x", stream=stream))["stream"] is True

    def test_the_relays_own_fields_stay(self):
        """Pace, delay, keep and ticket are nothing to the upstream."""
        ask = posted(question="x", pace="off", delay_ms=5, keep=1, ticket="t")
        assert (ask.pace, ask.delay_ms) == ("off", 5)
        assert sent(ask).keys() == {"model", "messages", "stream"}

    @pytest.mark.parametrize(("model", "expected"), [("m", "m"), ("", None), (None, None)])
    def test_model(self, model, expected):
        """An empty model is none."""
        ask = posted(question="x", model=model)
        assert (ask.model or None) == expected
        assert sent(ask)["model"] == (expected or "default")

    @pytest.mark.parametrize("n", [1, None])
    def test_one_answer(self, n):
        """One is what n may be."""
        assert sent(posted(question="x", n=n))["n"] == n

    @pytest.mark.parametrize("n", [0, 2, -1, "1", [], {}, [1], 1.5])
    def test_several_answers(self, n):
        """An event stream has one answer."""
        assert refusal(posted_with, {"question": "x", "n": n}).startswith("n must be 1")

    @pytest.mark.parametrize(
        ("fields", "named"),
        [
            ({}, "question"),
            ({"question": ""}, "question"),
            ({"question": None}, "question"),
            ({"question": 5}, "question"),
            ({"question": ["x"]}, "question"),
            ({"question": "x", "messages": [{}]}, "both question and messages"),
            ({"messages": []}, "messages"),
            ({"messages": None}, "messages"),
            ({"messages": "x"}, "messages"),
            ({"messages": {"role": "user"}}, "messages"),
            ({"question": "x", "model": 5}, "model"),
            ({"question": "x", "model": ["m"]}, "model"),
            ({"question": "x", "pace": 5}, "pace"),
            ({"question": "x", "pace": ["off"]}, "pace"),
            ({"question": "x", "delay_ms": True}, "delay_ms"),
            ({"question": "x", "delay_ms": 1.5}, "delay_ms"),
            ({"question": "x", "delay_ms": -1}, "delay_ms"),
            ({"question": "x", "delay_ms": 60_001}, "delay_ms"),
            ({"question": "x", "delay_ms": []}, "delay_ms"),
            ({"question": "x", "delay_ms": {"a": "x" * 500}}, "delay_ms"),
        ],
    )
    def test_refusals_name_the_field(self, fields, named):
        """A field of a wrong type or value is named."""
        message = refusal(posted_with, fields)
        assert named in message
        assert len(message) < 200

    @pytest.mark.parametrize("data", [b"", b"x", b"{", b'{"question": "\xff"}', b"[" * 10**5, DEEP])
    def test_no_json(self, data):
        """A body that is no JSON, or too deep, is told so without a word of it."""
        message = refusal(from_json, data)
        assert message.startswith("the body is not JSON: ")
        assert len(message) < 200

    @pytest.mark.parametrize("data", [b"5", b"null", b'"x"', b"[1]"])
    def test_no_object(self, data):
        """JSON of another kind is told what an object looks like."""
        assert "JSON object" in refusal(from_json, data)


def posted_with(fields):
    """Read a POST with these fields."""
    return posted(**fields)


class TestPacing:
    """The pace of one response: what was asked for, else the default."""

    SLOW = Pacing("typewriter", 2.0)
    SMOOTH = Pacing("smooth", 0)

    @pytest.mark.parametrize(
        ("pace", "delay", "default", "expected"),
        [
            (None, None, OFF, OFF),
            (None, None, SLOW, SLOW),
            (None, None, SMOOTH, SMOOTH),
            (None, 1000, OFF, Pacing("typewriter", 1.0)),
            (None, 1, SLOW, Pacing("typewriter", 0.001)),
            (None, 0, SLOW, OFF),
            ("off", None, SLOW, OFF),
            ("off", 0, SLOW, OFF),
            ("typewriter", None, SLOW, SLOW),
            ("typewriter", None, OFF, Pacing("typewriter", TYPEWRITER_MS / 1000)),
            ("typewriter", None, Pacing("typewriter", 0), Pacing("typewriter", 0.05)),
            ("typewriter", 60_000, SLOW, Pacing("typewriter", 60.0)),
            ("typewriter", 0, SLOW, OFF),
            ("smooth", None, SLOW, SMOOTH),
            ("smooth", 0, OFF, SMOOTH),
            (None, 0, SMOOTH, OFF),
            (None, 1000, SMOOTH, Pacing("typewriter", 1.0)),
            ("typewriter", None, SMOOTH, Pacing("typewriter", TYPEWRITER_MS / 1000)),
            ("off", None, SMOOTH, OFF),
        ],
    )
    def test_combinations(self, pace, delay, default, expected):
        """A delay implies the typewriter, no delay ends it, and the pace that was named wins."""
        assert pacing(pace, delay, default) == expected

    @pytest.mark.parametrize("pace", ["", "fast", "OFF", "x" * 5000])
    def test_unknown_paces(self, pace):
        """The message names the field and the paces that there are."""
        message = refusal(pacing, pace, None, OFF)
        assert message.startswith("pace must be one of off, smooth, typewriter, not '")
        assert len(message) < 200

    def test_contradiction(self):
        """A delay cannot go with another pace."""
        for pace in ("off", "smooth"):
            told = f"delay_ms needs the pace typewriter, not {pace}"
            assert refusal(pacing, pace, 5, OFF) == told

    @pytest.mark.parametrize(
        ("headers", "expected"),
        [
            ({}, None),
            ({"Teleprinter-Pace": "off"}, OFF),
            ({"Teleprinter-Pace": "smooth"}, Pacing("smooth", 0)),
            ({"Teleprinter-Pace": "smooth", "Teleprinter-Delay": "0"}, Pacing("smooth", 0)),
            ({"Teleprinter-Pace": "typewriter"}, Pacing("typewriter", 0.05)),
            ({"Teleprinter-Delay": "250"}, Pacing("typewriter", 0.25)),
            ({"Teleprinter-Delay": "0"}, OFF),
            (
                {"Teleprinter-Pace": "typewriter", "Teleprinter-Delay": "1"},
                Pacing("typewriter", 0.001),
            ),
        ],
    )
    def test_headers(self, headers, expected):
        """What the headers ask for; None where they are silent, and the upstream's pace holds."""
        assert pacing_of_headers(headers) == expected

    @pytest.mark.parametrize(
        ("headers", "message"),
        [
            (
                {"Teleprinter-Pace": "x"},
                "Teleprinter-Pace must be one of off, smooth, typewriter, not 'x'",
            ),
            (
                {"Teleprinter-Pace": "smooth", "Teleprinter-Delay": "5"},
                "Teleprinter-Delay needs the Teleprinter-Pace typewriter, not smooth",
            ),
            (
                {"Teleprinter-Delay": "x"},
                "Teleprinter-Delay must be a whole number from 0 to 60000, not 'x'",
            ),
            (
                {"Teleprinter-Pace": "off", "Teleprinter-Delay": "5"},
                "Teleprinter-Delay needs the Teleprinter-Pace typewriter, not off",
            ),
        ],
    )
    def test_headers_refused(self, headers, message):
        """The message names the header."""
        assert refusal(pacing_of_headers, headers) == message


class TestGlance:
    """What routing needs to know of a body, which stays as it is."""

    @pytest.mark.parametrize(
        ("data", "model", "stream"),
        [
            (b'{"model":"m","stream":true}', "m", True),
            (b' \r\n\t{"stream":false,"a":{"model":"x"},"model":"m"} ', "m", False),
            (b"{}", None, None),
            (b'{"model":5,"stream":"yes"}', 5, "yes"),
            (b'{"model":"m","a":"\xff"}', "m", None),
        ],
    )
    def test_objects(self, data, model, stream):
        """Only the top level counts."""
        assert glance(data) == Glance(model, stream)

    @pytest.mark.parametrize(
        ("model", "named"), [("m", "m"), ("", ""), (None, None), (["m"], None)]
    )
    def test_a_model_is_a_text(self, model, named):
        """Anything else names none."""
        assert glance(json.dumps({"model": model}).encode()).named == named

    @pytest.mark.parametrize(
        "data",
        [b"", b"  ", b"[]", b"5", b'{"model":"m"', b'{"model":"\xff"}', b"--x\r\nmodel",
         b"\x1f\x8b", b'["model"]', DEEP],
    )  # fmt: skip
    def test_others(self, data):
        """A body that cannot be read names no model and asks for no stream."""
        assert glance(data) == Glance(None, None)

    @settings(deadline=None)
    @given(st.binary() | st.binary().map(b"{".__add__))
    def test_any_body(self, data):
        """No bytes make it raise."""
        assert isinstance(glance(data), Glance)


class TestCounted:
    """A request's body, so that the upstream tells the usage."""

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ({}, {"include_usage": True}),
            ({"stream_options": None}, {"include_usage": True}),
            ({"stream_options": {}}, {"include_usage": True}),
            ({"stream_options": {"include_usage": False}}, {"include_usage": True}),
            (
                {"stream_options": {"include_obfuscation": False}},
                {"include_obfuscation": False, "include_usage": True},
            ),
        ],
    )
    def test_asked_for(self, before, after):
        """Where the client did not ask for it, the relay does, and keeps all else."""
        asked = {"model": "m", "messages": [NASTY], "seed": 2**70, "temperature": 1.0, **before}
        body, changed = counted(json.dumps(asked).encode())
        assert changed
        assert json.loads(body) == {**asked, "stream_options": after}

    @pytest.mark.parametrize(
        "data",
        [
            b'{ "stream_options" : {"include_usage": true}}',
            b'{"stream_options": 5}',
            b'{"stream_options": ["x"]}',
            b'{"a": "\xff"}',
            b'{"a": "\\ud83d"}',
            b"{",
            b"",
            b"[1]",
            b"5",
            DEEP,
        ],
    )
    def test_as_it_is(self, data):
        """A body that asks for it already, or cannot be read, keeps its bytes."""
        assert counted(data) == (data, False)


@settings(deadline=None)
@given(st.binary() | st.binary().map(b'{"question":"x",'.__add__))
def test_any_posted_bytes(data):
    """Any body is a question that can be sent, or is refused."""
    try:
        ask = from_json(data)
    except Failure:
        return
    assert sent(ask)["stream"] is True


@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ["question", "messages", "model", "n", "pace", "delay_ms", "stream"],
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
            | st.lists(st.integers(), max_size=2) | st.dictionaries(st.text(max_size=2), st.none()),
        ),
    )
)  # fmt: skip
def test_any_posted_types(fields):
    """Any types in the fields that the relay reads are a question, or are refused."""
    try:
        ask = posted(**fields)
        found = pacing(ask.pace, ask.delay_ms, OFF)
    except Failure:
        return
    assert isinstance(sent(ask)["model"], str)
    assert 0 <= found.delay <= 60
