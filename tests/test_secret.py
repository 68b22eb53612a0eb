"""A secret is not read by accident."""

import json
import traceback

import pytest

from service.core.secret import HIDDEN, Secret

PASSWORD = "correct horse"
WAYS = [str, repr, "{}".format, "{:>20}".format, "{!r}".format, "%s".__mod__, lambda s: str([s])]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_printing_hides_it(way):
    """Also within a list, with a width, and by the old formatting."""
    assert HIDDEN in way(Secret(PASSWORD))
    assert PASSWORD not in way(Secret(PASSWORD))


def test_an_error_that_holds_one_hides_it():
    """In its message and in its traceback."""
    error = ValueError(Secret(PASSWORD))
    assert PASSWORD not in "".join(traceback.format_exception(error))


def test_it_is_told_to_who_asks_for_it():
    """And to nobody else: no encoder takes it for a text."""
    assert Secret(PASSWORD).reveal() == PASSWORD
    with pytest.raises(TypeError):
        json.dumps(Secret(PASSWORD))


def test_equal_texts_are_equal_secrets():
    """A text is none, and an empty one says that there is no secret."""
    assert Secret("a-secret") == Secret("a-secret") != Secret("another")
    assert Secret("a-secret") != "a-secret"
    assert len({Secret("a-secret"), Secret("a-secret")}) == 1
    assert (bool(Secret()), bool(Secret("a-secret"))) == (False, True)
