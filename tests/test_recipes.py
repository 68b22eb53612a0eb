"""The recipes of the README, as they are printed, with the real programs that they are about.

Only ports, the addresses of machines and the place of a certificate are others. An installation as
a systemd service is in test_systemd_install.py, three regions in test_regions.py, all that nginx
must not spoil in test_nginx.py.
"""

import json
import re
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

import fronting
import service
from fakes import Upstream, chat, sse
from hearing import Heard, heard, listened_to, until_it_listens
from program import running
from real import redis_server, sing_box
from relaying import relaying
from wires import anthropic as messages

ROOT = Path(service.__file__).parents[1]
READMES = [file.read_text(encoding="utf-8") for file in sorted(ROOT.glob("README*.md"))]
OPENAI, ANTHROPIC = "api.openai.com", "api.anthropic.com"
ANSWER = sse(*chat(["Rayleigh", " scattering."]))
MESSAGE = sse(*messages.stream(["Rayleigh", " scattering."]))


def blocks(language, holding):
    """Return the blocks of that language that hold that text, in all READMEs."""
    found = [re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) for text in READMES]
    return [block for each in found for block in each if holding in block]


async def said_by(*command):
    """Return what a shell's command prints, and its exit code."""
    lines = []
    async with running("sh", "-c", *command) as program:
        while (line := await program.line()) is not None:
            lines.append(line)
        return "\n".join(lines), await program.code()


# --- behind a firewall, with Clash on 127.0.0.1:7890


async def asked(block, base):
    """Run the curl example against the relay at this address."""
    return await said_by(block.replace("http://127.0.0.1:8080", base))


async def test_behind_a_firewall(tmp_path, ca):
    """The answer comes through 7890, without it the proxy is named; nothing goes past it."""
    [block, *others] = blocks("sh", "TELEPRINTER_PROXY=")
    assert [set(other.split()) - set(block.split()) for other in others] == [set()] * len(others)
    variables = dict(re.findall(r"export (\w+)=(\S+)", block))
    curl = blocks("sh", "curl -N 'http://127.0.0.1:8080/chat?")[0].splitlines()[0]
    with ExitStack() as stack:
        async with Upstream(ANSWER, ssl=ca.server_for(OPENAI)) as upstream:
            clash = stack.enter_context(sing_box(tmp_path, ports={OPENAI: upstream.port}))
            port = f":{clash.port}"
            variables["TELEPRINTER_PROXY"] = variables["TELEPRINTER_PROXY"].replace(":7890", port)
            variables["SSL_CERT_FILE"] = str(ca.file)
            serve = listened_to("serve", "--port", "0", folder=tmp_path)
            async with running(*serve, **variables) as relay:
                base = await until_it_listens(relay)
                answered = await asked(curl, base)
                clash.kill()
                refused = await asked(curl, base)
                found = await heard(relay)
            [request] = upstream.requests
    assert "event: done" in answered[0]
    assert request.get("authorization") == f"Bearer {variables['TELEPRINTER_UPSTREAM_KEY']}"
    text = f"proxy 127.0.0.1{port} refused the connection: is it running?"
    assert text in refused[0]
    assert all(text.replace(port, ":7890") in readme for readme in READMES)
    assert found == Heard({("127.0.0.1", clash.port)}, set())


# --- a regional gateway with two regions

GATEWAY = """\
# gateway.toml: by model below /v1, by region below /tokyo/v1 and /frankfurt/v1
[[upstream]]
name = "anthropic"
url = "https://api.anthropic.com/v1"
api = "anthropic"
key = "${ANTHROPIC_API_KEY}"
models = ["claude-*"]
pool = "frankfurt"

[[upstream]]
name = "openai"
url = "https://api.openai.com/v1"
key = "${OPENAI_API_KEY}"
pool = "tokyo"

[[upstream]]
name = "openai-tokyo"
prefix = "/tokyo"
url = "https://api.openai.com/v1"
key = "${OPENAI_API_KEY}"
pool = "tokyo"

[[upstream]]
name = "openai-frankfurt"
prefix = "/frankfurt"
url = "https://api.openai.com/v1"
key = "${OPENAI_API_KEY}"
pool = "frankfurt"

[[pool]]
name = "tokyo"
proxies = ["socks5h://10.0.1.1:1080", "http://10.0.1.2:3128"]

[[pool]]
name = "frankfurt"
proxies = ["socks5h://10.0.2.1:1080", "http://10.0.2.2:3128"]
"""
KEYS = {"OPENAI_API_KEY": "sk-oai", "ANTHROPIC_API_KEY": "sk-ant"}
MODELS = {OPENAI: "gpt-4o-mini", ANTHROPIC: "claude-sonnet"}
PROXIES = re.findall(r"10\.0\.\d\.\d:\d+", GATEWAY)


