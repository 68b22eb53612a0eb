"""A line that breaks 20 times in one answer: not a byte is missing, none comes twice.

The upstream is asked once, whichever instance the client comes back to. On a real Redis there are
two of them.
"""

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random

import pytest

import real
from chromium import Chromium, Tab, chromium
from dropping import Come, Dropper, Follower, answer, feed, together, tokens
from fakes import Upstream
from node import node
from relaying import relaying

DROPS = 20
FEW = 3
"""Drops of an EventSource: it waits 3 s each time."""
SEED = 20_260_701
THOUGHT, SAID = 60, 440
TOML = "[chat]\nkeep = 15\nmax_lag_ms = 150\n"
KINDS = ["memory", "redis"]
PACES = ["off", "smooth"]
COARSE = Come(lump=30, lead=0, gap=0.12)
"""Lumps so far apart that `smooth` cuts what is long."""


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    """Run a Redis for the tests of this file."""
    with real.redis_server(tmp_path_factory.mktemp("redis")) as redis:
        yield redis


def scene():
    """Return what is left to chance, an answer's frames, and what they say."""
    chance = Random(SEED)  # noqa: S311  the same each time
    thought, text = tokens(chance, THOUGHT), tokens(chance, SAID)
    return chance, answer(thought, text), ("".join(thought), "".join(text))


@asynccontextmanager
async def instances(kind, request, upstream, toml=TOML):
    """Run one relay that keeps in memory, or two that share a Redis."""
    async with AsyncExitStack() as stack:
        store, count = "memory", 1
        if kind == "redis":
            store, count = request.getfixturevalue("redis").url("redis"), 2
        each = [relaying(upstream.url, toml=toml, store=store) for _ in range(count)]
        yield [await stack.enter_async_context(one) for one in each]


def asking(method, target, body=None, *headers):
    """Return a request's bytes."""
    data = b"" if body is None else json.dumps(body).encode()
    own = ["Host: 127.0.0.1", "Connection: close", f"Content-Length: {len(data)}"]
    kind = ["Content-Type: application/json"] if data else []
    return (
        "\r\n".join([f"{method} {target} HTTP/1.1", *own, *kind, *headers, "", ""]).encode() + data
    )


def coming_back(method, target, body=None, *headers):
    """Return the request of one who comes back."""
    text = asking(method, target, body, "Last-Event-ID: @ID@", *headers).decode()
    text = text.replace("{", "{{").replace("}", "}}")
    return text.replace("@ID@", "{id}").replace("@NAME@", "{name}")


def ways(pace):
    """Return how each door is asked, and asked again, at this pace."""
    asked = {"question": "Hi", "pace": pace}
    chat = f"/chat?question=Hi&pace={pace}"
    completion = {"model": "m", "stream": True, "messages": []}
    paced, keep = f"Teleprinter-Pace: {pace}", "Teleprinter-Keep: 15"
    return {
        "GET": (asking("GET", chat), coming_back("GET", chat)),
        "POST": (asking("POST", "/chat", asked), coming_back("POST", "/chat", asked)),
        "v1": (
            asking("POST", "/v1/chat/completions", completion, paced, keep),
            coming_back("GET", "/streams/@NAME@?as=openai", None, paced),
        ),
    }


def said(follower):
    """Return reasoning and text of the events that came, of either wire."""
    found = {"reasoning": "", "answer": ""}
    for block in follower.blocks[: None if b"event:" in follower.blocks[0] else -1]:
        fields = dict(line.split(": ", 1) for line in block.decode().split("\n"))
        data = json.loads(fields["data"])
        if "choices" in data:
            delta = data["choices"][0]["delta"]
            found["reasoning"] += delta.get("reasoning_content", "")
            found["answer"] += delta.get("content", "")
        elif fields["event"] in found:
            found[fields["event"]] += data["content"]
    return found["reasoning"], found["answer"]


async def test_who_fails_ends_the_other():
    """A follower that gives up is what is told, and nobody is left feeding it."""
    fed = asyncio.Event()

    async def feeding():
        try:
            await asyncio.Event().wait()
        finally:
            fed.set()

    async def following():
        await asyncio.sleep(0)
        raise AssertionError("an event twice")

    with pytest.raises(AssertionError, match="an event twice"):
        await together(feeding(), following())
    assert fed.is_set()


@pytest.mark.parametrize("pace", PACES)
@pytest.mark.parametrize("way", ["GET", "POST", "v1"])
@pytest.mark.parametrize("kind", KINDS)
async def test_dropped_twenty_times(kind, way, pace, request):
    """At random bytes, each time on to one of the instances: byte for byte, asked once."""
    chance, frames, told = scene()
    least = sum(map(len, frames if way == "v1" else told)) + 60 * len(frames)  # bytes to come
    most = least // (DROPS + 1)
    cuts = [chance.randint(900, most), *(chance.randint(1, most) for _ in range(DROPS - 1))]
    async with Upstream() as upstream, instances(kind, request, upstream) as relays:
        ports = [relay.port for relay in relays]
        async with Dropper(ports, cuts, chance, b" /chat", b" /v1/", b" /streams/") as line:
            follower = Follower(line.port)
            come = COARSE if pace == "smooth" else Come()
            feeding = feed(upstream, frames, chance, lambda: follower.frame, come)
            await together(feeding, follower.follow(*ways(pace)[way]))
    assert (line.dropped, follower.visits) == (DROPS, DROPS + 1)
    assert any("+" in one for one in follower.ids) == (pace == "smooth")

    assert said(follower) == told
    assert len(upstream.requests) == 1
    if way == "v1" and pace == "off":
        assert b"".join(block + b"\n\n" for block in follower.blocks) == b"".join(frames)


