"""What frames have in common: reading them by it is exactly as good as decoding them."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.frames import DONE, chat_frame, frame
from service.core.dialect import Chat, chat
from service.core.dialect.mould import Mould, around, string
from service.core.events import Event

TOLD = ("complete", "empty", "error", "finish_reason", "model", "over", "usage")


def state(reader):
    """Return all that a reader remembers of a stream."""
    return {name: getattr(reader, name) for name in TOLD}


def alike(*frames):
    """Read the frames, and each as one that has nothing in common with the last."""
    reader, other = Chat(), Chat()
    for number, raw in enumerate(frames):
        assert reader.read(raw) == other.read(b": %d\n%b" % (number, raw)), raw
        assert state(reader) == state(other), raw


def undecoded(monkeypatch):
    """Let decoding a whole frame fail."""

    def fail(data):
        pytest.fail(f"was decoded: {data}")

    monkeypatch.setattr(chat, "_decode", fail)


@pytest.mark.parametrize("field", ["content", "reasoning", "reasoning_content"])
@pytest.mark.parametrize("text", ["c", "", ' \n"\\\x7f ', "你好 \N{GRINNING FACE}"])
def test_the_third_frame_is_not_decoded(field, text, monkeypatch):
    """Two frames that differ in their text teach how the next are read, whatever their text."""
    reader = Chat()
    for known in "ab":
        reader.read(chat_frame({field: known}))
    undecoded(monkeypatch)
    expected = {"reasoning" if field != "content" else "text": text}
    assert reader.read(chat_frame({field: text})) == Event(content=bool(text), **expected)


def test_a_comment_between_two_frames_changes_nothing(monkeypatch):
    """It says nothing of what frames mean."""
    reader = Chat()
    for raw in (chat_frame({"content": "a"}), chat_frame({"content": "b"}), b": ping\n\n"):
        reader.read(raw)
    undecoded(monkeypatch)
    assert reader.read(chat_frame({"content": "c"})).text == "c"


@pytest.mark.parametrize(
    "inner",
    [b'a"', b"a\\", b"a\n", b"a\0", b"\xff", b"\\x", b"\\ud800", b'a","b":"c', b"", b'a"}\n\n: "'],
)
def test_what_is_no_such_string_is_decoded(inner):
    """Between the same bytes may stand what is no text, or more than one."""
    raw = chat_frame({"content": "TEXT"})
    alike(*(raw.replace(b"TEXT", text) for text in (b"a", b"b", inner, b"c")))


@pytest.mark.parametrize("raw", [b"", b"\0", b"\n\n"])
def test_at_first_nothing_is_in_common(raw):
    """Whatever the first frame is, there is none that it could be like."""
    alike(raw, chat_frame({"content": "a"}), chat_frame({"content": "b"}), raw)


def test_frames_that_differ_in_more_are_not_tried_for_ever(monkeypatch):
    """Where each has an id of its own, looking for what they have in common ends."""
    reader = Chat()
    for number in range(20):
        reader.read(chat_frame({"content": "a"}, id=f"chatcmpl-{number}"))
    monkeypatch.setattr(chat, "around", lambda *_: pytest.fail("was tried again"))
    assert reader.read(chat_frame({"content": "b"})).text == "b"


@given(st.text(), st.text())
def test_filled(text, other):
    """What is around a text makes the frame again, of that text and of any other."""
    raw = chat_frame({"content": text}, id="\N{SNOWMAN}")
    mould = around(text, raw)
    if mould is None:
        assert raw.count(msgspec.json.encode(text)) != 1
    else:
        assert mould.filled(text) == raw
        assert mould.filled(other) == chat_frame({"content": other}, id="\N{SNOWMAN}")


@pytest.mark.parametrize(
    "raw", [b'data: {"a":"b"}\n\n', b'data: ["x","x"]\n\n', b'data: "\\u0078"\n\n']
)
def test_nothing_is_around(raw):
    """A text that is not there, there twice, or written in another way."""
    assert around("x", raw) is None


def test_overlapping():
    """A frame that is shorter than what it is to begin and to end with has no text."""
    mould = Mould(b'data: {"a":"', b'"a":"}\n\n')
    short = b'data: {"a":"}\n\n'
    assert short.startswith(mould.head)
    assert short.endswith(mould.tail)
    with pytest.raises(msgspec.DecodeError):
        string(short[len(mould.head) - 1 : 1 - len(mould.tail)])


def test_what_another_frame_changes():
    """After one that is decoded, the next says again what those before it have said."""
    texts = [chat_frame({"content": text}) for text in "abc"]
    alike(*texts, chat_frame({}, model="another", usage={"total_tokens": 1}), *texts)


def test_a_text_that_stands_for_a_missing_one():
    """What an empty text means is no part of what frames with a text have in common."""
    alike(*(chat_frame({"content": text, "refusal": "No."}) for text in ("a", "b", "", "c")))


@pytest.mark.parametrize("name", ["delta", "choices", "content", "model"])
def test_a_text_that_is_a_name_too(name):
    """The same string elsewhere is not the text, where that is written in another way."""
    raw = chat_frame({"content": "TEXT"}).replace(
        b"TEXT", b"".join(b"\\u%04x" % c for c in name.encode())
    )
    alike(raw, raw, raw.replace(b'"%b"' % name.encode(), b'"x"'), raw)


TEXT = st.sampled_from(
    ["a", "", "b", '"', "\\", "\N{SNOWMAN}", "content", "refusal", "delta", "model"]
)
NAMES = st.sampled_from(["content", "content", "reasoning", "reasoning_content", "refusal", "role"])
ODD = st.sampled_from([b'"', b"\\", b"\n", b"\xff", b'","content":"x', b"\\u2603", b""])
OTHERS = st.sampled_from([DONE, b": ping\n\n", b"error: 1\n\n", b"data: {\n\n", b"event: x\n\n"])
MORE = st.fixed_dictionaries(
    {},
    optional={
        "model": TEXT,
        "usage": st.just({"n": 1}),
        "error": st.sampled_from(["", None, "x"]),
        "object": TEXT,
    },
)


@st.composite
def chunks(draw):
    """Draw the bytes of a chunk whose text is TEXT, its place, and all else it may say."""
    choice = {
        "index": draw(st.sampled_from([0, 0, 1])),
        "delta": draw(st.dictionaries(NAMES, TEXT)),
    }
    place, name = draw(st.sampled_from([(choice["delta"], draw(NAMES)), (choice, "text")]))
    place[name] = "TEXT"
    if draw(st.booleans()):
        choice["finish_reason"] = draw(st.sampled_from([None, "stop"]))
    return frame({"choices": [choice] * draw(st.sampled_from([1, 1, 1, 2])), **draw(MORE)})


@st.composite
def streams(draw):
    """Draw runs of frames that differ in one string, whole or broken, and others between them."""
    shapes, frames = draw(st.lists(chunks(), min_size=1, max_size=2)), []
    for _ in range(draw(st.integers(1, 3))):
        raw = draw(st.sampled_from(shapes))
        inner = TEXT.map(json.dumps).map(lambda text: text[1:-1].encode()) | ODD
        texts = [b"once", b"again", *draw(st.lists(inner, min_size=1, max_size=3))]
        frames += [raw.replace(b"TEXT", text) for text in texts]
        frames += draw(st.lists(OTHERS, max_size=1))
    return frames


@given(streams())
def test_as_good_as_decoding(frames):
    """Any frames mean, one by one, what they mean to who decodes each."""
    alike(*frames)
