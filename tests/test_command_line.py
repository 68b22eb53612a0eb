"""`teleprinter --help` and its like: short, complete, and completed by the shell."""

import re
import shutil
import sys

import pytest

from program import running
from service.__main__ import _parser, main
from serving import ROOT

COMMANDS = ["serve", "check", "doctor"]


def helped(capsys, monkeypatch, *argv):
    """Return a help text, for a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as left:
        main([*argv, "--help"])
    assert left.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help(command, capsys, monkeypatch):
    """It fits a screen, every option is explained, and the exit codes are there."""
    text = helped(capsys, monkeypatch, *command)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 24
    explained = re.findall(r"^  (?:-h, )?(--[\w-]+)(?: .*?)?(?:  +|\n {10,})\w", text, re.MULTILINE)
    assert set(re.findall(r"\[(--[\w-]+)", text)) <= set(explained)
    assert ("Exit: 0 " in text) == bool(command)


def test_help_names_every_command(capsys, monkeypatch):
    """With a line for each."""
    text = helped(capsys, monkeypatch)
    assert re.findall(r"^    (\w+) +\w", text, re.MULTILINE) == COMMANDS


def test_no_command(capsys):
    """It is asked for one, with the same text, and the exit code is 2."""
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().err


COMPLETE = """
eval "$({python} -m service --print-completion bash)"
COMP_WORDS=(teleprinter {words} '{begun}')
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_shtab_teleprinter
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "begun", "expected"),
    [
        ("", "do", ["doctor"]),
        ("doctor", "--str", ["--stream"]),
        ("serve", "--p", ["--port"]),
        ("check --config", "gate", ["gateway.toml"]),
    ],
)
async def test_bash_completes(words, begun, expected, tmp_path):
    """Commands, their options, and files where a file is meant."""
    bash = shutil.which("bash") or pytest.skip("bash is not installed")
    (tmp_path / "gateway.toml").touch()
    script = COMPLETE.format(python=sys.executable, words=words, begun=begun)
    command = ["env", "-C", str(tmp_path), bash, "--norc", "-c", script]
    async with running(*command, PYTHONPATH=str(ROOT)) as program:
        lines = []
        while (line := await program.line()) is not None:
            lines.append(line)
    assert [line for line in lines if line.strip()] == expected


def test_without_shtab(capsys, monkeypatch):
    """The extra is not installed: the option says so, instead of being unknown."""
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit) as left:
        main(["--print-completion", "bash"])
    assert left.value.code == 2
    assert "pip install 'teleprinter[doctor]'" in capsys.readouterr().err
    assert "--print-completion SHELL" in _parser().format_help()
