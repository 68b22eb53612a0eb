"""Frames are the bytes of the stream, cut at blank lines and nowhere else."""

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.core.sse import BOM, Framer, FrameTooLong, field, fields, payload

LIMIT = 1 << 20
STREAMS = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b"data: x", b"data:", b":", b"id: 1", BOM, b"\xff"])
    | st.binary(max_size=4),
    max_size=30,
).map(b"".join)


def cut(pieces, limit=LIMIT):
    """Return the frames and the rest of a stream that comes in these pieces."""
    framer = Framer(limit)
    frames = [frame for piece in pieces for frame in framer.feed(piece)]
    return frames, framer.rest


def whole(frames, rest):
    """Return them with each LF back at the CR from which a read has parted it."""
    found = [*frames, rest]
    for at in range(1, len(found)):
        if found[at - 1].endswith(b"\r") and found[at].startswith(b"\n"):
            found[at - 1], found[at] = found[at - 1] + b"\n", found[at][1:]
    return found[:-1], found[-1]


def lines_of(stream):
    """Return the stream's lines with their ends, by WHATWG's grammar: CR LF, LF or CR."""
    lines, line = [], b""
    for at in range(len(stream)):
        line += stream[at : at + 1]
        if line.endswith(b"\n") or (line.endswith(b"\r") and stream[at + 1 : at + 2] != b"\n"):
            lines.append(line)
            line = b""
    return lines, line


def reference(stream):
    """Cut a whole stream line by line: a blank line ends what has begun before it."""
    lines, unfinished = lines_of(stream)
    frames, frame = [], []
    for line in lines:
        frame.append(line)
        if len(frame) > 1 and not line.strip(b"\r\n"):
            frames.append(b"".join(frame))
            frame = []
    return frames, b"".join(frame) + unfinished


@st.composite
def split_streams(draw):
    """Draw a stream and a way to cut it into pieces, empty ones included."""
    stream = draw(STREAMS)
    cuts = draw(st.lists(st.integers(0, len(stream)), max_size=12))
    edges = [0, *sorted(cuts), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]


@settings(deadline=None)
@given(split_streams())
@example([b"data: x\r\n\r", b"\n", b"\n"])
@example([b"data: x\r\r", b"\n\n"])
@example([b"data: x\r", b"\ndata: y\r\n", b"\r\n"])
def test_joined_they_are_the_stream(pieces):
    """No byte is lost, added or moved, wherever the reads end."""
    frames, rest = cut(pieces)
    assert b"".join([*frames, rest]) == b"".join(pieces)


@settings(deadline=None)
@given(split_streams())
@example([b"data: x\r\n\r", b"\n", b"\n"])
@example([b"data: x\r\n\r", b"\n\n", b"\n"])
@example([b"a\r\r", b"", b"\n", b"b\n\n"])
@example([b"data: x\r", b"\ndata: y\r\n", b"\r\n"])
def test_a_split_changes_nothing(pieces):
    """The frames are those of the reference, but for an LF that came after its CR had gone."""
    assert whole(*cut(pieces)) == reference(b"".join(pieces))


@settings(deadline=None)
@given(split_streams())
def test_payloads_do_not_depend_on_reads(pieces):
    """What frames say is the same however the bytes came: a parted LF says nothing."""
    frames, _ = cut(pieces)
    assert [*map(payload, frames)] == [*map(payload, reference(b"".join(pieces))[0])]


@settings(deadline=None)
@given(STREAMS)
@example(b"data: 1\r\rdata: 2\n\n")
@example(b"data: 1\n\r\ndata: 2\n\n")
def test_one_byte_at_a_time(stream):
    """A stream that comes in single bytes has the frames of one that comes at once."""
    assert whole(*cut(stream[at : at + 1] for at in range(len(stream)))) == reference(stream)
    assert cut([stream]) == reference(stream)


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n", b"\r\n\n", b"\n\r"])
def test_every_line_end_ends_a_frame(end):
    """CR, LF and CR LF, also mixed, make a blank line; nothing waits for a byte that may follow."""
    assert cut([b"data: x" + end]) == ([b"data: x" + end], b"")


