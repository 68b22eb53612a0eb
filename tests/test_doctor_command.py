"""`teleprinter doctor` as people and scripts run it: exit codes, JSON, table, no secret."""

import asyncio
import io
import json
import re
import signal
import sys
from pathlib import Path

import pytest

from examining import Cutter, Gatherer, api, examined, settings_of, toml_of
from fakes import HttpProxy, SocksProxy, Upstream
from program import running
from service.__main__ import main
from service.core.doctor import advice
from service.core.doctor.listing import model_for, words_of
from service.core.doctor.lumps import Read, flow
from service.doctor import command, shown
from service.doctor.examination import Wishes
from serving import ROOT
from terminal import on_terminal

SHOW_CURSOR, HIDE_CURSOR, ERASE_LINE = "\x1b[?25h", "\x1b[?25l", "\x1b[2K"
STEP = {"step": str, "result": str, "seconds": (float, type(None)), "said": str, "cure": str}
STREAM = {
    "verdict": str,
    "tokens": int,
    "reads": int,
    "largest": int,
    "longest_gap": float,
    "first_token": float,
}
WAY = {
    "upstream": str,
    "url": str,
    "way": str,
    "steps": list,
    "stream": (dict, type(None)),
    "works": bool,
}
REPORT = {"exit": int, "works": str, "demo": bool, "ways": list, "remarks": list}


def check(found, schema):
    """Assert that these are the fields, of these types."""
    assert found.keys() == schema.keys()
    assert [name for name, kind in schema.items() if not isinstance(found[name], kind)] == []


async def run(folder, toml, *options):
    """Run the command; return its exit code, what it printed, and what it said beside it."""
    file = folder / "doctor.toml"
    file.write_text(toml)
    command = [sys.executable, "-m", "service", "doctor", "--config", str(file), *options]
    async with running(*command) as program:
        lines = []
        while (line := await program.line()) is not None:
            lines.append(line)
        return await program.code(), "\n".join(lines), str(program.errors)


async def test_json(tmp_path, dead_port):
    """One object whose fields are those of --help; the exit code is in it."""
    async with Upstream(api()) as upstream:
        toml = toml_of(f"{upstream.url}/v1", "direct", f"http://127.0.0.1:{dead_port}")
        code, printed, errors = await run(tmp_path, toml, "--json", "--stream")
    found = json.loads(printed)
    check(found, REPORT)
    assert (code, found["exit"], found["works"], found["demo"]) == (1, 1, "some", False), errors
    for way in found["ways"]:
        check(way, WAY)
        for step in way["steps"]:
            check(step, STEP)
            assert step["result"] in {"ok", "warning", "failed"}
    assert [way["works"] for way in found["ways"]] == [True, False]
    check(found["ways"][0]["stream"], STREAM)
    assert found["ways"][1]["stream"] is None


async def test_a_hop_that_cuts_idle_lines(tmp_path):
    """--idle, from the command to the verdict: the third connection is the silent one."""
    async with Upstream(api()) as upstream, Cutter() as proxy:
        toml = toml_of(f"{upstream.url}/v1", proxy.url_as("socks5h"))
        asking = asyncio.create_task(run(tmp_path, toml, "--idle", "60"))
        await upstream.until(lambda: upstream.connections == 3)
        proxy.cut.set()
        code, printed, errors = await asking
    assert code == 0, errors
    assert re.search(r"WARN  idle +\d+ ms  a silent line was closed after \d+ s\n", printed)
    assert "a hop cuts idle lines, or the upstream does" in printed


async def test_a_proxy_that_gathers(tmp_path):
    """--stream, in real time: an answer that is 1.5 s in the making comes in two lumps."""
    async with Upstream(api(pause=0.05)) as upstream, Gatherer(2400) as near, SocksProxy() as far:
        chain = [near.url, far.url_as("socks5h")]
        toml = toml_of(f"{upstream.url}/v1", chain)
        code, printed, errors = await run(tmp_path, toml, "--stream")
    assert code == 0, errors
    assert re.search(r"WARN  stream .*, 30 tokens in \d reads, .* s: lumps\n", printed), printed
    assert "TELEPRINTER_PACE=smooth spreads them" in printed
    assert "the proxy gathers them, or the upstream does" in printed


