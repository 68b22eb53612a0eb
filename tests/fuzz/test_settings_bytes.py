"""Settings from any bytes, or a SettingsError that names the place and tells no secret."""

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service import sources
from service.core.proxy import chain, from_environment, parse
from service.settings import SettingsError, load, redacted
from service.sources import VARIABLES
from strategies import examples

CANARY = "hunter2-canary"
CONFIG = Path(__file__).parents[2] / "config" / "teleprinter.toml"
LINES = [
    line.removeprefix("# ")
    for line in CONFIG.read_text(encoding="utf-8").splitlines()
    if "=" in line or line.strip("# ").startswith("[")
]
VALUES = st.sampled_from(
    [
        "",
        "0",
        "-1",
        "1e999",
        "nan",
        "true",
        "[]",
        "{}",
        "[[]]",
        "1979-05-27",
        "0x" + "f" * 40,
        '"${NAME}"',
        '"${"',
        '"$${x"',
        '"\\u0000"',
        f'"{CANARY}"',
        f'["me:{CANARY}"]',
        f'["socks5h://me:{CANARY}@h"]',
        f'["socks5h://me:{CANARY}@h", "x:1"]',
        f'"redis://:{CANARY}@h/0"',
        f'"https://me:{CANARY}@h/v1?a"',
        f'{{"X-Key" = "{CANARY}"}}',
        CANARY,
        f"'''{CANARY}",
    ]
)
ROWS = (
    st.sampled_from(LINES)
    | st.builds(
        lambda line, value: f"{line.partition('=')[0]}= {value}", st.sampled_from(LINES), VALUES
    )
    | st.builds(lambda kind: f"[[{kind}]]", st.sampled_from(["upstream", "pool"]))
    | st.text(max_size=10)
)
FILES = st.lists(ROWS, max_size=12).map("\n".join).map(str.encode) | st.binary(max_size=60)
DEEP = [
    b"a=" + b"[" * 5000,
    b"a={" * 3000,
    b"a.b" * 3000 + b"=1",
    b"a=" + b"1" * 5000,
    b"[server]\nport=0x" + b"f" * 5000,
    b"[chat]\ndelay_ms=0x" + b"f" * 5000,
]
VARIABLE_VALUES = VALUES | st.text(max_size=8).filter(lambda text: "\0" not in text)
ENVIRONMENTS = st.dictionaries(
    st.sampled_from([*VARIABLES, "TELEPRINTER_X", "NAME", "HTTPS_PROXY", "NO_PROXY"]),
    VARIABLE_VALUES,
    max_size=4,
)


@pytest.fixture(scope="module", autouse=True)
def _no_system_config():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "SYSTEM_CONFIG", Path("/nonexistent/teleprinter.toml"))
        yield


HIDES = r"\b(?:keys?|headers|proxies|url)\b|_(?:KEY|PROX|STORE|U)"
OPEN = re.compile(rf'^(?!\S*(?:{HIDES}))(\S+) = "{CANARY}" (?=\()')
"""A field that is no secret is shown as it stands, to whoever wrote it there."""


def outcome(toml=b"", dotenv=b"", environ=None):
    """Return what the start with these files says."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "teleprinter.toml").write_bytes(toml)
        Path(folder, ".env").write_bytes(dotenv)
        try:
            settings = load(environ=environ or {}, cwd=Path(folder))
        except SettingsError as error:
            lines = str(error).split("\n")
            assert lines, "a refusal without a word"
            return [OPEN.sub(r"\1 ", line) for line in lines]
        return redacted(settings) + repr(settings), settings.upstream, settings.pool


@examples(100)
@given(toml=FILES)
@example(toml=DEEP[0])
@example(toml=DEEP[1])
@example(toml=DEEP[2])
@example(toml=DEEP[3])
@example(toml=DEEP[4])
@example(toml=DEEP[5])
@example(toml=f'[chat]\nkeep = "{CANARY}"'.encode())
@example(toml=f'[[upstream]]\nserver_name = "redis://:{CANARY}@h/0"'.encode())
def test_any_file(toml):
    """Any bytes in the file: settings, or lines that name the file; never the secret in it."""
    told = outcome(toml)
    if isinstance(told, list):
        assert all("teleprinter.toml" in line for line in told)
    assert CANARY not in repr(told)


@examples(60)
@given(
    dotenv=FILES
    | st.lists(st.sampled_from([*VARIABLES, "A", "export B", "'"]), max_size=3)
    .map("=x\n".join)
    .map(str.encode)
)
def test_any_dotenv(dotenv):
    """Any bytes in .env: settings, or lines that name it."""
    told = outcome(dotenv=dotenv)
    if isinstance(told, list):
        assert all(".env" in line for line in told)
    assert CANARY not in repr(told)


@examples(60)
@given(environ=ENVIRONMENTS)
def test_any_environment(environ):
    """Any variables: settings, or lines that name the one at fault, never a key's value."""
    secret = {"TELEPRINTER_KEYS", "TELEPRINTER_UPSTREAM_KEY", "TELEPRINTER_PROXY"}
    told = outcome(environ=environ)
    if isinstance(told, list):
        assert all(line.startswith(("TELEPRINTER_", "pool", "upstream", "server")) for line in told)
    if all(name in secret for name, value in environ.items() if CANARY in value):
        assert CANARY not in repr(told)


PROXIES = st.builds(
    "{}{}{}{}{}".format,
    st.sampled_from(["", "http://", "SOCKS5H://", "socks4://", "https://", "x://", "//"]),
    st.sampled_from(
        ["", f"me:{CANARY}@", f":{CANARY}@", f"{CANARY}%zz@", f"a:{CANARY}@b@", "%FF:x@"]
    ),
    st.sampled_from(["h", "127.0.0.1", "[::1]", "[::", "1.2", "é", ""]) | st.text(max_size=4),
    st.sampled_from(["", ":80", ":0", ":99999", ":٣", ":" + "9" * 5000]),
    st.sampled_from(["", "/", "/path", "?q", "#f"]),
)


@examples(100)
@given(texts=st.lists(PROXIES | st.text(max_size=8), min_size=1, max_size=3))
def test_any_proxies(texts):
    """A proxy or a chain is read, or refused by a ValueError; neither shows a password."""
    for read in (lambda: chain(texts), lambda: parse(texts[0])):
        try:
            way = read()
        except ValueError as error:
            assert CANARY not in str(error)  # noqa: PT017
        else:
            assert all(parse(hop.url) == hop or hop.via for hop in way.hops)
            assert CANARY not in f"{way} {way!r} {way.title} {way.address}"


@examples(100)
@given(
    proxy=PROXIES,
    exceptions=st.lists(PROXIES | st.text(max_size=6) | st.just("h:" + "9" * 5000)).map(",".join),
    url=st.sampled_from(["https://h/v1", "http://127.0.0.1:80", "https://[::1]:443/v1"]),
)
def test_any_customary_variables(proxy, exceptions, url):
    """What others' variables say gives a way, or a ValueError that names the variable."""
    environ = {"http_proxy": proxy, "ALL_PROXY": proxy, "NO_PROXY": exceptions}
    try:
        way = from_environment(url, environ)
    except ValueError as error:
        assert str(error).startswith(("http_proxy: ", "ALL_PROXY: "))  # noqa: PT017
        assert CANARY not in str(error)  # noqa: PT017
    else:
        assert CANARY not in repr(way)
