"""The command line: what `teleprinter check` says of good and of broken settings."""

import subprocess
import sys
import types
from pathlib import Path

import pytest

from service import __version__, sources
from service.__main__ import main

CANARY = "hunter2-canary"
URL = "https://api.example.com/v1"
UPSTREAM = f'[[upstream]]\nname = "a"\nurl = "{URL}"\n'
POOL = '[[pool]]\nname = "p"\nproxies = ["http://127.0.0.1:7890"]\n'


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Work in a folder of its own, away from the machine's settings."""
    monkeypatch.setattr(sources, "SYSTEM_CONFIG", tmp_path / "etc" / "teleprinter.toml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def checked(capsys, *argv):
    """Run `check` and return its exit status, its output and its complaints."""
    status = main(["check", *argv])
    shown = capsys.readouterr()
    assert CANARY not in shown.out + shown.err
    assert "Traceback" not in shown.err
    return status, shown.out, shown.err


BROKEN_TOML = {
    "unknown table": ("[sever]\nport = 1\n", "sever ", "did you mean server?"),
    "unknown key": ("[server]\nprot = 1\n", "server.prot ", "did you mean port?"),
    "unknown and odd": ('[chat]\n"a\\nb" = 1\n', "chat.a\\nb ", "one of model, pace, delay_ms"),
    "unknown and empty": ('[chat]\n"" = 1\n', "chat ", "one of model, pace, delay_ms"),
    "unknown and wicked": ('[chat]\n"a - at `$.b`" = 1\n', "chat.", "one of model, pace"),
    "unknown table, odd": ('["a\\nb"]\n', "a\\nb ", "one of server, chat"),
    "unlike any": ("[limits]\nxyz = 1\n", "limits.xyz ", "one of body, frame, queue"),
    "fallback type": (UPSTREAM + 'fallback = "b"\n', "upstream[0].fallback ", "expected a list"),
    "fallback unknown": (
        UPSTREAM + 'fallback = ["b"]\n',
        "upstream[0].fallback[0] ",
        "another [[upstream]]",
    ),
    "secret of unknown": (f'[server]\nkey = "{CANARY}"\n', "server.key ", "mean keys?"),
    "port range": ("[server]\nport = 70000\n", "server.port = 70000 ", "from 1 to 65535"),
    "port type": ('[server]\nport = "x"\n', 'server.port = "x" ', "from 1 to 65535"),
    "host empty": ('[server]\nhost = ""\n', 'server.host = "" ', "not empty"),
    "host open": ('[server]\nhost = "::"\n', 'server.host = "::" ', "server.keys"),
    "open type": ("[server]\nopen = 1\n", "server.open = 1 ", "true or false"),
    "log": ('[server]\nlog = "loud"\n', 'server.log = "loud" ', "debug, info, warning or error"),
    "hosts": ('[server]\nhosts = ["a:1"]\n', 'server.hosts[0] = "a:1" ', "without scheme"),
    "hosts port": ('[server]\nhosts = ["r.lan:80"]\n', "server.hosts[0] = ", "without scheme"),
    "hosts type": ('[server]\nhosts = "a"\n', 'server.hosts = "a" ', "a list of host names"),
    "origins": ('[server]\norigins = ["*"]\n', 'server.origins[0] = "*" ', "an origin"),
    "key shape": (f'[server]\nkeys = ["{CANARY}"]\n', "server.keys[0] ", "name:key"),
    "key empty": ('[server]\nkeys = ["a:b", "c:"]\n', "server.keys[1] ", "name:key"),
    "key blank": (f'[server]\nkeys = ["a:{CANARY} x"]\n', "server.keys[0] ", "visible ASCII"),
    "key type": ("[server]\nkeys = [1]\n", "server.keys[0] ", "name:key"),
    "key twice": (
        f'[server]\nkeys = ["a:{CANARY}", "b:{CANARY}"]\n',
        "server.keys[1] ",
        "each key once",
    ),
    "key name twice": ('[server]\nkeys = ["a:b", "a:c"]\n', "server.keys[1] ", "each name once"),
    "pace": ('[chat]\npace = "fast"\n', 'chat.pace = "fast" ', "off, smooth or typewriter"),
    "lag": ("[chat]\nmax_lag_ms = 60001\n", "chat.max_lag_ms = 60001 ", "from 0 to 60000"),
    "smooth delay": (
        '[chat]\npace = "smooth"\ndelay_ms = 5\n',
        "chat.delay_ms = 5 ",
        "pace smooth",
    ),
    "upstream pace": (
        '[[upstream]]\nname = "a"\nurl = "https://a.test/v1"\npace = "fast"\n',
        'upstream[0].pace = "fast" ',
        "off, smooth or typewriter",
    ),
    "delay": ("[chat]\ndelay_ms = 60001\n", "chat.delay_ms = 60001 ", "from 0 to 60000"),
    "delay type": ("[chat]\ndelay_ms = 1.5\n", "chat.delay_ms = 1.5 ", "whole milliseconds"),
    "model": ('[chat]\nmodel = ""\n', 'chat.model = "" ', "not empty"),
    "clock": ("[clocks]\nidle = -1\n", "clocks.idle = -1 ", "seconds from 0 (off)"),
    "clock nan": ("[clocks]\nidle = nan\n", "clocks.idle = ", "seconds from 0 (off)"),
    "clock in ms": ("[clocks]\nheaders = 120000\n", "clocks.headers = 120000 ", "to 86400"),
    "heartbeat": ('[heartbeat]\nform = "x"\n', 'heartbeat.form = "x" ', "auto, blank or line"),
    "limit": ("[limits]\nbody = 0\n", "limits.body = 0 ", "number of bytes, 1 or more"),
    "no table": ("server = 1\n", "server = 1 ", "[server]"),
    "one bracket": (f'[upstream]\nurl = "{URL}"\n', "upstream ", "[[upstream]]"),
    "no url": ('[[upstream]]\nname = "a"\n', "upstream[0].url ", "missing: expected a base URL"),
    "no name": (f'[[upstream]]\nurl = "{URL}"\n', "upstream[0].name ", "missing: expected a name"),
    "name": (UPSTREAM.replace('"a"', '"a b"'), 'upstream[0].name = "a b" ', "letters"),
    "name twice": (UPSTREAM * 2, "upstream[1] ", "each name once"),
    "url scheme": (UPSTREAM.replace("https://", ""), "upstream[0].url ", "https://"),
    "url type": (UPSTREAM.replace(f'"{URL}"', "1"), "upstream[0].url ", "a base URL"),
    "url login": (
        UPSTREAM.replace("https://", f"https://me:{CANARY}@"),
        "upstream[0].url ",
        "`key` or TELEPRINTER_UPSTREAM_KEY",
    ),
    "url half a login": (
        f'[[upstream]]\nname = "a"\nurl = "https://me:{CANARY}"\n',
        "upstream[0].url ",
        "a base URL",
    ),
    "login elsewhere": (
        UPSTREAM + f'server_name = "socks5h://me:{CANARY}@h:1080"\n',
        "upstream[0].server_name ",
        "a host name such as",
    ),
    "url query": (UPSTREAM.replace("/v1", f"/v1?k={CANARY}"), "upstream[0].url ", "without ? and"),
    "url fragment": (UPSTREAM.replace("/v1", "/v1#x"), "upstream[0].url ", "without ? and #"),
    "url blank": (UPSTREAM.replace("/v1", "/v 1"), "upstream[0].url ", "http:// or https://"),
    "url bracket": (UPSTREAM.replace("api", "[api"), "upstream[0].url ", "a base URL"),
    "upstream key": (UPSTREAM + f'key = "{CANARY}\\n"\n', "upstream[0].key ", "visible ASCII"),
    "upstream key type": (UPSTREAM + "key = 1\n", "upstream[0].key ", "${OPENAI_API_KEY}"),
    "header": (UPSTREAM + f'headers = {{"a b" = "{CANARY}"}}\n', "upstream[0].headers ", "header"),
    "header text": (
        UPSTREAM + f'headers = {{a = "{CANARY}\\nX: y"}}\n',
        "upstream[0].headers",
        "one-line",
    ),
    "models": (UPSTREAM + "models = []\n", "upstream[0].models ", "a list of globs"),
    "prefix": (UPSTREAM + 'prefix = "x"\n', 'upstream[0].prefix = "x" ', "such as /tokyo"),
    "prefix taken": (UPSTREAM + 'prefix = "/v1"\n', 'upstream[0].prefix = "/v1" ', "other than"),
    "upstream clock": (
        UPSTREAM + "clocks = {idle = -1}\n",
        "upstream[0].clocks.idle = -1 ",
        "seconds from 0",
    ),
    "upstream clock key": (
        UPSTREAM + "clocks = {idel = 1}\n",
        "upstream[0].clocks.idel ",
        "did you mean idle?",
    ),
    "pool name": (UPSTREAM + 'pool = "q"\n' + POOL, 'upstream[0].pool = "q" ', "one of: p"),
    "pools": (
        UPSTREAM + POOL + POOL.replace('"p"', '"q"'),
        "upstream[0].pool ",
        "one of: p, q",
    ),
    "pool twice": (POOL * 2, "pool[1] ", "each name once"),
    "pool empty": ('[[pool]]\nname = "p"\nproxies = []\n', "pool[0].proxies ", "proxy URLs"),
    "pool text": ('[[pool]]\nname = "p"\nproxies = "direct"\n', "pool[0].proxies ", "a list of"),
    "proxy bare": (
        POOL.replace("http://", ""),
        "pool[0].proxies[0] ",
        "http://127.0.0.1:7890 or socks5h://127.0.0.1:7890",
    ),
    "proxy kind": (
        POOL.replace("http://", f"ftp://me:{CANARY}@"),
        "pool[0].proxies[0] ",
        "one of http, https, socks4",
    ),
    "proxy chain": (
        '[[pool]]\nname = "p"\nproxies = ["direct", ["http://h:1", "direct"]]\n',
        "pool[0].proxies[1] ",
        "hop 2: expected a proxy, direct cannot be part of a chain",
    ),
    "proxy chain number": (
        '[[pool]]\nname = "p"\nproxies = [["http://h:1", 1]]\n',
        "pool[0].proxies[0][1] ",
        "a list of proxy URLs, direct, env or lists of URLs",
    ),
    "server name": (UPSTREAM + 'server_name = "a b"\n', "upstream[0].server_name ", "a host name"),
    "client key": (UPSTREAM + 'client_key = "k.pem"\n', "upstream[0].client_key ", "client_cert"),
    "client cert": (
        UPSTREAM.replace("https:", "http:") + 'client_cert = "c.pem"\n',
        "upstream[0].client_cert ",
        "expected an https:// url",
    ),
    "syntax": ("[server\nport = 1\n", "teleprinter.toml: not TOML", "line 1"),
    "twice": ("[server]\n[server]\n", "teleprinter.toml: not TOML", "line 2"),
}


@pytest.mark.parametrize("name", BROKEN_TOML)
def test_broken_file(name, folder, capsys):
    """A broken teleprinter.toml: exit 2, one line with key, file and what was expected."""
    text, key, expected = BROKEN_TOML[name]
    (folder / "teleprinter.toml").write_text(text)
    status, out, err = checked(capsys)
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith(f"teleprinter: {key}")
    assert "teleprinter.toml" in line
    assert expected in line


BROKEN_ENVIRONMENT = {
    "unknown": ({"PROT": CANARY}, "PROT (", "did you mean TELEPRINTER_PORT?"),
    "unlike any": ({"XYZ": CANARY}, "XYZ (", "one of TELEPRINTER_UPSTREAM_URL"),
    "keep": ({"KEEP": "15"}, "KEEP (", "unknown variable"),
    "port": ({"PORT": "http"}, 'PORT = "http" (', "from 1 to 65535"),
    "port float": ({"PORT": "8080.0"}, 'PORT = "8080.0" (', "from 1 to 65535"),
    "port range": ({"PORT": "-1"}, "PORT = -1 (", "from 1 to 65535"),
    "port digits": ({"PORT": "٨"}, 'PORT = "٨" (', "from 1 to 65535"),
    "host": ({"HOST": "0.0.0.0"}, 'HOST = "0.0.0.0" (', "TELEPRINTER_KEYS"),
    "open": ({"OPEN": "maybe"}, 'OPEN = "maybe" (', "true or false"),
    "log": ({"LOG": "loud"}, 'LOG = "loud" (', "debug, info, warning or error"),
    "pace": ({"PACE": "fast"}, 'PACE = "fast" (', "off, smooth or typewriter"),
    "delay smooth": ({"DELAY_MS": "9", "PACE": "smooth"}, "DELAY_MS = 9 (", "with the pace smooth"),
    "delay": ({"DELAY_MS": "1s"}, 'DELAY_MS = "1s" (', "whole milliseconds from 0"),
    "delay off": ({"DELAY_MS": "9", "PACE": "off"}, "DELAY_MS = 9 (", "needs the pace typewriter"),
    "keys": ({"KEYS": f"a:b,{CANARY}"}, "KEYS, entry 2 (", "expected name:key"),
    "keys comma": ({"KEYS": ","}, "KEYS (", "a list of name:key texts"),
    "keys twice": ({"KEYS": "a:b,a:c"}, "KEYS, entry 2 (", "each name once"),
    "url": ({"UPSTREAM_URL": "api.example.com"}, "UPSTREAM_URL (", "http:// or https://"),
    "url is key": ({"UPSTREAM_URL": CANARY}, "UPSTREAM_URL (", "such as https://"),
    "url port": ({"UPSTREAM_URL": "http://a:99999"}, "UPSTREAM_URL = ", "a base URL"),
    "key alone": ({"UPSTREAM_KEY": CANARY}, "UPSTREAM_KEY (", "TELEPRINTER_UPSTREAM_URL"),
    "key": ({"UPSTREAM_URL": URL, "UPSTREAM_KEY": f"{CANARY} "}, "UPSTREAM_KEY (", "visible ASCII"),
    "proxy": ({"PROXY": "direct,127.0.0.1:7890"}, "PROXY, entry 2 (", "http://127.0.0.1:7890"),
    "proxy comma": ({"PROXY": " , "}, "PROXY (", "a list of proxy URLs"),
    "proxy port": ({"PROXY": f"http://me:{CANARY}@h:0"}, "PROXY, entry 1 (", "port from 1"),
}


@pytest.mark.parametrize("name", BROKEN_ENVIRONMENT)
@pytest.mark.parametrize("place", ["environment", ".env", "credentials directory"])
def test_broken_variable(name, place, folder, monkeypatch, capsys):
    """A broken variable: exit 2, one line with its name, its place and what was expected."""
    variables, key, expected = BROKEN_ENVIRONMENT[name]
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    for short, text in variables.items():
        variable = f"TELEPRINTER_{short}"
        if place == "environment":
            monkeypatch.setenv(variable, text)
        elif place == ".env":
            with Path(".env").open("a", encoding="utf-8") as file:
                file.write(f"{variable}='{text}'\n")
        else:
            (folder / variable).write_text(text + "\n", encoding="utf-8")
    status, out, err = checked(capsys)
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith(f"teleprinter: TELEPRINTER_{key}")
    assert f"({place})" in line
    assert expected in line


@pytest.mark.parametrize(
    ("variable", "text", "table"),
    [
        ("TELEPRINTER_UPSTREAM_URL", URL, "[[upstream]]"),
        ("TELEPRINTER_UPSTREAM_KEY", CANARY, "[[upstream]]"),
        ("TELEPRINTER_PROXY", "direct", "[[pool]]"),
    ],
)
def test_variable_beside_tables(variable, text, table, monkeypatch, capsys):
    """A variable that stands for a table excludes the tables of the file."""
    Path("teleprinter.toml").write_text(UPSTREAM + POOL)
    monkeypatch.setenv(variable, text)
    status, _, err = checked(capsys)
    assert status == 2
    assert variable in err
    assert f"no {table} tables beside it, but teleprinter.toml has some" in err


def test_variable_that_is_no_text(monkeypatch, capsys):
    """A variable whose bytes are not UTF-8 fails by name, and does not break the printing."""
    monkeypatch.setenv("TELEPRINTER_MODEL", f"{CANARY}\udcff")
    status, _, err = checked(capsys)
    assert (status, err) == (
        2,
        "teleprinter: TELEPRINTER_MODEL (environment): expected a text in UTF-8\n",
    )


def test_bad_proxy_of_the_environment(monkeypatch, capsys):
    """Where `env` is listed, a bad HTTPS_PROXY is an error that names it."""
    monkeypatch.setenv("TELEPRINTER_UPSTREAM_URL", URL)
    monkeypatch.setenv("TELEPRINTER_PROXY", "env")
    monkeypatch.setenv("HTTPS_PROXY", f"sokcs5://me:{CANARY}@h")
    status, _, err = checked(capsys)
    assert status == 2
    assert "TELEPRINTER_PROXY (environment): env: HTTPS_PROXY: unknown kind of proxy" in err


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda _: None, "No such file"),
        (Path.mkdir, "Is a directory"),
        (lambda file: file.write_bytes(b"\xff"), "UTF-8"),
    ],
)
def test_unreadable_config(prepare, says, folder, capsys):
    """A --config that cannot be read fails, naming the file; the usual ones are not tried."""
    (folder / "teleprinter.toml").write_text("")
    prepare(folder / "my.toml")
    status, _, err = checked(capsys, "--config", "my.toml")
    assert status == 2
    assert err.startswith("teleprinter: my.toml: ")
    assert says in err


