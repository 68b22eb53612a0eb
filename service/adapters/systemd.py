"""systemd's side of a service: sockets handed over, and words to the manager; silent elsewhere.

sd_listen_fds(3): LISTEN_PID, LISTEN_FDS, the sockets from descriptor 3 on.
sd_notify(3): READY, RELOADING, STOPPING as datagrams to NOTIFY_SOCKET.
"""

import os
import socket
from typing import Final

_FIRST_FD: Final = 3


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


def notify(state: str) -> None:
    """Tell the manager, such as READY=1; without one, and if it does not listen, nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
        try:
            manager.connect("\0" + address[1:] if address.startswith("@") else address)
            manager.send(state.encode())
        except OSError:  # a manager that is gone must not take the service along
            return
