"""A running relay, in the test's own process and on the test's own clock, and a client for it.

    async with Upstream(sse(*chat(["Hi"]))) as upstream, relaying(upstream.url) as relay:
        async with relay.get("/chat", question="Hello?") as response:
            events = await read_events(response)

`arrived`, `settled` and `until` wait for what happens within this process, without a sleep.
"""

import asyncio
import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web
from msgspec.structs import replace

from canaries import plant
from clock import PATIENCE
from service.adapters.clock import Clock, LoopClock
from service.adapters.dial.trust import Trust
from service.adapters.tracing import NoTraces
from service.app import application, runner
from service.boundary import GATEWAY
from service.gateway import Gateway
from service.relay import Stream
from service.settings import Settings, load

OPENAI = "https://api.openai.com"
_NO_LONGER = aiohttp.ClientTimeout(total=3 * PATIENCE)
_TURNS = 100
"""Turns of the loop in which whatever is on its way within this process arrives."""


class Event(NamedTuple):
    """One event as an EventSource client sees it."""

    name: str
    id: str
    data: Any


class Relay:
    """Where the relay listens, its insides, and requests to it."""

    def __init__(self, port: int, gateway: Gateway, session: aiohttp.ClientSession) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.gateway = gateway
        self.session = session

    @property
    def streams(self) -> list[Stream]:
        """The streams that are under way."""
        return list(self.gateway.streams._streams.values())

    def get(self, path: str, headers: Mapping[str, str] | None = None, **query: Any):
        """Send GET; the keywords are the query."""
        return self.session.get(self.url + path, params=query, headers=headers)

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None):
        """Send POST with a JSON body."""
        return self.session.post(self.url + path, json=body, headers=headers)

    def stream(self, path: str = "/v1/chat/completions", **body: Any):
        """Ask for a streamed chat completion, as an SDK does."""
        asked = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        return self.post(path, asked | body, {"Authorization": "Bearer sk-client"})


@asynccontextmanager
async def relaying(  # noqa: PLR0913  what a test may change
    upstream: str | None = None,
    *,
    clock: Clock | None = None,
    toml: str = "",
    traces: NoTraces | None = None,
    tls: ssl.SSLContext | None = None,
    environ: Mapping[str, str] | None = None,
    **variables: str,
) -> AsyncIterator[Relay]:
    """Run a relay; `variables` are settings without TELEPRINTER_ (`proxy="socks5://…"`).

    `tls`: what it trusts of upstreams, instead of the system's authorities (`ca.client`);
    `environ`: further variables, by their whole names. Nothing is asked twice unless `toml` has a
    table [retry], and nothing kept unless it says `keep`, so that each answer of an upstream is
    seen as it is.
    """
    given = {f"TELEPRINTER_{name.upper()}": value for name, value in variables.items()}
    if upstream is not None:
        given["TELEPRINTER_UPSTREAM_URL"] = f"{upstream}/v1"
    app = application(
        _settings({**given, **(environ or {})}, toml),
        clock=LoopClock if clock is None else lambda: clock,
        traces=traces,
    )
    serving = runner(app)
    await serving.setup()
    for lane in app[GATEWAY]._lanes.values() if tls is not None else ():
        lane._tls = Trust(tls, tls)
    try:
        await web.TCPSite(serving, "127.0.0.1", 0).start()
        port = serving.addresses[0][1]
        async with aiohttp.ClientSession(timeout=_NO_LONGER) as session:
            yield Relay(port, app[GATEWAY], session)
    finally:
        await serving.cleanup()


def _settings(environ: Mapping[str, str], toml: str) -> Settings:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "teleprinter.toml")
        file.write_text(toml if "[retry]" in toml else f"{toml}\n[retry]\nattempts = 1\n")
        settings = load(environ=environ, config=str(file), cwd=Path(folder))
    plant(settings)
    return settings if "keep" in toml else replace(settings, chat=replace(settings.chat, keep=0.0))


async def read_events(response: aiohttp.ClientResponse) -> list[Event]:
    """Return the events up to the end of the stream; a cut raises ClientPayloadError."""
    return [event async for event in events(response)]


async def read_cut(response: aiohttp.ClientResponse) -> list[Event]:
    """Return the events up to the end of the stream or to its cut."""
    found = []
    with suppress(aiohttp.ClientPayloadError):
        async for event in events(response):
            found.append(event)  # noqa: PERF401  what came before the cut counts
    return found


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[Event]:
    """Yield events as they come; comments are passed over."""
    fields: dict[str, str] = {}
    async for line in response.content:
        text = line.decode().rstrip("\n")
        if text:
            name, _, value = text.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield Event(fields.get("event", "message"), fields["id"], json.loads(fields["data"]))
            fields = {}
        else:
            fields = {}


async def arrived(response: aiohttp.ClientResponse) -> bytes:
    """Return what has come of the body and nobody has read, once nothing more is on its way."""
    await settled()
    return response.content.read_nowait()


async def settled() -> None:
    """Let the loop turn until nothing is on its way, so that what has not come will not come."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)


async def until(true: Callable[[], Any]) -> None:
    """Let the loop turn until that is true; TimeoutError if it never is."""
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110  anything may make it true
            await asyncio.sleep(0)
