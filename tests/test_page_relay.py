"""The page and the real relay, in a real Chromium: what the stub in test_page_typing.py plays."""

import re

import pytest
import pytest_asyncio

from chromium import chromium
from fakes import Upstream, Wire, chat, chat_frame
from fakes.frames import DONE
from relaying import relaying
from serving import serving
from visiting import LOOKS, REFUSED, Plug, visiting

pytestmark = pytest.mark.asyncio(loop_scope="module")
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
KEEP = "[chat]\nkeep = 15\n"
CUT = [REFUSED, re.compile("net::ERR_")]


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def _chromium():
    """Start it once: all tests of this file share one loop, and each has its own profile."""
    async with chromium():
        yield


async def begin(wire: Wire, *tokens: str) -> None:
    """Send the head of an upstream's stream, and these tokens."""
    await wire.head(content_type="text/event-stream")
    for token in tokens:
        await wire.chunk(chat_frame({"content": token}))


async def finish(wire: Wire, *tokens: str) -> None:
    """Send these tokens, and the end."""
    for data in chat(tokens, role=False, usage=USAGE):
        await wire.chunk(data)
    await wire.end()


@pytest.mark.parametrize("look", [LOOKS[0], LOOKS[-1]], ids=str)
async def test_it_types(look):
    """Question to figures, through the relay; the second question takes the first one along."""
    async with (
        Upstream() as upstream,
        relaying(upstream.url) as relay,
        visiting(relay.url, look) as visit,
    ):
        await visit.ask("Hello?")
        _, wire = await upstream.next()
        await begin(wire, "Hel")
        await visit.sees("Hel")
        await finish(wire, "lo, **you**.")
        await visit.sees("Hello, you.")
        await visit.sees_within("gpt-4o-mini", "figures")
        await visit.ask("And now?")
        request, wire = await upstream.next()
        await begin(wire)
        await finish(wire, "Bye.")
        await visit.sees("Bye.")
        await visit.idle()
    contents = [message["content"] for message in request.json()["messages"]]
    assert contents == ["Hello?", "Hello, **you**.", "And now?"]
    assert request.json()["stream_options"] == {"include_usage": True}


async def test_the_tokens_are_the_upstream_s():
    """The page asks for the usage, and shows what was told."""
    async with (
        Upstream() as upstream,
        relaying(upstream.url) as relay,
        visiting(relay.url) as visit,
    ):
        await visit.ask("Hello?")
        _, wire = await upstream.next()
        await begin(wire, "Hel")
        await finish(wire, "lo")
        await visit.sees_within("2 tokens", "figures")
        await visit.sees_within("gpt-4o-mini", "figures")


STOPPED = {"en-US": "Stopped", "zh-CN": "已停止"}


@pytest.mark.parametrize("look", [LOOKS[0], LOOKS[-1]], ids=str)
async def test_stop_reaches_the_upstream(look):
    """Esc, and on a phone the button, ends the upstream's request."""
    async with (
        Upstream() as upstream,
        relaying(upstream.url) as relay,
        visiting(relay.url, look, errors=CUT) as visit,
    ):
        await visit.ask("Hello?")
        _, wire = await upstream.next()
        await begin(wire, "Hel")
        await visit.sees("Hel")
        if look.phone:
            await visit.page.locator("#stop").tap()
        else:
            await visit.page.keyboard.press("Escape")
        await upstream.until(wire.closed.is_set)
        await visit.sees_within(STOPPED[look.locale], "cut")


