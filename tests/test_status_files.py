"""What the status page is made of: nothing inline, nothing as markup, all in two languages."""

import re
from html.parser import HTMLParser
from importlib import resources

from relaying import relaying
from service.core import health
from service.core.history import OUTCOMES

PAGES = resources.files("service") / "pages"
FILES = {name: (PAGES / name).read_text() for name in ("status.html", "status.css")}
SCRIPTS = {
    name: (PAGES / name).read_text() for name in ("status.js", "status-words.js", "status-plots.js")
}
WORDS = SCRIPTS["status-words.js"]


class Elements(HTMLParser):
    """The elements of a document: name and attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Note an element."""
        self.found.append((tag, dict(attrs)))


ELEMENTS = Elements(FILES["status.html"]).found


def keys_of(name):
    """Return the keys of an object of the words."""
    body = re.search(rf"const {name} = \{{(.*?)\n\}};", WORDS, re.DOTALL)[1]
    return set(re.findall(r"(?m)^ {2}(\w+):", body))


def test_no_code_and_no_style_stand_in_the_html():
    """The policy would stop it anyway."""
    for tag, attributes in ELEMENTS:
        assert tag not in {"style", "iframe", "object", "embed", "base"}
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
        assert tag != "script" or attributes["src"]


def test_what_the_relay_tells_never_becomes_markup():
    """Model names and messages come from elsewhere: the scripts only write texts."""
    ways = r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|DOMParser"
    assert not re.findall(ways, "".join(SCRIPTS.values()))


def test_every_text_is_there_in_both_languages():
    """What the page says in English it says in Chinese, and it says no more than that."""
    english, chinese = keys_of("EN"), keys_of("ZH")
    assert english == chinese
    in_html = {attributes["data-text"] for _, attributes in ELEMENTS if "data-text" in attributes}
    said = set(re.findall(r"\bsay\(\s*\"(\w+)\"", "".join(SCRIPTS.values())))
    assert in_html | said <= english


def test_every_finding_has_its_sentence_in_chinese():
    """All kinds of the headline, all codes, all statuses that have a hint."""
    source = (resources.files("service") / "core" / "health.py").read_text()
    made = re.findall(r'Finding\((?:"\w+"|level), "\w+", "(\w+)"', source)
    assert set(made) == keys_of("FINDINGS")
    assert keys_of("WHY") == set(health.WHY)
    assert keys_of("HINTS") == set(map(str, health._HINTS))


def test_every_outcome_has_its_place_in_the_plot():
    """A stream that ended is in one of the groups, whatever came of it."""
    groups = re.search(r"GROUPS = \{(.*?)\n\};", SCRIPTS["status-plots.js"], re.DOTALL)[1]
    named = re.findall(r"\"(\w+)\"", groups)
    assert sorted(named) == sorted(OUTCOMES)


async def test_the_page_asks_for_what_is_there():
    """Style and scripts are served; each by its own type."""
    async with relaying("http://127.0.0.1:9", keys="ann:key-of-ann") as relay:
        for _, attributes in ELEMENTS:
            link = attributes.get("src") or attributes.get("href")
            if link and link.startswith("pages/"):
                async with relay.get(f"/{link}") as response:
                    assert response.status == 200
