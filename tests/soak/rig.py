"""The processes of a run, and the trouble with the proxies between them."""

import asyncio
import json
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

import service
from program import environment
from real import Process as RealProxy
from real import free_port, microsocks, sing_box, tinyproxy
from soak.relay import EVENT

ROOT = Path(service.__file__).parents[1]
START = 60.0
"""Seconds for a process to start or to end."""
TROUBLE = 4.0, 12.0
"""Seconds between two proxies' ends, and …"""
DOWN = 0.5, 6.0
"""… until the proxy is there again."""
SHAKY = {"microsocks": (microsocks, "socks5h"), "tinyproxy": (tinyproxy, "http")}
SHAKY |= {"sing-box": (sing_box, "socks5")}
EXPECTED = {"request", "proxy is down", "proxy is back"}
"""Lines of the log that are no sign of a fault of the relay's."""
TOML = """
[server]
keys = ["soak:soak-caller"]
metrics_open = true
drain = 5
[clocks]
connect = 10
headers = 30
first_token = 30
idle = 30
[chat]
keep = 60
[heartbeat]
after = 2
[limits]
send_timeout = 5
[store]
retain = 20
"""
RETAIN = 20.0


class Relay:
    """The relay's process: its address, and what it writes."""

    def __init__(self, process: Process, on_request: Callable[[Mapping[str, Any]], None]) -> None:
        self.process = process
        self.url = ""
        self.odd: list[str] = []
        self.held: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._on_request = on_request
        self._listening = asyncio.Event()

    async def listen(self) -> None:
        """Read all that it writes."""
        async for raw in self.process.stderr:
            line = raw.decode(errors="replace").rstrip("\n")
            record = json.loads(line) if line.startswith("{") else {}
            if found := re.search(r"listening on (https?://[^/]+)/", line):
                self.url = found[1]
                self._listening.set()
            elif record.get("event") == EVENT:
                self.held.put_nowait(record)
            elif record.get("event") == "request":
                if "/chat" in record["path"] or record.get("resumed"):
                    self._on_request(record)
            elif record.get("level") != "info" and record.get("event") not in EXPECTED:
                self.odd.append(line)
        self._listening.set()

    async def look(self) -> dict[str, Any]:
        """Return what it holds."""
        self.process.send_signal(signal.SIGUSR1)
        async with asyncio.timeout(START):
            return await self.held.get()

    async def started(self) -> None:
        """Wait until it listens."""
        async with asyncio.timeout(START):
            await self._listening.wait()
        assert self.url, "the relay did not start:\n" + "\n".join(self.odd)


@asynccontextmanager
async def process(folder: Path, module: str, *arguments: str) -> AsyncIterator[Process]:
    """Run one of this package's programs; end it by its own pid."""
    environ = environment(PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    command = [sys.executable, "-m", f"soak.{module}", *arguments]
    started = await create_subprocess_exec(
        *command, cwd=folder, env=environ, stdin=PIPE, stdout=PIPE, stderr=PIPE, limit=1 << 20
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.terminate()
        try:
            async with asyncio.timeout(START):
                await started.wait()
        except TimeoutError:
            started.kill()
            await started.wait()


@asynccontextmanager
async def peers(folder: Path) -> AsyncIterator[dict[str, int]]:
    """Run the upstream and the steady proxies; yield their ports."""
    async with process(folder, "upstream") as upstream:
        async with asyncio.timeout(START):
            line = await upstream.stdout.readline()
        if not line:
            raise RuntimeError((await upstream.stderr.read()).decode())
        yield json.loads(line)
        upstream.stdin.close()


@asynccontextmanager
async def relay(
    folder: Path, toml: str, on_request: Callable[[Mapping[str, Any]], None]
) -> AsyncIterator[Relay]:
    """Run the relay with these settings."""
    file = folder / "teleprinter.toml"
    file.write_text(toml)
    async with process(folder, "relay", "serve", "--port", "0", "--config", str(file)) as started:
        running = Relay(started, on_request)
        listening = asyncio.create_task(running.listen())
        try:
            await running.started()
            yield running
        finally:
            if started.returncode is None:
                started.terminate()
            await listening


@contextmanager
def real_proxies(folder: Path) -> Iterator[dict[str, tuple[RealProxy, str]]]:
    """Run the real proxies that are installed, in turn killed and started again by `trouble`."""
    found = {}
    with ExitStack() as stack:
        for name, (start, scheme) in SHAKY.items():
            try:
                found[name] = stack.enter_context(start(folder)), scheme
            except pytest.skip.Exception as why:
                sys.stdout.write(f"without {name}: {why}\n")
        yield found


async def trouble(proxies: list[RealProxy], kills: Counter[str], chance: Random) -> None:
    """Kill a proxy, start it again, and so on; at the end all run."""
    while proxies:
        await asyncio.sleep(chance.uniform(*TROUBLE))
        proxy = chance.choice(proxies)
        await asyncio.to_thread(proxy.kill)
        kills[proxy.output.stem] += 1
        try:
            await asyncio.sleep(chance.uniform(*DOWN))
        finally:
            proxy.restart()


def settings(ports: Mapping[str, int], shaky: list[str]) -> str:
    """Return the relay's settings: an upstream for each way there can be."""
    http, socks = (f"http://127.0.0.1:{ports['http']}", f"socks5://127.0.0.1:{ports['socks']}")
    dead = free_port()
    pools = {
        "steady": ("spread", [http, socks]),
        "shaky": ("ordered", shaky or [http]),
        "direct": ("ordered", ["direct"]),
        "gone": ("ordered", [f"http://127.0.0.1:{dead}"]),
        "denying": ("ordered", [f"http://127.0.0.1:{ports['denying']}"]),
    }
    base = f"http://127.0.0.1:{ports['upstream']}"
    lines = [TOML]
    for pool, (policy, ways) in pools.items():
        row = f"[[pool]]\nname = {pool!r}\npolicy = {policy!r}\nproxies = {ways!r}\n"
        lines.append(row)
    for name, models, pool, url, more in (
        ("rescued", "rescued-*", "steady", f"{base}/broken/v1", "fallback = ['rescuer']"),
        ("rescuer", "rescuer-*", "steady", f"{base}/v1", ""),
        ("shaky", "shaky-*", "shaky", f"{base}/v1", ""),
        ("dead", "dead-*", "direct", f"http://127.0.0.1:{dead}/v1", ""),
        ("gone", "gone-*", "gone", f"{base}/v1", ""),
        ("denied", "denied-*", "denying", f"https://127.0.0.1:{ports['upstream']}/v1", ""),
        ("long", "long-*", "steady", f"{base}/v1", "clocks = { total = 20, idle = 60 }"),
        ("steady", "*", "steady", f"{base}/v1", ""),
    ):
        table = f"[[upstream]]\nname = {name!r}\nurl = {url!r}\nkey = 'soak-upstream'\n"
        lines.append(f"{table}models = [{models!r}]\npool = {pool!r}\n{more}\n")
    return "\n".join(lines)