def test_good_settings(monkeypatch, capsys):
    """Good settings: exit 0, printed with the secrets hidden and the ways of each upstream."""
    monkeypatch.setenv("TELEPRINTER_UPSTREAM_URL", URL)
    monkeypatch.setenv("TELEPRINTER_UPSTREAM_KEY", CANARY)
    monkeypatch.setenv("TELEPRINTER_PROXY", f"socks5h://me:{CANARY}@127.0.0.1,direct")
    monkeypatch.setenv("TELEPRINTER_KEYS", f"alice:{CANARY}")
    status, out, err = checked(capsys)
    assert (status, err) == (0, "")
    assert 'keys = ["alice:***"]' in out
    assert "# ways out: socks5h://127.0.0.1:1080, direct" in out


def test_what_is_not_the_default_is_marked(folder, monkeypatch, capsys):
    """A row that differs from its default names the default; no other row has a comment."""
    (folder / "teleprinter.toml").write_text(
        f'{UPSTREAM}key = "{CANARY}"\n[server]\nport = 9000\nhost = "127.0.0.1"\n'
        "[clocks]\nidle = 0\n"
    )
    monkeypatch.setenv("TELEPRINTER_STORE", "redis://127.0.0.1/0")
    _, out, _ = checked(capsys)
    rows = [row for row in out.splitlines() if "  # default: " in row]
    assert rows == [
        "port = 9000  # default: 8080",
        "idle = 0.0  # default: 120.0",
        'url = "redis://127.0.0.1/0"  # default: "memory"',
        'key = "***"  # default: ""',
    ]


