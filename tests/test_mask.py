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


def handed_on(pieces):
    """Return what a sink behind a mask gets of these pieces, and what the mask still holds."""
    mask, found = Mask(SECRET), []
    sink = mask.before(lambda data: not found.append(data))
    assert all(map(sink, pieces))
    assert b"" not in found
    return [*found, mask.rest()]


@given(TEXT, st.lists(st.integers(0, 60)))
def test_any_split_tells_the_same(text, cuts):
    """All of it, of the same length, and nowhere the secret."""
    ends = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    pieces = [text[first:last] for first, last in pairwise(ends)]
    masked = text.replace(SECRET, b"*" * len(SECRET))
    assert b"".join(told(pieces)) == b"".join(handed_on(pieces)) == masked


def test_nothing_is_held_back_that_cannot_be_the_secret():
    """A token is told at once; of the beginning of a secret, only that waits."""
    assert told([b"Hello", b" sk-", b"-no"]) == [b"Hello", b" ", b"sk--no", b""]


def test_what_was_held_back_is_told_at_the_end():
    """It was no secret."""
    assert told([b"sk-ab"]) == [b"", b"sk-ab"]


def test_a_sink_behind_a_mask_may_have_enough():
    """Its answer is handed back, but for what it does not see."""
    sink = Mask(SECRET).before(lambda _: False)
    assert (sink(b"Hello"), sink(b"s"), sink(b"k-")) == (False, True, True)


def test_no_secret_hides_nothing():
    """Bytes are handed on as they are."""
    mask = Mask(b"")
    data = b"sk-"
    assert mask.feed(data) is data
    assert mask.before(print) is print
    assert (mask.rest(), mask.text("sk-abab")) == (b"", "sk-abab")


def test_a_text_has_stars_in_the_place():
    """As many, so that no length changes."""
    assert Mask(SECRET).text("no: sk-abab!") == "no: *******!"
