"""Frames, dialects, views and cuts: whatever bytes come, in whatever pieces, they say the same."""

import json
from itertools import pairwise

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from service.core import cutting, sse
from service.core.dialect import Anthropic, Chat, Dialect, Media, Plain, Responses
from service.core.events import Frame
from service.core.mask import Mask
from service.core.view import ChatView, RawView
from service.errors import CODES, Failure
from strategies import BLOCKS, CUTTABLE, STREAMS, examples, splits

DIALECTS = [Dialect, Chat, Responses, Anthropic, Media]
LIMIT = 1 << 20


def read(kind, pieces):
    """Return what a dialect makes of a stream: what was said, frame for frame, and its state."""
    framer, dialect = sse.Framer(LIMIT), kind()
    events = [dialect.read(frame) for piece in pieces for frame in framer.feed(piece)]
    last = dialect.read_rest(framer.rest)
    said = [event for event in [*events, last] if event is not None and event.data]
    state = dialect.complete, dialect.over, dialect.empty, dialect.trusting
    return said, state, repr((dialect.error, dialect.finish_reason, dialect.usage, dialect.model))


@pytest.mark.parametrize("kind", DIALECTS)
@examples(40)
@given(split=splits())
@example(split=(b"data: [DONE]\r\n\r\n", [b"data: [DONE]\r\n\r", b"\n"]))
def test_any_split_says_the_same(kind, split):
    """However the reads fall, a dialect hears the same, and nothing that it reads is a fault."""
    whole, pieces = split
    assert read(kind, pieces) == read(kind, [whole])


@pytest.mark.parametrize("kind", DIALECTS)
@examples(40)
@given(stream=STREAMS, code=st.sampled_from(sorted(CODES)), words=st.text())
def test_any_failure_can_be_told(kind, stream, code, words):
    """Wherever a stream stands, the frame and the body that tell of a failure are JSON."""
    dialect, framer = kind(), sse.Framer(LIMIT)
    for frame in framer.feed(stream):
        dialect.read(frame)
    failure = Failure(code, words)
    [frame] = sse.Framer(LIMIT).feed(dialect.error_frame(failure))
    told = json.loads(sse.payload(frame))
    assert told["error"]["message"] == json.loads(json.dumps(words))
    assert code in json.dumps(dialect.refusal(failure))


def numbered(stream, dialect):
    """Return the frames of a stream as the relay numbers them."""
    raws = sse.Framer(LIMIT).feed(stream)
    return [Frame(number, raw, dialect.read(raw)) for number, raw in enumerate(raws, 1)]


def heard(data):
    """Return the data of each event, as a client's parser gives them: WHATWG, section 9.2.6.

    A byte order mark is one at the beginning only; later its line is an unknown field.
    """
    first, *rest = sse.Framer(LIMIT).feed(data + b"\n\n")
    frames = [first, *(b"\n" + frame for frame in rest)]
    return [payload for frame in frames if (payload := sse.payload(frame)) is not None]


@pytest.mark.parametrize("kind", DIALECTS)
@examples(40)
@given(stream=STREAMS)
@example(stream=b"data: [DONE]\n\n\xef\xbb\xbfdata: [DONE]\n\n")
def test_v1_hands_on_all_data(kind, stream):
    """Without ids the bytes are the upstream's own; with ids, each event's data still is."""
    frames = numbered(stream, kind())
    plain = RawView(kind())
    assert b"".join(map(plain.data, frames)) == b"".join(frame.raw for frame in frames)
    kept = RawView(kind(), "S")
    sent = b"".join(map(kept.data, frames))
    assert heard(sent) == heard(b"".join(frame.raw for frame in frames))
    ids = [
        value
        for frame in sse.Framer(LIMIT).feed(sent)
        for name, value in sse.fields(frame)
        if name == b"id"
    ]
    assert all(value.startswith(b"S.") for value in ids)
    numbers = [int(value[2:]) for value in ids]
    assert numbers == sorted(set(numbers))


@examples(40)
@given(stream=STREAMS)
def test_chat_tells_all_text(stream):
    """`/chat` shows the text and the reasoning of every frame, once and in order, and only that."""
    frames = numbered(stream, Chat())
    view = ChatView("S")
    said = {b"answer": "", b"reasoning": ""}
    for block in sse.Framer(LIMIT).feed(b"".join(map(view.data, frames))):
        name = sse.field(block, b"event")
        if name in said:
            said[name] += json.loads(sse.payload(block))["content"]
    assert said[b"answer"] == "".join(frame.event.text for frame in frames)
    assert said[b"reasoning"] == "".join(frame.event.reasoning for frame in frames)
    for frame in frames:
        assert view.data(frame) == b"".join(piece.data for piece in view.frame(frame))


@pytest.mark.parametrize(("kind", "bodies"), [(Chat, CUTTABLE), (Anthropic, BLOCKS)])
@examples(40)
@given(data=st.data())
def test_a_cut_frame_says_what_the_whole_one_does(kind, bodies, data):
    """Cut anywhere, the parts together say what the frame said: no text lost, no ending twice."""
    body = data.draw(bodies)
    raw = b"data: %s\n\n" % json.dumps(body).encode()
    whole, parts = kind(), kind()
    frame = Frame(1, raw, whole.read(raw))
    cut = cutting.cut_of(whole, frame)
    assume(cut is not None and cut.units)
    edges = data.draw(st.lists(st.integers(1, cut.units), max_size=4, unique=True))
    edges = sorted({0, cut.units, *edges})
    events = [parts.read(cut.part(start, stop)) for start, stop in pairwise(edges)]
    assert "".join(event.text for event in events) == frame.event.text
    assert "".join(event.reasoning for event in events) == frame.event.reasoning
    state = ("complete", "finish_reason", "usage", "model", "error")
    assert [getattr(parts, name) for name in state] == [getattr(whole, name) for name in state]


@examples(40)
@given(split=splits(st.binary(max_size=60)), limit=st.integers(1, 40))
def test_too_long_is_found_wherever_the_reads_end(split, limit):
    """The frames before the one that is too long are the same for any split, or more of them."""
    whole, pieces = split

    def frames(parts):
        framer, found = sse.Framer(limit), []
        try:
            for part in parts:
                found += framer.feed(part)
        except sse.FrameTooLong as error:
            return found + error.frames, True
        return found, False

    parted, at_once = frames(pieces), frames([whole])
    assert [*map(sse.payload, at_once[0])] == [*map(sse.payload, parted[0])]
    assert parted[1] == at_once[1] or b"\r" in whole  # an LF that came late is of the next frame


@examples(40)
@given(split=splits(), secret=st.binary(min_size=1, max_size=4))
def test_no_split_lets_a_secret_through(split, secret):
    """However the reads fall, the masked bytes are as long, the same, and without the secret."""
    whole, pieces = split
    assume(b"*" not in secret)
    mask = Mask(secret)
    told = b"".join([*map(mask.feed, pieces), mask.rest()])
    assert told == whole.replace(secret, b"*" * len(secret))


@examples(40)
@given(split=splits())
def test_a_plain_body_tells_the_same_usage(split):
    """The usage of a body that is no stream is the same for any split, and never a fault."""
    whole, pieces = split
    parted, at_once = Plain(), Plain()
    at_once.read(whole)
    for piece in pieces:
        parted.read(piece)
    assert repr(parted.usage) == repr(at_once.usage)
