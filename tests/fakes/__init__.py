"""Peers that speak bytes on real loopback sockets, each an async context manager.

    async with Upstream(sse(*chat(["Hel", "lo"]))) as upstream, HttpProxy() as proxy:
        ...  # upstream.url, proxy.url; afterwards upstream.requests, proxy.targets

    Server ─┬─ Upstream     an HTTP/1.1 API, played by a script or by the test itself
            ├─ HttpProxy    CONNECT and absolute-form, basic auth, several ways to fail
            └─ SocksProxy   SOCKS4, 4a and 5, the same ways to fail

At the end of `async with` all sockets and tasks of the fake are closed, whatever their peers do,
and what a script raised is raised.
"""

from fakes.frames import chat, chat_frame, frame
from fakes.http import Request
from fakes.http_proxy import HttpProxy
from fakes.server import Server
from fakes.socks_proxy import Dial, SocksProxy
from fakes.upstream import Script, Upstream, Wire, begun, in_turn, reply, sse

__all__ = [
    "Dial",
    "HttpProxy",
    "Request",
    "Script",
    "Server",
    "SocksProxy",
    "Upstream",
    "Wire",
    "begun",
    "chat",
    "chat_frame",
    "frame",
    "in_turn",
    "reply",
    "sse",
]
