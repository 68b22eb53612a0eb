"""The scripts of tests/clients, run by Node: a job goes in as JSON, reports come out as JSON lines.

    async with node("openai.mjs", {"url": relay.url, "call": "stream"}) as script:
        await script.says()         # {"text": "Hel"}
        script.abort()              # its AbortSignal fires
        await script.rest()         # the reports up to its end
"""

import json
import shutil
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from program import Program, running

CLIENTS = Path(__file__).with_name("clients")


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
        while (line := await self._program.line()) is not None:
            said.append(json.loads(line))
        assert await self._program.code() == 0, self._program.errors()
        return said

    def abort(self) -> None:
        """Let it abort what it does."""
        self._program.process.stdin.write(b"abort\n")


@asynccontextmanager
async def node(script: str, job: Mapping[str, Any], *flags: str) -> AsyncIterator[Script]:
    """Run a script of tests/clients; skips the test where Node or its packages are missing."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not installed: apt-get install nodejs npm")
    if not (CLIENTS / "node_modules").is_dir():
        pytest.skip("the JavaScript clients are not installed: npm ci --prefix tests/clients")
    command = (program, *flags, str(CLIENTS / script), json.dumps(job))
    async with running(*command, stdin=PIPE, NODE_NO_WARNINGS="1") as process:
        yield Script(process)
