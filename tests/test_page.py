"""The page: it needs nothing from outside, runs nothing inline, and shows text as text."""

import re
from html.parser import HTMLParser
from importlib import resources
from urllib.parse import urljoin

import pytest

from fakes import Upstream, reply
from line import exchange
from relaying import relaying
from service.errors import CODES

PAGES = resources.files("service") / "pages"
HTML = (PAGES / "index.html").read_text()
FILES = {file.name: file.read_text() for file in PAGES.iterdir() if file.is_file()}
SCRIPTS = {name: text for name, text in FILES.items() if name.endswith(".js")}
TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}
PARTS = {"/": "index.html"} | {f"/pages/{name}": name for name in FILES if name != "index.html"}
XML_NAMESPACE = "http://www.w3.org/2000/svg"
"""The name of SVG, which no browser asks for."""
SOME = ("/", "/pages/base.css", "/pages/typewriter.js", "/pages/icon.svg")


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
    name = PARTS[path]
    answer = await get(path)
    assert (answer.status, answer.whole) == (200, True)
    assert answer.get("content-type") == f"{TYPES[name.rpartition('.')[2]]}; charset=utf-8"
    assert answer.body == (PAGES / name).read_bytes()


@pytest.mark.parametrize("path", SOME)
async def test_the_headers_that_keep_a_page_to_itself(path):
    """Nothing from elsewhere, nothing inline, in nobody's frame; an update is seen at once."""
    answer = await get(path)
    policy = dict(rule.split(" ", 1) for rule in answer.get("content-security-policy").split("; "))
    assert policy["default-src"] == "'none'"
    for kind in ("script", "style", "img", "connect"):
        assert policy[f"{kind}-src"] == "'self'"
    assert (policy["require-trusted-types-for"], policy["trusted-types"]) == ("'script'", "'none'")
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert "unsafe" not in answer.get("content-security-policy")
    assert answer.get("x-content-type-options") == "nosniff"
    assert answer.get("referrer-policy") == "no-referrer"
    assert answer.get("cache-control") == "no-cache"
    assert answer.get("cross-origin-opener-policy") == "same-origin"
    assert "set-cookie" not in answer.names()


@pytest.mark.parametrize("path", SOME)
async def test_what_a_browser_has_is_not_sent_again(path):
    """304 to the ETag that it shows, with the same headers; the whole to any other."""
    answer = await get(path)
    tag = answer.get("etag")
    again = await get(path, ("If-None-Match", f'"other", {tag}'))
    assert (again.status, again.tail, again.get("etag")) == (304, b"", tag)
    assert again.get("content-security-policy") == answer.get("content-security-policy")
    assert (await get(path, ("If-None-Match", '"other"'))).status == 200


async def test_all_of_the_page_is_open_where_keys_are_set():
    """A browser has no key to show when it loads the page; what the page asks for needs one."""
    for path in SOME:
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
    loaded = [
        link for tag, a, _ in ELEMENTS if tag != "a" and (link := a.get("src") or a.get("href"))
    ]
    assert {urljoin("/", link) for link in loaded} <= set(PARTS) - {"/"}
    assert not [link for link in loaded if link.startswith("/")]


def test_every_module_is_named_in_the_html():
    """What modules import, at any depth, is asked for at once, not one after the other."""
    needed, found = {"typewriter.js"}, set()
    while needed:
        name = needed.pop()
        found.add(name)
        imported = set(re.findall(r'(?m)^(?:import|\} from)\b.*?"\./([\w.]+)";$', SCRIPTS[name]))
        needed |= imported - found
    preloaded = {a["href"] for tag, a, _ in ELEMENTS if a.get("rel") == "modulepreload"}
    assert preloaded == {f"pages/{name}" for name in found - {"typewriter.js"}}


def test_modules_import_what_is_beside_them():
    """By the address of a file that is there; no bare name, no import() by a made-up one."""
    for text in SCRIPTS.values():
        for source in re.findall(r'(?m)\bfrom "([^"]+)"', text):
            assert source.removeprefix("./") in SCRIPTS
            assert source.startswith("./")
        assert "import(" not in text


