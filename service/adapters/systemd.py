"""systemd's side of a service: sockets handed over, and words to the manager; silent elsewhere.

sd_listen_fds(3): LISTEN_PID, LISTEN_FDS, the sockets from descriptor 3 on.
sd_notify(3): READY, RELOADING, STOPPING, STATUS, WATCHDOG as datagrams to NOTIFY_SOCKET.
sd_watchdog_enabled(3): WATCHDOG_PID, WATCHDOG_USEC.
"""

import os
import socket
from typing import Final

_FIRST_FD: Final = 3
_PATIENCE: Final = 1.0
"""Seconds that a manager may take to take a word; the event loop waits for it."""


def listen_fds() -> list[socket.socket]:
    """Return the sockets that systemd listens on for us, ready for asyncio; taken only once."""
    count = os.environ.pop("LISTEN_FDS", "0")
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()):
        return []
    sockets = [socket.socket(fileno=_FIRST_FD + i) for i in range(int(count))]
    for each in sockets:
        each.setblocking(False)  # noqa: FBT003  its signature
        each.set_inheritable(False)
    return sockets


def watchdog() -> float | None:
    """Return the seconds after which a manager that hears no WATCHDOG=1 kills us; None = never."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None  # it is meant for the process that started us
    return int(microseconds) / 1_000_000 if microseconds.isdecimal() else None


def notify(*states: str) -> None:
    """Tell the manager, such as READY=1; without one, and if it does not listen, nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not (address and states):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
        manager.settimeout(_PATIENCE)
        try:
            manager.connect("\0" + address[1:] if address.startswith("@") else address)
            manager.send("\n".join(states).encode())
        except OSError:  # a manager that is gone must not take the service along
            return
