"""continue_on_cut: an answer that was cut goes on where it was, or ends as what it is: cut.

Pure        which part of a second answer is new, for any two ways to cut the same text
End to end  what the client sees of two answers, on /chat and on /v1
"""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clock import FakeClock
from fakes import Upstream, chat
from line import dial
from relaying import events, relaying, until
from service.core.dialect import Anthropic, Chat
from service.core.events import Event, Frame
from service.core.rejoin import Different, Rejoin, Sent

GO_ON = "continue_on_cut = true\n"
JSON = ("Content-Type", "application/json")
ASK = json.dumps(
    {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
).encode()


def frames_of(deltas, finish=None):
    """Return frames with their events; a delta is a text, or (reasoning, text)."""
    reader = Chat()
    found = []
    for number, delta in enumerate(deltas, 1):
        thought, text = delta if isinstance(delta, tuple) else ("", delta)
        body = {"reasoning_content": thought, "content": text}
        last = finish if number == len(deltas) else None
        choice = {"index": 0, "delta": body, "finish_reason": last}
        raw = b"data: %s\n\n" % json.dumps({"id": "c", "choices": [choice]}).encode()
        found.append(Frame(number, raw, reader.read(raw)))
    return found


def told(deltas):
    """Return what went out of an answer with these deltas."""
    sent = Sent()
    for frame in frames_of(deltas):
        sent.note(frame.event, Chat())
    return sent


def again(sent, deltas, finish=None):
    """Return the frames that are new of a second answer."""
    rejoin, reader = Rejoin(sent), Chat()
    new = []
    for frame in frames_of(deltas, finish):
        reader.read(frame.raw)
        if (rest := rejoin.rest_of(frame, reader)) is not None:
            assert reader.__class__().read(rest.raw).text == rest.event.text
            new.append(rest)
    return new, rejoin


def text_of(frames):
    """Return reasoning and text of frames."""
    thoughts = "".join(frame.event.reasoning for frame in frames)
    return thoughts, "".join(frame.event.text for frame in frames)


@st.composite
def split(draw, text):
    """Return a text in pieces."""
    cuts = sorted(draw(st.sets(st.integers(1, max(len(text) - 1, 1)), max_size=6)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True) if text[a:b]]


ANY = st.text('aé漢👩‍🚀 \n"\\', min_size=1, max_size=30)


@given(st.data(), ANY, ANY)
def test_any_cut_of_the_same_answer_goes_on(data, thought, text):
    """Wherever it was cut, and however the second one is cut: never a doubled or missing one."""
    first = [(piece, "") for piece in data.draw(split(thought))] + data.draw(split(text))
    second = [(piece, "") for piece in data.draw(split(thought))] + data.draw(split(text))
    kept = first[: data.draw(st.integers(0, len(first)))]
    new, rejoin = again(told(kept), second)
    had = text_of(frames_of(kept))
    rest = text_of(new)
    assert (had[0] + rest[0], had[1] + rest[1]) == (thought, text)
    assert rejoin.done


def test_a_finish_within_the_last_frame_is_not_lost():
    """What said the end beside its text still says it, though the text is known."""
    new, _ = again(told(["ab", "c"]), ["ab", "c"], finish="stop")
    assert [frame.event.text for frame in new] == [""]
    assert b'"finish_reason":"stop"' in new[0].raw


@pytest.mark.parametrize(
    "second",
    [["x"], ["a", "x"], [("a", "")], ["abX"], ["ab", ("c", "")]],
    ids=["first", "second", "reasons", "longer", "reasons later"],
)
def test_another_answer_is_different(second):
    """One other character, or text for reasoning, is another answer."""
    with pytest.raises(Different):
        again(told(["a", "bc"]), second)


def test_a_shorter_answer_is_different():
    """It ends before it has come to the cut."""
    with pytest.raises(Different):
        again(told(["abc"]), ["ab"], finish="stop")


def test_what_cannot_be_compared_is_not_gone_on_with():
    """Tool calls, other APIs' frames, and answers too long to remember."""
    for event, dialect in [
        (Event(content=True, tool_calls=[{}]), Chat()),
        (Event(content=True), Chat()),
        (Event(content=True, text="a"), Anthropic()),
        (Event(content=True, text="a" * (4 * 1024 * 1024 + 1)), Chat()),
    ]:
        sent = Sent()
        sent.note(event, dialect)
        sent.note(Event(content=True, text="b"), Chat())
        assert not sent.known  # whatever follows
        assert sent.parts() == []


def test_a_frame_that_cannot_be_cut_is_different():
    """Nothing is known of where its new part begins."""
    frame = Frame(1, b"data: abc\n\n", Event(content=True, text="abc"))
    with pytest.raises(Different):
        Rejoin(told(["ab"])).rest_of(frame, Chat())


def test_tool_calls_in_the_second_answer_are_different():
    """They come where text was."""
    calls = Event(content=True, tool_calls=[{}])
    with pytest.raises(Different):
        Rejoin(told(["a"])).rest_of(Frame(1, b"", calls), Chat())


# --- through the relay


class Twice:
    """An upstream that sends these answers one after the other; cut = without an end."""

    def __init__(self, *answers):
        self.answers = list(answers)

    async def __call__(self, _, wire):
        """Serve the next answer."""
        frames, whole = self.answers.pop(0)
        await wire.head(content_type="text/event-stream")
        for frame in frames:
            await wire.chunk(frame)
        if whole:
            await wire.end()
        else:
            wire.close()


CUT = chat(["The ", "quick ", "bro"], finish=None, done=False), False
WHOLE = chat(["The qu", "ick", " brown", " fox"]), True


async def asked(path, *answers, toml=GO_ON, retry="[retry]\nattempts = 3\n"):
    """Return the client's answer to these of the upstream, and how many requests that took."""
    clock = FakeClock()
    async with Upstream(Twice(*answers)) as upstream:
        table = f'[[upstream]]\nname = "u"\nurl = "{upstream.url}/v1"\n{toml}'
        async with relaying(toml=retry + table, clock=clock) as relay, dial(relay.port) as line:
            await line.send("POST", path, JSON, body=ASK)
            asking = asyncio.create_task(line.answer())
            await until(lambda: waited(clock) and asking.done())
            return asking.result(), len(upstream.requests)


def waited(clock):
    """Let the waits before another attempt pass; return True."""
    due = clock.next_due()
    if due is not None and due < clock.now() + 2:
        clock.advance(max(due - clock.now(), 0))
    return True


def said(answer):
    """Return the text of a stream of chat completions, and its error."""
    text, error = "", None
    for block in answer.body.decode().split("\n\n"):
        data = block.removeprefix("data: ")
        if data.startswith("{"):
            found = json.loads(data)
            error = found.get("error", error)
            for choice in found.get("choices", []):
                text += choice["delta"].get("content") or ""
    return text, error


async def test_v1_goes_on():
    """All frames of the first answer, and of the second what it lacked; whole, with [DONE]."""
    answer, requests = await asked("/v1/chat/completions", CUT, WHOLE)
    assert said(answer) == ("The quick brown fox", None)
    assert answer.body.count(b'"role"') == 1
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert answer.whole
    assert requests == 2


async def test_chat_goes_on():
    """The events of /chat go on in order, and `done` tells of two attempts."""
    answer, _ = await asked("/chat", CUT, WHOLE)
    blocks = [block.split("\n") for block in answer.body.decode().split("\n\n") if block]
    found = [(name[7:], json.loads(data[6:])) for _, name, data in blocks]
    assert "".join(d["content"] for name, d in found if name == "answer") == "The quick brown fox"
    name, done = found[-1]
    assert (name, done["attempts"], done["finish_reason"]) == ("done", 2, "stop")
    numbers = [float(block[0].rpartition(".")[2]) for block in blocks]
    assert numbers == sorted(set(numbers))


async def test_it_may_take_three():
    """A second answer that is cut too is gone on with; not a fourth time."""
    longer = chat(["The quick bro", "wn f"], finish=None, done=False), False
    answer, requests = await asked("/v1/chat/completions", CUT, longer, WHOLE)
    assert (*said(answer), requests) == ("The quick brown fox", None, 3)
    answer, requests = await asked("/v1/chat/completions", CUT, CUT, CUT, WHOLE)
    text, error = said(answer)
    assert (text, error["code"], requests) == ("The quick bro", "upstream_cut", 3)
    assert not answer.whole


async def test_another_answer_ends_as_cut():
    """What the client has is not what comes: the cut is told, and nothing of the other sent."""
    other = chat(["The slow fox"]), True
    answer, requests = await asked("/v1/chat/completions", CUT, other)
    text, error = said(answer)
    assert (text, error["code"], requests) == ("The quick bro", "upstream_cut", 2)
    assert b"[DONE]" not in answer.body
    assert not answer.whole


async def test_off_by_default():
    """Nothing is asked again once content went out."""
    answer, requests = await asked("/v1/chat/completions", CUT, WHOLE, toml="")
    text, error = said(answer)
    assert (text, error["code"], requests) == ("The quick bro", "upstream_cut", 1)


async def test_a_fallback_goes_on():
    """The fallback's answer, compared likewise; it is named, and its usage is its own."""
    usage = {"prompt_tokens": 1, "completion_tokens": 9, "total_tokens": 10}
    clock = FakeClock()
    rest = chat(["The quick brown", " fox"], usage=usage), True
    async with Upstream(Twice(CUT)) as first, Upstream(Twice(rest)) as second:
        toml = (
            "[retry]\nattempts = 1\n"
            f'[[upstream]]\nname = "a"\nurl = "{first.url}/v1"\n{GO_ON}fallback = ["b"]\n'
            f'[[upstream]]\nname = "b"\nurl = "{second.url}/v1"\n'
        )
        async with (
            relaying(toml=toml, clock=clock) as relay,
            relay.post("/chat", {"question": "Hi", "model": "m"}) as response,
        ):
            found = [event async for event in events(response)]
    assert "".join(e.data["content"] for e in found if e.name == "answer") == "The quick brown fox"
    done = found[-1].data
    assert (done["upstream"], done["usage"]["completion_tokens"]) == ("b", 9)