@pytest.mark.parametrize("other", ["\u2028", "\u2029", "\x85", "\v", "\f", "\x1e", "\0"])
def test_nothing_else_ends_a_line(other):
    """What Python takes for a line end, SSE does not."""
    frame = f"data: a{other}{other}b\n\n".encode()
    assert cut([frame]) == ([frame], b"")
    assert payload(frame) == f"a{other}{other}b".encode()


def test_a_late_line_feed_leads_the_next_frame():
    """The LF of a CR LF that was parted is a byte of the next frame and ends no line there."""
    assert cut([b"data: 1\r\n\r", b"\n", b"\ndata: 2\n\n"]) == (
        [b"data: 1\r\n\r", b"\n\ndata: 2\n\n"],
        b"",
    )


def test_a_line_feed_after_the_next_frame_counts():
    """Only the byte right behind the CR belongs to it."""
    framer = Framer(LIMIT)
    assert framer.feed(b"data: 1\r\r") == [b"data: 1\r\r"]
    assert framer.feed(b"data: 2\n\n") == [b"data: 2\n\n"]
    assert framer.feed(b"\n\n") == [b"\n\n"]


@pytest.mark.parametrize(
    ("stream", "halved"),
    [
        (b"", False),
        (b"data: x\r\n\r", True),
        (b"data: x\r\n\r\n", False),
        (b"data: x\r\r", False),
        (b"data: x\n\r", False),
        (b"data: x\n\n", False),
        (b"data: x\r\n\rdata: y\n\n", False),
        (b"data: x\r\n\ndata: y\r\n\r", True),
    ],
)
def test_half_a_line_end(stream, halved):
    """A stream of CR LF whose last LF has not come yet is known by its other line ends."""
    framer = Framer(LIMIT)
    framer.feed(stream)
    assert framer.halved is halved


def test_several_frames_in_one_read():
    """A read may hold the end of one frame, whole ones, and the beginning of another."""
    frames, rest = cut([b"data: 1", b"\n\n: c\n\ndata: 2\n\nda"])
    assert frames == [b"data: 1\n\n", b": c\n\n", b"data: 2\n\n"]
    assert rest == b"da"


def test_what_is_not_ended_is_the_rest():
    """Bytes after the last blank line are no frame."""
    assert cut([b"data: 1\n\ndata: 2\n"]) == ([b"data: 1\n\n"], b"data: 2\n")


@pytest.mark.parametrize("pieces", [[b"data: 123\n\n"], [b"data: 123\n", b"\n"], [b"data: 12345"]])
def test_a_frame_over_the_limit_is_refused(pieces):
    """The limit counts every byte of a frame, whole or not, whether it came at once or not."""
    with pytest.raises(FrameTooLong, match="longer than 10 bytes"):
        cut(pieces, limit=10)
    assert cut(pieces, limit=11)


def test_what_fitted_before_a_long_frame_is_not_lost():
    """The whole frames of the same read come with the refusal, up to the first long one."""
    with pytest.raises(FrameTooLong) as caught:
        cut([b"data: 1\n\n: c\n\ndata: 12345\n\n: d\n\n"], limit=9)
    assert caught.value.frames == [b"data: 1\n\n", b": c\n\n"]


def test_the_limit_is_for_a_frame_and_not_for_a_read():
    """Many frames that come together are no long frame."""
    assert len(cut([b"data: 1\n\n" * 1000], limit=9)[0]) == 1000


@settings(deadline=None)
@given(st.lists(st.binary(max_size=20), max_size=30), st.integers(1, 30))
def test_no_more_is_held_than_the_limit_and_one_read(reads, limit):
    """Whatever comes, the buffer is bounded, and a stream beyond the limit is refused at once."""
    framer = Framer(limit)
    for read in reads:
        try:
            framer.feed(read)
        except FrameTooLong:
            assert len(framer.rest) <= limit + len(read)
            return
        assert len(framer.rest) <= limit


