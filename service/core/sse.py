"""Bytes to whole SSE frames, incremental and bounded; and what the lines of a frame say.

Rule 1: a frame is the bytes up to and with the end of its blank line; joined together the frames
        are the stream, byte for byte.
Rule 2: a line ends with CR LF, LF or CR. A blank line whose CR is the last byte to have come does
        not wait for an LF; if one follows, it leads the next frame, where it ends no line.
Rule 3: what comes after the last blank line is no frame (it is `rest`).
Rule 4: a frame longer than the limit is an error, found without holding more than the limit and the
        bytes of one read.

WHATWG HTML, "Server-sent events", sections 9.2.5 (the grammar) and 9.2.6 (interpreting a stream).
"""

import re
from itertools import takewhile

BOM = b"\xef\xbb\xbf"
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_CR, _LF = 0x0D, 0x0A  # to look for a byte costs a tenth of what it costs to look for b"\r"
_OVERLAP = 3  # a blank line has at most four bytes


class FrameTooLong(ValueError):  # noqa: N818  says what happened
    """A frame passed the limit before its blank line came; `frames`: the whole ones before it."""

    def __init__(self, limit: int, frames: list[bytes]) -> None:
        super().__init__(f"a frame is longer than {limit} bytes")
        self.frames = frames


class Framer:
    """Cuts a byte stream into frames; holds back only the frame that is not whole yet."""

    __slots__ = ("_bare_cr", "_buffer", "_limit", "halved")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._bare_cr = False  # the last frame ended with a CR that may be half of a CR LF
        self.halved = False
        """The last frame ended with half of its second CR LF."""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the frames that these bytes complete; raises FrameTooLong."""
        size = len(data)
        if (  # a single frame, as is nearly every read of tokens
            data.find(b"\n\n") == size - 2
            and _CR not in data
            and not (self._buffer or self._bare_cr)
            and 1 < size <= self._limit
        ):
            return [data]
        frames = self._cut(data)
        if len(self._buffer) > self._limit or any(len(frame) > self._limit for frame in frames):
            fitting = takewhile(lambda frame: len(frame) <= self._limit, frames)
            raise FrameTooLong(self._limit, list(fitting))
        return frames

    def _cut(self, data: bytes) -> list[bytes]:
        buffer = self._buffer
        seen = max(0, len(buffer) - _OVERLAP)
        buffer += data
        frames, start = [], 0
        if self._bare_cr and buffer.startswith(b"\n"):
            seen = max(seen, 1)
        while blank := _BLANK_LINE.search(buffer, max(seen, start)):
            frames.append(bytes(buffer[start : blank.end()]))
            start = blank.end()
        if start:
            self._bare_cr = buffer[start - 1] == _CR
            self.halved = buffer.endswith(b"\r\n\r", 0, start)
            del buffer[:start]
        return frames

    @property
    def rest(self) -> bytes:
        """The bytes of a frame that is not whole."""
        return bytes(self._buffer)


def payload(frame: bytes) -> bytes | None:
    """Return the frame's data lines, joined by LF; None if it has none (a comment, a ping)."""
    if frame.startswith(b"data: ") and frame.endswith(b"\n\n"):
        data = frame[6:-2]
        if _LF not in data and _CR not in data:
            return data
    lines = [value for name, value in fields(frame) if name == b"data"]
    return b"\n".join(lines) if lines else None


def fields(frame: bytes) -> list[tuple[bytes, bytes]]:
    """Return (name, value) of each line that is not empty; a comment's name is empty."""
    found = []
    for line in _LINE_END.split(frame.removeprefix(BOM)):
        if line:
            name, _, value = line.partition(b":")
            found.append((name, value.removeprefix(b" ")))
    return found


def field(frame: bytes, wanted: bytes) -> bytes | None:
    """Return the last value that the frame gives this field."""
    values = [value for name, value in fields(frame) if name == wanted]
    return values[-1] if values else None
