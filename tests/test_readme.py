"""Every command and example of the pages, run as it is printed; only keys and addresses are others.

RUN_BY says which test runs which block: a block that is new needs a line there.
"""

import re
import shutil
import sys
from contextlib import asynccontextmanager

import pytest

import fronting
import papers
from chromium import Chromium, chromium
from fakes import Upstream, chat, sse
from node import SCRIPTS
from papers import CHINESE, HTTP, OPERATIONS, README, ROOT, WAYS, block
from program import running
from relaying import relaying
from serving import PATIENT, serving
from wires import anthropic as messages

SAID = "Rayleigh scattering."
"""What the API answers to every question."""
ANSWER = sse(*chat(["Rayleigh", " scattering."]))
MESSAGE = sse(*messages.stream(["Rayleigh", " scattering."]))
LIST = '{"object": "list", "data": [{"id": "gpt-4o-mini", "object": "model"}]}'

HERE, DOCTOR = "test_readme.py", "test_doctor_command.py::test_the_commands_of_the_readme"
NGINX = "test_nginx.py::test_the_readme_names_settings_that_are_taken"
SHARED = "test_systemd.py::test_two_instances_at_one_socket_leave_nobody_waiting"
RUN_BY = {
    (README, "sh", "make run  "): f"{HERE}::test_the_two_commands",
    (README, "sh", "curl -N 'http://127"): f"{HERE}::test_curl",
    (README, "js", "EventSource"): f"{HERE}::test_in_a_page",
    (README, "js", "fetch("): f"{HERE}::test_in_a_page",
    (README, "python", "import OpenAI"): f"{HERE}::test_python",
    (README, "python", "import Anthropic"): f"{HERE}::test_python",
    (README, "python", "import ChatOpenAI"): f"{HERE}::test_python",
    (README, "mjs", 'from "openai"'): f"{HERE}::test_node",
    (README, "mjs", "import Anthropic"): f"{HERE}::test_node",
    (README, "mjs", "streamText"): f"{HERE}::test_node",
    (README, "sh", "TELEPRINTER_PROXY="): f"{HERE}::test_the_way_through_7890",
    (README, "sh", "install.sh"): "test_systemd_install.py::test_the_readme_names_the_commands",
    (README, "toml", "gateway.toml"): f"{HERE}::test_the_gateway",
    (README, "sh", "serve --config"): f"{HERE}::test_the_gateway",
    (README, "sh", "/frankfurt/v1"): f"{HERE}::test_the_gateway",
    (README, "sh", "config/nginx.conf"): f"{HERE}::test_the_packages_and_files_of_nginx",
    (README, "toml", "trusted_proxies"): NGINX,
    (README, "sh", "https://relay.example.com"): f"{HERE}::test_behind_nginx",
    (README, "sh", "teleprinter check"): f"{HERE}::test_the_check",
    (README, "sh", "teleprinter doctor"): DOCTOR,
    (WAYS, "toml", "far:1080"): "test_papers.py::test_the_chain_is_taken",
    (WAYS, "toml", "fallback"): "test_papers.py::test_the_fallback_is_taken",
    (OPERATIONS, "toml", "tokens_per_day"): "test_papers.py::test_the_key_is_taken",
    (OPERATIONS, "ini", "Sockets="): SHARED,
    (OPERATIONS, "sh", "for i in a b"): SHARED,
}
"""A page, a language, what the block holds, and the test that runs it."""


def test_every_block_is_run():
    """Each block of a language has one line in RUN_BY, each line one block and a test that exists.

    The Chinese README's blocks are the English one's: test_papers holds them together.
    """
    for page in papers.PAGES:
        for each in papers.blocks(page) if page != CHINESE else ():
            lines = [
                key for key in RUN_BY if key[:2] == (page, each.language) and key[2] in each.text
            ]
            assert len(lines) == bool(each.language), each
    for key, test in RUN_BY.items():
        assert block(*key)
        file, _, name = test.partition("::")
        assert re.search(rf"^(async )?def {name}\(", papers.text(f"tests/{file}"), re.MULTILINE), (
            test
        )


async def api(request, wire):
    """Answer as OpenAI's and Anthropic's API do, each in its own words."""
    if request.method == "GET":
        return await wire.reply(200, LIST, content_type="application/json")
    return await (MESSAGE if request.target.endswith("/messages") else ANSWER)(request, wire)


@asynccontextmanager
async def example(language, holding):
    """Yield an example that asks a relay, and the relay."""
    async with Upstream(api) as upstream, relaying(upstream.url) as relay:
        yield block(README, language, holding).replace("http://127.0.0.1:8080", relay.url), relay


async def output(*command, **variables):
    """Return what a program prints; it must succeed."""
    async with running(*command, PYTHONPATH=str(ROOT), **variables) as program:
        lines = []
        while (line := await program.line()) is not None:
            lines.append(line)
        assert await program.code() == 0, program.errors()
    return "\n".join(lines)


async def test_curl():
    """The curl example prints the events up to the end."""
    async with example("sh", "curl -N 'http://127") as (command, _):
        printed = await output("sh", "-c", command)
    assert "event: answer" in printed
    assert "event: done" in printed


async def test_python():
    """The Python examples print the answer, each of them; one after the other in one process."""
    examples = [each.text for each in papers.blocks(README) if each.language == "python"]
    async with Upstream(api) as upstream, relaying(upstream.url) as relay:
        program = "\nprint()\n".join(examples).replace("http://127.0.0.1:8080", relay.url)
        assert await output(sys.executable, "-c", program) == "\n".join([SAID] * 3)


