"""An upstream's echo of its key comes down as stars, however it is cut into pieces."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from service.core.mask import Mask

SECRET = b"sk-abab"
TEXT = st.lists(st.sampled_from([SECRET, SECRET[:4], b"ab", b"s", b"-", b"x"])).map(b"".join)


def told(pieces):
    """Return what is told of these pieces, one by one."""
    mask = Mask(SECRET)
    return [*map(mask.feed, pieces), mask.rest()]


@given(TEXT, st.lists(st.integers(0, 60)))
def test_any_split_tells_the_same(text, cuts):
    """All of it, of the same length, and nowhere the secret."""
    ends = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    pieces = [text[first:last] for first, last in pairwise(ends)]
    found = b"".join(told(pieces))
    assert found == text.replace(SECRET, b"*" * len(SECRET))


def test_nothing_is_held_back_that_cannot_be_the_secret():
    """A token is told at once; of the beginning of a secret, only that waits."""
    assert told([b"Hello", b" sk-", b"-no"]) == [b"Hello", b" ", b"sk--no", b""]


def test_what_was_held_back_is_told_at_the_end():
    """It was no secret."""
    assert told([b"sk-ab"]) == [b"", b"sk-ab"]


def test_no_secret_hides_nothing():
    """Bytes are handed on as they are."""
    mask = Mask(b"")
    assert not mask.hides
    data = b"sk-"
    assert mask.feed(data) is data
    assert (mask.rest(), mask.text("sk-abab")) == (b"", "sk-abab")


def test_a_text_has_stars_in_the_place():
    """As many, so that no length changes."""
    assert Mask(SECRET).text("no: sk-abab!") == "no: *******!"
