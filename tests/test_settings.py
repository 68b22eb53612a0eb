"""Where the settings come from, which place wins, and what becomes of them."""

import contextlib
import copy
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service import sources
from service.core.faults import _description
from service.core.proxy import parse
from service.core.secret import Secret
from service.core.tables import Rejected, Store
from service.draft import LISTS, TABLES, Draft
from service.settings import (
    Chat,
    Clocks,
    Key,
    Pool,
    Server,
    Settings,
    SettingsError,
    Upstream,
    load,
    redacted,
)

CONFIG = Path(__file__).parent.parent / "config"
CANARY = "hunter2-canary"
URL = "https://api.example.com/v1"
UPSTREAM = f'[[upstream]]\nname = "a"\nurl = "{URL}"\n'


@pytest.fixture(autouse=True)
def _no_system_config(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "SYSTEM_CONFIG", tmp_path / "etc" / "teleprinter.toml")


@pytest.fixture
def place(tmp_path):
    """Return a function that loads settings given in files of a folder and an environment."""

    def loaded(toml="", dotenv="", credentials=None, argv=None, config=None, **environ):
        if toml:
            (tmp_path / "teleprinter.toml").write_text(toml, encoding="utf-8")
        if dotenv:
            (tmp_path / ".env").write_text(dotenv, encoding="utf-8")
        if credentials:
            store = tmp_path / "credentials"
            store.mkdir()
            environ["CREDENTIALS_DIRECTORY"] = str(store)
            for name, text in credentials.items():
                (store / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return load(argv or {}, config=config, environ=environ, cwd=tmp_path)

    return loaded


def refused(place, *args, **kwargs):
    """Return the message with which settings are refused."""
    with pytest.raises(SettingsError) as caught:
        place(*args, **kwargs)
    assert CANARY not in str(caught.value)
    return str(caught.value)


# --- defaults and examples


def test_defaults(place):
    """With nothing given all is the default: loopback, no upstream, no keys."""
    assert place() == Settings()


def test_example_file_equals_defaults(place, tmp_path):
    """config/teleprinter.toml changes nothing, and has every key of the single tables."""
    text = (CONFIG / "teleprinter.toml").read_text(encoding="utf-8")
    assert place(toml=text) == Settings()
    tables = tomllib.loads(text)
    for name, kind in TABLES.items():
        unset = {f.name for f in msgspec.structs.fields(kind) if f.default is None}
        assert tables[name].keys() == set(kind.__struct_fields__) - unset
        assert all(f"# {key} = " in text for key in unset)


def test_example_file_shows_every_key_of_the_lists(place):
    """The commented-out tables of config/teleprinter.toml have every key, and are good as shown."""
    text = (CONFIG / "teleprinter.toml").read_text(encoding="utf-8")
    lines = text[text.index("# [[upstream]]") :].splitlines()
    tables = "\n".join(line.removeprefix("# ") for line in lines)
    for name, kind in LISTS.items():
        assert tomllib.loads(tables)[name][0].keys() == set(kind.__struct_fields__)
    (upstream,) = place(toml=tables, OPENAI_API_KEY="k").upstream
    plain = Upstream(name="openai", url="https://api.openai.com/v1", key=Secret("k"))
    assert upstream == msgspec.structs.replace(plain, clocks=Clocks())


def test_example_environment(place):
    """config/env.example has every variable, is good as it stands and changes nothing."""
    text = (CONFIG / "env.example").read_text(encoding="utf-8")
    lines = [line.removeprefix("# ") for line in text.splitlines()]
    shown = {line.partition("=")[0] for line in lines if line.startswith(sources.PREFIX)}
    assert shown == set(sources.VARIABLES)
    assert place(dotenv=text) == Settings()


def test_every_field_says_what_it_expects():
    """Each field of each table has the words that complete "expected …"."""
    for kind in (TABLES | LISTS).values():
        assert all(_description(kind, field) for field in kind.__struct_fields__)


# --- precedence


PLACES = ["toml", "credentials", "dotenv", "environ", "argv"]


@pytest.mark.parametrize("highest", range(len(PLACES)))
def test_precedence(place, highest):
    """Command line, environment, .env, credentials, TOML: the highest that gives a value wins."""
    given = {
        "toml": "[server]\nport = 1000\n",
        "credentials": {"TELEPRINTER_PORT": "1001\n"},
        "dotenv": "TELEPRINTER_PORT=1002\n",
        "environ": {"TELEPRINTER_PORT": "1003"},
        "argv": {"server.port": "1004"},
    }
    used = {name: given[name] for name in PLACES[: highest + 1]}
    assert place(**used.pop("environ", {}), **used).server.port == 1000 + highest


@pytest.mark.parametrize(
    ("variable", "text", "path", "value"),
    [
        ("TELEPRINTER_HOST", "localhost", "server.host", "localhost"),
        ("TELEPRINTER_PORT", "0", "server.port", 0),
        ("TELEPRINTER_LOG", "DEBUG", "server.log", "debug"),
        ("TELEPRINTER_OPEN", "Yes", "server.open", True),
        ("TELEPRINTER_OPEN", "on", "server.open", True),
        ("TELEPRINTER_OPEN", "1", "server.open", True),
        ("TELEPRINTER_OPEN", "true", "server.open", True),
        ("TELEPRINTER_OPEN", "0", "server.open", False),
        ("TELEPRINTER_MODEL", "深度", "chat.model", "深度"),
        ("TELEPRINTER_PACE", "typewriter", "chat.pace", "typewriter"),
        ("TELEPRINTER_DELAY_MS", "60000", "chat.delay_ms", 60000),
    ],
)
def test_variables(place, variable, text, path, value):
    """A variable's text becomes the value of its setting."""
    table, field = path.split(".")
    assert getattr(getattr(place(**{variable: text}), table), field) == value


def test_upstream_from_variables(place):
    """A URL makes one upstream, named after its host, the key hidden, the last slash dropped."""
    (upstream,) = place(
        TELEPRINTER_UPSTREAM_URL=URL + "/", TELEPRINTER_UPSTREAM_KEY="sk-1"
    ).upstream
    assert (upstream.name, upstream.url) == ("api.example.com", URL)
    assert upstream.key.reveal() == "sk-1"
    assert upstream.models == ("*",)


@pytest.mark.parametrize(
    ("url", "name"),
    [("http://127.0.0.1:8000/v1", "127.0.0.1"), ("http://[::1]:8000", "upstream")],
)
def test_upstream_name_from_address(place, url, name):
    """A host that is no name still gives the upstream one."""
    assert place(TELEPRINTER_UPSTREAM_URL=url).upstream[0].name == name


def test_keys(place):
    """Keys are name:key, split at the first colon; a key may hold more of them."""
    keys = place(TELEPRINTER_KEYS="alice:a1, bob:b:2,").server.keys
    assert keys == (Key(name="alice", key=Secret("a1")), Key(name="bob", key=Secret("b:2")))


def test_empty_variable_is_unset(place):
    """An empty variable counts as not given: the place below it decides."""
    assert place(dotenv="TELEPRINTER_PORT=1\n", TELEPRINTER_PORT="").server.port == 1


def test_key_from_credential(place):
    """A credential gives a variable; one newline at its end is no part of it, a second is."""
    read = place(credentials={"TELEPRINTER_UPSTREAM_KEY": "sk-1\n"}, TELEPRINTER_UPSTREAM_URL=URL)
    assert read.upstream[0].key.reveal() == "sk-1"


def test_two_newlines_are_refused(place):
    """A credential with more than one newline at its end cannot be sent as a header."""
    message = refused(
        place,
        credentials={"TELEPRINTER_UPSTREAM_KEY": f"{CANARY}\n\n"},
        TELEPRINTER_UPSTREAM_URL=URL,
    )
    assert "TELEPRINTER_UPSTREAM_KEY (credentials directory): expected visible ASCII" in message


def test_foreign_files_do_not_matter(place):
    """Other variables in .env and other credentials, also binary ones, are left alone."""
    dotenv = "DATABASE = x\nexport FOO\nBAR=${NOWHERE} ${what ever}\n"
    store = {"tls.key": b"\0\xff", "OPENAI_API_KEY": b"\xff"}
    assert place(dotenv=dotenv, credentials=store) == Settings()


def test_dotenv_never_reaches_the_process(place, monkeypatch):
    """What .env says is read, and not put into the environment of the process."""
    monkeypatch.setattr("os.environ", {})
    assert place(dotenv="TELEPRINTER_PORT=1\nFOO=2\n").server.port == 1
    assert sources.os.environ == {}


def test_environment_by_default(tmp_path, monkeypatch):
    """Without arguments the settings come from os.environ and the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TELEPRINTER_PORT", "1")
    (tmp_path / ".env").write_text("TELEPRINTER_LOG=debug\n")
    server = load().server
    assert (server.port, server.log) == (1, "debug")


# --- files


def test_config_option_wins_over_the_usual_files(place, tmp_path):
    """--config FILE is read instead of ./teleprinter.toml; a byte order mark does no harm."""
    (tmp_path / "my.toml").write_text("\ufeff[server]\nport = 2\n", encoding="utf-8")
    assert place(toml="[server]\nport = 1\n", config="my.toml").server.port == 2


def test_system_config_is_the_last_resort(place, tmp_path):
    """/etc/teleprinter/teleprinter.toml counts only where ./teleprinter.toml does not exist."""
    sources.SYSTEM_CONFIG.parent.mkdir()
    sources.SYSTEM_CONFIG.write_text("[server]\nport = 3\n")
    assert place().server.port == 3
    assert place(toml="# empty\n").server.port == 8080


def test_directories_called_like_files(place, tmp_path):
    """A virtual environment called .env is no settings file."""
    (tmp_path / ".env").mkdir()
    assert place() == Settings()


# --- references


def test_references(place):
    """${NAME} is taken from the environment, then .env, then the credentials; $${ is literal."""
    toml = UPSTREAM + 'key = "${A}${B}${C}"\nheaders = {x = "${A}", y = "$${A}", z = "${D:-d}"}\n'
    read = place(
        toml=toml, dotenv="A=no\nB=b\n", credentials={"A": "no", "B": "no", "C": "c\n"}, A="a"
    )
    assert read.upstream[0].key.reveal() == "abc"
    assert read.upstream[0].headers == {"x": "a", "y": "${A}", "z": "d"}


def test_references_in_dotenv(place):
    """A line of .env may refer to the environment and to the lines before it."""
    dotenv = "P=${Q:-1}2\nexport TELEPRINTER_MODEL='m-${P}' # mine\nX=${NOWHERE}\n"
    assert place(dotenv=dotenv).chat.model == "m-12"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"toml": '[chat]\nmodel = "${NO}"\n'}, ["chat.model (teleprinter.toml): ${NO} is not"]),
        ({"toml": '[chat]\nmodel = "${NO}"\n', "NO": ""}, ["chat.model", "${NO} is not set"]),
        ({"toml": UPSTREAM + 'headers = {x = "${NO}"}\n'}, ["upstream[0].headers.x", "${NO}"]),
        ({"toml": '[server]\nhosts = ["a", "${NO}"]\n'}, ["server.hosts[1]", "${NO}"]),
        ({"toml": '[chat]\nmodel = "${NO"\n'}, ["chat.model", "expected ${NAME}"]),
        ({"toml": f'[chat]\nmodel = "${{{CANARY}}}"\n'}, ["chat.model", "expected ${NAME}"]),
        ({"dotenv": "TELEPRINTER_MODEL=${NO}\n"}, ["TELEPRINTER_MODEL (.env line 1): ${NO}"]),
        (
            {"dotenv": "P=${NO}\nTELEPRINTER_PROXY=${P}\n"},
            ["TELEPRINTER_PROXY (.env line 2): ${P} is not set"],
        ),
    ],
)
def test_missing_reference(place, given, says):
    """A reference without a value, or with an empty one, fails naming the setting and the name."""
    message = refused(place, **given)
    assert all(part in message for part in says)


# --- pace


@pytest.mark.parametrize(
    ("given", "pace", "delay_ms"),
    [
        ({"TELEPRINTER_DELAY_MS": "5"}, "typewriter", 5),
        ({"toml": "[chat]\ndelay_ms = 5\n"}, "typewriter", 5),
        ({"TELEPRINTER_DELAY_MS": "5", "TELEPRINTER_PACE": "typewriter"}, "typewriter", 5),
        ({"TELEPRINTER_DELAY_MS": "0", "TELEPRINTER_PACE": "off"}, "off", 0),
        ({"TELEPRINTER_PACE": "typewriter"}, "typewriter", 0),
        ({"TELEPRINTER_PACE": "SMOOTH"}, "smooth", 0),
        ({"TELEPRINTER_PACE": "smooth", "TELEPRINTER_DELAY_MS": "0"}, "smooth", 0),
        ({"toml": "[chat]\ndelay_ms = 5\n", "TELEPRINTER_PACE": "smooth"}, "smooth", 0),
        ({"toml": '[chat]\npace = "smooth"\n', "TELEPRINTER_DELAY_MS": "5"}, "typewriter", 5),
        ({"toml": '[chat]\npace = "off"\n', "TELEPRINTER_DELAY_MS": "5"}, "typewriter", 5),
        ({"toml": "[chat]\ndelay_ms = 5\n", "TELEPRINTER_PACE": "off"}, "off", 0),
        ({"dotenv": "TELEPRINTER_DELAY_MS=5\n", "TELEPRINTER_PACE": "off"}, "off", 0),
        ({"toml": "[chat]\ndelay_ms = 5\n", "TELEPRINTER_PACE": "typewriter"}, "typewriter", 5),
        ({"toml": "[chat]\ndelay_ms = 5\n", "TELEPRINTER_DELAY_MS": "7"}, "typewriter", 7),
    ],
)
def test_delay_implies_typewriter(place, given, pace, delay_ms):
    """A delay implies the pace typewriter; of two places that disagree, the higher one decides."""
    chat = place(**given).chat
    assert (chat.pace, chat.delay_ms) == (pace, delay_ms)


@pytest.mark.parametrize(
    "given",
    [
        {"TELEPRINTER_DELAY_MS": "5", "TELEPRINTER_PACE": "{}"},
        {"toml": '[chat]\npace = "{}"\ndelay_ms = 5\n'},
    ],
)
@pytest.mark.parametrize("pace", ["off", "smooth"])
def test_delay_contradicts_another_pace(place, given, pace):
    """A delay beside an explicit pace other than typewriter is an error."""
    texts = {name: text.replace("{}", pace) for name, text in given.items()}
    assert f"expected 0 with the pace {pace}" in refused(place, **texts)


# --- ways


def ways(settings, number=0):
    """Return the ways of an upstream as texts."""
    return [str(way) for way in settings.ways(settings.upstream[number])]


def pools(*names):
    """Return [[pool]] tables with those names, on ports of their own."""
    tables = (
        f'[[pool]]\nname = "{name}"\nproxies = ["http://127.0.0.1:{7000 + port}"]\n'
        for port, name in enumerate(names)
    )
    return "".join(tables)


def test_no_pool_is_direct(place):
    """With no proxies at all, the way is direct."""
    assert ways(place(toml=UPSTREAM)) == ["direct"]


def test_proxy_variable(place):
    """TELEPRINTER_PROXY is a list in order of preference; nothing is added to it."""
    listed = "http://127.0.0.1:7890, socks5h://u:p@host"
    read = place(toml=UPSTREAM, TELEPRINTER_PROXY=listed)
    assert ways(read) == ["http://127.0.0.1:7890", "socks5h://host:1080"]
    assert read.ways(read.upstream[0])[1] == parse("socks5h://u:p@host:1080")


def test_environment_is_obeyed_only_when_asked(place):
    """HTTPS_PROXY counts where `env` is listed, and nowhere else."""
    proxy = {"HTTPS_PROXY": "http://e:1", "NO_PROXY": "10.0.0.0/8"}
    assert ways(place(toml=UPSTREAM, **proxy)) == ["direct"]
    read = place(toml=UPSTREAM, TELEPRINTER_PROXY="socks5h://s,env,direct", **proxy)
    assert ways(read) == ["socks5h://s:1080", "http://e:1", "direct"]


def test_environment_is_asked_for_each_upstream(place):
    """`env` means what the variables say for the URL of that upstream; each way is listed once."""
    inner = UPSTREAM + '[[upstream]]\nname = "b"\nurl = "http://10.0.0.1/v1"\n'
    proxy = {"ALL_PROXY": "http://e:1", "NO_PROXY": "10.0.0.0/8"}
    read = place(toml=inner, TELEPRINTER_PROXY="env,direct", **proxy)
    assert ways(read, 0) == ["http://e:1", "direct"]
    assert ways(read, 1) == ["direct"]


def test_an_entry_that_is_a_list_is_a_chain(place):
    """It is one way; `check` prints it as it may be written, without credentials."""
    hops = f'["http://127.0.0.1:7890", "socks5h://me:{CANARY}@far"]'
    read = place(toml=UPSTREAM + f'[[pool]]\nname = "p"\nproxies = [{hops}, "direct"]\n')
    assert ways(read) == ["http://127.0.0.1:7890 -> socks5h://far:1080", "direct"]
    chained = [["http://127.0.0.1:7890", "socks5h://far:1080"], "direct"]
    assert tomllib.loads(redacted(read))["pool"][0]["proxies"] == chained
    assert CANARY not in redacted(read) + repr(read.pool)
    assert "http://127.0.0.1:7890 -> socks5h://far:1080, direct" in repr(read.pool)


def test_a_socks4_hop_at_the_end_cannot_carry_ipv6(place):
    """Whatever stands before it."""
    toml = UPSTREAM.replace("api.example.com", "[::1]")
    toml += '[[pool]]\nname = "p"\nproxies = [["http://a:1", "socks4://b:1"]]\n'
    assert "SOCKS4 cannot carry the IPv6 address" in refused(place, toml=toml)


@pytest.mark.parametrize(
    ("names", "pool", "port"),
    [
        (["x"], "", 7000),
        (["x", "default"], "", 7001),
        (["x", "y"], "y", 7001),
        (["default", "y"], "y", 7001),
    ],
)
def test_pool_of_an_upstream(place, names, pool, port):
    """An upstream uses the pool it names, else the only one, else the one called default."""
    read = place(toml=UPSTREAM + f'pool = "{pool}"\n' + pools(*names))
    assert ways(read) == [f"http://127.0.0.1:{port}"]


@pytest.mark.parametrize(
    ("names", "pool", "says"),
    [
        (["x", "y"], "", "one of: x, y"),
        (["x"], "z", "one of: x"),
        ([], "z", "none is set"),
        (["x", "y"], "default", "one of: x, y"),
    ],
)
def test_no_pool_fails_closed(place, names, pool, says):
    """An upstream whose pool cannot be told is an error, never a direct connection."""
    message = refused(place, toml=UPSTREAM + f'pool = "{pool}"\n' + pools(*names))
    assert "upstream[0].pool" in message
    assert says in message


# --- clocks


def test_clocks_of_an_upstream(place):
    """An upstream's own clocks replace those of [clocks] one by one."""
    toml = "[clocks]\nconnect = 5\nidle = 60\n" + UPSTREAM + "clocks = {idle = 0}\n"
    read = place(toml=toml)
    assert read.clocks_of(read.upstream[0]) == Clocks(connect=5.0, idle=0.0)
    assert place(toml=UPSTREAM).clocks_of(read.upstream[0]) is not None


def test_clock_rules():
    """Unset, headers are 120 s for a stream, else 600; the first token 600, 300 with a fallback."""
    rule = Clocks()
    assert (rule.headers_for(stream=True), rule.headers_for(stream=False)) == (120, 600)
    assert (rule.first_token_for(), rule.first_token_for(fallback=True)) == (600, 300)
    own = Clocks(headers=0.0, first_token=7.0)
    assert (own.headers_for(stream=True), own.first_token_for(fallback=True)) == (0, 7)


# --- what is refused


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "relay.lan", "[::]"])
def test_open_relay_is_refused(place, host):
    """Beyond loopback the relay listens only with keys, or if it is told to be open."""
    assert "TELEPRINTER_OPEN=1" in refused(place, TELEPRINTER_HOST=host)
    assert place(TELEPRINTER_HOST=host, TELEPRINTER_KEYS="a:b").server.keys
    assert place(TELEPRINTER_HOST=host, TELEPRINTER_OPEN="1").server.open


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LOCALHOST"]
)
def test_loopback_is_open(place, host):
    """127.0.0.0/8, ::1 and localhost need no keys."""
    assert place(TELEPRINTER_HOST=host).server.loopback


