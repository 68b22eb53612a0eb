"""The page: it needs nothing from outside, runs nothing inline, and shows text as text."""

import re
from html.parser import HTMLParser
from importlib import resources
from urllib.parse import urljoin

import pytest

from fakes import Upstream, reply
from line import exchange
from relaying import relaying

PAGES = resources.files("service") / "pages"
HTML = (PAGES / "index.html").read_text()
JS = (PAGES / "typewriter.js").read_text()
FILES = {file.name: file.read_text() for file in PAGES.iterdir() if file.is_file()}
PARTS = {
    "/": ("text/html", "index.html"),
    "/pages/typewriter.css": ("text/css", "typewriter.css"),
    "/pages/typewriter.js": ("text/javascript", "typewriter.js"),
}


class Elements(HTMLParser):
    """The elements of a document: name, attributes, text."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        """Note an element."""
        self.found.append([tag, dict(attrs), ""])

    def handle_data(self, data):
        """Note its text."""
        if self.found:
            self.found[-1][2] += data


ELEMENTS = Elements(HTML).found


async def get(path, *pairs, method="GET", **settings):
    """Ask the relay for a part of the page."""
    async with Upstream(reply(200)) as upstream, relaying(upstream.url, **settings) as relay:
        answer = await exchange(relay.port, method, path, *pairs)
    assert upstream.requests == []
    return answer


@pytest.mark.parametrize("path", PARTS)
async def test_the_page_and_its_parts(path):
    """Each comes with its type, as it stands in the package."""
    kind, name = PARTS[path]
    answer = await get(path)
    assert (answer.status, answer.whole) == (200, True)
    assert answer.get("content-type") == f"{kind}; charset=utf-8"
    assert answer.body == (PAGES / name).read_bytes()


@pytest.mark.parametrize("path", PARTS)
async def test_the_headers_that_keep_a_page_to_itself(path):
    """Nothing from elsewhere, nothing inline, in nobody's frame; an update is seen at once."""
    answer = await get(path)
    policy = dict(rule.split(" ", 1) for rule in answer.get("content-security-policy").split("; "))
    assert policy["default-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert "unsafe" not in answer.get("content-security-policy")
    assert answer.get("x-content-type-options") == "nosniff"
    assert answer.get("referrer-policy") == "no-referrer"
    assert answer.get("cache-control") == "no-cache"
    assert "set-cookie" not in answer.names()


async def test_all_of_the_page_is_open_where_keys_are_set():
    """A browser has no key to show when it loads the page; what the page asks for needs one."""
    for path in PARTS:
        assert (await get(path, keys="ann:key")).status == 200
    assert (await get("/chat?question=Hi", keys="ann:key")).status == 401


async def test_the_icon_is_nothing():
    """A browser that asks for one gets 204, with or without keys, not an error."""
    for settings in ({}, {"keys": "ann:key"}):
        answer = await get("/favicon.ico", **settings)
        assert (answer.status, answer.tail) == (204, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/pages/",
        "/pages",
        "/pages/none.js",
        "/pages/web.py",
        "/pages/../web.py",
        "/pages/..%2fweb.py",
        "/pages/%2e%2e%2fdemo.py",
        "/pages/sub/typewriter.js",
        "/pages/%2fetc%2fpasswd",
        "/pages/x%00.js",
        "/pages/..%5cweb.js",
        "/index.html",
    ],
)
async def test_nothing_else_is_served(path):
    """Only the parts of the page, by their names; no file beside them, no error of the relay's."""
    answer = await get(path)
    assert answer.status in {400, 404}
    assert answer.error["code"] in {"bad_request", "not_found"}


async def test_head_has_no_body():
    """HEAD tells what GET would send."""
    answer = await get("/", method="HEAD")
    assert (answer.status, answer.tail) == (200, b"")
    assert answer.get("content-length") == str(len(HTML.encode()))


# --- what it is made of


def test_no_code_stands_in_the_html():
    """No inline script, style, handler or javascript: URL, which the policy would stop anyway."""
    for tag, attributes, text in ELEMENTS:
        assert tag not in {"style", "iframe", "object", "embed", "base"}
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        assert not [value for value in attributes.values() if "javascript:" in (value or "")]
        if tag == "script":
            assert attributes["src"]
            assert not text.strip()


def test_every_link_is_a_part_of_the_page():
    """What the HTML loads is among what the relay serves, also below a front end's path."""
    links = [a.get("src") or a.get("href") for _, a, _ in ELEMENTS]
    loaded = [link for link in links if link]
    assert {urljoin("/", link) for link in loaded} == set(PARTS) - {"/"}
    assert not [link for link in loaded if link.startswith("/")]


@pytest.mark.parametrize("name", FILES)
def test_nothing_comes_from_outside(name):
    """No address of another machine, in no file; no @import, no url() to elsewhere."""
    assert not re.findall(r"(?:https?|wss?|ftp):|[\"'(=\s]//[a-z]", _code(name), re.IGNORECASE)
    assert "@import" not in FILES[name]
    assert all(url.startswith("#") for url in re.findall(r"url\(\s*[\"']?([^)]*)", FILES[name]))


def _code(name):
    """Return a file without the // comments of JavaScript."""
    text = FILES[name]
    return re.sub(r"(?m)(?:^|\s)//\s.*$", "", text) if name.endswith(".js") else text


def test_text_of_a_model_never_becomes_html():
    """The script has no way to make elements or code out of a text."""
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|srcdoc"
    code = r"\beval\b|new Function|DOMParser|setHTMLUnsafe|setTimeout\(\s*[\"'`]|importScripts"
    assert not re.findall(f"{ways}|{code}", JS)


def test_what_the_script_takes_hold_of_is_there():
    """Every `part.name` of the script is an id of the HTML."""
    ids = {attributes["id"] for _, attributes, _ in ELEMENTS if "id" in attributes}
    named = set(re.findall(r"\bpart\.(\w+)", JS)) | set(_list("written"))
    assert named
    assert named <= ids


def test_the_script_reads_every_event_of_chat():
    """start, reasoning, answer, tool_calls, done and error, each by its name."""
    names = set(re.findall(r"\bon\(\"(\w+)\"", JS))
    assert names == {"start", "reasoning", "answer", "tool_calls", "done", "error"}


def test_every_text_is_there_in_both_languages():
    """What the page says in English it says in Chinese, and the other way round."""
    english, chinese = _keys("EN"), _keys("ZH")
    in_html = {
        attributes["data-text"] for _, attributes, _ in ELEMENTS if "data-text" in attributes
    }
    assert english | in_html == chinese
    said = set(re.findall(r"\bsay\.(\w+)", JS))
    assert said <= english
    assert not english & in_html


def _keys(name):
    """Return the keys of an object in the script."""
    body = re.search(rf"const {name} = \{{(.*?)\n\}};", JS, re.DOTALL)[1]
    return set(re.findall(r"(?m)^\s+(\w+):", body))


def _list(name):
    """Return the texts of a list in the script."""
    return re.findall(r"\"(\w+)\"", re.search(rf"const {name} = \[(.*?)\]", JS)[1])
