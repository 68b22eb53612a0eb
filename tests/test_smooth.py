"""The pace `smooth`: what is steady passes, what is lumpy is spread, nothing is held for long.

The patterns, and how they are measured, are in pace_table; `pytest -s` prints what it found.
"""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from fakes.frames import DONE, chat_frame
from pace_table import (
    CALLS,
    CHINESE,
    CODE,
    EMOJI,
    MAX_LAG,
    PATTERNS,
    THAI,
    ended,
    frames,
    lumps,
    measure,
    outlet,
    play,
    say,
    spaced,
    table,
    text_lumps,
    then,
    tokens,
    variation,
    words,
)
from service.core import sse
from service.core.dialect import Chat
from service.core.pacing import Smooth
from service.core.view import ChatView, Piece, RawView

PAGE = Path(__file__).parents[1] / "docs" / "http.md"
EXACT = 1e-6
VIEWS = {"chat": lambda: ChatView("s"), "v1": lambda: RawView(Chat(), "s")}
FEW_MS = 5.0


def smoothed(arrivals, view="v1", max_lag=MAX_LAG):
    """Return what a client gets of arrivals."""
    return play(arrivals, Smooth(max_lag), VIEWS[view]())


def told(data):
    """Return what a client makes of bytes: reasoning, answer, tool calls and ends."""
    said = {"reasoning": "", "answer": "", "calls": 0, "ends": 0}
    dialect = Chat()
    for event in sse.Framer(1 << 24).feed(data):
        name = (sse.field(event, b"event") or b"").decode()
        if name:
            said["calls"] += name == "tool_calls"
            said["ends"] += name in {"done", "error"}
            content = sse.payload(event)
            if name in {"answer", "reasoning"}:
                said[name] += json.loads(content)["content"]
            continue
        found = dialect.read(event)
        said["answer"] += found.text
        said["reasoning"] += found.reasoning
        said["calls"] += found.tool_calls is not None
        said["ends"] += sse.payload(event) == b"[DONE]" or dialect.error is not None
    return said


# --- the patterns


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", PATTERNS)
def test_pattern(name, view):
    """All of it arrives in order, nothing is held longer than max_lag, at the end neither."""
    arrivals = PATTERNS[name]()
    left = smoothed(arrivals, view)
    print(f"\n{name:28} {view:5} {measure(left)}", end="")  # noqa: T201
    moments = [event.left for event in left]
    assert moments == sorted(moments)
    assert all(event.left >= event.came for event in left if event.came is not None)
    assert measure(left).most <= MAX_LAG * 1000 + EXACT
    assert moments[-1] <= arrivals[-1][0] + MAX_LAG + EXACT
    whole = b"".join(frame for _, frame in arrivals)
    heard = told(b"".join(event.data for event in left))
    sent = told(whole)
    assert (heard["answer"], heard["reasoning"]) == (sent["answer"], sent["reasoning"])
    assert heard["calls"] == sent["calls"]
    assert heard["ends"] == 1


@pytest.mark.parametrize("name", [name for name in PATTERNS if name.startswith("steady")])
def test_what_is_steady_passes(name):
    """Slow or fast: less than 5 ms are added on average."""
    assert measure(smoothed(PATTERNS[name]())).mean < FEW_MS


