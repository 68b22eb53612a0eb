"""What the frames of a stream have in common: mostly all but one text.

A token's frame differs from the one before it in a single string of its JSON. The bytes around that
string are learned from two frames; a frame that has them means what those meant, with its own text.
It need not be decoded whole, which is the dearest part of reading it.

That is exact if it holds for two texts that are made up, one of them empty: then a JSON parser that
has read `head` is at the beginning of the text, any other valid string (RFC 8259, section 7) ends
where `tail` begins, and `tail` is read as before.
"""

from typing import Final, NamedTuple

import msgspec

MADE_UP: Final = ("\N{SNOWMAN} made up \N{SNOWMAN}", "")
_encode = msgspec.json.Encoder().encode
string = msgspec.json.Decoder(str).decode
"""A JSON string to its text; raises msgspec.DecodeError."""


class Mould(NamedTuple):
    """The bytes before and after a text: the quotes that enclose it are theirs."""

    head: bytes
    tail: bytes

    def filled(self, text: str) -> bytes:
        """Return the frame that has this text."""
        return self.head[:-1] + _encode(text) + self.tail[1:]


def around(text: str, frame: bytes) -> Mould | None:
    """Return what is around a text in a frame; None if it is there more than once, or escaped."""
    head, found, tail = frame.partition(_encode(text))
    return Mould(head + b'"', b'"' + tail) if found and found not in tail else None
