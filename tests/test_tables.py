"""tests/README.md says what is tried; it is made from the tests and never out of date."""

import tables


def test_the_page_is_up_to_date():
    """What tests/README.md counts is there; `python tests/tables.py` mends it."""
    assert tables.PAGE.read_text(encoding="utf-8") == tables.page()