@pytest.mark.parametrize("holding", ['from "openai"', "import Anthropic", "streamText"])
async def test_node(holding):
    """Each Node example prints the answer; its packages are those of tests/clients."""
    if not (shutil.which("node") and (SCRIPTS / "node_modules").is_dir()):
        pytest.skip("the JavaScript clients are not installed: npm ci --prefix tests/clients")
    async with example("mjs", holding) as (program, _):
        node = ["env", "-C", str(SCRIPTS), "node", "--input-type=module", "--eval", program]
        assert await output(*node) == SAID


async def test_in_a_page():
    """The examples for a page, in one of the relay's, write the answer into it and end."""
    async with example("js", "EventSource") as (program, relay), chromium():
        page = await Chromium.running.new_page()
        await page.goto(relay.url)
        await page.evaluate(program + "; globalThis.source = source")
        closed = "() => source.readyState === EventSource.CLOSED"
        await page.wait_for_function(closed, timeout=PATIENT * 1000)
        assert SAID in await page.inner_text("body")
        await page.reload()
        assert SAID not in await page.inner_text("body")
        await page.evaluate(f"(async () => {{ {block(README, 'js', 'fetch(')} }})()")
        assert SAID in await page.inner_text("body")
        await page.close()


async def test_the_way_through_7890(tmp_path):
    """The settings for the proxy on 127.0.0.1:7890 are taken as they stand."""
    text = block(README, "sh", "TELEPRINTER_PROXY=")
    variables = dict(re.findall(r"export (\w+)=(\S+)", text))
    assert variables["TELEPRINTER_PROXY"] == "http://127.0.0.1:7890"
    assert text.splitlines()[-1] == "make run"
    async with serving(tmp_path, **variables) as relay:
        await relay.said("through http://127.0.0.1:7890")


async def test_the_gateway(tmp_path):
    """The two regions' file is served by the command below it; what is asked of it is answered."""
    toml = block(README, "toml", "gateway.toml")
    serve = block(README, "sh", "serve --config").replace(
        ".venv/bin/teleprinter", f"exec {sys.executable} -m service"
    )
    asked = block(README, "sh", "/frankfurt/v1")
    async with Upstream(api) as upstream:
        toml = re.sub(r"https://api\.\w+\.com", upstream.url, toml)
        toml = re.sub(
            r"proxies = .*", 'proxies = ["direct"]', toml
        )  # test_recipes: through proxies
        (tmp_path / "gateway.toml").write_text(toml)
        command = f"cd {tmp_path} && {serve.strip()} --port 0 2>&1"
        async with running("sh", "-c", command, PYTHONPATH=str(ROOT)) as relay:
            found = None
            while not found:
                line = await relay.line()
                assert line is not None, relay.errors()
                found = re.search(r"http://127\.0\.0\.1:\d+", line)
            printed = await output("sh", "-c", asked.replace("http://127.0.0.1:8080", found[0]))
            relay.process.terminate()
            assert await relay.code() == 0
    assert '"gpt-4o-mini"' in printed
    assert upstream.requests[-1].get("authorization") == "Bearer sk-your-key"
    assert [request.method for request in upstream.requests] == ["GET", "GET", "POST"]


async def test_behind_nginx(tmp_path, ca):
    """The curl example with a name and a key passes nginx and gets its answer."""
    command = block(README, "sh", "https://relay.example.com")
    toml = '[server]\nhosts = ["relay.example.com"]\nkeys = ["alice:a-long-secret"]\n'
    async with Upstream(api) as upstream, relaying(upstream.url, toml=toml) as relay:
        with fronting.nginx(tmp_path, [relay.port], ca) as front:
            there = f'connect-to = "relay.example.com:443:127.0.0.1:{front.port}"\n'
            (tmp_path / ".curlrc").write_text(f'cacert = "{ca.file}"\n{there}')
            printed = await output("sh", "-c", command, CURL_HOME=str(tmp_path))
    assert "event: done" in printed


def test_the_packages_and_files_of_nginx():
    """What is copied is there; test_nginx and test_replay_redis run the two packages' programs."""
    text = block(README, "sh", "config/nginx.conf")
    assert re.findall(r"cp (\S+)", text) == ["config/nginx.conf"]
    assert fronting.CONFIG == ROOT / "config/nginx.conf"
    packages = re.search(r"install (.*)", text)[1].split()
    assert all(package in papers.text("tests/deps.sh") for package in packages)


async def test_the_two_commands():
    """The two commands of the README are the Makefile's, and `make run` starts what it says."""
    text = block(README, "sh", "make run  ")
    assert re.findall(r"^make \w+", text, re.MULTILINE) == ["make run", "make test"]
    told = {}
    for target in ("run", "test"):
        told[target] = await output("make", "--dry-run", "-C", str(ROOT), target)
    assert "bin/teleprinter serve" in told["run"]
    assert "-m pytest" in told["test"]


async def test_the_check(tmp_path):
    """`teleprinter check`, as the README has it, prints the settings."""
    command = block(README, "sh", "teleprinter check").partition("#")[0]
    command = command.replace(".venv/bin/teleprinter", f"{sys.executable} -m service")
    assert "[server]" in await output("sh", "-c", f"cd {tmp_path} && {command}")


def test_what_the_examples_of_the_api_page_are():
    """docs/http.md shows no code: all that is to be run stands in the READMEs."""
    assert papers.blocks(HTTP) == []
