"""A client's program, run by a test: read line by line, stopped by its own pid.

async with running("node", "client.mjs") as program:
    await program.line()        # the next one; AssertionError if there is none
"""

import asyncio
import os
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import IO

PATIENT = 60.0
"""Real seconds for a program to say something, or all of its rest; never a measure of anything."""
LAST_WORDS = 3.0
"""Real seconds for a program to end by itself, before it is killed."""
MEASURED = "COVERAGE_PROCESS_CONFIG"
"""The variable by which coverage, where it runs, begins anew in a program that a test starts."""


def environment(**variables: str) -> dict[str, str]:
    """Return these variables and no others but PATH, the language, and what coverage needs."""
    own = {name: os.environ[name] for name in ("PATH", MEASURED) if name in os.environ}
    return {**own, "LANG": "C.UTF-8", **variables}


async def end(process: Process) -> None:
    """End a program that is left running; where it is measured it may first say what it ran."""
    if process.returncode is None and MEASURED in os.environ:
        process.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS):
                await process.wait()
    if process.returncode is None:
        process.kill()
    await process.wait()


class Program:
    """A program that runs."""

    def __init__(self, process: Process, errors: IO[bytes]) -> None:
        self.process = process
        self._errors = errors

    async def line(self) -> str | None:
        """Return its next line without the end, None after the last; TimeoutError if none comes."""
        async with asyncio.timeout(PATIENT):
            line = await self.process.stdout.readline()
        return line.decode().rstrip("\n") if line else None

    async def code(self) -> int:
        """Wait until it ends; return its exit code, negative for a signal."""
        async with asyncio.timeout(PATIENT):
            return await self.process.wait()

    def errors(self) -> str:
        """Return what it wrote to stderr."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")


@asynccontextmanager
async def running(*command: str, stdin: int = DEVNULL, **variables: str) -> AsyncIterator[Program]:
    """Run a program with these variables and no others but PATH; kill it if it is left running."""
    with tempfile.TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=stdin, stdout=PIPE, stderr=errors, env=environment(**variables)
        )
        try:
            yield Program(process, errors)
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()
