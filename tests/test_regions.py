"""config/regions.toml, as it is, with six real proxies: by prefix, by model, and when they die."""

import json
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from fakes import Upstream, chat, sse
from real import Process, microsocks, tinyproxy
from relaying import Relay, relaying

FILE = Path(__file__).parent.parent / "config" / "regions.toml"
REGIONS = ["TOKYO", "FRANKFURT", "VIRGINIA"]
MODELS = {"openai": ["gpt-4o", "o3"], "anthropic": ["claude-sonnet"]}


async def answer(request, wire):
    """Answer as a model, or list what there is."""
    if request.method == "GET":
        owner = "anthropic" if request.get("x-api-key") else "openai"
        data = [{"id": name, "object": "model"} for name in MODELS[owner]]
        await wire.reply(200, json.dumps({"object": "list", "data": data}))
    else:
        await sse(*chat(["Hi"]))(request, wire)


class Gateway(NamedTuple):
    """The relay and its proxies: region → two of them."""

    relay: Relay
    proxies: dict[str, list[Process]]

    async def ask(self, path="/v1/chat/completions", model="gpt-4o"):
        """Ask for a stream; return the upstream that served it, and its proxy: region, number."""
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        before = await self.attempts()
        async with self.relay.post(path, body) as response:
            assert (await response.read()).endswith(b"data: [DONE]\n\n")
            upstream = response.headers["Teleprinter-Upstream"]
        [attempt] = await self.attempts() - before
        return upstream, self.taken(attempt)

    async def attempts(self):
        """Return the rows of the metric that count attempts that were answered."""
        async with self.relay.get("/metrics") as response:
            lines = (await response.text()).splitlines()
        return {line for line in lines if 'result="ok"' in line and "attempts_total" in line}

    def taken(self, attempt):
        """Return which proxy an attempt took: its region and number."""
        return next(
            f"{region} {number}"
            for region, pair in self.proxies.items()
            for number, proxy in enumerate(pair, 1)
            if f":{proxy.port}" in attempt
        )


def pair(stack, folder):
    """Run the two proxies of a region."""
    folder.mkdir()
    return [stack.enter_context(proxy(folder)) for proxy in (microsocks, tinyproxy)]


@asynccontextmanager
async def gateway(tmp_path):
    """Run config/regions.toml with the addresses of this machine's proxies."""
    with ExitStack() as stack:
        proxies = {region: pair(stack, tmp_path / region) for region in REGIONS}
        environ = {
            f"{region}_PROXY_{number}": proxy.url(scheme)
            for region, two in proxies.items()
            for number, (proxy, scheme) in enumerate(zip(two, ["socks5h", "http"], strict=True), 1)
        }
        async with Upstream(answer) as upstream:
            url = f"{upstream.url}/v1"
            keys = {"ANTHROPIC_API_KEY": "sk-ant", "OPENAI_API_KEY": "sk-oai"}
            environ |= {"ANTHROPIC_URL": url, "OPENAI_URL": url, **keys}
            async with relaying(toml=FILE.read_text(), environ=environ) as relay:
                yield Gateway(relay, proxies)


async def test_by_prefix(tmp_path):
    """Each region's prefix goes out by its own proxies, also for /chat."""
    async with gateway(tmp_path) as found:
        for region in REGIONS:
            upstream, proxy = await found.ask(f"/{region.lower()}/v1/chat/completions")
            assert upstream == f"openai-{region.lower()}"
            assert proxy == f"{region} 1"
        async with found.relay.get("/tokyo/chat", question="Hi") as response:
            assert response.headers["Teleprinter-Upstream"] == "openai-tokyo"
            assert b"event: done" in await response.read()


async def test_by_model(tmp_path):
    """Below /v1 the model says the region."""
    async with gateway(tmp_path) as found:
        assert await found.ask(model="claude-sonnet") == ("anthropic", "FRANKFURT 1")
        assert await found.ask(model="gpt-4o") == ("openai", "TOKYO 1")


async def test_the_models_are_the_union(tmp_path):
    """GET /v1/models asks the upstreams without a prefix, each by its region."""
    async with gateway(tmp_path) as found, found.relay.get("/v1/models") as response:
        listed = [entry["id"] for entry in (await response.json())["data"]]
    assert listed == ["claude-sonnet", "gpt-4o", "o3"]


async def test_a_region_whose_proxies_die(tmp_path):
    """The second proxy takes over, then the other region; a prefix has no other region."""
    async with gateway(tmp_path) as found:
        first, second = found.proxies["TOKYO"]
        first.kill()
        assert await found.ask() == ("openai", "TOKYO 2")
        second.kill()
        assert await found.ask() == ("openai-virginia", "VIRGINIA 1")
        async with found.relay.stream("/tokyo/v1/chat/completions") as response:
            error = (await response.json())["error"]
    assert (response.status, error["code"]) == (502, "proxy_unreachable")
    assert str(second.port) in error["message"]
