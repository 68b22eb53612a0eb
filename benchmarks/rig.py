"""The rig: upstream and load, two programs in C, built from benchmarks/rig and run.

What an answer is like stands in its prompt (see rig/upstream.c), so that one upstream serves every
workload, and every relay is asked in the same way.
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processes import Program, cores

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "bench"
_SOURCES = Path(__file__).parent / "rig"
_ENDLESS = 10**9
_LONGEST = 600.0
"""Seconds after which a load is given up; it ends itself when nothing comes for 30."""


class NoCompilerError(Exception):
    """There is no C compiler."""


def build() -> None:
    """Compile what is older than its source; raises NoCompilerError."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NoCompilerError("the rig needs a C compiler: apt-get install gcc libc6-dev")
    BUILD.mkdir(parents=True, exist_ok=True)
    newest = max(file.stat().st_mtime for file in _SOURCES.iterdir())
    for name in ("upstream", "load"):
        made = BUILD / name
        if not made.exists() or made.stat().st_mtime < newest:
            with tempfile.TemporaryDirectory(dir=BUILD) as folder:
                out = Path(folder) / name
                subprocess.run([compiler, "-O2", "-o", out, _SOURCES / f"{name}.c"], check=True)
                out.replace(made)  # whole, also if somebody else builds it meanwhile


@dataclass(frozen=True)
class Ask:
    """A request and what its answer must be.

    `every`: microseconds between two tokens, 0 = as fast as they are taken.
    """

    path: str = "/v1/chat/completions"
    tokens: int = 1
    every: int = 0
    stream: bool = True
    headers: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        """What tells the upstream how to answer."""
        return f"tokens={self.tokens} every={self.every}"

    def bytes(self, port: int, key: str) -> bytes:
        """Return the HTTP request."""
        body: dict[str, Any] = {"question": self.prompt}
        if self.path != "/chat":
            messages = [{"role": "user", "content": self.prompt}]
            body = {"model": "gpt-4o-mini", "stream": self.stream, "messages": messages}
        data = json.dumps(body)
        head = [
            f"POST {self.path} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            f"Authorization: Bearer {key}",
            "Content-Type: application/json",
            "Accept: */*",
            f"Content-Length: {len(data)}",
            *self.headers,
        ]
        return "\r\n".join([*head, "", data]).encode()


ENDLESS = _ENDLESS
"""Tokens of a stream that is only ever left."""


class Upstream:
    """The upstream that runs; `left`: when it saw each reader go that left early."""

    def __init__(self, folder: Path) -> None:
        self._left = folder / "left"
        folder.mkdir(parents=True, exist_ok=True)
        command = [str(BUILD / "upstream"), str(self._left)]
        self.program = Program(command, folder, cpus=cores()[0], piped=True)
        assert self.program.stdout is not None
        self.port = int(self.program.stdout.readline())

    @property
    def url(self) -> str:
        """Its origin."""
        return f"http://127.0.0.1:{self.port}"

    def left(self) -> dict[int, int]:
        """Return the nanosecond at which each answer, by its number, was seen to be left."""
        return read_left(self._left)


def read_left(file: Path) -> dict[int, int]:
    """Return the whole lines `ID NS` of a file."""
    lines = file.read_text().rpartition("\n")[0].splitlines()
    return {int(number): int(when) for number, _, when in (line.partition(" ") for line in lines)}


@dataclass(frozen=True)
class Load:
    """How hard to ask: `streams` at a time, `answers` in all; `ramp`: microseconds between two."""

    streams: int = 1
    answers: int = 0
    ramp: int = 500
    keep: bool = False
    leave: int = 0


def _command(port: int, file: Path, ask: Ask, load: Load) -> list[str]:
    command = [str(BUILD / "load"), "-p", str(port), "-f", str(file), "-n", str(load.streams)]
    command += ["-r", str(load.answers or load.streams), "-t", str(ask.tokens)]
    command += ["-g", str(load.ramp)]
    if load.keep:
        command.append("-k")
    if load.leave:
        command += ["-l", str(load.leave), "-o", str(file.with_name("leaving"))]
    return command


def _request(folder: Path, port: int, key: str, ask: Ask) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "request"
    file.write_bytes(ask.bytes(port, key))
    return file


def run(folder: Path, port: int, key: str, ask: Ask, load: Load) -> dict[str, Any]:
    """Run the load to its end; return what it reports."""
    file = _request(folder, port, key, ask)
    program = Program(_command(port, file, ask, load), folder, cpus=cores()[0], piped=True)
    try:
        assert program.stdout is not None
        text = program.stdout.read()
        program.wait(_LONGEST)
        report: dict[str, Any] = json.loads(text)
        return report
    finally:
        program.stop()


class Held:
    """Streams that stay open."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def next(self) -> dict[str, Any]:
        """Return the load's next line; raises ValueError if it ended instead."""
        assert self._program.stdout is not None
        line: dict[str, Any] = json.loads(self._program.stdout.readline())
        if "open" not in line:
            raise ValueError(f"the streams did not stay open: {line['first_bad']}")
        return line

    def look(self) -> dict[str, Any]:
        """Return how much has come so far."""
        assert self._program.stdin is not None
        self._program.stdin.write(b"\n")
        self._program.stdin.flush()
        return self.next()


@contextmanager
def holding(folder: Path, port: int, key: str, ask: Ask, load: Load) -> Iterator[Held]:
    """Open streams and yield when each has its first token; leave them all at the end."""
    file = _request(folder, port, key, ask)
    command = [*_command(port, file, ask, load), "-h"]
    program = Program(command, folder, cpus=cores()[0], stdin=subprocess.PIPE, piped=True)
    try:
        held = Held(program)
        held.next()
        yield held
    finally:
        program.stop()
