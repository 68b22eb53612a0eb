"""Other people's cases, as data: what a server sends, and what its client must make of it.

    wpt                  web-platform-tests, eventsource/
    eventsource_parser   npm eventsource-parser, test/; npm eventsource, test/
    sdk_framing          openai-python and anthropic-sdk-python, tests/test_streaming.py and others
    messages · chat      what the same SDKs' stream() makes of an answer

Each names its source; the bytes are facts, all words and code are this project's.
"""

from collections.abc import Sequence
from typing import NamedTuple

from fakes import Request, Script, Wire

STREAM = "text/event-stream"
PATH = "/v1/cases/{}"
"""Where a case is served: on a path that stands for no API, so that nothing is known of its end."""

Seen = tuple[str, str, str]
"""An event as an EventSource shows it: its type, data and lastEventId."""


class Answer(NamedTuple):
    """One response: its body comes in these pieces, each an HTTP chunk of its own."""

    pieces: tuple[bytes, ...]
    kind: str = STREAM
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


class Case(NamedTuple):
    """What a server answers to one connection after the other, and what its client must see.

    source   the file that the case comes from, and the test in it where it has several
    events   what an EventSource sees in all of these connections
    closed   it gives up, instead of coming back
    """

    source: str
    answers: tuple[Answer, ...]
    events: tuple[Seen, ...] = ()
    closed: bool = False

    @property
    def streams(self) -> int:
        """How many of the answers an EventSource reads to their end."""
        return sum(one.status == 200 and one.kind.startswith(STREAM) for one in self.answers)

    @property
    def body(self) -> bytes:
        """The bytes of the first answer."""
        return b"".join(self.answers[0].pieces)


def case(source: str, *pieces: bytes | str, events: Sequence[Seen] = (), **head: str) -> Case:
    """Return a case with a single answer; a piece that is text goes out in UTF-8."""
    encoded = tuple(p.encode() if isinstance(p, str) else p for p in pieces)
    return Case(source, (Answer(encoded, **head),), tuple(events))


def messages(*data: str, last_id: str = "") -> tuple[Seen, ...]:
    """Return events without a name of their own."""
    return tuple(("message", one, last_id) for one in data)


def serving(cases: Sequence[Case], page: bytes = b"") -> Script:
    """Return an upstream's script: PATH.format(N) answers as the Nth case says, else the page."""
    turns = [iter(case.answers) for case in cases]

    async def script(request: Request, wire: Wire) -> None:
        path, _, _ = request.target.partition("?")
        if not path.startswith(PATH.format("")):
            await wire.reply(200, page, content_type="text/html")
            return
        number = int(path.rpartition("/")[2])
        await send(next(turns[number], cases[number].answers[-1]), wire)

    return script


async def send(answer: Answer, wire: Wire) -> None:
    """Send a whole response."""
    head = {"content_type": answer.kind} if answer.kind else {}
    if answer.status in {204, 205, 301, 302, 303, 307, 308}:
        await wire.reply(answer.status, b"", *answer.headers, **head)
        return
    await wire.head(answer.status, *answer.headers, **head)
    for piece in answer.pieces:
        await wire.chunk(piece)
    await wire.end()