class CountingPattern:
    """A pattern that counts the bytes that it may look at."""

    def __init__(self, pattern):
        self.pattern = pattern
        self.bytes = 0

    def search(self, buffer, start):
        """Search, from there to the end."""
        self.bytes += len(buffer) - start
        return self.pattern.search(buffer, start)


def test_a_long_frame_in_single_bytes_is_linear(monkeypatch):
    """Each byte is looked at a few times only, however long the frame already is."""
    pattern = CountingPattern(Framer.feed.__globals__["_BLANK_LINE"])
    monkeypatch.setitem(Framer.feed.__globals__, "_BLANK_LINE", pattern)
    size = 200_000
    frames, rest = cut([b"x"] * size + [b"\n", b"\n"])
    assert ([len(frame) for frame in frames], rest) == ([size + 2], b"")
    assert pattern.bytes <= 4 * (size + 2)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (b"data: x\n\n", b"x"),
        (b"data:x\n\n", b"x"),
        (b"data:  x\n\n", b" x"),
        (b"data:\tx\n\n", b"\tx"),
        (b"data: \n\n", b""),
        (b"data:\n\n", b""),
        (b"data\n\n", b""),
        (b"data\ndata\n\n", b"\n"),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"data: a\r\ndata: b\r\n\r\n", b"a\nb"),
        (b"data: a\rdata: b\r\r", b"a\nb"),
        (b"data: a\n: note\nevent: e\ndata:b\n\n", b"a\nb"),
        (b"data: a:b: c\n\n", b"a:b: c"),
        (b"\ndata: x\n\n", b"x"),
        (b"\n\ndata: x\n\n", b"x"),
        (BOM + b"data: x\n\n", b"x"),
        (BOM + BOM + b"data: x\n\n", None),
        (b"data: " + BOM + b"x\n\n", BOM + b"x"),
        (b"data: \xff\0\n\n", b"\xff\0"),
        (b"data: [DONE]", b"[DONE]"),
        (b": data: x\n\n", None),
        (b" data: x\n\n", None),
        (b"Data: x\n\n", None),
        (b"DATA: x\n\n", None),
        (b"datas: x\n\n", None),
        (b"event: e\nid: 1\nretry: 5\n\n", None),
        (b": OPENROUTER PROCESSING\n\n", None),
        (b":\n\n", None),
        (b"\n\n", None),
        (b"", None),
    ],
)
def test_payload(frame, expected):
    """Data lines joined by LF; names are case-sensitive; exactly one space is no part of a value.

    A data line without a value is data; a frame without a data line has none.
    """
    assert payload(frame) == expected


@settings(deadline=None)
@given(STREAMS)
def test_the_short_way_reads_as_the_long_one(body):
    """The quick look at a frame of one data line finds what reading its lines finds."""
    frame = b"data: " + body + b"\n\n"
    lines = [value for name, value in fields(frame) if name == b"data"]
    assert payload(frame) == b"\n".join(lines)


def test_fields_in_their_order():
    """Each line is a name and a value; a comment's name is empty; a line without colon has none."""
    frame = b": c\nid:7\nevent: e\ndata: a:b\nretry\n \n\n"
    assert fields(frame) == [
        (b"", b"c"),
        (b"id", b"7"),
        (b"event", b"e"),
        (b"data", b"a:b"),
        (b"retry", b""),
        (b" ", b""),
    ]


def test_the_last_value_of_a_field_counts():
    """A field that comes twice has its last value, as in a browser; one that is absent has none."""
    frame = b"event: a\nevent: b\nid\n\n"
    assert field(frame, b"event") == b"b"
    assert field(frame, b"id") == b""
    assert field(frame, b"data") is None