@pytest.mark.parametrize("name", FILES)
def test_nothing_comes_from_outside(name):
    """No address of another machine, in no file; no @import, no url() to elsewhere."""
    text = _code(name).replace(XML_NAMESPACE, "")
    assert not re.findall(r"(?:https?|wss?|ftp)://\w|[\"'(=\s]//[a-z]", text, re.IGNORECASE)
    assert "@import" not in FILES[name]
    assert all(url.startswith("#") for url in re.findall(r"url\(\s*[\"']?([^)]*)", FILES[name]))


def _code(name):
    """Return a file without the // comments of JavaScript."""
    text = FILES[name]
    return re.sub(r"(?m)(?:^|\s)//\s.*$", "", text) if name.endswith(".js") else text


@pytest.mark.parametrize("name", SCRIPTS)
def test_text_of_a_model_never_becomes_html(name):
    """No script has a way to make markup or code out of a text."""
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|srcdoc"
    code = r"\beval\b|new Function|DOMParser|setHTMLUnsafe|setTimeout\(\s*[\"'`]|importScripts"
    assert not re.findall(f"{ways}|{code}", SCRIPTS[name])


def test_what_the_script_takes_hold_of_is_there():
    """Every `part.name` of the page's script is an id of the HTML, every part of a turn is one."""
    ids = {attributes["id"] for _, attributes, _ in ELEMENTS if "id" in attributes}
    named = set(re.findall(r"\bpart\.(\w+)", SCRIPTS["typewriter.js"]))
    assert named
    assert named <= ids
    parts = {a["data-part"] for _, a, _ in ELEMENTS if "data-part" in a}
    asked = set(re.findall(r'#part\("(\w+)"\)', SCRIPTS["turn.js"]))
    assert asked
    assert asked <= parts


def test_every_text_is_there_in_both_languages():
    """What the page says in English it says in Chinese, with the same {values} in it."""
    english, chinese = (_texts(language) for language in ("en", '"zh-CN"'))
    assert english.keys() == chinese.keys()
    for name, text in english.items():
        assert _values(text) == _values(chinese[name]), name


def test_every_text_that_is_named_is_there():
    """A name in the HTML or in a script has a text, and a text has somebody who names it."""
    english = _texts("en")
    in_html = {a[f"data-{how}"] for _, a, _ in ELEMENTS for how in HOW if a.get(f"data-{how}")}
    assert in_html <= english.keys()
    scripts = "".join(text for name, text in SCRIPTS.items() if name != "texts.js")
    spoken = r'\b(?:tell\([^,]+, |said\(|show\(|#cut\()"(\w+)"'
    assert set(re.findall(spoken, scripts)) <= english.keys()
    quoted = set(re.findall(r'"(\w+)"', scripts))
    made = r"(advice|message|theme)_\w+"
    silent = english.keys() - in_html - quoted
    assert not [name for name in silent if not re.fullmatch(made, name)]


def test_advice_is_for_codes_that_there_are():
    """advice_CODE: one of the relay's codes, or of the page's own; messages are of its own."""
    own = {"no_connection", "line_lost", "no_stream", "no_end", "page"}
    to_come = {"resume_lost"}
    names = {name.removeprefix("advice_") for name in _texts("en") if name.startswith("advice_")}
    names = {name for name in names if not name.startswith("whose_")} - {"later"}
    assert names - own - to_come <= CODES.keys()
    said = {name.removeprefix("message_") for name in _texts("en") if name.startswith("message_")}
    assert said <= own


def test_the_english_text_of_the_html_is_the_table_s():
    """Without the script the page says the same."""
    english = _texts("en")
    for _, attributes, text in ELEMENTS:
        name = attributes.get("data-text")
        if name and text.strip():
            assert text.strip() == english[name]


HOW = ("text", "label", "hint", "title")


def _texts(language):
    """Return the texts of a language: {name: text}."""
    table = re.search(rf"(?ms)^  {language}: \{{$(.*?)^  \}}", SCRIPTS["texts.js"])[1]
    return dict(re.findall(r'(?m)^    (\w+):\s+"([^"]*)",$', table))


def _values(text):
    """Return the names in braces."""
    return set(re.findall(r"\{(\w+)\}", text))
