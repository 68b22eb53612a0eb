"""The tables of settings in both READMEs and in docs/ say what the code does."""

import pytest

import settings_table
from service.sources import VARIABLES

LANGUAGES = {
    "English": (settings_table.ENGLISH, settings_table.english),
    "Chinese": (settings_table.CHINESE_WORDS, settings_table.chinese),
}


@pytest.fixture(params=LANGUAGES.values(), ids=LANGUAGES)
def language(request):
    """Return the words of a language, and what each setting means in it."""
    words, meanings = request.param
    return words, meanings()


def test_every_setting_has_its_words(language):
    """Each key of each table and each variable is explained; nothing is that is not there."""
    _, meanings = language
    said = {name for name in meanings if not name.startswith("[")}
    assert said == {*settings_table.keys(), *VARIABLES}
    assert all(meanings.values())


def test_both_languages_say_something_of_the_same_tables():
    """What English says of a whole table, Chinese says too."""
    both = (settings_table.english(), settings_table.chinese())
    titles = [{name for name in each if name.startswith("[")} for each in both]
    assert titles[0] == titles[1]


def test_the_page(language):
    """`python tests/settings_table.py` mends it."""
    words, meanings = language
    assert words.page.read_text(encoding="utf-8") == settings_table.page(words, meanings)


def test_the_readme(language):
    """Its table of variables is what the script prints."""
    words, meanings = language
    text = words.readme.read_text(encoding="utf-8")
    assert settings_table.variables(words, meanings) in text
    assert settings_table.in_readme(text, words, meanings) == text
