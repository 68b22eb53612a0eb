"""What `smooth` makes of the ways in which tokens arrive, on a clock of its own.

python tests/pace_table.py     prints the table that docs/http.md shows

A pattern is played from the upstream's frames to the bytes that a client gets: dialect, view, pace.
Delay is what the pace adds to a token, in milliseconds; variation is the coefficient of variation
(deviation by mean) of the gaps between tokens. A part of a frame that was cut counts as a token.
"""

import random
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from fakes.frames import DONE, chat_frame
from service.core import sse
from service.core.dialect import Chat
from service.core.events import Ending, Frame, Summary
from service.core.pacing import Pace, Smooth
from service.core.view import ChatView, Piece, RawView
from service.errors import Failure

MAX_LAG = 0.6
WORDS = [
    "the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "then", "it",
    "sleeps", "until", "the", "evening", "comes",
]  # fmt: skip
CHINESE = (
    "天空为什么是蓝色的？因为阳光穿过大气层时，波长较短的蓝光比红光更容易被空气分子散射到各个方向。"
)
THAI = "ท้องฟ้าเป็นสีฟ้าเพราะแสงอาทิตย์กระเจิงในชั้นบรรยากาศเมื่อผ่านโมเลกุลของอากาศ"
EMOJI = "👩‍👩‍👧‍👦🇨🇳🇺🇸👍🏽❤️‍🔥🏴󠁧󠁢󠁥󠁮󠁧󠁿1️⃣e\u0301o\u0308क्षि" * 3
CODE = "    for index, value in enumerate(found):\r\n        print(index, value)\r\n\r\n"
CALLS = {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]}

Arrival = tuple[float, bytes]
"""The moment at which a frame came, in seconds, and its bytes."""


class Left(NamedTuple):
    """An event at the client: when its frame came, when it left, its id, its bytes."""

    came: float
    left: float
    id: str
    data: bytes


class Measure(NamedTuple):
    """What the pace did: tokens, delay in ms, variation of the gaps before and after."""

    tokens: int
    mean: float
    most: float
    before: float
    after: float

    def __str__(self) -> str:
        return (
            f"{self.tokens:5} tokens  delay mean {self.mean:6.1f} max {self.most:6.1f} ms"
            f"  variation {self.before:5.2f} -> {self.after:5.2f}"
        )


def frames(arrivals: Iterable[Arrival]) -> list[tuple[float, Frame]]:
    """Return the frames as the relay numbers and reads them."""
    dialect = Chat()
    return [
        (moment, Frame(number, raw, dialect.read(raw)))
        for number, (moment, raw) in enumerate(arrivals, 1)
    ]


def play(arrivals: list[Arrival], pace: Pace, view: ChatView | RawView) -> list[Left]:
    """Return all that the client gets; frames of one moment come in one read."""
    timed = frames(arrivals)
    came = {frame.number: moment for moment, frame in timed}
    return [
        Left(came.get(int(_id(event).split(".")[1].split("+")[0]), left), left, _id(event), event)
        for left, data in outlet(timed, pace, view)
        for event in sse.Framer(1 << 24).feed(data)
    ]


def outlet(
    timed: list[tuple[float, Frame]], pace: Pace, view: ChatView | RawView
) -> Iterator[tuple[float, bytes]]:
    """Yield (moment, bytes) of each write, as service.adapters.outlet makes them."""
    for number, (now, frame) in enumerate(timed):
        yield from _until(now, pace)
        for piece in view.frame(frame):
            pace.put(piece, now)
        if number + 1 == len(timed):
            failure = None if frame.raw == DONE else Failure("upstream_cut", "cut", stage="stream")
            ending = Ending(number + 2, "ok" if failure is None else "cut", Summary(), failure)
            pace.put(Piece(view.ending(ending), token=False), now)
        if number + 1 == len(timed) or timed[number + 1][0] > now:
            yield now, pace.take(now)
    yield from _until(float("inf"), pace)


def _until(moment: float, pace: Pace) -> Iterator[tuple[float, bytes]]:
    while (due := pace.due()) is not None and due < moment:
        yield due, pace.take(due)


def _id(event: bytes) -> str:
    return (sse.field(event, b"id") or b".0").decode()


def tokens(left: list[Left]) -> list[Left]:
    """Return the events with text."""
    return [event for event in left if b'"content":"' in event.data]


def measure(left: list[Left]) -> Measure:
    """Measure the events with text."""
    said = tokens(left)
    delays = [(event.left - event.came) * 1000 for event in said]
    before, after = [e.came for e in said], [e.left for e in said]
    return Measure(
        len(said), statistics.mean(delays), max(delays), variation(before), variation(after)
    )


def variation(moments: list[float]) -> float:
    """Return the coefficient of variation of the gaps."""
    gaps = [later - moment for moment, later in pairwise(moments)]
    mean = statistics.mean(gaps) if gaps else 0
    return statistics.pstdev(gaps) / mean if mean else 0.0


# --- the patterns


def say(text: str) -> bytes:
    """Return the frame of a token."""
    return chat_frame({"content": text})


