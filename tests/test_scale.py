"""Three relays and a Redis behind nginx, each a process of its own: what clients see when one dies.

What is measured is printed: pytest -s tests/test_scale.py
"""

import asyncio
import re
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus

import aiohttp

import fronting
import real
from fakes import Upstream, chat, chat_frame, reply
from serving import PATIENT, serving, upstream_toml

RELAYS = 3
STREAMS = 200
TOKENS = 6
BEFORE = 3
"""Of the tokens, those that came before the end of one relay."""
AFTERWARDS = 60
RATE = 5
ROLE, FINISH, DONE = chat([])
TOKEN = re.compile(rb'"content":"token-(\d+) "')
V1 = "/v1/chat/completions"
ASK = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}


def measured(what):
    """Print a number that docs/operations.md may state."""
    print(f"measured: {what}")  # noqa: T201


class Answers:
    """An upstream's script: each stream has as many tokens as were let go."""

    def __init__(self):
        self._gates = [asyncio.Event() for _ in range(TOKENS)]

    async def let_go(self, tokens):
        """Let every stream have so many."""
        for gate in self._gates[:tokens]:
            gate.set()

    async def __call__(self, _request, wire):
        """Stream."""
        await wire.head(content_type="text/event-stream")
        await wire.chunk(ROLE)
        for number, gate in enumerate(self._gates):
            await gate.wait()
            await wire.chunk(chat_frame({"content": f"token-{number} "}))
        await wire.chunk(FINISH + DONE)
        await wire.end()


@dataclass
class Seen:
    """What one client saw of its stream.

    end     whole: HTTP's end and the API's; cut: neither; told: an error event, then a cut;
            false: HTTP's end without the API's
    waited  seconds until the first bytes came
    ended   when it ended, by the loop's clock
    """

    status: int = 0
    waited: float = 0.0
    ended: float = 0.0
    stream: str = ""
    data: bytes = b""
    end: str = ""
    more: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def tokens(self):
        """The numbers of its tokens."""
        return [int(number) for number in TOKEN.findall(self.data)]

    async def until(self, tokens):
        """Wait for so many tokens."""
        while len(self.tokens) < tokens and not self.end:
            self.more.clear()
            await self.more.wait()

    async def read(self, request):
        """Send the request, read to the end."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with request as response:
                self.status = response.status
                self.stream = response.headers.get("Teleprinter-Stream", "")
                async for data in response.content.iter_any():
                    self.waited = self.waited or loop.time() - began
                    self.data += data
                    self.more.set()
            self.end = "whole" if b"[DONE]" in self.data or b"event: done" in self.data else "false"
        except aiohttp.ClientPayloadError:
            self.end = "told" if b'"error"' in self.data or b"event: error" in self.data else "cut"
        self.ended = loop.time()
        self.more.set()


@dataclass
class Fleet:
    """Relays behind nginx. `session`: clients of nginx."""

    relays: list
    front: fronting.Front
    session: aiohttp.ClientSession

    def ask(self, number):
        """Return the request of that client: every other one is an SDK's."""
        if number % 2:
            kept = {"Teleprinter-Keep": "15", "Teleprinter-Key": "secret"}
            return self.session.post(self.front.url + V1, json=ASK, headers=kept)
        key = {"Teleprinter-Key": "secret"}
        return self.session.post(self.front.url + "/chat", json={"question": "Hi"}, headers=key)

    def resume(self, relay, stream):
        """Return the request to that relay for a kept stream from its beginning."""
        key = {"Teleprinter-Key": "secret"}
        return self.session.get(f"{relay.url}/streams/{stream}", headers=key)

    async def resumed(self, relay, clients, lost):
        """Wait until so many have lost their streams; resume those at that relay, to the end."""
        async with asyncio.timeout(PATIENT):
            while sum(bool(client.end) for client in clients) < lost:  # noqa: ASYNC110  any of them
                await asyncio.sleep(real.BETWEEN_LOOKS)
        again = {client.stream: Seen() for client in clients if client.end}
        async with asyncio.TaskGroup() as group:
            for stream, client in again.items():
                group.create_task(client.read(self.resume(relay, stream)))
        return list(again.values())

    async def open_at(self, relay):
        """Return how many streams an instance says that it has, at its own address."""
        own = re.search(r"listening on (http://\S+/metrics)", relay.text)[1]
        async with self.session.get(own) as response:
            text = await response.text()
        return int(float(re.search(r"^teleprinter_streams_open (\S+)", text, re.MULTILINE)[1]))