def test_names_are_normalized():
    """Hosts and origins are compared in lower case, without brackets and last slash."""
    server = Server(hosts=("Relay.LAN", "[::1]"), origins=("https://App.example.com/",))
    assert server.hosts == ("relay.lan", "::1")
    assert server.origins == ("https://app.example.com",)


@pytest.mark.parametrize("table", ["replay", "fallback"])
def test_other_tables_are_unknown(place, table):
    """A table that nothing uses is an unknown key."""
    assert f"{table} (teleprinter.toml): unknown key" in refused(place, toml=f"[{table}]\nx = 1\n")


def test_toml_is_strict(place):
    """A number written as text is refused in TOML, though variables are texts."""
    assert 'server.port = "80"' in refused(place, toml='[server]\nport = "80"\n')


def test_all_faults_at_once(place):
    """Faults of several tables and places are reported together, a line each."""
    toml = "[server]\nport = -1\n[clocks]\nidle = -1\n" + UPSTREAM + "prefix = 'x'\n"
    lines = refused(place, toml=toml, TELEPRINTER_PACE="fast").splitlines()
    keys = ["server.port = -1", "TELEPRINTER_PACE", "clocks.idle", "upstream[0].prefix"]
    assert [line.startswith(key) for line, key in zip(lines, keys, strict=True)] == [True] * 4