def words(count: int) -> list[bytes]:
    """Return so many frames of a word each."""
    return [say(f" {WORDS[number % len(WORDS)]}") for number in range(count)]


def spaced(found: Iterable[bytes], gap: float, irregular: float = 0.0) -> list[Arrival]:
    """Return frames that come that far apart, give or take a share of it."""
    return lumps(([frame] for frame in found), gap, irregular)


def lumps(
    found: Iterable[list[bytes]], gap: float, irregular: float = 0.0, dribble: float = 0.0
) -> list[Arrival]:
    """Return lists of frames, each of which comes at once, or a `dribble` of seconds apart."""
    dice = random.Random(7)  # noqa: S311  the same each time
    now, arrivals = 0.0, []
    for lump in found:
        arrivals += [(now + dribble * place, frame) for place, frame in enumerate(lump)]
        now += gap * (1 + dice.uniform(-irregular, irregular))
    return arrivals


def then(*parts: list[Arrival], after: float) -> list[Arrival]:
    """Return the parts one after the other, with so many seconds between them."""
    joined: list[Arrival] = []
    for part in parts:
        start = joined[-1][0] + after if joined else 0.0
        joined += [(start + moment, frame) for moment, frame in part]
    return joined


def ended(arrivals: list[Arrival]) -> list[Arrival]:
    """Return the arrivals with an end that comes together with the last."""
    last = arrivals[-1][0]
    return [*arrivals, (last, chat_frame({}, finish="stop")), (last, DONE)]


def text_lumps(text: str, count: int, gap: float) -> list[Arrival]:
    """Return frames of that text each, so far apart."""
    return spaced([say(text)] * count, gap)


def two_choices() -> list[Arrival]:
    """Return lumps of chunks of two choices, in turn."""
    frame = say(" word")
    other = frame.replace(b'"index":0', b'"index":1')
    return lumps([[frame, other] * 20] * 12, 0.4)


def with_calls() -> list[Arrival]:
    """Return lumps of text with a tool call in the middle and at the end of each."""
    call = chat_frame(CALLS)
    return lumps([[*words(20), call, *words(20), call]] * 12, 0.4)


def several(size: int, count: int) -> list[list[bytes]]:
    """Return so many lumps of so many words."""
    return [words(size)] * count


PATTERNS: dict[str, Callable[[], list[Arrival]]] = {
    "steady, 5 a second": lambda: ended(spaced(words(60), 0.2)),
    "steady, 40 a second": lambda: ended(spaced(words(200), 0.025)),
    "steady, 200 a second": lambda: ended(spaced(words(400), 0.005)),
    "steady, 1000 a second": lambda: ended(spaced(words(1000), 0.001)),
    "steady, gaps ± 50 %": lambda: ended(spaced(words(200), 0.03, 0.5)),
    "bursts of 5": lambda: ended(lumps(several(5, 40), 0.15)),
    "lumps of 40": lambda: ended(lumps(several(40, 20), 0.4)),
    "lumps of 40, gaps ± 20 %": lambda: ended(lumps(several(40, 20), 0.4, 0.2)),
    "lumps of 40, gaps ± 50 %": lambda: ended(lumps(several(40, 20), 0.4, 0.5)),
    "lumps of 40 in many reads": lambda: ended(lumps(several(40, 20), 0.4, 0.2, 0.0004)),
    "lumps of 40, 1.5 s apart": lambda: ended(lumps(several(40, 12), 1.5)),
    "long silence": lambda: ended(then(*[spaced(words(80), 0.02)] * 2, after=20.0)),
    "one huge chunk": lambda: ended([(0.0, say(" ".join(WORDS * 60)))]),
    "single characters": lambda: ended(spaced([say(c) for c in " ".join(WORDS) * 4], 0.004)),
    "Chinese, by sentence": lambda: ended(text_lumps(CHINESE, 12, 0.4)),
    "Thai, by sentence": lambda: ended(text_lumps(THAI, 12, 0.4)),
    "emoji and marks": lambda: ended(text_lumps(EMOJI, 12, 0.4)),
    "code, by line": lambda: ended(text_lumps(CODE, 20, 0.3)),
    "tool calls between": lambda: ended(with_calls()),
    "two choices": lambda: ended(two_choices()),
    "a stall and what it held up": lambda: ended(
        then(
            then(spaced(words(100), 0.02), lumps([words(150)], 0.0), after=3.0),
            spaced(words(100), 0.02),
            after=0.02,
        )
    ),
    "a cut in a lump": lambda: lumps(several(40, 6), 0.4),
}


def table() -> str:
    """Return the table in Markdown."""
    lines = [
        "| tokens arrive | delay, mean | longest | variation | after |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, pattern in PATTERNS.items():
        found = measure(play(pattern(), Smooth(MAX_LAG), RawView(Chat(), "s")))
        delays = f"{found.mean:.0f} ms | {found.most:.0f} ms"
        lines.append(f"| {name} | {delays} | {found.before:.2f} | {found.after:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table())