def test_the_gateway_is_the_one_of_the_readme():
    """What is printed of it is what is run here."""
    printed = blocks("toml", 'name = "openai-frankfurt"')
    assert set(printed) == {GATEWAY}


def api_of(name):
    """Return the script of one of the two APIs: its models, and an answer."""

    async def script(request, wire):
        if request.method == "POST":
            return await (ANSWER if name == OPENAI else MESSAGE)(request, wire)
        listed = {"object": "list", "data": [{"id": MODELS[name], "object": "model"}]}
        return await wire.reply(200, json.dumps(listed), content_type="application/json")

    return script


@asynccontextmanager
async def gateway(folder, ca):
    """Run the two APIs, the four proxies and the relay; yield it, the APIs, the proxies."""
    with ExitStack() as stack:
        async with (
            Upstream(api_of(OPENAI), ssl=ca.server_for(OPENAI)) as openai,
            Upstream(api_of(ANTHROPIC), ssl=ca.server_for(ANTHROPIC)) as anthropic,
        ):
            ports, proxies, toml = {OPENAI: openai.port, ANTHROPIC: anthropic.port}, {}, GATEWAY
            for place in PROXIES:
                own = folder / place
                own.mkdir()
                proxies[place] = stack.enter_context(sing_box(own, ports=ports))
                toml = toml.replace(place, f"127.0.0.1:{proxies[place].port}")
            async with relaying(toml=toml, environ=KEYS, tls=ca.client) as relay:
                yield relay, (openai, anthropic), proxies


async def ask(relay, path="/v1/chat/completions", model="gpt-4o-mini"):
    """Ask for a stream; return which upstream served it."""
    async with relay.stream(path, model=model) as response:
        assert b"error" not in await response.read()
        assert response.status == 200
        return response.headers["Teleprinter-Upstream"]


def used(proxies):
    """Return the proxies that were asked to connect to somewhere."""
    return [place for place, proxy in proxies.items() if "inbound connection to" in proxy.log()]


async def test_the_two_regions(tmp_path, ca):
    """Model and prefix say the region, each goes out by its own proxies, the second as reserve."""
    async with gateway(tmp_path, ca) as (relay, (openai, anthropic), proxies):
        tokyo, reserve, frankfurt, _ = PROXIES
        assert await ask(relay) == "openai"
        assert used(proxies) == [tokyo]
        assert await ask(relay, "/v1/messages", model="claude-sonnet") == "anthropic"
        assert used(proxies) == [tokyo, frankfurt]
        assert await ask(relay, "/frankfurt/v1/chat/completions") == "openai-frankfurt"
        assert await ask(relay, "/tokyo/v1/chat/completions") == "openai-tokyo"
        assert used(proxies) == [tokyo, frankfurt]
        assert openai.requests[0].get("authorization") == "Bearer sk-oai"
        assert anthropic.requests[0].get("x-api-key") == "sk-ant"
        async with relay.get("/v1/models") as response:
            assert {each["id"] for each in (await response.json())["data"]} == {*MODELS.values()}
        async with relay.get("/tokyo/v1/models") as response:
            assert [each["id"] for each in (await response.json())["data"]] == [MODELS[OPENAI]]
        proxies[tokyo].kill()
        assert await ask(relay) == "openai"
        assert used(proxies) == [tokyo, reserve, frankfurt]
        proxies[reserve].kill()
        async with relay.stream() as response:
            error = (await response.json())["error"]
        assert (response.status, error["code"]) == (502, "proxy_unreachable")
        assert await ask(relay, "/frankfurt/v1/chat/completions") == "openai-frankfurt"


# --- behind nginx with TLS

NGINX = "trusted_proxies"


@pytest.mark.parametrize("key", ["a-long-secret", "another"])
async def test_behind_nginx(tmp_path, ca, key):
    """The relay's settings and config/nginx.conf fit: the name, the key and Redis are taken."""
    [block, *others] = blocks("toml", NGINX)
    values = re.compile(r'"[^"]*"')
    assert {tuple(values.findall(each)) for each in others} <= {tuple(values.findall(block))}
    url = "https://relay.example.com/chat?question=Why+is+the+sky+blue%3F"
    with redis_server(tmp_path, password="password") as redis:
        toml = block.replace("10.0.0.5:6379", f"127.0.0.1:{redis.port}")
        toml = toml.replace("10.0.0.5", "127.0.0.1")
        async with Upstream(ANSWER) as upstream, relaying(upstream.url, toml=toml) as relay:
            with fronting.nginx(tmp_path, [relay.port], ca) as front:
                there = f"--connect-to relay.example.com:443:127.0.0.1:{front.port}"
                flags = f"-sN --cacert {ca.file} -H 'Authorization: Bearer {key}' {there}"
                printed, code = await said_by(f"curl {flags} '{url}'")
    assert code == 0
    known = key in block
    assert ("event: done" in printed, "unauthorized" in printed) == (known, not known)
