"""`GET /v1/models`: the union of what the upstreams of a prefix list."""

import asyncio
import json

from clock import FakeClock
from fakes import Upstream, reply
from relaying import relaying, settled, until
from service.errors import CODES


def listing(*names):
    """Return an upstream's answer that lists these models."""
    data = [{"id": name, "object": "model", "owned_by": f"of-{name}"} for name in names]
    return reply(200, json.dumps({"object": "list", "data": data}))


def table(name, url, **more):
    """Return an [[upstream]] table."""
    rows = "".join(f"{key} = {json.dumps(value)}\n" for key, value in more.items())
    return f'[[upstream]]\nname = "{name}"\nurl = "{url}/v1"\n{rows}'


async def ask(relay, path="/v1/models", **headers):
    """Return status, ids, and who contributed."""
    async with relay.get(path, headers) as response:
        body = await response.json(content_type=None)
        ids = [entry["id"] for entry in body["data"]] if "data" in body else body["error"]["code"]
        return response.status, ids, response.headers.get("Teleprinter-Upstream")


async def test_the_union_of_all():
    """Each model once, the first upstream's first; who told it stands in the header."""
    async with Upstream(listing("a", "b")) as one, Upstream(listing("b", "c")) as two:
        toml = table("one", one.url) + table("two", two.url)
        async with relaying(toml=toml) as relay:
            assert await ask(relay) == (200, ["a", "b", "c"], "one, two")


async def test_only_what_would_be_routed_there():
    """A model that the upstream's globs leave out is not listed."""
    async with Upstream(listing("gpt-4", "tts")) as one, Upstream(listing("claude")) as two:
        toml = table("one", one.url, models=["gpt-*"]) + table("two", two.url)
        async with relaying(toml=toml) as relay:
            assert await ask(relay) == (200, ["gpt-4", "claude"], "one, two")


async def test_a_prefix_lists_its_own():
    """Upstreams of another prefix are not asked; a single one's answer passes as it came."""
    async with Upstream(listing("a")) as one, Upstream(listing("b")) as two:
        toml = table("one", one.url) + table("two", two.url, prefix="/tokyo")
        async with relaying(toml=toml) as relay:
            assert (await ask(relay))[:2] == (200, ["a"])
            assert (await ask(relay, "/tokyo/v1/models"))[:2] == (200, ["b"])
            assert (len(one.requests), len(two.requests)) == (1, 1)


async def test_one_that_fails_is_passed_over(dead_port):
    """What the others list is better than nothing."""
    async with (
        Upstream(listing("a")) as one,
        Upstream(reply(200, "{}")) as odd,
        Upstream(reply(200, "<html>")) as page,
    ):
        dead = table("dead", f"http://127.0.0.1:{dead_port}")
        toml = dead + table("odd", odd.url) + table("page", page.url) + table("one", one.url)
        async with relaying(toml=toml) as relay:
            assert await ask(relay) == (200, ["a"], "one")


async def test_all_fail(dead_port):
    """Then the first failure is told."""
    dead = table("dead", f"http://127.0.0.1:{dead_port}")
    async with (
        Upstream(reply(500, "no")) as broken,
        relaying(toml=dead + table("b", broken.url)) as relay,
    ):
        status, code, _ = await ask(relay)
    assert (status, code) == (CODES["upstream_unreachable"].status, "upstream_unreachable")


async def test_a_silent_one_is_not_waited_for():
    """The headers clock covers the whole list."""
    clock = FakeClock()
    async with Upstream(listing("a")) as one, Upstream() as silent:
        toml = "[clocks]\nheaders = 7\n" + table("one", one.url) + table("silent", silent.url)
        async with relaying(toml=toml, clock=clock) as relay:
            asked = asyncio.create_task(ask(relay))
            await until(lambda: one.requests and silent.requests)
            await settled()
            clock.advance(7)
            assert await asked == (200, ["a"], "one")


async def test_each_gets_its_own_key():
    """Every upstream gets its key; the client's own goes nowhere but to its origin."""
    async with Upstream(listing("a")) as one, Upstream(listing("b")) as two:
        toml = table("one", one.url) + table("two", two.url, key="sk-two")
        async with relaying(toml=toml) as relay:
            await ask(relay, Authorization="Bearer sk-client")
    assert one.requests[0].get("authorization") == "Bearer sk-client"
    assert two.requests[0].get("authorization") == "Bearer sk-two"
