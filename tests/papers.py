"""The pages that people read: their fenced blocks, their headings and their links.

block("README.md", "sh", "curl -N 'http")       # the one block of that language that holds that
"""

import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
README, CHINESE = "README.md", "README.zh-CN.md"
HTTP, WAYS, OPERATIONS = "docs/http.md", "docs/ways.md", "docs/operations.md"
PAGES = [README, CHINESE, *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
_LINK = re.compile(r"""\]\(([^)\s]+)\)|(?:src|srcset)="([^"]+)\"""")
_COMMENT = re.compile(r"\s*(?:#|//) .*$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block; `language` is "" for what is only looked at."""

    language: str
    text: str

    @property
    def bare(self) -> str:
        """The text without comments, which are translated."""
        return _COMMENT.sub("", self.text)


def text(page: str) -> str:
    """Return a page."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page, in their order."""
    return [Block(*found) for found in _FENCED.findall(text(page))]


def block(page: str, language: str, holding: str) -> str:
    """Return the text of the one block of that language that holds that."""
    (found,) = [
        each.text
        for each in blocks(page)
        if (each.language, holding in each.text) == (language, True)
    ]
    return found


def headings(page: str) -> list[tuple[int, str]]:
    """Return depth and words of a page's headings."""
    found = _HEADING.findall(_FENCED.sub("", text(page)))
    return [(len(marks), words) for marks, words in found]


def links(page: str) -> list[str]:
    """Return where a page's links and pictures lead, those to other sites left out."""
    found = [one or other for one, other in _LINK.findall(_FENCED.sub("", text(page)))]
    return [link for link in found if not re.match(r"https?:", link)]


def anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading: small, no punctuation, - for a space."""
    kept = [c for c in heading.lower() if c in " -_" or unicodedata.category(c)[0] in "LNM"]
    return "".join(kept).replace(" ", "-")
