"""An ear on the program, in a process of its own: all that it connects to, all that it looks up.

async with running(*listened_to("serve", "--port", "0", folder=tmp_path)) as program:
    url = await until_it_listens(program)
    found = await heard(program)        # stops it
    found.connected, found.looked_up
"""

import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

from program import Program

EAR = """
import json, os, sys

def hear(event, args):
    if event in {"socket.connect", "socket.sendto", "socket.sendmsg"}:
        os.write(1, json.dumps([event, args[1]], default=str).encode() + b"\\n")
    if event in {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}:
        os.write(1, json.dumps([event, args[0]], default=str).encode() + b"\\n")

sys.modules["uvloop"] = None    # libuv tells no audit hook what it does
os.dup2(1, 2)
sys.addaudithook(hear)
from service.__main__ import main
os.chdir(sys.argv.pop(1))       # away from settings of the machine
sys.exit(main(sys.argv[1:]))
"""
LISTENING = re.compile(r"listening on (http://127\.0\.0\.1:\d+)/")


def listened_to(*argv: str, folder: Path) -> list[str]:
    """Return the command that runs `teleprinter` with these arguments, in that folder."""
    return [sys.executable, "-c", EAR, str(folder), *argv]


class Heard(NamedTuple):
    """What a process connected to, as (host, port), and the names that it looked up."""

    connected: set[tuple[str, int]]
    looked_up: set[str]


async def until_it_listens(program: Program) -> str:
    """Return the URL of the relay that starts."""
    while (line := await program.line()) is not None:
        if found := LISTENING.search(line):
            return found[1]
    raise AssertionError(program.errors())


async def heard(program: Program) -> Heard:
    """Stop the program; return what it did from its start to its end."""
    program.process.terminate()
    found = Heard(set(), set())
    while (line := await program.line()) is not None:
        if line.startswith('["socket.'):
            event, what = json.loads(line)
            if event.startswith("socket.get"):
                found.looked_up.add(what)
            else:
                found.connected.add(tuple(what[:2]))
    assert await program.code() == 0
    return found
