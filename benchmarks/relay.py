"""The relay under measurement, started as users start it: `teleprinter serve`, everything on."""

import re
import socket
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from benchmarks.processes import Program, cores, free_port
from benchmarks.rig import ROOT
from benchmarks.target import KEY, Target, configured

PYTHON = {"PYTHONPATH": str(ROOT)}
_REQUEST = re.compile(r'"event": ?"request"')
_LAG = re.compile(r'^teleprinter_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)', re.MULTILINE)


def python(module: str) -> list[str]:
    """Return the command that runs a module of this project."""
    return [sys.executable, "-m", module]


def command(file: Path) -> list[str]:
    """Return the command that serves with this configuration."""
    return [*python("service"), "serve", "--config", str(file)]


def start(  # noqa: PLR0913  what is not named is as shipped
    folder: Path,
    upstream: str,
    name: str = "teleprinter",
    *,
    proxy: str = "direct",
    ca_file: str = "",
    sockets: Sequence[socket.socket] = (),
) -> Target:
    """Start a relay in front of an upstream's origin; one process for each of the sockets."""
    port = sockets[0].getsockname()[1] if sockets else free_port()
    file = configured(
        "teleprinter.toml", folder, PORT=port, UPSTREAM=upstream, PROXY=proxy, CA=ca_file
    )
    programs = [
        Program(
            command(file), folder / str(number), cpus=cores()[1], sockets=each, variables=PYTHON
        )
        for number, each in enumerate([[one] for one in sockets] or [[]])
    ]
    return Target(name, port, KEY, programs, folder)


def requests(program: Program) -> int:
    """Return how many request lines a relay has logged."""
    return len(_REQUEST.findall(program.log.read_text()))


def lags(target: Target) -> dict[float, float]:
    """Return how often the event loop was late by at most so many seconds, cumulated."""
    headers = {"Authorization": f"Bearer {KEY}"}
    request = urllib.request.Request(f"http://127.0.0.1:{target.port}/metrics", headers=headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        text = answer.read().decode()
    return {float(bound): float(count) for bound, count in _LAG.findall(text)}


def longest(before: dict[float, float], after: dict[float, float]) -> float:
    """Return the bound in seconds under which all lags between two looks were."""
    new = {bound: after[bound] - before.get(bound, 0) for bound in after}
    return min(bound for bound in new if new[bound] == max(new.values()))
