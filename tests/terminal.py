"""A program that a person runs on a terminal.

async with on_terminal(*command, cwd=tmp_path) as screen:
    await screen.shows("listening on")
    screen.press_ctrl_c()
    assert await screen.code() == 130
"""

import asyncio
import os
import pty
import signal
import termios
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from program import PATIENT, end, environment

ROWS, COLUMNS = 50, 160


class Screen:
    """What stands on the terminal: `text`, escape sequences and all."""

    def __init__(self, process: Process, master: int) -> None:
        self.process = process
        self.text = ""
        self._master = master
        self._more = asyncio.Event()
        asyncio.get_running_loop().add_reader(master, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._master, 1 << 16)
        except OSError:  # EIO: nobody has the other side any more
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._master)
        self.text += data.decode(errors="replace").replace("\r\n", "\n")
        self._more.set()

    async def shows(self, text: str) -> None:
        """Wait until it wrote that; TimeoutError if it never does."""
        async with asyncio.timeout(PATIENT):
            while text not in self.text:
                self._more.clear()
                await self._more.wait()

    def press_ctrl_c(self) -> None:
        """Interrupt it."""
        self.process.send_signal(signal.SIGINT)

    async def code(self) -> int:
        """Wait until it ends; return its exit code."""
        async with asyncio.timeout(PATIENT):
            return await self.process.wait()


@asynccontextmanager
async def on_terminal(*command: str, cwd: Path, **variables: str) -> AsyncIterator[Screen]:
    """Run a program on a terminal of its own, with these variables; kill it if it is left."""
    master, own = pty.openpty()
    termios.tcsetwinsize(own, (ROWS, COLUMNS))
    environ = environment(**{"TERM": "xterm", **variables})
    try:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=cwd, env=environ, stdin=own, stdout=own, stderr=own
        )
    finally:
        os.close(own)
    try:
        yield Screen(process, master)
    finally:
        await end(process)
        asyncio.get_running_loop().remove_reader(master)
        os.close(master)
