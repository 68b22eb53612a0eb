"""Every kind of proxy, end to end: client ─▶ relay ─▶ fake proxy ─▶ fake upstream.

Matrix       kind × credentials × http:// or https:// upstream × streamed or plain
Addresses    IPv6, missing ports, credentials with any character
Names        who resolves the upstream's name
Answers      in pieces, of HTTP/1.0, refusals with a body, silence, what is no proxy
Environment  what HTTPS_PROXY and its kin may say, and when they are asked
Lists        the next one when one cannot be dialled; never past them
Tunnels      used again while they are whole, and only then
"""

import asyncio
import json
import socket
from contextlib import asynccontextmanager
from http import HTTPStatus
from itertools import product

import aiohttp
import pytest
from python_socks.async_.asyncio import _resolver as socks_resolver
from python_socks.async_.asyncio.v2 import _proxy as socks_client

from clock import FakeClock
from fakes import Dial, HttpProxy, SocksProxy, Upstream, chat, in_turn, reply, sse
from fakes.server import Connection
from relaying import arrived, events, read_events, relaying, settled, until

pytestmark = pytest.mark.both_loops

KINDS = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"]
REMOTE_DNS = ["http", "https", "socks4a", "socks5h"]
LOCAL_DNS = ["socks4", "socks5"]
TLS_IN = {"plain": "http", "tls": "https"}
FRAMES = chat(["Hel", "lo"], usage={"total_tokens": 3})
BODY = b'{"object": "chat.completion", "choices": []}'
ANSWER = reply(200, BODY, content_type="application/json")
ASKED = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
WICKED = ("us@r/ü密", "p:a@s/s #%密?")
"""User and password that a URL cannot hold as they are, nor Latin-1, nor ASCII."""


def proxy_of(kind, ca, auth=None, **options):
    """Return a fake proxy of that kind; it lets nobody in without `auth`."""
    if kind.startswith("socks"):
        return SocksProxy(auth=auth, **options)
    return HttpProxy(auth=auth, ssl=ca.server if kind == "https" else None, **options)


def url_of(proxy, kind):
    """Return the proxy's URL as a user of that kind writes it; SOCKS4 has a user name only."""
    url = proxy.url_as(kind)
    if proxy.auth is None or not kind.startswith("socks4"):
        return url
    user, _, rest = url.partition("://")[2].partition(":")
    return f"{kind}://{user}@{rest.partition('@')[2]}"


def upstream_of(secure, ca, script=None):
    """Return a fake upstream that speaks TLS or not."""
    return Upstream(script, ssl=ca.server if secure else None)


def settings(url, ca, *ways, more=""):
    """Return a settings file: one upstream, one list of proxies, the tests' authority."""
    ways = ", ".join(json.dumps(way) for way in ways)
    return (
        f'[[upstream]]\nname = "api"\nurl = "{url}/v1"\nca_file = {json.dumps(str(ca.file))}\n'
        f'[[pool]]\nname = "ways"\nproxies = [{ways}]\n{more}'
    )


def relay_to(url, ca, *ways, more="", **options):
    """Run a relay to that upstream through these proxies."""
    return relaying(toml=settings(url, ca, *ways, more=more), **options)


def named(upstream, name):
    """Return the upstream's URL with another host."""
    return upstream.url.replace("127.0.0.1", name)


async def ask(relay, **asked):
    """Ask for a plain answer; return status and JSON."""
    async with relay.post("/v1/chat/completions", ASKED | asked) as response:
        return response.status, await response.json(content_type=None)


async def refused(relay):
    """Ask for a plain answer; return the error's code and message."""
    status, answer = await ask(relay)
    assert status >= 500
    return answer["error"]["code"], answer["error"]["message"]


async def told(relay):
    """Ask /chat; return what its one error event says."""
    async with relay.get("/chat", question="Hi") as response:
        names = {event.name: event.data for event in await read_events(response)}
    return names["error"]


async def streamed_through(relay, upstream):
    """Stream a completion whose second half is sent when the client has the first."""
    async with relay.stream() as response:
        _, wire = await upstream.next() if not upstream.requests else (None, None)
        raise NotImplementedError
