"""Ids of events: which stream, which of its frames, how much of that frame.

STREAM.FRAME: all of that frame has come; FRAME counts the upstream's frames from 1.
STREAM.FRAME+N: its first N units have. Units are the code points of its reasoning, then of its
text, then one for its tool calls: the same on every wire and at every pace.
"""

import re
from typing import Final, NamedTuple

from service.errors import Failure

_NUMBER: Final = "[1-9][0-9]{0,14}"
_ID: Final = re.compile(rf"([\w-]{{1,128}})\.(0|{_NUMBER})(?:[+ ]({_NUMBER}))?", re.ASCII)
_EXCERPT: Final = 60  # characters of a wrong id that the message repeats


class Id(NamedTuple):
    """How far a reader has come; `part` 0: to the end of the frame."""

    stream: str
    frame: int
    part: int = 0

    @property
    def after(self) -> int:
        """The last frame that need not be sent again; one that came in part must be."""
        return self.frame - 1 if self.part else self.frame

    def __str__(self) -> str:
        whole = f"{self.stream}.{self.frame}"
        return f"{whole}+{self.part}" if self.part else whole


def parse(text: str) -> Id:
    """Read the id of an event; raises Failure bad_request.

    A space stands for the `+`: a query that was not encoded makes one of it.
    """
    found = _ID.fullmatch(text)
    if found is None:
        wrong = repr(text)[:_EXCERPT]
        told = f"expected the id of an event, STREAM.FRAME or STREAM.FRAME+N, not {wrong}"
        raise Failure("bad_request", told)
    stream, frame, part = found.groups()
    return Id(stream, int(frame), int(part or 0))
