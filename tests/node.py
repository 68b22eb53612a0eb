"""The JavaScript clients: scripts of tests/clients, run by Node.

A job goes in as JSON, reports come out as JSON lines. A Node stays for the next job of its script:
half a second of work saved each time.

    async with OPENAI.run(relay.url, call="stream") as script:
        await script.says()         # {"text": "Hel"}
        script.abort()              # its AbortSignal fires
        await script.rest()         # the reports up to its end
"""

import asyncio
import atexit
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE
from typing import Any, ClassVar
from urllib.parse import urlencode

import pytest

from client import Client
from client_scene import KEY, MESSAGES
from program import PATIENT

SCRIPTS = Path(__file__).with_name("clients")


class Host:
    """A Node that runs a script again and again, each time with another job: host.mjs.

    It outlives a test and its loop; whoever asks it while a job is under way gets another one.
    """

    running: ClassVar[dict[tuple[str, ...], "Host"]] = {}

    def __init__(self, *command: str) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  as long as the process
        environ = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "NODE_NO_WARNINGS": "1"}
        self._process = subprocess.Popen(  # noqa: S603  our own script
            command, stdin=PIPE, stdout=PIPE, stderr=self._errors, env=environ
        )
        atexit.register(self.stop)

    def tell(self, line: str) -> None:
        """Hand it a job or a word."""
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    @asynccontextmanager
    async def heard(self) -> AsyncIterator[asyncio.StreamReader]:
        """Yield what it says, on this loop."""
        reader = asyncio.StreamReader()
        pipe = os.fdopen(os.dup(self._process.stdout.fileno()), "rb", 0)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            yield reader
        finally:
            transport.close()
            await asyncio.sleep(0)

    def errors(self) -> str:
        """Return what it wrote to stderr."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def stop(self) -> None:
        """Kill it, whatever it does."""
        atexit.unregister(self.stop)
        self._process.kill()
        self._process.communicate()
        self._errors.close()


class Script:
    """A script that runs."""

    def __init__(self, host: Host, heard: asyncio.StreamReader) -> None:
        self.over = False
        self._host = host
        self._heard = heard

    async def says(self) -> Any:
        """Return its next report; AssertionError with its stderr if it ended instead."""
        report = await self._report()
        assert report is not None, f"it said nothing more:\n{self._host.errors()}"
        return report

    async def rest(self) -> list[Any]:
        """Return its reports up to its end, which must be a good one."""
        said = []
        async with asyncio.timeout(PATIENT):
            while (report := await self._report()) is not None:
                said.append(report)
        return said

    async def abort(self) -> None:
        """Let it abort what it does."""
        self._host.tell("abort")

    async def _report(self) -> Any:
        async with asyncio.timeout(PATIENT):
            line = await self._heard.readline()
        assert line, f"it failed:\n{self._host.errors()}"
        report = json.loads(line)
        self.over = report is None
        return report


@asynccontextmanager
async def node(script: str, job: Mapping[str, Any], *flags: str) -> AsyncIterator[Script]:
    """Run a script of tests/clients; skips the test where Node or its packages are missing."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not installed: apt-get install nodejs npm")
    if not (SCRIPTS / "node_modules").is_dir():
        pytest.skip("the JavaScript clients are not installed: npm ci --prefix tests/clients")
    command = (program, *flags, str(SCRIPTS / "host.mjs"), script)
    host = Host.running.pop(command, None) or Host(*command)
    host.tell(json.dumps(job))
    running = None
    try:
        async with host.heard() as heard:
            running = Script(host, heard)
            yield running
    finally:
        if running and running.over:
            Host.running[command] = host
        else:
            host.stop()


@dataclass(frozen=True)
class NodeClient(Client):
    """A client's script, the flags that Node needs for it, and what its job always says."""

    script: str = ""
    flags: tuple[str, ...] = ()
    job: Mapping[str, Any] = field(default_factory=dict)

    def run(self, url: str, question: str = "Hi", **job: Any):
        """Ask the relay at this URL."""
        return node(self.script, {**self._asks(url, question), **self.job, **job}, *self.flags)

    def _asks(self, url: str, question: str) -> dict[str, Any]:
        messages = [{"role": "user", "content": question}]
        return {"url": url, "key": KEY, "body": {"model": "m", "messages": messages}}


class EventSource(NodeClient):
    """A client of GET /chat."""

    def _asks(self, url: str, question: str) -> dict[str, Any]:
        return {"url": f"{url}/chat?{urlencode({'question': question, 'keep': 0})}"}


class Poster(NodeClient):
    """A client of POST /chat."""

    def _asks(self, url: str, question: str) -> dict[str, Any]:
        return {"url": f"{url}/chat", "body": {"question": question, "keep": 0}}


FAILED = {"name": "AI_APICallError", "message": "Failed to process successful response"}
TERMINATED = {"lost": "TypeError"}
BARRED = {"lost": "closed"}

OPENAI = NodeClient("node-openai", script="openai.mjs", attempts=3)
ANTHROPIC = NodeClient("node-anthropic", MESSAGES, script="anthropic.mjs", attempts=3)
VERCEL = NodeClient(
    "vercel-ai",
    script="vercel.mjs",
    attempts=3,
    lost=({"error": {**FAILED, "status": 200}},),
)
EVENTSOURCE = EventSource(
    "npm-eventsource",
    chat=True,
    script="eventsource.mjs",
    sees_status=False,
    refused=(BARRED,),
)
NODE_EVENTSOURCE = EventSource(
    "node-eventsource",
    chat=True,
    script="eventsource.mjs",
    flags=("--experimental-eventsource",),
    job={"own": True},
    sees_status=False,
    refused=(BARRED,),
)
PARSER = Poster("eventsource-parser", chat=True, script="fetch.mjs", lost=(TERMINATED,))
GONE = {
    "status": 410,
    "message": "the stream is unknown or no longer kept; ask the question again",
    "type": "not_found_error",
    "code": "stream_gone",
    "stage": "request",
    "retryable": False,
}
"""What a client is told that comes back to a stream which nobody keeps."""
FETCH_EVENT_SOURCE = Poster(
    "fetch-event-source",
    chat=True,
    script="fetch-event-source.mjs",
    lost=(TERMINATED, {"error": GONE}),
)
