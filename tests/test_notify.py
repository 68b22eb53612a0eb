"""What a service manager is told, by a manager that only listens (sd_notify(3))."""

import asyncio
import os
import signal
import socket
from contextlib import asynccontextmanager

import pytest

from fakes import Upstream
from service.adapters import systemd
from serving import PATIENT, finish, serving, streaming, upstream_toml


class Manager(asyncio.DatagramProtocol):
    """systemd's side of NOTIFY_SOCKET; `words`: all that came, in the order of its coming."""

    def __init__(self):
        self.words = []
        self._more = asyncio.Event()

    def datagram_received(self, data, _):
        """Note the words of a datagram."""
        self.words += data.decode().split("\n")
        self._more.set()

    async def heard(self, word):
        """Wait until that was said; return all before it, and forget them."""
        async with asyncio.timeout(PATIENT):
            while word not in self.words:
                self._more.clear()
                await self._more.wait()
        before = self.words[: self.words.index(word)]
        self.words = self.words[len(before) + 1 :]
        return before


@asynccontextmanager
async def managed(folder, toml, **variables):
    """Run a relay below a manager; yield both."""
    loop, address = asyncio.get_running_loop(), str(folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(address)
        bound.setblocking(False)  # noqa: FBT003  its signature
        transport, manager = await loop.create_datagram_endpoint(Manager, sock=bound)
        try:
            async with serving(folder, toml, NOTIFY_SOCKET=address, **variables) as relay:
                yield relay, manager
        finally:
            transport.close()
            await asyncio.sleep(0)  # the transport closes


async def test_a_life(tmp_path):
    """Ready, how many streams are open, reloading, ready again, stopping with the drain's time."""
    async with (
        Upstream() as upstream,
        managed(tmp_path, upstream_toml(upstream)) as (relay, manager),
    ):
        before = await manager.heard("READY=1")
        assert before in ([], ["STATUS=0 streams open"])
        async with streaming(relay, upstream) as (_, wire):
            await manager.heard("STATUS=1 stream open; direct up")
            await relay.reload("[server]\ndrain = 7\n" + upstream_toml(upstream))
            await manager.heard("RELOADING=1")
            await manager.heard("READY=1")
            relay.signal(signal.SIGTERM)
            await manager.heard("STOPPING=1")
            await manager.heard("EXTEND_TIMEOUT_USEC=17000000")
            await manager.heard("STATUS=draining, 1 stream open; direct up")
            await finish(wire)
        assert await relay.code() == 0
        assert "WATCHDOG=1" not in manager.words


async def test_a_reload_that_is_refused_ends_too(tmp_path):
    """Otherwise the manager would take the service for one that reloads for ever."""
    async with (
        Upstream() as upstream,
        managed(tmp_path, upstream_toml(upstream)) as (relay, manager),
    ):
        await manager.heard("READY=1")
        await relay.reload("[server\n", event="the new settings are not used")
        await manager.heard("RELOADING=1")
        await manager.heard("READY=1")


async def test_the_watchdog_is_fed_by_the_loop(tmp_path):
    """Again and again, if the manager asked for it."""
    async with managed(tmp_path, "", WATCHDOG_USEC="1000000") as (_, manager):
        await manager.heard("READY=1")
        for _ in range(3):
            await manager.heard("WATCHDOG=1")


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "2500000"}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": str(os.getpid())}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "never"}, None),
    ],
)
def test_who_is_watched(monkeypatch, variables, seconds):
    """The process that the manager means, for as long as it says (sd_watchdog_enabled(3))."""
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    assert systemd.watchdog() == seconds


def test_a_manager_that_is_gone_is_nobodys_trouble(monkeypatch, tmp_path):
    """A word to nobody is lost without an error."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    systemd.notify("READY=1")
