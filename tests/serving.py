"""The relay as people run it: `teleprinter serve`, a process on a free port, stopped by its pid.

async with serving(tmp_path, toml) as relay:
await relay.reload(other)               # a new file, SIGHUP, and its word in the log
relay.signal(signal.SIGTERM)
assert await relay.code() == 0
relay.lines                                 # all that it wrote; `records`: its JSON lines
"""

import asyncio
import json
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process, create_subprocess_exec
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import service
from canaries import look, plant
from fakes import Upstream, Wire, chat, chat_frame
from line import Line, dial
from program import end, environment
from service.settings import SettingsError, load

PATIENT = 60.0
"""Real seconds for a process to start, to say something or to end; never a measure of anything."""
ROOT = Path(service.__file__).parents[1]


class Served:
    """A relay that runs. `lines`: what it wrote, in the order of its writing."""

    def __init__(self, process: Process, file: Path) -> None:
        self.process = process
        self.lines: list[str] = []
        self.url = ""
        self.port = 0
        self._file = file
        self._more = asyncio.Event()

    async def listen(self) -> None:
        """Collect what it writes, to the end."""
        async for line in self.process.stdout:
            self.lines.append(line.decode(errors="replace").rstrip("\n"))
            look("the log of a process", self.lines[-1])
            self._more.set()
        self._more.set()

    @property
    def text(self) -> str:
        """All that it wrote."""
        return "\n".join(self.lines)

    def records(self, event: str = "request") -> list[dict[str, Any]]:
        """Return its log lines of that event."""
        found = [json.loads(line) for line in self.lines if line.startswith("{")]
        return [record for record in found if record["event"] == event]

    async def until(self, true: Callable[[], Any]) -> Any:
        """Wait until that is true of what it wrote; return it; TimeoutError if it never is."""
        async with asyncio.timeout(PATIENT):
            while not (found := true()):
                self._more.clear()
                await self._more.wait()
        return found

    async def said(self, text: str) -> None:
        """Wait until it has written that."""
        await self.until(lambda: text in self.text)

    def configure(self, toml: str) -> None:
        """Write its file anew."""
        self._file.write_text(toml)

    async def reload(self, toml: str, *, event: str = "the new settings are in force") -> None:
        """Write its file anew, send SIGHUP, and wait until it says what came of it."""
        before = len(self.records(event))
        self.configure(toml)
        self.signal(signal.SIGHUP)
        await self.until(lambda: len(self.records(event)) > before)

    def signal(self, number: int) -> None:
        """Send a signal to this process."""
        self.process.send_signal(number)

    async def code(self) -> int:
        """Wait until it ends; return its exit code, negative for a signal."""
        async with asyncio.timeout(PATIENT):
            return await self.process.wait()


@asynccontextmanager
async def serving(
    folder: Path, toml: str = "", *, prefix: tuple[str, ...] = (), **variables: str
) -> AsyncIterator[Served]:
    """Run a relay with this file and these variables; kill it if it is left running.

    `prefix`: a command that starts it, such as prlimit.
    """
    file = folder / "teleprinter.toml"
    file.write_text(toml)
    with suppress(SettingsError):
        plant(load(environ=variables, config=str(file), cwd=folder))
    environ = environment(**{"PYTHONPATH": str(ROOT), **variables})
    command = [*prefix, sys.executable, "-m", "service", "serve", "--port", "0"]
    process = await create_subprocess_exec(
        *command,
        "--config",
        str(file),
        cwd=folder,
        env=environ,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    served = Served(process, file)
    listening = asyncio.create_task(served.listen())
    try:
        await served.until(lambda: "listening on" in served.text or process.stdout.at_eof())
        found = re.search(r"listening on (https?://[^/]+:(\d+))/", served.text)
        assert found, f"the relay did not start:\n{served.text}"
        served.url, served.port = found[1], int(found[2])
        yield served
    finally:
        await end(process)
        await listening


HELLO = chat_frame({"content": "Hi"})
ASK = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "Hello?"}]}'
JSON = ("Content-Type", "application/json")


def upstream_toml(upstream: Upstream, more: str = "") -> str:
    """Return the table of an upstream."""
    return f'[[upstream]]\nname = "up"\nurl = "{upstream.url}/v1"\nkey = "sk-up"\n{more}\n'


@asynccontextmanager
async def streaming(
    relay: Served, upstream: Upstream, *pairs: tuple[str, str], path: str = "/v1/chat/completions"
) -> AsyncIterator[tuple[Line, Wire]]:
    """Begin a stream; yield the client's line, where the first token has come, and the upstream."""
    async with dial(relay.port) as line:
        await line.send("POST", path, JSON, *pairs, body=ASK)
        _, wire = await upstream.next()
        await wire.head(content_type="text/event-stream")
        await wire.chunk(HELLO)
        await line.until(b"Hi")
        yield line, wire


async def finish(wire: Wire) -> None:
    """Complete an answer."""
    for data in chat([], role=False):
        await wire.chunk(data)
    await wire.end()


async def gone(wire: Wire) -> None:
    """Wait until the relay has left the upstream."""
    async with asyncio.timeout(PATIENT):
        await wire.closed.wait()