@pytest.mark.parametrize(
    ("dotenv", "line"),
    [
        ("TELEPRINTER_PORT 80", 1),
        ("TELEPRINTER_PORT", 1),
        ("A=1\n\n\nFOO BAR=1\nB=2", 4),
        ("# comment\r\n\r\nFOO BAR=1", 3),
        ("A=1\nB='open\nC=2", 2),
    ],
)
def test_malformed_dotenv_line(place, dotenv, line):
    """A malformed line of .env fails the start and is named by its number, not by its text."""
    message = refused(place, dotenv=f"{dotenv} {CANARY}\n")
    assert message.startswith(f".env line {line}: expected NAME=value")


@pytest.mark.parametrize(
    ("server", "says"),
    [
        ('keys = [{name = "a"}]', "server.keys[0].key (teleprinter.toml): expected a key, or sha"),
        (f'keys = [{{name = "a", key = "{CANARY} x"}}]', "expected visible ASCII characters"),
        ('keys = ["a:b", "c:sha256:abc"]', "server.keys[1]"),
        ('keys = ["a:b", "c:sha256:abc"]', "expected 64 hexadecimal digits"),
        ('trusted_proxies = ["::1", "10.0.0.0/33"]', "server.trusted_proxies[1]"),
        ('trusted_proxies = ["lan"]', "expected an address or a network such as 10.0.0.0/8"),
    ],
)
def test_whom_it_lets_in_is_checked(place, server, says):
    """Keys and networks that cannot be meant are refused by their place, and no key is shown."""
    assert says in refused(place, toml=f"[server]\n{server}\n")


