"""A start: where it listens, which way it takes, what to try next; on a terminal and elsewhere."""

import json
import re
import sys

import pytest

from fakes import Upstream
from program import running
from service.core.secret import Secret
from service.greeting import next_steps
from service.settings import Key, Server, Settings
from service.settings import Upstream as Up
from serving import ROOT, serving, streaming, upstream_toml
from terminal import on_terminal

SERVE = [sys.executable, "-m", "service", "serve", "--port", "0"]
HERE = {"PYTHONPATH": str(ROOT)}


async def test_the_first_start(tmp_path):
    """On a terminal, one line each: the demo, the address, the way, and a command that works."""
    async with on_terminal(*SERVE, cwd=tmp_path, **HERE) as screen:
        await screen.shows("try: ")
        await screen.shows("%3F'")
        first, second, third, fourth = screen.text.splitlines()
        assert first.startswith("teleprinter: no upstream is configured: the built-in demo answers")
        assert re.fullmatch(r"teleprinter: listening on http://127\.0\.0\.1:\d+/ .*", second)
        assert re.fullmatch(r"teleprinter: upstream demo: http://\S+ through direct", third)
        command = fourth.partition("try: ")[2]
        async with running("sh", "-c", command) as program:
            lines = []
            while (line := await program.line()) is not None:
                lines.append(line)
            assert await program.code() == 0, program.errors
        screen.press_ctrl_c()
        assert await screen.code() == 0
    assert "event: done" in lines
    assert "Traceback" not in screen.text


async def test_elsewhere_there_are_log_lines_only(tmp_path, dead_port):
    """Under systemd, in a pipe: JSON from the first line to the last, and no command to try."""
    toml = f'[[upstream]]\nname = "up"\nurl = "http://127.0.0.1:{dead_port}/v1"\n'
    async with serving(tmp_path, toml) as relay:
        relay.process.terminate()
        assert await relay.code() == 0
    said = [json.loads(line)["event"] for line in relay.lines]
    assert re.match(r"listening on http://", said[0])
    assert said[1] == f"upstream up: http://127.0.0.1:{dead_port}/v1 through direct"
    assert not [text for text in said if "try" in text]


async def test_an_address_that_is_taken(tmp_path):
    """One line, which names it; the exit code is 1. Elsewhere than on a terminal it is JSON."""
    async with Upstream() as taken:
        command = [*SERVE[:-1], str(taken.port)]
        async with on_terminal(*command, cwd=tmp_path, **HERE) as screen:
            assert await screen.code() == 1
            await screen.shows(f"teleprinter: cannot listen on 127.0.0.1:{taken.port}: ")
        async with running(*command, **HERE) as program:
            assert await program.code() == 1
            said = [json.loads(line) for line in program.errors().splitlines()]
    assert said[-1]["level"] == "error"
    assert f"cannot listen on 127.0.0.1:{taken.port}: " in said[-1]["event"]
    assert said[-1]["event"].endswith("another port is set by --port or TELEPRINTER_PORT")
    assert "Traceback" not in screen.text


async def test_a_drain_says_what_it_waits_for(tmp_path):
    """Ctrl-C with an open stream: how many, how long, and what a second one does."""
    async with (
        Upstream() as upstream,
        serving(tmp_path, upstream_toml(upstream)) as relay,
        streaming(relay, upstream),
    ):
        relay.process.terminate()
        await relay.said("1 stream may go on for up to 15 s; a second signal ends all at once")
        relay.process.terminate()
        await relay.code()


PLACES = [
    (Server(), ("127.0.0.1", 1), "curl -N 'http://127.0.0.1:1/eu/chat?"),
    (Server(), ("::1", 1, 0, 0), "curl -gN 'http://[::1]:1/eu/chat?"),
    (Server(open=True, host="0.0.0.0"), ("0.0.0.0", 1), "curl -N 'http://127.0.0.1:1/eu/chat?"),
    (
        Server(keys=(Key(name="a", key=Secret("canary")),)),
        ("127.0.0.1", 1),
        "curl -N -H 'Authorization: Bearer YOUR-KEY' 'http://127.0.0.1:1/eu/chat?",
    ),
]


@pytest.mark.parametrize(("server", "address", "place"), PLACES)
def test_what_to_try(server, address, place, monkeypatch):
    """The address, a place for the key, the first upstream's prefix; nothing for a socket file.

    The program is called as it was called.
    """
    monkeypatch.setattr(sys, "argv", [".venv/bin/teleprinter", "serve"])
    settings = Settings(server=server, upstream=(Up(name="up", url="http://h/v1", prefix="/eu"),))
    first, second = next_steps(settings, ["/run/socket", address])
    assert first.startswith(f"try: {place}")
    assert second == "if no answer comes: .venv/bin/teleprinter doctor"
    assert list(next_steps(settings, ["/run/socket"])) == []
