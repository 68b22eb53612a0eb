"""A real systemd, booted in namespaces of its own and thrown away: what units really do.

    with Lab(folder, *stages) as lab:           # trees that are laid over the root
        lab.run("systemctl", "start", "teleprinter.service")
        lab.show("teleprinter.service", "MainPID")
        lab.path("/etc/teleprinter").iterdir()  # its files, from outside

127.0.0.1 is the machine's own: fakes and clients run outside, and every port is a free one.
Needs root on Linux, systemd 252 or newer (Debian 12) and util-linux; `missing` says what is not
there. Nothing of the machine is changed: what is written goes to memory.
"""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Self

import pytest

BOOT = Path(__file__).with_name("boot.sh")
SYSTEMD = "/usr/lib/systemd/systemd"
OLDEST = 252
PYTHON = "/usr/bin/python3"
"""What the service runs on: DynamicUser can run no Python below /root, /home or /tmp."""
BOOTS_WITHIN = 30.0
PATIENT = 110.0
"""Real seconds for a command; never a measure of anything."""
BETWEEN_LOOKS = 0.02
SPACES = ("--mount", "--pid", "--uts", "--ipc", "--cgroup")
INSIDE = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "SYSTEMD_PAGER": "",
    "SYSTEMD_COLORS": "0",
}


def missing() -> str:
    """Return why no lab can be booted here, "" if one can."""
    if sys.platform != "linux":
        return "systemd runs on Linux only"
    if os.geteuid() != 0:
        return "booting a systemd needs root: run the tests as root"
    programs = (SYSTEMD, PYTHON, "unshare", "nsenter", "setpriv", "systemctl")
    if absent := [program for program in programs if shutil.which(program) is None]:
        return f"{', '.join(absent)} not found: install by `make test-deps`"
    version = int(re.search(r"\d+", _output("systemctl", "--version"))[0])
    if version < OLDEST:
        return f"systemd is {version}: the units are for {OLDEST} or newer"
    if _cgroups() is None:
        return "no cgroup2 is mounted that may be written"
    command = ["unshare", "--fork", *SPACES, "mount", "-t", "tmpfs", "none", "/tmp"]  # noqa: S108
    tried = subprocess.run(  # noqa: S603  ours
        command, capture_output=True, text=True, check=False
    )
    return f"no namespaces: {tried.stderr.strip()}" if tried.returncode else ""


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603  ours
    return done.stdout


def _cgroups() -> Path | None:
    """Return where the machine's cgroup2 is mounted; None if it may not be written."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2" and os.access(where, os.W_OK):
            return Path(where)
    return None


class Lab:
    """A machine that runs systemd and nothing else. `init`: its PID 1, as seen from outside."""

    def __init__(self, folder: Path, *stages: Path) -> None:
        self.folder = folder / "lab"
        self.init = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._stages = stages
        self._console = folder / "console"
        self._group = (_cgroups() or Path("/")) / f"teleprinter-lab-{os.getpid()}-{id(self):x}"

    def __enter__(self) -> Self:
        self.folder.mkdir()
        self._group.mkdir()
        try:
            self._boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Take away PID 1, and with it all that it started."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        end = monotonic() + BOOTS_WITHIN
        while "populated 1" in (self._group / "cgroup.events").read_text() and monotonic() < end:
            sleep(BETWEEN_LOOKS)
        for folder, _, _ in os.walk(self._group, topdown=False):
            Path(folder).rmdir()

    def _boot(self) -> None:
        home = re.search("^0::/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)[1]
        enter = 'echo $$ >"$GROUP/cgroup.procs"; exec "$@"'
        spaces = ["unshare", "--fork", "--kill-child", *SPACES]
        command = ["sh", "-c", enter, "sh", "setpriv", "--pdeathsig", "KILL", *spaces, "sh"]
        environ = {**INSIDE, "LAB": str(self.folder), "GROUP": str(self._group)}
        with self._console.open("wb") as console:
            self._process = subprocess.Popen(  # noqa: S603  our own script
                [*command, str(BOOT), *map(str, self._stages)],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        self._until(self._is_systemd)
        # this side of the fork has no pid in there: out of systemd's sight
        (_cgroups() / home / "cgroup.procs").write_text(str(self._process.pid))
        self._until(self._is_up)

    def _until(self, true: Any) -> None:
        end = monotonic() + BOOTS_WITHIN
        while not true():
            if self._process.poll() is not None or monotonic() > end:
                pytest.fail(f"systemd did not come up:\n{self._console.read_text()}")
            sleep(BETWEEN_LOOKS)

    def _is_systemd(self) -> bool:
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not children or Path(f"/proc/{children[0]}/comm").read_text() != "systemd\n":
            return False
        self.init = int(children[0])
        return True

    def _is_up(self) -> bool:
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state in ("running", "degraded")

    def run(
        self, *command: str, check: bool = True, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside; with `check` it must succeed."""
        enter = ["nsenter", "-t", str(self.init), "-m", "-u", "-i", "-p", "-C", "-r", "-w"]
        done = subprocess.run(  # noqa: S603  the tests' own command
            [*enter, *command],
            env={**INSIDE, **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENT,
            check=False,
        )
        if check and done.returncode:
            pytest.fail(f"{' '.join(command)}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    async def do(
        self, *command: str, check: bool = True, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside while the loop goes on."""
        return await asyncio.to_thread(self.run, *command, check=check, **environ)

    def path(self, name: str) -> Path:
        """Return a file of the lab's, as it is reached from outside."""
        return Path(f"/proc/{self.init}/root{name}")

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        """Write a file, with the folders on its way."""
        file = self.path(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).stdout.strip()

    def journal(self, unit: str, *options: str) -> str:
        """Return what a unit and the manager wrote about it."""
        return self.run("journalctl", "-o", "cat", "-u", unit, *options).stdout