def test_frozen():
    """Settings never change after the start."""
    with pytest.raises(AttributeError):
        Settings().server.port = 1


def test_tables_check_themselves():
    """Built by hand, a table still refuses what contradicts itself."""
    with pytest.raises(ValueError, match="pace"):
        Chat(delay_ms=5)
    with pytest.raises(ValueError, match=r"upstream\[1\]"):
        Settings(upstream=(Upstream(name="a", url=URL), Upstream(name="a", url=URL)))
    with pytest.raises(ValueError, match=r"proxies\[1\]"):
        Pool(name="p", proxies=("direct", "127.0.0.1:1"))


KEYS = st.sampled_from(["", "?", "a\nb", "a - at `$.b`"]) | st.text()
TOML = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["direct", URL]),
    lambda values: st.lists(values) | st.dictionaries(KEYS, values),
    max_leaves=5,
)


def tables_of(kind):
    """Return a strategy for tables of a kind with any values, and sometimes unknown keys."""
    known = st.dictionaries(st.sampled_from(kind.__struct_fields__), TOML, max_size=4)
    return known | st.builds(dict.__or__, known, st.dictionaries(KEYS, TOML, max_size=1))


@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={name: tables_of(kind) | TOML for name, kind in TABLES.items()}
        | {name: st.lists(tables_of(kind), max_size=3) | TOML for name, kind in LISTS.items()},
    )
)
def test_any_table_is_checked(tables):
    """Whatever stands in a file, each fault becomes a line; what has none can be printed."""
    draft = Draft("file", tables, copy.deepcopy(tables))
    made = draft.build()
    assert all("\n" not in line for line in draft.faults)
    if not draft.faults:
        with contextlib.suppress(Rejected):  # tables that do not fit together
            assert tomllib.loads(redacted(Settings(**made)))


