"""Ids of events: what they say, and what is none."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.ids import Id, parse
from service.errors import Failure


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s-_1.0", Id("s-_1", 0)),
        ("s-_1.7", Id("s-_1", 7)),
        ("s-_1.7+3", Id("s-_1", 7, 3)),
        ("s-_1.7 3", Id("s-_1", 7, 3)),
        ("A.999999999999999+999999999999999", Id("A", 10**15 - 1, 10**15 - 1)),
    ],
)
def test_parse(text, expected):
    """A stream, a frame, and how much of it; a space is what a query makes of a plus."""
    assert parse(text) == expected


@pytest.mark.parametrize(("text", "after"), [("s.0", 0), ("s.7", 7), ("s.7+3", 6)])
def test_what_need_not_be_sent_again(text, after):
    """A frame that came in part has to be sent again, but for the parts that came."""
    assert parse(text).after == after


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "s", "s.", ".7", "s.x", "s.-1", "s.+1", "s.7+", "s.7+0", "s.7+x", "s.07", "s.7+03",
        "s.7.8", "s.7+1+2", "s 7", "s.7  3", "é.7", "s.٣", "s/../t.7", "s.7\n", "s.1" + "0" * 15,
        "x" * 129 + ".7", "x" * 5000,
    ],
)  # fmt: skip
def test_malformed(text):
    """400 that says what was expected, and not more of the text than helps."""
    with pytest.raises(Failure, match=r"expected the id of an event, STREAM\.FRAME") as caught:
        parse(text)
    assert (caught.value.code, caught.value.status) == ("bad_request", 400)
    assert len(caught.value.message) < 200


@given(st.from_regex(r"[\w-]{1,40}", fullmatch=True), st.integers(0, 10**9), st.integers(0, 10**9))
def test_there_and_back(stream, frame, part):
    """An id that was written is read as it was, in ASCII."""
    if stream.isascii():
        assert parse(str(Id(stream, frame, part))) == Id(stream, frame, part)


@given(st.text())
def test_any_text(text):
    """Any text is an id or a Failure."""
    with suppress(Failure):
        assert str(parse(text)) == text.replace(" ", "+")