@asynccontextmanager
async def fleet(base, upstream, ca, *, key='"a:secret"'):
    """Run relays that share a Redis, and nginx before them."""
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(real.redis_server(base))
        toml = f"""
            [server]
            admin = "127.0.0.1:0"
            metrics_open = true
            trusted_proxies = ["127.0.0.1"]
            keys = [{key}]
            [store]
            url = "redis://127.0.0.1:{redis.port}/0"
            {upstream_toml(upstream)}"""
        relays = []
        for number in range(RELAYS):
            folder = base / f"relay-{number}"
            folder.mkdir()
            relays.append(await stack.enter_async_context(serving(folder, toml)))
            await relays[-1].said("/metrics")
        front = stack.enter_context(fronting.nginx(base, [relay.port for relay in relays], ca))
        connector = aiohttp.TCPConnector(ssl=ca.client, limit=0)
        timeout = aiohttp.ClientTimeout(total=PATIENT)
        session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        yield Fleet(relays, front, await stack.enter_async_context(session))


async def test_one_of_three_is_killed_under_200_streams(tmp_path, ca):
    """Those at the others go on whole; its own are cut, never ended, and told so when they resume.

    New requests are served by the others at once, and none is refused.
    """
    script, loop = Answers(), asyncio.get_running_loop()
    loop.set_debug(False)  # all clients and the upstream are in this process
    async with Upstream(script) as upstream, fleet(tmp_path, upstream, ca) as run:
        clients = [Seen() for _ in range(STREAMS)]
        async with asyncio.TaskGroup() as group:
            for number, client in enumerate(clients):
                group.create_task(client.read(run.ask(number)))
            await script.let_go(BEFORE)
            for client in clients:
                await client.until(BEFORE)
            spread = [await run.open_at(relay) for relay in run.relays]
            killed, at = run.relays[1], loop.time()
            killed.process.kill()
            await killed.process.wait()
            again = group.create_task(run.resumed(run.relays[0], clients, spread[1]))
            later = [Seen() for _ in range(AFTERWARDS)]
            for number, client in enumerate(later):
                group.create_task(client.read(run.ask(number)))
                await client.until(1)
            resumed = await again
            told = max(client.ended for client in resumed) - at
            await script.let_go(TOKENS)
        ends = Counter(client.end for client in clients)
    measured(f"{STREAMS} streams over {RELAYS} relays: {spread}; killed: {dict(ends)}")
    refused = sum(client.status != HTTPStatus.OK for client in later)
    waited = max(client.waited for client in later)
    measured(f"{AFTERWARDS} new requests after it: {refused} refused; longest wait {waited:.2f} s")
    measured(
        f"{len(resumed)} resumed elsewhere: upstream_cut, the last {told:.2f} s after the kill"
    )
    assert sum(spread) == STREAMS
    assert max(spread) < STREAMS / 2
    assert ends == {"whole": STREAMS - spread[1], "cut": spread[1]}
    assert {tuple(client.tokens) for client in clients if client.end == "whole"} == {
        tuple(range(TOKENS))
    }
    assert {(client.status, client.end) for client in later} == {(200, "whole")}
    assert [client.end for client in resumed] == ["told"] * spread[1]
    assert all(b'"upstream_cut"' in client.data for client in resumed)
    assert all(client.tokens == list(range(BEFORE))[: len(client.tokens)] for client in resumed)


async def test_rates_hold_for_all_together(tmp_path, ca):
    """A key's requests a minute are counted over the relays, whichever nginx chose."""
    key = f'{{ name = "a", key = "secret", requests_per_minute = {RATE} }}'
    async with (
        Upstream(reply(200, "{}", content_type="application/json")) as upstream,
        fleet(tmp_path, upstream, ca, key=key) as run,
    ):
        said = Counter()
        for number in range(1, 2 * RATE + 1, 2):
            for _ in range(2):
                async with run.ask(number) as response:
                    said[response.status] += 1
    assert said == {200: RATE, 429: RATE}