# --- what is shown


def secretive(place):
    """Return settings with a canary in every secret field."""
    toml = (
        f'[server]\nkeys = ["alice:{CANARY}"]\n[[upstream]]\nname = "a"\nurl = "{URL}"\n'
        f'key = "${{KEY}}"\nheaders = {{"X-Key" = "{CANARY}"}}\nclocks = {{idle = 5}}\n'
        f'[[pool]]\nname = "p"\nproxies = ["socks5h://me:{CANARY}@h", "env"]\n'
    )
    return place(toml=toml, KEY=CANARY, ALL_PROXY=f"http://me:{CANARY}@e:1")


def test_redacted_hides_secrets(place):
    """What `check` prints and every repr leave all secrets out; the ways are there."""
    settings = secretive(place)
    text = redacted(settings)
    assert CANARY not in text + repr(settings) + repr(settings.server) + repr(settings.pool)
    assert "# ways out: socks5h://h:1080, http://e:1" in text
    assert settings.upstream[0].key.reveal() == CANARY


def test_a_store_is_shown_without_its_password():
    """As every table that has a secret."""
    assert repr(Store(url=f"redis://me:{CANARY}@h:1/2")) == "Store(redis://h:1/2)"


def test_redacted_is_toml(place):
    """What `check` prints is TOML, complete but for the secrets."""
    printed = tomllib.loads(redacted(secretive(place)))
    assert printed.keys() == {*TABLES, *LISTS}
    assert printed["server"]["keys"] == ["alice:***"]
    assert printed["upstream"][0]["key"] == "***"
    assert printed["upstream"][0]["headers"] == {"X-Key": "***"}
    assert printed["upstream"][0]["clocks"] == {"connect": 10.0, "idle": 5.0, "total": 0}
    assert printed["pool"][0]["proxies"] == ["socks5h://h:1080", "env"]
    assert tomllib.loads(redacted(Settings()))["clocks"] == {
        "connect": 10.0,
        "idle": 120.0,
        "total": 0,
    }
