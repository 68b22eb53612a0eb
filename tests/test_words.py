"""Where a text may be cut: at word ends, between graphemes, nowhere else."""

from itertools import pairwise

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from service.core.words import word_end

GRAPHEMES = [
    "👩‍👩‍👧‍👦", "🇨🇳", "🇺🇸", "👍🏽", "❤️‍🔥", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "1️⃣", "e\u0301", "é", "क्षि", "각", "각",
    "นี้", "กำ", "你", "。", "は", "\r\n", " ", "\t", "a", "Z", "7", "-", "'", "ї", "\u0600 ", "…",
]  # fmt: skip
"""Each is one to its reader: families, flags, skin tones, marks, syllables (UAX #29)."""
TEXTS = st.lists(st.sampled_from(GRAPHEMES), max_size=40).map("".join) | st.text()


def cuts(text, least=1):
    """Return all places where a reader who wants so much at a time gets the text cut."""
    places = [0]
    while places[-1] < len(text):
        places.append(word_end(text, places[-1], places[-1] + least))
        assert places[-1] > places[-2]
    return places


def parts(text, least=1):
    """Return the parts of a text."""
    places = cuts(text, least)
    return [text[a:b] for a, b in pairwise(places)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Why is the sky blue?", ["Why", " is", " the", " sky", " blue?"]),
        (" a  b \n", [" a", "  b", " \n"]),
        ("if x:\r\n\r\n    return", ["if", " x:", "\r\n\r\n    return"]),
        ("天空是蓝色的。真的？", ["天", "空", "是", "蓝", "色", "的。", "真", "的？"]),
        ("「青い」空、ね", ["「", "青", "い」", "空、", "ね"]),
        ("นี้กำ", ["นี้", "กำ"]),
        ("Hi👩‍👩‍👧‍👦👍🏽!", ["Hi", "👩‍👩‍👧‍👦", "👍🏽!"]),
        ("🇨🇳🇺🇸🇩🇪", ["🇨🇳", "🇺🇸", "🇩🇪"]),
        ("ne\u0301e cafe\u0301", ["ne\u0301e", " cafe\u0301"]),
        ("하늘은 파랗다", ["하늘은", " 파랗다"]),
        ("небо синее", ["небо", " синее"]),
        ("x" * 150, ["x" * 64, "x" * 64, "x" * 22]),
        ("ø" * 150, ["ø" * 64, "ø" * 64, "ø" * 22]),
        ("", []),
    ],
)
def test_the_smallest_parts(text, expected):
    """Words with the white space before them; graphemes where there is none; 64 at most."""
    assert parts(text) == expected


def test_at_least():
    """The first word end at or behind the place; the end of the text if there is none."""
    text = "one two three"
    assert [word_end(text, 0, least) for least in (1, 3, 4, 8, 13, 99)] == [3, 3, 7, 13, 13, 13]
    assert word_end(text, 3, 4) == 7


@given(st.lists(st.sampled_from(GRAPHEMES), max_size=40), st.integers(1, 9))
def test_graphemes_that_are_known_stay_whole(graphemes, least):
    """Behind letters that join with nothing, each of them begins and ends where it did."""
    text = "".join(f"x{grapheme}" for grapheme in graphemes)
    inside, at = set(), 0
    for grapheme in graphemes:
        inside.update(range(at + 2, at + 1 + len(grapheme)))
        at += 1 + len(grapheme)
    assert not inside & set(cuts(text, least))


@given(TEXTS, st.integers(1, 9))
def test_no_cut_inside_a_grapheme(text, least):
    r"""Every cut is between two extended grapheme clusters of the whole text."""
    allowed = {0, *(found.end() for found in regex.finditer(r"\X", text))}
    assert set(cuts(text, least)) <= allowed


@given(TEXTS, st.integers(1, 9))
def test_nothing_is_lost(text, least):
    """The parts, joined, are the text."""
    assert "".join(parts(text, least)) == text
