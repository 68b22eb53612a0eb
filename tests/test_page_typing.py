"""The page at work in a real Chromium: what a person sees, does, and is told.

In the relay's place stands a stub that the test plays byte by byte; test_page_relay.py has the
real one. Each visit also asserts that the page asks nobody else, and that its console is empty.
"""

import json
import re

import pytest
import pytest_asyncio

from chromium import chromium
from fakes import Request
from visiting import (
    LOOKS,
    REFUSED,
    Look,
    Plug,
    Stub,
    answers,
    begin,
    event,
    finish,
    refuse,
    visiting,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
PHONE = Look(width=390)
CHINESE = Look(locale="zh-CN")
CUT = [REFUSED, re.compile("net::ERR_")]


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def _chromium():
    """Start it once: all tests of this file share one loop, and each has its own profile."""
    async with chromium():
        yield


def last_id(request: Request) -> str | None:
    """Return which event the page has seen last."""
    return request.get("Last-Event-ID")


# --- it types


SAMPLE = """\
# Title

Some **bold**, *slanted* and `code`, and [a link](https://example.org/).

- one
- two
  - deeper

1. first
2. second

| name | size |
|------|-----:|
| a    |   10 |

> quoted

```python
print("a very long line that does not fit on a phone, whatever the phone's owner may wish")
```
"""


@pytest.mark.parametrize("look", LOOKS, ids=str)
async def test_it_types(look):
    """On every screen, in both themes and languages: the answer grows behind a caret to its end.

    Nothing is wider than the screen, and axe-core has nothing serious to say, at any time.
    """
    chinese = look.locale == "zh-CN"
    async with Stub() as stub, visiting(stub.url, look, bypass_csp=True) as visit:
        assert await visit.findings() == []
        await visit.ask("你好？" if chinese else "Hello?")
        request, wire = await stub.asked()
        assert request.json()["messages"][-1] == {
            "role": "user",
            "content": "你好？" if chinese else "Hello?",
        }
        await begin(wire)
        await wire.chunk(event(1, "reasoning", content="Let me think."))
        await wire.chunk(answers("A ", "beginning", first=2))
        await visit.sees("A beginning")
        assert await visit.page.locator(".answer .caret").count() == 1
        await visit.status("正在回答" if chinese else "Writing")
        await wire.chunk(answers("\n\n", *(SAMPLE[i : i + 5] for i in range(0, len(SAMPLE), 5))))
        await visit.sees_within("phone's owner")
        assert await visit.findings() == []
        await finish(wire)
        await visit.sees_within("42 个词元" if chinese else "42 tokens", "figures")
        assert await visit.page.locator(".answer .caret").count() == 0
        assert (
            await visit.page.locator(".answer :is(h3, strong, em, ol, table, figure)").count() == 6
        )
        assert await visit.findings() == []
        width = await visit.page.evaluate("document.documentElement.scrollWidth")
        assert width <= look.width
        background = await visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        (red, *_) = map(int, re.findall(r"\d+", background))
        assert (red < 64) == (look.scheme == "dark")
        assert await visit.page.get_attribute("html", "lang") == ("zh-CN" if chinese else "en")


async def test_what_the_answer_came_to():
    """Model, tokens, tokens a second from the first on, first token, time, the upstream."""
    async with Stub() as stub, visiting(stub.url) as visit:
        await visit.ask("Hello?")
        wire = await stub.answering()
        await wire.chunk(answers("Hi"))
        await finish(wire)
        await visit.sees_within("m-1", "figures")
        figures = await visit.page.locator(".figures li").all_inner_texts()
    assert figures == [
        "m-1",
        "42 tokens",
        "21 tokens/s",
        "first token 300 ms",
        "2.3 s",
        "via tokyo",
    ]


async def test_what_was_not_told_is_not_made_up():
    """No usage: no tokens, no rate. A way through a proxy is shown if the relay tells it."""
    async with Stub() as stub, visiting(stub.url) as visit:
        await visit.ask("Hello?")
        wire = await stub.answering()
        await wire.chunk(answers("Hi"))
        await finish(wire, usage=None, first_token_ms=None, proxy="127.0.0.1:7890")
        await visit.sees_within("m-1", "figures")
        figures = await visit.page.locator(".figures li").all_inner_texts()
    assert figures == ["m-1", "2.3 s", "via tokyo ← 127.0.0.1:7890"]


async def test_an_answer_that_the_model_cut_short_says_so():
    """finish_reason length is no success to be silent about."""
    async with Stub() as stub, visiting(stub.url) as visit:
        await visit.ask("Hello?")
        wire = await stub.answering()
        await wire.chunk(answers("Hi"))
        await finish(wire, finish_reason="length")
        await visit.sees_within("length", "cut")


async def test_reasoning_is_folded():
    """It is there to be opened, by the keyboard too, and is no part of the answer."""
    async with Stub() as stub, visiting(stub.url) as visit:
        await visit.ask("Hello?")
        wire = await stub.answering()
        await wire.chunk(event(1, "reasoning", content="Let me think."))
        summary = visit.page.locator(".thinking summary")
        await summary.wait_for()
        assert not await visit.page.locator(".thinking .prose").is_visible()
        await summary.focus()
        await visit.page.keyboard.press("Enter")
        await visit.sees("Let me think.", "reasoning")
        await wire.chunk(answers("Hi", first=2))
        await finish(wire)
        await visit.sees("Hi")


async def test_tool_calls_are_shown():
    """Their pieces are joined."""
    pieces = [
        {"index": 0, "function": {"name": "weather", "arguments": '{"city"'}},
        {"index": 0, "function": {"arguments": ': "Oslo"}'}},
    ]
    async with Stub() as stub, visiting(stub.url) as visit:
        await visit.ask("Hello?")
        wire = await stub.answering()
        for number, piece in enumerate(pieces, 1):
            await wire.chunk(event(number, "tool_calls", tool_calls=[piece]))
        await finish(wire, finish_reason="tool_calls")
        await visit.sees_within('{"city": "Oslo"}', "tools")
        await visit.sees_within("weather", "tools")


async def test_a_conversation():
    """Each question takes along what was said before; one without an answer is left out."""
    async with Stub() as stub, visiting(stub.url, errors=[REFUSED]) as visit:
        for number, (question, answer) in enumerate(
            [("One?", "1."), ("Two?", None), ("Three?", "3.")]
        ):
            await visit.ask(question)
            request, wire = await stub.asked()
            if answer is None:
                await refuse(wire, 429, "rate_limited", "too many requests")
            else:
                await begin(wire)
                await wire.chunk(answers(answer))
                await finish(wire)
            await visit.idle()
            assert await visit.page.locator(".turn").count() == number + 1
    assert [(m["role"], m["content"]) for m in request.json()["messages"]] == [
        ("user", "One?"),
        ("assistant", "1."),
        ("user", "Three?"),
    ]


async def test_a_new_conversation():
    """`New` forgets what was said, and stops what is being written."""
    async with Stub() as stub, visiting(stub.url) as visit:
        await visit.ask("One?")
        wire = await stub.answering()
        await wire.chunk(answers("One."))
        await visit.sees("One.")
        await visit.page.get_by_role("button", name="New conversation").click()
        await wire.closed.wait()
        await visit.page.get_by_text("Ask, and watch it type.").wait_for()
        await visit.ask("Two?")
        request, wire = await stub.asked()
        assert [m["content"] for m in request.json()["messages"]] == ["Two?"]
        await begin(wire)
        await wire.chunk(answers("2"))
        await finish(wire)
        await visit.sees("2")


async def test_an_example_asks_itself():
    """A click on one of them is a question."""
    async with Stub() as stub, visiting(stub.url, PHONE) as visit:
        await visit.page.locator(".examples button").first.click()
        request, wire = await stub.asked()
        assert "server-sent events" in request.json()["messages"][0]["content"]
        await begin(wire)
        await finish(wire)
        await visit.idle()


# --- keys of the keyboard


async def test_enter_asks_and_shift_enter_begins_a_line():
    """An input method's Enter does neither; an empty question is none."""
    async with Stub() as stub, visiting(stub.url) as visit:
        keyboard = visit.page.keyboard
        await keyboard.press("Enter")
        await keyboard.type("one")
        await keyboard.press("Shift+Enter")
        await keyboard.type("two")
        await visit.page.evaluate(
            "document.activeElement.dispatchEvent(new KeyboardEvent('keydown',"
            " {key: 'Enter', keyCode: 229, bubbles: true, cancelable: true}))"
        )
        assert await visit.page.locator(".turn").count() == 0
        await keyboard.press("Enter")
        request, wire = await stub.asked()
        assert request.json()["messages"][0]["content"] == "one\ntwo"
        await begin(wire)
        await finish(wire)
        await visit.idle()
    assert len([r for r in stub.requests if r.method == "POST"]) == 1


async def test_the_keyboard_is_enough():
    """Tab reaches every control in the order of the page, each with a visible focus and a name."""
    async with Stub() as stub, visiting(stub.url) as visit:
        await visit.ask("Code?")
        wire = await stub.answering()
        await wire.chunk(answers("```js\nlet a;\n```\n"))
        await finish(wire)
        await visit.idle()
        await visit.page.locator(".skip").focus()
        seen = [await visit.page.evaluate(FOCUSED)]
        while seen[-1][0] != "Ask" and len(seen) < 20:
            await visit.page.keyboard.press("Tab")
            seen.append(await visit.page.evaluate(FOCUSED))
    assert [name for name, _ in seen] == [
        "To the question",
        "Teleprinter",
        "New conversation",
        "The relay's key",
        "中文",
        "Theme: as the system",
        "Copy",
        "js",
        "Copy",
        "Your question",
        "Model",
        "Pace",
        "Ask",
    ]
    assert all(outlined for _, outlined in seen)


FOCUSED = """() => {
    const e = document.activeElement;
    const label = e.closest("label")?.querySelector("span")?.textContent;
    const box = e.closest(".box") && e.id === "question" ? e.closest(".box") : e;
    return [e.ariaLabel || label || e.textContent, getComputedStyle(box).outlineStyle !== "none"];
}"""


async def test_code_is_copied_by_the_keyboard():
    """Copy puts the code on the clipboard as it stands, and says so."""
    allow = ["clipboard-read", "clipboard-write"]
    async with Stub() as stub, visiting(stub.url, permissions=allow) as visit:
        await visit.ask("Code?")
        wire = await stub.answering()
        await wire.chunk(answers('Text.\n\n```py\nif a:\n    print("<b>")\n```\n'))
        await finish(wire)
        await visit.idle()
        await visit.page.locator(".code button").focus()
        await visit.page.keyboard.press("Enter")
        await visit.page.get_by_role("button", name="Copied").wait_for()
        copied = await visit.page.evaluate("navigator.clipboard.readText()")
        assert copied == 'if a:\n    print("<b>")'
        await visit.page.locator(".figures button").click()
        await visit.page.wait_for_function(
            "() => navigator.clipboard.readText().then((text) => text.startsWith('Text.'))"
        )


# --- stop


@pytest.mark.parametrize("how", ["Escape", "button"])
async def test_stop(how):
    """It leaves the line and ends the stream on the relay; what came stays, and is marked."""
    async with Stub() as stub, visiting(stub.url, PHONE if how == "button" else None) as visit:
        await visit.ask("Hello?")
        wire = await stub.answering()
        await wire.chunk(answers("So f", "ar"))
        await visit.sees("So far")
        if how == "button":
            await visit.page.get_by_role("button", name="Stop").click()
        else:
            await visit.page.keyboard.press("Escape")
        await stub.until(lambda: wire.closed.is_set() and len(stub.stopped) > 0)
        await visit.sees_within("Stopped", "cut")
        await visit.sees("So far")
        await visit.idle()
        assert await visit.page.locator(".caret").count() == 0
    assert [request.target for request in stub.stopped] == ["/streams/S"]


async def test_a_tab_that_is_closed_stops_its_stream():
    """Nobody is left to read it."""
    async with Stub() as stub, visiting(stub.url) as visit:
        await visit.ask("Hello?")
        await stub.answering()
        await visit.status("Writing")
        await visit.page.close(run_before_unload=True)
        await stub.until(lambda: len(stub.stopped) > 0)


# --- the line drops


async def test_a_cut_line_goes_on_where_it_was():
    """Same question, Last-Event-ID of the last event; nothing is lost, doubled or asked anew."""
    async with Stub() as stub, visiting(stub.url, errors=CUT) as visit:
        await visit.ask("Hello?")
        first, wire = await stub.asked()
        await begin(wire)
        await wire.chunk(answers("One, ", "two, "))
        await visit.sees("One, two,")
        wire.reset()
        await visit.status("The line is gone")
        second, wire = await stub.asked()
        await wire.head(content_type="text/event-stream")
        await visit.status("The line is back; going on where it was")
        await wire.chunk(answers("three.", first=3))
        await finish(wire)
        await visit.sees("One, two, three.")
        await visit.sees_within("tokyo", "figures")
        assert not await visit.part("cut").is_visible()
    assert (last_id(first), last_id(second)) == (None, "S.2")
    assert first.body == second.body


async def test_a_line_that_ends_without_its_end_goes_on_too():
    """A body that closes cleanly before `done` is a cut like any other."""
    async with Stub() as stub, visiting(stub.url, CHINESE) as visit:
        await visit.ask("你好？")
        wire = await stub.answering()
        await wire.chunk(answers("一，"))
        await wire.end()
        request, wire = await stub.asked()
        await visit.status("线路中断")
        await wire.head(content_type="text/event-stream")
        await wire.chunk(answers("二。", first=2))
        await finish(wire)
        await visit.sees("一，二。")
    assert last_id(request) == "S.1"


async def test_the_port_is_cut_and_restored():
    """While nothing listens it tries again and again, and then goes on."""
    async with Stub() as stub, Plug(stub.port) as line, visiting(line.url, errors=CUT) as visit:
        await visit.ask("Hello?")
        wire = await stub.answering()
        await wire.chunk(answers("One, "))
        await visit.sees("One,")
        line.pull()
        await visit.status("Trying again in 0.5 s")
        await visit.status("Trying again in 1 s")
        await line.put_back()
        request, wire = await stub.asked()
        await wire.head(content_type="text/event-stream")
        await wire.chunk(answers("two.", first=2))
        await finish(wire)
        await visit.sees("One, two.")
    assert last_id(request) == "S.1"


async def test_a_stream_that_is_gone_is_said_to_be_lost():
    """410: what came stays, marked as cut; asking again is the reader's choice."""
    async with Stub() as stub, visiting(stub.url, errors=CUT) as visit:
        await visit.ask("Hello?")
        wire = await stub.answering()
        await wire.chunk(answers("One, "))
        await visit.sees("One,")
        wire.reset()
        _, wire = await stub.asked()
        await refuse(wire, 410, "stream_gone", "this stream is no longer kept")
        await visit.sees_within("incomplete", "cut")
        await visit.sees_within("no longer has the rest", "advice")
        await visit.sees("One,")
        await visit.page.get_by_role("button", name="Try again").click()
        request, wire = await stub.asked()
        assert last_id(request) is None
        await begin(wire)
        await wire.chunk(answers("Anew."))
        await finish(wire)
        await visit.sees("Anew.")
        assert not await visit.part("problem").is_visible()
        assert not await visit.part("cut").is_visible()


async def test_nothing_more_is_no_success():
    """204 before `done`: the relay has no more, and nobody said that it was whole."""
    async with Stub() as stub, visiting(stub.url, errors=CUT) as visit:
        await visit.ask("Hello?")
        wire = await stub.answering()
        await wire.chunk(answers("One, "))
        await visit.sees("One,")
        wire.reset()
        _, wire = await stub.asked()
        await wire.reply(204)
        await visit.sees_within("incomplete", "cut")
        await visit.sees_within("did not say that it was whole", "message")


async def test_stop_while_the_line_is_gone():
    """It tries no more."""
    async with Stub() as stub, Plug(stub.port) as line, visiting(line.url, errors=CUT) as visit:
        await visit.ask("Hello?")
        wire = await stub.answering()
        await wire.chunk(answers("One, "))
        await visit.sees("One,")
        line.pull()
        await visit.status("The line is gone")
        await visit.page.keyboard.press("Escape")
        await visit.sees_within("Stopped", "cut")
        await visit.idle()
        await line.put_back()
    assert [r for r in stub.requests if last_id(r)] == []


# --- errors


@pytest.mark.parametrize("look", [Look(), Look(390, "dark", "zh-CN")], ids=str)
async def test_an_error_is_readable(look):
    """Whose fault, the relay's words, what to do, the code; what came stays, marked as cut."""
    message = "proxy 127.0.0.1:7890 refused the connection: is it running?"
    chinese = look.locale == "zh-CN"
    async with Stub() as stub, visiting(stub.url, look, bypass_csp=True, errors=CUT) as visit:
        await visit.ask("Hello?")
        wire = await stub.answering()
        await wire.chunk(answers("Half an"))
        error = {"message": message, "stage": "dial", "retryable": True, "partial": True}
        await wire.chunk(event(2, "error", code="proxy_unreachable", **error))
        await visit.sees_within("代理" if chinese else "The proxy", "whose")
        await visit.sees(message, "message")
        await visit.sees_within("TELEPRINTER_PROXY", "advice")
        await visit.sees("proxy_unreachable", "code")
        await visit.sees("Half an")
        await visit.sees_within("不完整" if chinese else "incomplete", "cut")
        assert await visit.findings() == []
        await visit.page.get_by_role("button", name="重试" if chinese else "Try again").click()
        request, wire = await stub.asked()
        assert [m["content"] for m in request.json()["messages"]] == ["Hello?"]
        await begin(wire)
        await wire.chunk(answers("All of it."))
        await finish(wire)
        await visit.sees("All of it.")
        assert not await visit.part("problem").is_visible()


async def test_an_upstream_s_own_error():
    """Its status stands beside the code."""
    async with Stub() as stub, visiting(stub.url, errors=CUT) as visit:
        await visit.ask("Hello?")
        wire = await stub.answering()
        error = {"message": "no such model", "status": 404, "partial": False}
        await wire.chunk(event(1, "error", code="upstream_error", **error))
        await visit.sees("upstream_error · 404", "code")
        await visit.sees("no such model", "message")
        assert not await visit.part("cut").is_visible()


async def test_a_refusal_that_says_when():
    """Retry-After is part of what to do."""
    async with Stub() as stub, visiting(stub.url, errors=[REFUSED]) as visit:
        await visit.ask("Hello?")
        _, wire = await stub.asked()
        error = json.dumps({"error": {"code": "rate_limited", "message": "too many"}})
        await wire.reply(429, error, ("Retry-After", "7"), content_type="application/json")
        await visit.sees("Try again in 7 s.", "advice")
        await visit.sees("rate_limited · 429", "code")


async def test_a_relay_that_is_not_there():
    """A refused connection says so, and the question can be asked again once it is back."""
    async with Stub() as stub, Plug(stub.port) as line, visiting(line.url, errors=CUT) as visit:
        line.pull()
        await visit.ask("Hello?")
        await visit.sees("no_connection", "code")
        await visit.sees_within("whether it is running", "advice")
        await line.put_back()
        await visit.page.get_by_role("button", name="Try again").click()
        wire = await stub.answering()
        await wire.chunk(answers("Hi"))
        await finish(wire)
        await visit.sees("Hi")


# --- the key


async def test_the_key():
    """Asked for when it is needed; a wrong one says so; kept for this tab only."""
    async with Stub() as stub, visiting(stub.url, bypass_csp=True, errors=[REFUSED]) as visit:
        await visit.ask("Hello?")
        request, wire = await stub.asked()
        assert request.get("Authorization") is None
        await refuse(wire, 401, "unauthorized", "this relay needs its key")
        dialog = visit.page.get_by_role("dialog")
        await dialog.get_by_text("This relay needs its key").wait_for()
        assert await visit.findings() == []
        for key, status in (("wrong", 401), ("right", 200)):
            await visit.page.keyboard.type(key)
            await visit.page.keyboard.press("Enter")
            request, wire = await stub.asked()
            assert request.get("Authorization") == f"Bearer {key}"
            if status == 401:
                await refuse(wire, 401, "unauthorized", "this relay needs its key")
                await visit.page.get_by_text("does not know that key").wait_for()
                assert await visit.findings() == []
        await begin(wire)
        await wire.chunk(answers("Come in."))
        await visit.sees("Come in.")
        await visit.page.keyboard.press("Escape")
        await stub.until(lambda: len(stub.stopped) > 0)
        assert stub.stopped[0].get("Authorization") == "Bearer right"
        kept = "[JSON.stringify(localStorage), JSON.stringify(sessionStorage), document.cookie]"
        local, session, cookie = await visit.page.evaluate(kept)
        assert ("right" in local, "right" in session, cookie) == (False, True, "")
        assert not [url for url in visit.urls if "right" in url]


async def test_no_key_is_an_answer_too():
    """Cancel leaves the refusal on the page; the key can be given later, by its button."""
    async with Stub() as stub, visiting(stub.url, errors=[REFUSED]) as visit:
        await visit.ask("Hello?")
        _, wire = await stub.asked()
        await refuse(wire, 401, "unauthorized", "this relay needs its key")
        await visit.page.get_by_role("button", name="Cancel").click()
        await visit.sees("unauthorized · 401", "code")
        await visit.page.get_by_role("button", name="The relay's key").click()
        await visit.page.keyboard.type("late")
        await visit.page.get_by_role("button", name="Use it").click()
        await visit.page.get_by_role("button", name="Try again").click()
        request, wire = await stub.asked()
        assert request.get("Authorization") == "Bearer late"
        await begin(wire)
        await finish(wire)
        await visit.idle()


# --- choices


async def test_choices_are_asked_for_and_kept():
    """What is not chosen is left to the relay; the models are the relay's."""
    async with Stub() as stub, visiting(stub.url) as visit:
        await visit.ask("Hello?")
        request, wire = await stub.asked()
        asked = request.json()
        assert asked.keys() == {"messages", "stream_options", "keep"}
        assert asked["stream_options"] == {"include_usage": True}
        assert asked["keep"] == 120
        await begin(wire)
        await finish(wire)
        await visit.idle()
        await visit.page.locator("#model").fill("m-2")
        await visit.page.wait_for_function(
            "() => document.querySelectorAll('#models option').length === 2"
        )
        assert not await visit.page.locator("#delay_ms").is_visible()
        await visit.page.locator("#pace").select_option("typewriter")
        await visit.page.locator("#delay_ms").fill("120")
        await visit.page.keyboard.press("Enter")
        await visit.page.reload()
        await visit.ask("Hello?")
        request, wire = await stub.asked()
        asked = request.json()
        assert (asked["model"], asked["pace"], asked["delay_ms"]) == ("m-2", "typewriter", 120)
        await begin(wire)
        await finish(wire)
        await visit.idle()
        await visit.page.locator("#pace").select_option("off")
        await visit.ask("Hello?")
        request, wire = await stub.asked()
        assert request.json()["pace"] == "off"
        assert "delay_ms" not in request.json()
        await begin(wire)
        await finish(wire)
        await visit.idle()


async def test_an_address_chooses_for_one_visit():
    """/?question=…&model=…&pace=…&delay_ms=…: filled in, not asked by itself, and not kept."""
    async with Stub() as stub, visiting(stub.url) as visit:
        query = "question=Why?&model=m-9&pace=typewriter&delay_ms=5"
        await visit.page.goto(f"{stub.url}/?{query}")
        assert [r for r in stub.requests if r.method == "POST"] == []
        await visit.page.locator("#question").press("Enter")
        request, wire = await stub.asked()
        asked = request.json()
        assert (asked["model"], asked["pace"], asked["delay_ms"]) == ("m-9", "typewriter", 5)
        assert asked["messages"][0]["content"] == "Why?"
        await begin(wire)
        await finish(wire)
        await visit.idle()
        await visit.page.goto(f"{stub.url}/")
        assert await visit.page.locator("#model").input_value() == ""


async def test_language_and_theme_are_switched_and_kept():
    """At once, for all that stands on the page, also after a reload."""
    async with Stub() as stub, visiting(stub.url) as visit:
        await visit.ask("Hello?")
        wire = await stub.answering()
        await wire.chunk(answers("```\na\n```\n"))
        await finish(wire)
        await visit.sees_within("tokens", "figures")
        await visit.page.get_by_role("button", name="中文").click()
        await visit.sees_within("42 个词元", "figures")
        text = await visit.page.locator("body").inner_text()
        assert not re.findall(r"\b(Ask|Copy|Pace|New|Key|tokens)\b", text)
        theme = visit.page.locator("#theme")
        assert await theme.get_attribute("aria-label") == "主题: 跟随系统"
        await theme.click()
        await theme.click()
        await visit.page.reload()
        assert await theme.get_attribute("aria-label") == "主题: 深色"
        kept = "[document.documentElement.lang, document.documentElement.dataset.theme]"
        assert await visit.page.evaluate(kept) == ["zh-CN", "dark"]
        await theme.click()
        assert await visit.page.evaluate(kept) == ["zh-CN", None]


# --- safe


HOSTILE = """\
<img src=x onerror="document.title='pwned'">

<script>document.title='pwned'</script>

[click](javascript:document.title='pwned') [data](data:text/html,x) [fine](https://example.org/)

![picture](https://example.org/pixel.png)

<a href="javascript:alert(1)" onclick="alert(1)">a</a> <svg onload=alert(1)>

```"><img src=x onerror=alert(1)>
</code></pre><script>document.title='pwned'</script>
```

| <b onmouseover=alert(1)> | x |
|---|---|
| <iframe src="//example.org"> | <style>*{display:none}</style> |
"""


async def test_hostile_markdown_is_text():
    """No element of its making, no code, no request, no link but to the web; cut anywhere."""
    async with Stub() as stub, visiting(stub.url) as visit:
        await visit.ask("<img src=x onerror=\"document.title='pwned'\">")
        wire = await stub.answering()
        await wire.chunk(event(1, "reasoning", content=HOSTILE))
        await wire.chunk(answers(*HOSTILE, first=2))
        calls = [{"index": 0, "function": {"name": "<img src=x>", "arguments": "<script>"}}]
        await wire.chunk(event(3000, "tool_calls", tool_calls=calls))
        await finish(wire, 3001, model="<img src=x onerror=alert(1)>")
        await visit.idle()
        made = "img, script, svg, iframe, style, b, [onerror], [onclick], [onload], [style]"
        assert await visit.page.locator(f".paper :is({made})").count() == 0
        links = await visit.page.locator(".answer a").evaluate_all(
            "(all) => all.map((a) => a.href)"
        )
        assert links == ["https://example.org/", "https://example.org/pixel.png"]
        assert await visit.page.title() == "Teleprinter"
        text = await visit.part("answer").inner_text()
        for shown in (
            "<img src=x onerror=",
            "<script>",
            "javascript:document",
            "<iframe",
            "</code>",
        ):
            assert shown in text


async def test_the_browser_itself_refuses_markup():
    """The policy forbids what the page never does: markup from text, inline code, other hosts."""
    tried = """async () => {
        const failed = [];
        const div = document.createElement("div");
        try { div.innerHTML = "<b>x</b>"; } catch { failed.push("innerHTML"); }
        try { await fetch("https://example.org/"); } catch { failed.push("fetch"); }
        const script = document.createElement("script");
        try { script.textContent = "globalThis.pwned = 1"; document.body.append(script); } catch {}
        if (!globalThis.pwned) failed.push("script");
        return failed;
    }"""
    refused = [re.compile("Trusted|Content Security Policy|Refused|violates")]
    async with Stub() as stub, visiting(stub.url, errors=refused) as visit:
        failed = await visit.page.evaluate(tried)
        visit.urls = [url for url in visit.urls if "example.org" not in url]
    assert failed == ["innerHTML", "fetch", "script"]


# --- for everybody


async def test_a_screen_reader_is_not_told_every_token():
    """The status line is live and says what is going on; the answer is not, and is marked busy."""
    async with Stub() as stub, visiting(stub.url) as visit:
        await visit.page.evaluate(COUNT_STATUS)
        await visit.ask("Hello?")
        wire = await stub.answering()
        for number in range(1, 60):
            await wire.chunk(answers(f"{number} ", first=number))
        await visit.sees_within("59")
        assert await visit.part("answer").get_attribute("aria-busy") == "true"
        await finish(wire)
        await visit.idle()
        said = await visit.page.evaluate("said")
        live = "[aria-live], [role=status], [role=log]"
        assert await visit.page.locator(f".paper :is({live})").count() == 0
        assert await visit.part("answer").get_attribute("aria-busy") == "false"
    assert said == ["Connecting …", "Writing …", "The answer is complete."]


COUNT_STATUS = """() => {
    globalThis.said = [];
    const status = document.querySelector("#status");
    new MutationObserver(() => said.push(status.textContent))
        .observe(status, {childList: true, characterData: true, subtree: true});
}"""


async def test_reduced_motion():
    """The caret stands still where motion is not wanted."""
    names = {}
    for wish in ("reduce", "no-preference"):
        async with Stub() as stub, visiting(stub.url, reduced_motion=wish) as visit:
            await visit.ask("Hello?")
            wire = await stub.answering()
            await wire.chunk(answers("Hi"))
            await visit.sees("Hi")
            names[wish] = await visit.page.evaluate(
                "getComputedStyle(document.querySelector('.caret'), '::after').animationName"
            )
            await finish(wire)
            await visit.idle()
    assert names == {"reduce": "none", "no-preference": "blink"}


async def test_a_reader_who_scrolled_away_is_left_alone():
    """The page follows the writing, but not when somebody reads further up."""
    where = "[scrollY, document.documentElement.scrollHeight - innerHeight - scrollY]"
    async with Stub() as stub, visiting(stub.url, PHONE) as visit:
        await visit.ask("Hello?")
        wire = await stub.answering()
        await wire.chunk(answers("line\n\n" * 60))
        await visit.page.wait_for_function(f"() => {where}[0] > 500 && {where}[1] < 5")
        await visit.page.evaluate("scrollTo(0, 40)")
        await visit.page.evaluate("new Promise(requestAnimationFrame)")
        await wire.chunk(answers("more\n\n" * 60, "end", first=2))
        await visit.sees_within("end")
        await finish(wire)
        await visit.idle()
        assert (await visit.page.evaluate(where))[0] == 40


async def test_a_selection_survives_the_writing():
    """What is alike stays the same element while the text grows behind it."""
    async with Stub() as stub, visiting(stub.url) as visit:
        await visit.ask("Hello?")
        wire = await stub.answering()
        await wire.chunk(answers("- one\n- **two**"))
        await visit.sees_within("two")
        await visit.page.evaluate("getSelection().selectAllChildren(document.querySelector('li'))")
        await wire.chunk(answers("\n- three\n\nAnd so on.", first=2))
        await visit.sees_within("so on")
        assert await visit.page.evaluate("getSelection().toString()") == "one"
        await finish(wire)
        await visit.idle()


GROWN = """async () => {
    const { Sheet } = await import("/pages/markdown.js");
    const { random, cuts } = fuzz;
    const next = random(3);
    const parts = ["a", " ", "**", "`", "\\n", "\\n\\n", "- ", "1. ", "> ", "```\\n",
        "| a | b |\\n", "|---|---|\\n", "# ", "[x](https://x.org)", "<b>", "---\\n", "  "];
    const frame = () => new Promise(requestAnimationFrame);
    for (let round = 0; round < 60; round++) {
        const whole = Array.from({length: 30}, () => parts[next(parts.length)]).join("");
        const elements = [document.createElement("div"), document.createElement("div")];
        const [grown, once] = elements.map((element) => new Sheet(element));
        for (const piece of cuts(whole, next)) {
            grown.type(piece);
            if (next(3) === 0) await frame();
        }
        grown.end();
        once.type(whole);
        once.end();
        elements.forEach((element) => element.normalize());
        const [left, right] = elements.map((e) => e.outerHTML.replaceAll(' class=""', ""));
        if (left !== right) return [whole, left, right];
    }
    return null;
}"""


async def test_what_grew_looks_like_what_came_at_once():
    """Any text, in any pieces, drawn at any time, ends as the same elements."""
    fuzz = (Stub.FOLDER / "fuzz.mjs").read_text().replace("export ", "")
    async with Stub() as stub, visiting(stub.url, bypass_csp=True) as visit:
        await visit.page.evaluate(f"() => {{ {fuzz} globalThis.fuzz = {{random, cuts}}; }}")
        assert await visit.page.evaluate(GROWN) is None


async def test_nothing_else_is_asked_for():
    """For an answer the page asks for itself and for the answer, and for nothing else."""
    async with Stub() as stub, visiting(stub.url) as visit:
        await visit.ask("Hello?")
        wire = await stub.answering()
        await wire.chunk(answers("Hi"))
        await finish(wire)
        await visit.idle()
        paths = {request.target for request in stub.requests}
    assert {path for path in paths if not path.startswith("/pages/")} == {"/", "/chat"}
