"""tests/README.md says what is tried; it is made from the tests and never out of date."""

from pathlib import Path

import tables


def of_this_run(request):
    """Return the names that this run has; where it was asked for some only, a run of its own."""
    asked = request.config.option
    some = asked.keyword, asked.deselect, asked.ignore, asked.ignore_glob
    if (
        any(some)
        or asked.markexpr != tables.MARKS
        or [Path(one).resolve() for one in request.config.args] != [tables.HERE]
    ):
        return tables.listed
    return tables.collected(item.nodeid for item in request.session.items)


def test_the_page_is_up_to_date(request):
    """What tests/README.md counts is there; `python tests/tables.py` mends it."""
    assert tables.PAGE.read_text(encoding="utf-8") == tables.page(of_this_run(request))
