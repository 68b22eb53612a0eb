"""The README's examples, run as they are printed; only the port is another."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

import service
from chromium import Chromium, chromium
from program import running
from serving import PATIENT, Served, serving

README = Path(service.__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
ANSWERED = "Why is the sky blue?"
"""The demo quotes the question."""


def example(language: str, holding: str, relay: Served) -> str:
    """Return the one block of that language that holds that text, for this relay."""
    (block,) = [text for kind, text in BLOCKS if kind == language and holding in text]
    return block.replace("127.0.0.1:8080", f"127.0.0.1:{relay.port}")


async def output(*command: str) -> str:
    """Return what a program prints; it must succeed."""
    async with running(*command) as program:
        lines = []
        while (line := await program.line()) is not None:
            lines.append(line)
        assert await program.code() == 0, program.errors
    return "\n".join(lines)


async def test_curl(tmp_path):
    """The curl example prints the events up to the end."""
    async with serving(tmp_path) as relay:
        printed = await output("sh", "-c", example("sh", "curl", relay))
    assert "event: answer" in printed
    assert "event: done" in printed


async def test_the_sdk(tmp_path):
    """The Python example prints the answer."""
    async with serving(tmp_path) as relay:
        printed = await output(sys.executable, "-c", example("python", "OpenAI", relay))
    assert ANSWERED in printed


async def test_event_source(tmp_path):
    """The EventSource example, in a page of the relay's, writes the answer into it."""
    async with chromium(), serving(tmp_path) as relay:
        page = await Chromium.running.new_page()
        await page.goto(relay.url)
        await page.evaluate(example("js", "EventSource", relay) + "; globalThis.source = source")
        closed = "() => source.readyState === EventSource.CLOSED"
        await page.wait_for_function(closed, timeout=PATIENT * 1000)
        assert ANSWERED in await page.inner_text("body")
        await page.close()


async def test_the_way_through_7890(tmp_path):
    """The settings for the proxy on 127.0.0.1:7890 are taken as they stand."""
    (block,) = [text for kind, text in BLOCKS if kind == "sh" and "7890" in text]
    variables = dict(re.findall(r"export (\w+)=(\S+)", block))
    assert variables["TELEPRINTER_PROXY"] == "http://127.0.0.1:7890"
    async with serving(tmp_path, **variables) as relay:
        await relay.said("through http://127.0.0.1:7890")


@pytest.mark.parametrize("command", ["make run", "make test"])
def test_the_two_commands(command):
    """The two commands of the README are targets of the Makefile."""
    assert any(command in text for kind, text in BLOCKS if kind == "sh")
    makefile = README.with_name("Makefile").read_text()
    assert re.search(rf"^{command.split()[1]}:", makefile, flags=re.MULTILINE)


async def test_the_check(tmp_path):
    """`teleprinter check`, as the README has it, prints the settings."""
    printed = await asyncio.wait_for(output(sys.executable, "-m", "service", "check"), PATIENT)
    assert "[server]" in printed
    assert any("teleprinter check" in text for _, text in BLOCKS)