class Reports:
    """What an EventSource client of another make says of its stream."""

    def __init__(self):
        self.all = []

    @property
    def frame(self):
        """The frame that it has reached: the role's, then one an event."""
        return 1 + sum("text" in one or "reasoning" in one for one in self.all)

    async def collect(self, script, come=lambda: None):
        """Take what it says, up to its last word; call `come` after each."""
        while self.all[-1:] != [{"done": "stop"}]:
            self.all.append(await script.says())
            come()

    @property
    def said(self):
        """Reasoning and text."""
        return tuple(
            "".join(one.get(kind, "") for one in self.all) for kind in ("reasoning", "text")
        )


@asynccontextmanager
async def in_node(url):
    """Run npm's eventsource."""
    async with node("eventsource.mjs", {"url": f"{url}/chat?question=Hi"}) as script:
        yield script


@asynccontextmanager
async def in_chromium(url):
    """Run Chromium's own, in the relay's page."""
    async with chromium():
        profile = await Chromium.running.new_context(ignore_https_errors=True)
        try:
            tab = Tab(await profile.new_page())
            await tab.begin(url, "EventSource", {"url": "chat?question=Hi"})
            yield tab
        finally:
            await profile.close()


@pytest.mark.parametrize("client", [in_node, in_chromium])
@pytest.mark.parametrize("kind", KINDS)
async def test_event_sources_come_back(kind, client, request):
    """The one of npm and Chromium's own, which know nothing of the relay, lose nothing either."""
    chance, frames, told = scene()
    cuts = [chance.randint(900, 7000) for _ in range(FEW)]
    reports = Reports()
    async with Upstream() as upstream, instances(kind, request, upstream) as relays:
        ports = [relay.port for relay in relays]
        async with Dropper(ports, cuts, chance, b" /chat?") as line, client(line.url) as script:
            feeding = feed(upstream, frames, chance, lambda: reports.frame)
            await together(feeding, reports.collect(script))
    assert line.dropped == reports.all.count({"lost": "connecting"}) == FEW
    assert reports.said == told
    assert len(upstream.requests) == 1


@asynccontextmanager
async def behind_nginx(request, upstream):
    """Run nginx, as config/nginx.conf has it, before two relays that share a Redis."""
    fronting = pytest.importorskip("fronting")
    folder, ca = (request.getfixturevalue(name) for name in ("tmp_path", "ca"))
    async with instances("redis", request, upstream) as relays:
        with fronting.nginx(folder, [relay.port for relay in relays], ca) as front:
            yield front


@pytest.mark.parametrize("way", ["GET", "v1"])
async def test_dropped_before_nginx(way, request):
    """Through a real nginx and TLS: byte for byte, asked once, whichever relay nginx chooses."""
    chance, frames, told = scene()
    cuts = [6000, *(chance.randint(1, 6000) for _ in range(DROPS // 2 - 1))]
    async with (
        Upstream() as upstream,
        behind_nginx(request, upstream) as front,
        Dropper([front.port], cuts, chance, b"") as line,
    ):
        follower = Follower(line.port, front.tls)
        feeding = feed(upstream, frames, chance, lambda: follower.frame)
        await together(feeding, follower.follow(*ways("off")[way]))
    assert line.dropped == DROPS // 2
    assert said(follower) == told
    assert len(upstream.requests) == 1
    if way == "v1":
        assert b"".join(block + b"\n\n" for block in follower.blocks) == b"".join(frames)


def dropping(line, reports, *frames):
    """Return what breaks the line, once at each of these frames; which bytes, TLS does not tell."""
    left = list(frames)

    def come():
        if left and reports.frame >= left[0]:
            left.pop(0)
            line.reset_connections()

    return come


async def test_an_event_source_comes_back_through_nginx(request):
    """Chromium's own, over HTTP/2."""
    chance, frames, told = scene()
    reports = Reports()

    entry = "performance.getEntriesByType('navigation')[0].nextHopProtocol"
    async with (
        Upstream() as upstream,
        behind_nginx(request, upstream) as front,
        Dropper([front.port], [], chance) as line,
        in_chromium(f"https://127.0.0.1:{line.port}") as tab,
    ):
        assert await tab.page.evaluate(entry) == "h2"
        feeding = feed(upstream, frames, chance, lambda: reports.frame)
        await together(feeding, reports.collect(tab, dropping(line, reports, 100, 300)))
    assert reports.all.count({"lost": "connecting"}) == 2
    assert reports.said == told
    assert len(upstream.requests) == 1
