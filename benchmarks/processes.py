"""Processes under measurement: started, pinned to cores, looked at in /proc, stopped.

A program is the leader of a session of its own. What counts as its own is every process of that
session, so that workers and children are part of the sum.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TO_END = 10.0
"""Seconds that a program has to end by itself."""


def cores() -> tuple[set[int], set[int]]:
    """Return the cores of the load and those of what is measured; the same where there is one."""
    allowed = sorted(os.sched_getaffinity(0))
    return set(allowed[:1]), set(allowed[1:2] or allowed)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Program:
    """A program that runs; `log`: the file of what it writes."""

    def __init__(  # noqa: PLR0913  what is not named is as usual
        self,
        command: Sequence[str],
        folder: Path,
        *,
        cpus: set[int],
        variables: Mapping[str, str] | None = None,
        sockets: Sequence[socket.socket] = (),
        stdin: int = subprocess.DEVNULL,
        piped: bool = False,
    ) -> None:
        """Start it in a folder; nothing of this environment reaches it but PATH.

        `sockets`: handed over from descriptor 3 on, as systemd does (`piped`: stdout is a pipe).
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "log"
        environ = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(folder)}
        with self.log.open("wb") as log, _pinned(cpus):
            self._process = subprocess.Popen(
                [*_handed_over(sockets), *command],
                cwd=folder,
                env={**environ, **(variables or {})},
                stdin=stdin,
                stdout=subprocess.PIPE if piped else log,
                stderr=log,
                start_new_session=True,
                pass_fds=[each.fileno() for each in sockets],
            )
        self.pid = self._process.pid
        self.stdin, self.stdout = self._process.stdin, self._process.stdout

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def cpu(self) -> float:
        """Return the seconds of processor time, user and system, that it has used so far."""
        return sum(int(stat[11]) + int(stat[12]) for _, stat in self._stats()) / _TICK

    def memory(self) -> int:
        """Return the bytes that it has in memory (RSS)."""
        return sum(int(stat[21]) for _, stat in self._stats()) * _PAGE

    def written(self) -> str:
        """Return the end of what it wrote."""
        return self.log.read_text(errors="replace")[-2000:]

    def wait(self, seconds: float) -> int:
        """Wait until it ends; return its exit code; raises subprocess.TimeoutExpired."""
        return self._process.wait(seconds)

    def stop(self) -> None:
        """End it, and all of its session."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_TO_END)
                break
        for pid, _ in self._stats():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pipe in (self.stdin, self.stdout):
            if pipe is not None:
                pipe.close()

    def _stats(self) -> Iterator[tuple[int, list[str]]]:
        """Yield pid and the fields of /proc/PID/stat from the third on, for all of the session."""
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal():
                with contextlib.suppress(OSError):
                    stat = (folder / "stat").read_text().rpartition(")")[2].split()
                    if stat[3] == str(self.pid):
                        yield int(folder.name), stat


@contextlib.contextmanager
def _pinned(cpus: set[int]) -> Iterator[None]:
    """Start what is started meanwhile on these cores: programs count them at their start."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


def _handed_over(sockets: Sequence[socket.socket]) -> list[str]:
    """Return the command that puts sockets where sd_listen_fds(3) looks for them."""
    if not sockets:
        return []
    moves = " ".join(f"{number}<&{each.fileno()}" for number, each in enumerate(sockets, 3))
    script = f'exec {moves}; export LISTEN_FDS={len(sockets)} LISTEN_PID=$$; exec "$@"'
    return ["sh", "-c", script, "sh"]


def until(true: Callable[[], object], seconds: float) -> bool:
    """Wait until a call returns something true; return False if it does not in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.05)
    return False