def test_nothing_is_marked_without_settings(capsys):
    """All defaults: no row differs."""
    assert "# default: " not in checked(capsys)[1]


@pytest.mark.parametrize(
    ("given", "marked"),
    [
        ({"HTTPS_PROXY": f"http://me:{CANARY}@127.0.0.1:7890"}, True),
        ({"ALL_PROXY": "socks5h://127.0.0.1:1080"}, True),
        ({"HTTPS_PROXY": "http://127.0.0.1:7890", "NO_PROXY": "example.com"}, False),
        ({"HTTPS_PROXY": "http://127.0.0.1:7890", "TELEPRINTER_PROXY": "direct"}, False),
        ({"HTTPS_PROXY": "http://127.0.0.1:7890", "TELEPRINTER_PROXY": "env"}, False),
    ],
)
def test_a_proxy_that_is_not_gone_by_is_told(given, marked, monkeypatch, capsys):
    """HTTPS_PROXY is not what the relay goes by unless told: `check` says how to tell it."""
    for name, value in {"TELEPRINTER_UPSTREAM_URL": URL, **given}.items():
        monkeypatch.setenv(name, value)
    out = checked(capsys)[1]
    told = f"# ways out: direct ({next(iter(given))} is set, and not gone by: TELEPRINTER_PROXY=env"
    assert (told in out) == marked
    assert ("not gone by" in out) == marked