async def test_the_key():
    """A wrong key says so, the right one lets in, and the models are listed with it."""
    async with (
        Upstream() as upstream,
        relaying(upstream.url, keys="ann:secret") as relay,
        visiting(relay.url, errors=[REFUSED]) as visit,
    ):
        await visit.ask("Hello?")
        await visit.page.get_by_role("dialog").wait_for()
        await visit.page.keyboard.type("wrong")
        await visit.page.keyboard.press("Enter")
        await visit.page.get_by_text("does not know that key").wait_for()
        await visit.page.keyboard.type("secret")
        await visit.page.keyboard.press("Enter")
        request, wire = await upstream.next()
        await begin(wire)
        await finish(wire, "Come in.")
        await visit.sees("Come in.")
        await visit.idle()
        await visit.page.locator("#model").focus()
        _, wire = await upstream.next()
        await wire.reply(200, '{"data": [{"id": "m-7"}]}', content_type="application/json")
        await visit.page.locator("#models option").wait_for(state="attached")
    assert "secret" not in repr(request.headers)


async def test_a_cut_upstream():
    """The relay's error event: whose fault, its code; what came stays, marked as cut."""
    async with (
        Upstream() as upstream,
        relaying(upstream.url) as relay,
        visiting(relay.url, errors=CUT) as visit,
    ):
        await visit.ask("Hello?")
        _, wire = await upstream.next()
        await begin(wire, "Half")
        await visit.sees("Half")
        wire.close()
        await visit.sees_within("The model's API failed", "whose")
        await visit.sees("upstream_cut", "code")
        await visit.sees_within("incomplete", "cut")
        await visit.sees("Half")


async def test_a_proxy_that_does_not_run(dead_port):
    """The relay's own words for it, and what to do."""
    async with (
        relaying("http://127.0.0.1:9", proxy=f"http://127.0.0.1:{dead_port}") as relay,
        visiting(relay.url, errors=CUT) as visit,
    ):
        await visit.ask("Hello?")
        await visit.sees_within("The proxy", "whose")
        await visit.sees_within("refused the connection", "message")


async def test_the_policy_of_the_real_relay():
    """No inline code, no markup from text: the browser heeds the header that the relay sends."""
    async with (
        Upstream() as upstream,
        relaying(upstream.url) as relay,
        visiting(relay.url, errors=[re.compile("Trusted|Content Security")]) as visit,
    ):
        script = "document.createElement('div').innerHTML = '<b>x</b>'"
        refused = f"() => {{ try {{ {script}; return false }} catch {{ return true }} }}"
        assert await visit.page.evaluate(refused)


async def test_the_demo(tmp_path):
    """As `make run` starts it: the built-in demo answers, in the language of the question."""
    async with serving(tmp_path) as relay, visiting(relay.url) as visit:
        await visit.page.locator("#model").fill("demo-thinking")
        await visit.page.keyboard.press("Enter")
        await visit.ask("为什么天空是蓝色的？")
        await visit.sees_within("下一个回答就来自你自己的模型了。")
        await visit.sees_within("demo", "figures")
        assert await visit.page.locator(".thinking").is_visible()


GONE = {"en-US": "The line is gone", "zh-CN": "线路中断"}


@pytest.mark.parametrize("look", [LOOKS[0], LOOKS[-1]], ids=str)
async def test_the_line_is_cut_and_restored(look):
    """The relay's port goes away in the middle and comes back: not a token is lost or doubled."""
    async with (
        Upstream() as upstream,
        relaying(upstream.url, toml=KEEP) as relay,
        Plug(relay.port) as line,
        visiting(line.url, look, errors=CUT) as visit,
    ):
        await visit.ask("Hello?")
        _, wire = await upstream.next()
        await begin(wire, "One, ")
        await visit.sees("One,")
        line.pull()
        await visit.status(GONE[look.locale])
        await wire.chunk(chat_frame({"content": "two, "}))
        await line.put_back()
        await visit.sees("One, two,")
        await wire.chunk(chat_frame({"content": "three."}))
        await wire.chunk(chat_frame({}, finish="stop") + DONE)
        await wire.end()
        await visit.sees("One, two, three.")
        await visit.idle()
        assert not await visit.part("cut").is_visible()
    assert len([r for r in upstream.requests if r.method == "POST"]) == 1