@pytest.mark.parametrize("gap", [0.003, 0.004, 0.007, 0.01, 0.02, 0.03, 0.05, 0.1, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("irregular", [0.0, 0.2])
def test_a_token_by_itself_is_not_held(gap, irregular):
    """At whatever rate: nothing is added, no timer is needed."""
    pace, view = Smooth(MAX_LAG), ChatView("s")
    for now, frame in frames(spaced(words(200), gap, irregular)):
        for piece in view.frame(frame):
            pace.put(piece, now)
            assert pace.take(now) == piece.data
            assert (pace.due(), pace.size) == (None, 0)


@pytest.mark.parametrize("gap", [0.0004, 0.001, 0.0019])
def test_what_is_faster_than_lumps_passes_too(gap):
    """Tokens that come without a pause are no lump, or one that never ends."""
    assert measure(smoothed(spaced(words(400), gap))).mean < FEW_MS


@pytest.mark.parametrize("irregular", [0.0, 0.1, 0.2])
@pytest.mark.parametrize("gap", [0.1, 0.2, 0.3, 0.4, 0.5])
def test_lumps_are_spread(gap, irregular):
    """No further apart than max_lag, up to 20 % irregular: the variation falls 5-fold."""
    found = measure(smoothed(lumps([words(40)] * 15, gap, irregular)))
    assert found.after <= found.before / 5


@pytest.mark.parametrize("gap", [0.1, 0.2, 0.3, 0.4])
def test_irregular_lumps_are_spread(gap):
    """± 50 %, no further apart than max_lag: the variation falls to 0.4 of what it was."""
    found = measure(smoothed(lumps([words(40)] * 15, gap, 0.5)))
    assert found.after <= 0.4 * found.before


@pytest.mark.parametrize("gap", [0.6, 1.0, 1.5, 5.0])
@pytest.mark.parametrize("max_lag", [0.25, 0.6])
def test_further_apart_they_fill_max_lag_evenly(gap, max_lag):
    """Each lump leaves from its first moment to max_lag, token after token equally far apart."""
    left = smoothed(lumps([words(40)] * 8, gap), max_lag=max_lag)
    for start in range(0, 320, 40):
        moments = [event.left for event in left[start : start + 40]]
        assert moments[0] == left[start].came
        assert 0.95 * max_lag <= moments[-1] - moments[0] <= max_lag
        assert variation(moments) < 0.2


@pytest.mark.parametrize("text", [CHINESE, THAI, EMOJI, CODE])
@pytest.mark.parametrize("view", VIEWS)
def test_long_texts_leave_in_parts(text, view):
    """Sentences that come whole are cut, never inside a grapheme, and spread like lumps."""
    left = tokens(smoothed(text_lumps(text, 12, 0.4), view))
    assert len(left) > 24
    ends = {0, *(found.end() for found in regex.finditer(r"\X", text))}
    parts = [int(event.id.partition("+")[2] or len(text)) for event in left]
    assert set(parts) <= ends
    found = measure(left)
    assert found.after <= found.before / 3


def test_a_huge_chunk_leaves_in_parts():
    """The first part at once, the last within max_lag, no more than 250 writes a second."""
    left = smoothed(PATTERNS["one huge chunk"]())
    moments = [event.left for event in tokens(left)]
    assert moments[0] == 0.0
    assert 100 < len(moments) <= 151
    assert variation(moments) < 0.1


def test_a_lump_after_a_stall_is_spread():
    """What a stall held up does not come as one block, though the stream was steady before."""
    stalled = then(spaced(words(50), 0.02), lumps([words(150)], 0.0), after=3.0)
    left = smoothed(then(stalled, spaced(words(50), 0.02), after=0.02))
    moments = [event.left for event in left[50:200]]
    assert moments[-1] - moments[0] > MAX_LAG / 2


def test_what_is_left_of_a_lump_leaves_evenly_to_its_deadline():
    """A few tokens more, shortly before it, slow what waits only so far as max_lag allows."""
    left = smoothed(lumps([words(60), words(5)], 0.5))
    moments = [event.left for event in left[:60]]
    assert moments[-1] > 0.55
    assert max(moments.count(moment) for moment in moments[50:]) == 1


def test_a_few_tokens_at_the_start_do_not_slow_a_steady_stream():
    """Three tokens in the first read, as they come behind a role, are let go by the fourth."""
    left = smoothed([*[(0.0, frame) for frame in words(3)], *spaced(words(200), 0.02)[1:]])
    assert measure(left).mean < 1.0
    assert max(event.left for event in left[:3]) <= 0.02


def test_one_silence_teaches_nothing():
    """Two tokens in one read, some time after a long silence: the second one soon follows."""
    gaps = then(spaced(words(20), 0.02), spaced(words(20), 0.02), after=30.0)
    now = gaps[-1][0] + 0.02
    left = smoothed([*gaps, *[(now, frame) for frame in words(2)]])
    assert left[-2].left - now <= 0.03


def test_what_is_no_token_keeps_its_place():
    """Roles, tool calls, usage and the finish wait for the text before them and for no more."""
    role, call = chat_frame({"role": "assistant", "content": ""}), chat_frame(CALLS)
    usage = chat_frame(usage={"prompt_tokens": 1})
    finish = chat_frame({}, finish="stop")
    came = [role, *words(5), call, *words(5), finish, usage, DONE]
    view = RawView(Chat())
    writes = list(outlet(frames([(0.0, frame) for frame in came]), Smooth(MAX_LAG), view))
    assert writes[0] == (0.0, role + came[1])
    assert [data for _, data in writes if call in data] == [came[5] + call]
    assert writes[-1][1] == came[11] + finish + usage + DONE
    assert b"".join(data for _, data in writes) == b"".join(came)


def test_frames_that_are_not_cut_keep_their_bytes():
    """A lump of words leaves frame by frame, each byte for byte as it came."""
    came = [chat_frame({"content": f" {n}"}, obfuscation="x" * n) for n in range(40)]
    pace, view = Smooth(MAX_LAG), RawView(Chat())
    writes = [data for _, data in outlet(frames([(0.0, f) for f in came]), pace, view)]
    assert writes[:-1] == came[:-1]
    assert writes[-1].startswith(came[-1])


def test_max_lag_of_nothing():
    """max_lag 0: nothing is held."""
    left = smoothed(PATTERNS["lumps of 40"](), max_lag=0.0)
    assert measure(left).most == 0


def test_size_is_what_is_held():
    """The bytes of the pieces that wait, whole until their last part has gone; 0 at the end."""
    pace, view = Smooth(MAX_LAG), ChatView("s")
    for _, frame in frames([(0.0, say("one two three " * 30)), (0.0, say("x"))]):
        for piece in view.frame(frame):
            pace.put(piece, 0.0)
    held = pace.size
    assert held > 14 * 30
    pace.take(0.0)
    assert pace.size == held
    pace.take(MAX_LAG)
    assert (pace.size, pace.due()) == (0, None)


def test_a_late_timer_catches_up():
    """A loop that was busy for 100 ms: what was due meanwhile leaves at once, the rest on time."""
    pace = Smooth(MAX_LAG)
    for number in range(40):
        pace.put(Piece(b"%d " % number, token=True), 0.0)
    assert pace.take(0.0) == b"0 "
    first = pace.due()
    assert 0.1 // first == len(pace.take(0.1).split())
    assert pace.take(MAX_LAG).split()[-1] == b"39"


def test_the_table_of_the_page():
    """What docs/http.md shows was measured: `python tests/pace_table.py` prints all of it."""
    shown = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if " ms | " in line]
    assert len(shown) > 3
    assert set(shown) <= set(table().splitlines())


# --- properties


SYLLABLES = [
    "word ",
    " the",
    "\r\n",
    "  ",
    "天",
    "空。",
    "ที่",
    "👩‍👩‍👧‍👦",
    "🇨🇳",
    "🇺🇸",
    "e\u0301",
    "x" * 30,
]
SAID = st.lists(st.sampled_from(SYLLABLES), min_size=1, max_size=12).map("".join)
DELTAS = st.one_of(
    SAID.map(lambda text: {"content": text}),
    SAID.map(lambda text: {"reasoning": text}),
    st.tuples(SAID, SAID).map(lambda both: {"reasoning": both[0], "content": both[1]}),
    st.just(CALLS),
    st.tuples(SAID, SAID).map(lambda both: {"reasoning": both[0], "content": both[1], **CALLS}),
)
GAPS = st.sampled_from([0.0, 0.0, 0.0, 0.001, 0.005, 0.03, 0.2, 0.4, 0.7, 3.0])
TIMED = st.lists(st.tuples(GAPS, DELTAS), min_size=1, max_size=25)


def arriving(timed):
    """Return arrivals that are given as (gap, delta)."""
    now, found = 0.0, []
    for gap, delta in timed:
        now += gap
        found.append((now, chat_frame(delta)))
    return ended(found)


@pytest.mark.parametrize("view", VIEWS)
@given(timed=TIMED, max_lag=st.sampled_from([0.0, 0.05, 0.6, 5.0]))
def test_whatever_arrives(view, timed, max_lag):
    """Text in is text out, in order; no time runs backwards; nothing outstays max_lag."""
    arrivals = arriving(timed)
    left = smoothed(arrivals, view, max_lag)
    moments = [event.left for event in left]
    assert moments == sorted(moments)
    for event in left:
        came = arrivals[-1][0] if event.came is None else event.came
        assert came <= event.left <= came + max_lag + EXACT
    heard = told(b"".join(event.data for event in left))
    assert heard == told(b"".join(frame for _, frame in arrivals))


@pytest.mark.parametrize("view", VIEWS)
@given(timed=TIMED)
def test_no_cut_inside_a_grapheme(view, timed):
    """The places that the ids name are between graphemes of the frame's texts."""
    arrivals = arriving(timed)
    for event in smoothed(arrivals, view):
        _, _, rest = event.id.partition(".")
        number, _, part = rest.partition("+")
        if part:
            said = Chat().read(arrivals[int(number) - 1][1])
            thought = len(said.reasoning)
            ends = {found.end() for found in regex.finditer(r"\X", said.reasoning)}
            ends |= {thought + found.end() for found in regex.finditer(r"\X", said.text)}
            assert int(part) in ends


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("other", VIEWS)
@given(timed=TIMED, data=st.data())
def test_resuming_from_any_id_gives_the_rest(view, other, timed, data):
    """After any event's id the other reader gets exactly what is left, on either wire."""
    arrivals = arriving(timed)
    left = smoothed(arrivals, view)
    at = data.draw(st.integers(0, len(left) - 2))
    rest = left[at].id.partition(".")[2]
    number, _, part = rest.partition("+")
    resumed = VIEWS[other]()
    resumed.after(int(number), int(part or 0))
    first = int(number) + (not part)
    found = [
        piece.data for _, frame in frames(arrivals)[first - 1 :] for piece in resumed.frame(frame)
    ]
    sent = told(b"".join(event.data for event in left[: at + 1]))
    more, whole = told(b"".join(found)), told(b"".join(frame for _, frame in arrivals))
    for kind in ("reasoning", "answer", "calls"):
        assert sent[kind] + more[kind] == whole[kind]


@given(timed=TIMED)
def test_ids_are_the_same_at_every_pace(timed):
    """The unpaced reader's ids are among the paced one's, at the same places of the text."""
    arrivals = arriving(timed)

    def places(pace):
        said, found = 0, {}
        for event in play(arrivals, pace, ChatView("s")):
            heard = told(event.data)
            said += len(heard["answer"]) + len(heard["reasoning"]) + heard["calls"]
            found[event.id] = said
        return found

    assert places(Smooth(0.0)).items() <= places(Smooth(MAX_LAG)).items()


@given(pulls=st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.1, 1.0]), max_size=60))
def test_a_caller_who_asks_at_odd_times(pulls):
    """However often and however late it is asked: order is kept and due is the truth."""
    pace, now, out = Smooth(MAX_LAG), 0.0, b""
    for number, gap in enumerate(pulls):
        now += gap
        pace.put(Piece(b"%d " % number, token=number % 5 != 4), now)
        if gap:
            out += pace.take(now)
            assert (pace.due() is None) == (pace.size == 0)
            assert pace.due() is None or pace.due() > now or not pace.take(now)
    while (due := pace.due()) is not None:
        assert due <= now + MAX_LAG + EXACT
        out += pace.take(due)
    assert [int(token) for token in out.split()] == list(range(len(pulls)))


def test_gaps_between_parts_of_a_steady_voice():
    """Sentences of words, one a second: parts leave evenly, not as a block and a silence."""
    left = tokens(smoothed(spaced([say("The sky is blue because of the air. " * 3)] * 6, 0.5)))
    gaps = [later.left - event.left for event, later in pairwise(left)]
    assert max(gaps) < 0.15
