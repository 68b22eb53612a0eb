"""The JavaScript clients: scripts of tests/clients, run by Node.

A job goes in as JSON, reports come out as JSON lines:

    async with OPENAI.run(relay.url, call="stream") as script:
        await script.says()         # {"text": "Hel"}
        script.abort()              # its AbortSignal fires
        await script.rest()         # the reports up to its end
"""

import asyncio
import json
import shutil
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from client import Client
from client_scene import KEY, MESSAGES
from program import PATIENT, Program, running

SCRIPTS = Path(__file__).with_name("clients")


class Script:
    """A script that runs."""

    def __init__(self, program: Program) -> None:
        self._program = program

    async def says(self) -> Any:
        """Return its next report; AssertionError with its stderr if it ended instead."""
        line = await self._program.line()
        assert line is not None, f"it said nothing more:\n{self._program.errors()}"
        return json.loads(line)

    async def rest(self) -> list[Any]:
        """Return its reports up to its end, which must be a good one."""
        said = []
        async with asyncio.timeout(PATIENT):
            while (line := await self._program.line()) is not None:
                said.append(json.loads(line))
        assert await self._program.code() == 0, self._program.errors()
        return said

    async def abort(self) -> None:
        """Let it abort what it does."""
        self._program.process.stdin.write(b"abort\n")


@asynccontextmanager
async def node(script: str, job: Mapping[str, Any], *flags: str) -> AsyncIterator[Script]:
    """Run a script of tests/clients; skips the test where Node or its packages are missing."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not installed: apt-get install nodejs npm")
    if not (SCRIPTS / "node_modules").is_dir():
        pytest.skip("the JavaScript clients are not installed: npm ci --prefix tests/clients")
    command = (program, *flags, str(SCRIPTS / script), json.dumps(job))
    async with running(*command, stdin=PIPE, NODE_NO_WARNINGS="1") as process:
        yield Script(process)


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