def test_no_upstream(capsys):
    """Without an upstream `check` says who will answer."""
    assert "# no upstream: the built-in demo answers" in checked(capsys)[1]


# --- the other commands


def test_no_command(capsys):
    """Without a command the help is shown, and it is a mistake."""
    assert main([]) == 2
    assert "serve" in capsys.readouterr().err


def test_version(capsys):
    """--version tells name and version."""
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"teleprinter {__version__}\n"


@pytest.fixture
def served(monkeypatch):
    """Stand in for the service: keep the settings that it was started with, and reads anew."""
    seen = []
    server = types.ModuleType("service.server")
    server.run = lambda settings, load: seen.extend([settings, load()]) or 7
    monkeypatch.setitem(sys.modules, "service.server", server)
    return seen


def test_serve(served, monkeypatch, folder):
    """`serve` runs the service with the settings, its options on top, now and when it reloads."""
    monkeypatch.setenv("TELEPRINTER_PORT", "1")
    (folder / "my.toml").write_text('[chat]\nmodel = "m"\n')
    assert main(["serve", "--config", "my.toml", "--host", "::1", "--port", "0"]) == 7
    settings, again = served
    assert settings == again
    assert (settings.server.host, settings.server.port, settings.chat.model) == ("::1", 0, "m")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--port", "x"], '--port = "x" (command line): expected a port'),
        (["--host", "0.0.0.0"], '--host = "0.0.0.0" (command line): whoever reaches'),
        (["--host", ""], '--host = "" (command line): expected a text that is not empty'),
    ],
)
def test_serve_refuses(argv, says, served, capsys):
    """A broken option of `serve`: exit 2, named as it was typed; nothing is started."""
    assert main(["serve", *argv]) == 2
    assert capsys.readouterr().err.startswith(f"teleprinter: {says}")
    assert served == []


def test_as_a_module(folder):
    """`python -m service` is the same command, with the same exit status."""
    root = Path(sources.__file__).parent.parent
    run = subprocess.run(  # noqa: S603  our own module
        [sys.executable, "-m", "service", "check", "--config", str(folder / "none.toml")],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert run.stderr.startswith("teleprinter: ")