def test_help_documents_the_fields(capsys):
    """What scripts read is listed."""
    with pytest.raises(SystemExit):
        main(["doctor", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    named = re.search(r"JSON: (.*?); result", text)[1]
    fields = {name.strip() for name in re.split(r"[,\[\]]", named) if name.strip()}
    assert fields == REPORT.keys() | WAY.keys() | STEP.keys()


async def test_plain_lines(tmp_path):
    """Not on a terminal: a line a step, no colour, and the exit code 2 when no way works."""
    async with Upstream(api()) as upstream:
        code, printed, errors = await run(tmp_path, toml_of(f"{upstream.url}/v1", key="wrong"))
    assert code == 2, errors
    assert "\x1b" not in printed
    line = r"  FAIL  models +\d+ ms  401: the key is not accepted"
    assert [each for each in printed.splitlines() if re.fullmatch(line, each)]
    assert printed.splitlines()[-1] == "no way works (0 of 1)"


@pytest.mark.parametrize(
    "argv", [["--upstream", "nobody"], ["--idle", "x"], ["--idle", "-1"], ["--idle", "nan"]]
)
def test_what_cannot_be_asked(argv, tmp_path, capsys, monkeypatch):
    """Exit code 2 and one line."""
    monkeypatch.chdir(tmp_path)
    try:
        code = main(["doctor", *argv])
    except SystemExit as left:
        code = left.code
    assert code == 2
    assert argv[0] in capsys.readouterr().err


class Terminal(io.StringIO):
    """A stream that is a terminal, as far as one asks."""

    def isatty(self):
        """Say yes."""
        return True


def test_a_table_on_a_terminal(tmp_path):
    """With rich, and plain lines without it."""
    out = Terminal()
    settings = settings_of(tmp_path, toml_of("http://127.0.0.1:1/v1"))
    assert command.run(settings, [], Wishes(), shown.shown(out)) == 2
    text = out.getvalue()
    assert "┃" in text
    assert "FAIL" in text
    assert "→ start it" in text
    assert "no way works (0 of 1)" in text
    assert type(shown.shown(io.StringIO())) is shown.Plain


def test_without_rich(monkeypatch):
    """The extra is not installed: plain lines."""
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert type(shown.shown(Terminal())) is shown.Plain
    assert type(shown.shown(Terminal(), json=True)) is shown.Json


def test_plain_lines_on_a_terminal(tmp_path):
    """What is being tried stands in the last line until it is known, and goes with the end."""
    out = Terminal()
    settings = settings_of(tmp_path, toml_of("http://127.0.0.1:1/v1"))
    assert command.run(settings, [], Wishes(), shown.Plain(out)) == 2
    assert "\r\x1b[K  ...   tcp\r\x1b[K  " in out.getvalue()
    lines = [line.rpartition("\r\x1b[K")[2] for line in out.getvalue().split("\n")]
    assert (lines[-2:], "..." in "".join(lines)) == (["no way works (0 of 1)", ""], False)


def doctor(folder, *options):
    """Return the command that examines what is in the folder's file."""
    own = ["--config", str(folder / "examined.toml"), *options]
    return [sys.executable, "-m", "service", "doctor", *own]


async def test_ctrl_c_on_a_terminal(tmp_path):
    """While it works it says at what; then nothing turns, and the cursor is back."""
    async with SocksProxy(silent=True) as proxy:
        settings_of(tmp_path, toml_of("http://127.0.0.1:1/v1", proxy.url_as("socks5h")))
        command, here = doctor(tmp_path), {"PYTHONPATH": str(ROOT)}
        async with on_terminal(*command, cwd=tmp_path, **here) as screen:
            await screen.shows(f"through {proxy.url_as('socks5h')}: proxy 127.0.0.1:{proxy.port}")
            screen.press_ctrl_c()
            assert await screen.code() == 130
            await screen.shows(SHOW_CURSOR)
    assert screen.text.rindex(SHOW_CURSOR) > screen.text.rindex(HIDE_CURSOR)
    assert screen.text.endswith(ERASE_LINE)  # of what turned, nothing is left
    assert "Traceback" not in screen.text


@pytest.mark.parametrize("options", [[], ["--json"]])
async def test_ctrl_c_elsewhere(options, tmp_path):
    """What was found so far, or no half of an object; nothing is said beside it."""
    async with SocksProxy(silent=True) as proxy:
        settings_of(tmp_path, toml_of("http://127.0.0.1:1/v1", proxy.url_as("socks5h")))
        async with running(*doctor(tmp_path, *options)) as program:
            await proxy.until(lambda: proxy.connections == 1)
            program.process.send_signal(signal.SIGINT)
            printed = [line async for line in lines_of(program)]
            assert (await program.code(), program.errors()) == (130, "")
    assert (printed == []) == bool(options)


DEAF = """
import os, socket, sys, threading
def never(*args, **options):
    os.write(1, b"asked\\n")
    threading.Event().wait()
socket.getaddrinfo = never
from service.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


async def test_ctrl_c_while_a_name_is_looked_up(tmp_path):
    """A resolver that never answers keeps nobody: the end is at once, and quiet."""
    settings_of(tmp_path, toml_of("http://api.example.com/v1"))
    command = [sys.executable, "-c", DEAF, *doctor(tmp_path)[3:]]
    async with running(*command, PYTHONPATH=str(ROOT)) as program:
        while await program.line() != "asked":
            pass
        program.process.send_signal(signal.SIGINT)
        assert (await program.code(), program.errors()) == (130, "")


async def lines_of(program):
    """Yield what it prints."""
    while (line := await program.line()) is not None:
        yield line


@pytest.mark.parametrize("json_too", [False, True])
async def test_no_secret(json_too, tmp_path):
    """Not in lines, nor in JSON, nor where an upstream repeats all that it was sent."""
    canary = {name: f"canary-{name}" for name in ("key", "header", "user", "password")}

    async def script(request, wire):
        sent = [value for _, value in request.headers if value.startswith(("canary", "Bearer"))]
        said = json.dumps({"error": {"message": f"not with {sent}"}})
        if request.method == "GET":
            return await wire.reply(404, said, content_type="application/json")
        return await wire.reply(400, said, content_type="application/json")

    auth = canary["user"], canary["password"]
    async with Upstream(script) as upstream, HttpProxy(auth=auth) as proxy:
        wrong = proxy.url.replace("canary-password", "canary-wrong")
        ways = [proxy.url, wrong, proxy.url.replace("http:", "socks5h:")]
        own = f'headers = {{ "X-Project" = "{canary["header"]}" }}\n'
        toml = toml_of(f"{upstream.url}/v1", *ways, key=canary["key"])
        toml = toml.replace("[[pool]]", f"{own}[clocks]\nconnect = 0.5\n[[pool]]")
        options = ["--stream", *(["--json"] if json_too else [])]
        code, printed, errors = await run(tmp_path, toml, *options)
        assert upstream.requests[-1].get("x-project") == canary["header"]
    assert code == 2, errors
    assert "not with ['***" in printed or "'Bearer ***" in printed  # its words were shown
    assert "canary" not in printed + errors


def test_words_of_an_upstream():
    """One line, cut, and without what must not be repeated."""
    body = json.dumps({"error": {"message": "no\nsk-1 " + "x" * 500}}).encode()
    assert words_of(body, ["sk-1", ""]).startswith("no *** xxx")
    assert len(words_of(body, [])) == 160
    assert words_of(b"[1", []) == words_of(b"[1]", []) == ""


@pytest.mark.parametrize(
    ("globs", "listed", "model"),
    [
        (["*"], ["gpt-4o-mini", "b"], "gpt-4o-mini"),
        (["*"], [], "gpt-4o-mini"),
        (["*"], ["deepseek-chat"], "deepseek-chat"),
        (["claude-*"], ["gpt-4o-mini", "claude-x"], "claude-x"),
        (["qwen-max", "qwen-*"], ["qwen-a"], "qwen-max"),
    ],
)
def test_the_model_that_is_asked(globs, listed, model):
    """The default where it fits, else one that is named, else one that is listed."""
    body = json.dumps({"data": [{"id": name} for name in listed]}).encode()
    assert model_for("gpt-4o-mini", globs, body) == model


@pytest.mark.parametrize(
    ("reads", "verdict"),
    [
        ([Read(at / 10, 1) for at in range(20)], "streams"),
        ([Read(at / 100, 6) for at in range(20)], "streams"),  # merely fast
        ([Read(at / 2, 6) for at in range(5)], "lumps"),
        ([Read(0.0, 0), Read(3.0, 30)], "held back"),
        ([Read(0.1, 30)], "streams"),  # a quick upstream's whole answer
        ([Read(3.0, 5)], "too short to tell"),
    ],
)
def test_the_verdict(reads, verdict):
    """Many tokens a read are lumps only if there are gaps that somebody sees."""
    found = flow(reads)
    assert found.verdict == verdict
    assert found.tokens == sum(read.tokens for read in reads)


async def test_completion():
    """It is printed for a shell, with the commands and their options."""
    async with running(sys.executable, "-m", "service", "--print-completion", "bash") as program:
        lines = []
        while (line := await program.line()) is not None:
            lines.append(line)
        assert await program.code() == 0
    text = "\n".join(lines)
    assert "doctor" in text
    assert "--stream" in text


README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
SHOWN = re.search(r"```\n(api\.openai\.com: .*?)```", README, re.DOTALL)[1]


async def test_the_readme(sing_box, dead_port, tmp_path, monkeypatch):
    """Its example is what the doctor prints, but for ports and times; nothing is asked outside."""
    monkeypatch.setattr(advice, "USUAL_PORTS", (dead_port, sing_box.port))
    toml = toml_of("https://api.openai.com/v1", f"http://127.0.0.1:{dead_port}")
    _, text = await examined(tmp_path, toml.replace('"up"', '"api.openai.com"'))
    text = text.replace(str(dead_port), "7890").replace(str(sing_box.port), "7897")
    blurred = [re.sub(r" +\d+ ms", " N ms", each.strip()) for each in (text, SHOWN)]
    assert blurred[0] == blurred[1]


def test_the_commands_of_the_readme(monkeypatch):
    """The doctor takes what the README gives it."""
    taken = []
    monkeypatch.setattr(command, "run", lambda *args: taken.append(args) or 0)
    lines = re.findall(r"teleprinter doctor(.*?)(?:#|$)", README, re.MULTILINE)
    options = [line.split("`")[0].split() for line in lines]
    assert ["--stream"] in options
    assert [main(["doctor", *each]) for each in options] == [0] * len(options)
    assert len(taken) == len(options)
