"""What decides: retries, pools, what is kept, records, keys, doors, questions, ids."""

import contextlib
import json
from urllib.parse import parse_qsl

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from service.core import chat, ids, records, retry
from service.core.access import Doors, Grant, Keys, _digest
from service.core.circuit import Circuit
from service.core.events import Ending, Event, Frame, Summary
from service.core.fronts import Fronts
from service.core.keeping import STEP, Caps, Ledger
from service.core.pacing import strategy
from service.core.pool import Pool
from service.core.proxy import parse
from service.core.records import Entry, Facts, Opening
from service.core.view import Piece
from service.errors import CODES, Failure
from strategies import JSON, TEXTS, examples

SECONDS = st.floats(0, 200)
CHANCE = st.floats(0, 1)
FAILURES = st.builds(
    lambda code, stage, after, status: Failure(
        code, "", stage=stage, retry_after=after, status=status
    ),
    st.sampled_from(sorted(CODES)),
    st.sampled_from(["dial", "headers", "first_token", "stream"]),
    st.none() | st.floats(0, 1e6),
    st.none() | st.sampled_from([400, 408, 429, 500, 529]),
)
LONGEST = 12.0
"""Seconds: the longest wait of an official SDK, with its jitter."""


@examples(60)
@given(
    attempts=st.integers(1, 4),
    wait=st.floats(0, 60),
    circuits=st.integers(1, 3),
    chance=CHANCE,
    history=st.lists(st.tuples(FAILURES, st.booleans(), SECONDS), min_size=13, max_size=13),
)
def test_every_course_comes_to_its_end(attempts, wait, circuits, chance, history):
    """Whatever fails: so many attempts an upstream, never back to one, no wait beyond the bound."""
    now, asked = 0.0, []
    legs = [Circuit() for _ in range(circuits)]
    course = retry.Course(retry.Rules(attempts, wait, 0), legs, now, lambda: chance)
    for failure, stale, passed in history:
        asked.append(course.target)
        course.sent()
        legs[course.target].failed(now)
        step = course.after(failure, now, stale=stale)
        if step is None:
            break
        assert 0 <= step.wait <= max(wait, LONGEST)
        now += step.wait + passed
        course.take(step, now)
    assert asked == sorted(asked)
    assert all(asked.count(target) <= attempts for target in asked)
    assert step is None


@examples(60)
@given(
    policy=st.sampled_from(["ordered", "fastest", "spread"]),
    size=st.integers(1, 3),
    chance=CHANCE,
    history=st.lists(st.tuples(st.integers(0, 2), st.sampled_from("sfoc"), SECONDS), max_size=40),
)
def test_a_pool_always_has_a_way(policy, size, chance, history):
    """All ways are listed or rest; a rest ends within 75 s; what is asked for is repeatable."""
    ways = [parse(f"http://h{number}:1") for number in range(size)]
    pool, now, open_ = Pool("p", ways, policy, lambda: chance), 0.0, dict.fromkeys(ways, 0)
    for which, what, passed in history:
        way = ways[which % size]
        if what == "s":
            pool.succeeded(way, passed, now)
        elif what == "f":
            pool.failed(way, "proxy_timeout", now)
        elif what == "o":
            pool.opened(way)
            open_[way] += 1
        elif open_[way]:
            pool.closed(way)
            open_[way] -= 1
        now += passed
        order = pool.order(now, way)
        assert order
        assert len(order) == len(set(order))
        assert size == 1 or order[0] != way or len(order) == 1
        resting = [one for one in ways if pool.rests(pool.member(one), now)]
        assert set(order) == set(ways) - set(resting) or len(resting) == size
        assert pool.wait(now) is None or 0 <= pool.wait(now) <= 75
    assert {member.proxy: member.open for member in pool.members} == open_
    assert pool.wait(now + 75) is None


@examples(60)
@given(
    caps=st.builds(
        Caps, *[st.sampled_from([0, 1, 3 * STEP]), st.integers(0, 2), st.integers(0, 5 * STEP)]
    ),
    history=st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from("ogef"), st.integers(0, 4 * STEP)), max_size=40
    ),
)
def test_what_is_kept_is_within_its_caps(caps, history):
    """In any order of calls: never more than the caps; nothing is left when all is forgotten."""
    kept = _Kept(caps)
    for number, what, more in history:
        kept.do(what, str(number), more)
        kept.check()
    for name in list(kept.weights):
        kept.forget(name)
    ledger = kept.ledger
    assert (ledger.total, ledger._entries, ledger._owned, ledger._ended) == (0, {}, {}, {})


class _Kept:
    """A ledger, and what it should say."""

    def __init__(self, caps):
        self.ledger = Ledger(caps)
        self.weights, self.ended = {}, set()

    def do(self, what, name, more):
        """Do one thing, if it can be done."""
        growing = name in self.weights and name not in self.ended
        if what == "o" and name not in self.weights:
            room = self._entered(self.ledger.open(name, f"owner{int(name) % 2}"))
            if not room.refusal:
                self.weights[name] = 0
        elif what == "g" and growing:
            self._grow(name, self.weights[name] + more)
        elif what == "e" and growing:
            self.ledger.end(name, self.weights[name])
            self.ended.add(name)
        elif what == "f":
            self.forget(name)

    def _grow(self, name, weight):
        room = self._entered(self.ledger.grow(name, weight))
        if room.refusal:
            return self.forget(name)
        self.weights[name] = weight
        assert room.reserved >= weight
        return None

    def _entered(self, room):
        for name in room.drop:
            assert name in self.ended, "one that has not ended was given up"
            self._drop(name)
        return room

    def forget(self, name):
        """Give one up."""
        self.ledger.forget(name)
        self._drop(name)

    def _drop(self, name):
        self.weights.pop(name, None)
        self.ended.discard(name)

    def check(self):
        """Look whether the caps hold."""
        caps, ledger = self.ledger.caps, self.ledger
        assert not caps.total or ledger.total <= caps.total
        assert ledger.total >= sum(self.weights.values())
        for owner in (0, 1):
            mine = [one for one in self.weights if int(one) % 2 == owner]
            assert not caps.per_caller or len(mine) <= caps.per_caller


@examples(60)
@given(
    name=st.sampled_from(["typewriter", "smooth"]),
    delay=st.sampled_from([0.0, 0.001, 0.05, 60.0]),
    max_lag=st.sampled_from([0.0, 0.6, 5.0]),
    arrivals=st.lists(
        st.tuples(st.binary(max_size=3), st.booleans(), st.floats(0, 100)), max_size=20
    ),
)
def test_every_pace_comes_to_its_end(name, delay, max_lag, arrivals):
    """What is held leaves in its order, at moments that never run back, until nothing is held."""
    pace, now, out = strategy(name, delay, max_lag), 0.0, b""
    for data, token, gap in arrivals:
        while (due := pace.due()) is not None and due <= now + gap:
            now = max(now, due)
            told = pace.take(now)
            assert told or not pace.size or pace.due() > now
            out += told
        now = max(now, now + gap)
        pace.put(Piece(data, token=token), now)
    for _ in range(2 * len(arrivals) + 2):
        if (due := pace.due()) is None:
            break
        assert due <= max(now, due)
        now = max(now, due)
        out += pace.take(now)
    assert pace.due() is None
    assert pace.size == 0
    assert out == b"".join(data for data, _, _ in arrivals)


# --- records


ENTRIES = st.dictionaries(
    st.sampled_from([b"o", b"e", b"1", b"x"]),
    st.binary(max_size=20)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.builds(
        lambda code, status, number: json.dumps(
            {
                "number": number,
                "outcome": "error",
                "summary": {},
                "fault": {
                    "code": code,
                    "message": "m",
                    "stage": "s",
                    "status": status,
                    "retryable": True,
                    "retry_after": None,
                },
                "said": False,
            }
        ).encode(),
        st.sampled_from(sorted(CODES)) | TEXTS,
        st.integers(),
        st.integers(),
    ),
    max_size=3,
)


@examples(60)
@given(
    fields=ENTRIES,
    entry_id=st.sampled_from([b"1-0", b"-0", b"x", b"9" * 5000]) | st.binary(max_size=6),
)
@example(
    fields=dict(records.ending_fields(Ending(1, "error", Summary(), Failure("stopped", "m")))),
    entry_id=b"1-0",
)
def test_any_record_is_read_or_refused(fields, entry_id):
    """Whatever stands in the shared log, also by a newer relay: an entry or a ValueError."""
    with contextlib.suppress(ValueError):
        assert isinstance(records.read_entry(entry_id, fields), Entry)
    with contextlib.suppress(ValueError):
        assert isinstance(records.read_opening(fields), Opening)


@examples(60)
@given(
    raws=st.lists(st.binary(max_size=9), min_size=1, max_size=4),
    first=st.integers(1, 10**12),
    failure=st.none() | FAILURES,
    words=st.text(),
    ticket=st.none() | st.binary(max_size=32),
)
def test_a_record_comes_back(raws, first, failure, words, ticket):
    """What was written is read: the opening, the frames' bytes and numbers, the ending."""
    opening = Opening("w", words, Facts(model=words, ticket=ticket))
    assert records.read_opening(dict(records.opening_fields(opening))) == opening
    frames = [Frame(first + at, raw, Event()) for at, raw in enumerate(raws)]
    entry = records.read_entry(records.entry_id(first).encode(), dict(records.frame_fields(frames)))
    assert entry == Entry(first, raws)
    ending = Ending(first, "ok", Summary(model=words), failure)
    told = records.read_entry(b"%d-0" % first, dict(records.ending_fields(ending))).ending
    assert told.summary == ending.summary
    assert failure is None or (
        told.failure.fields() == failure.fields()
        and told.failure.retry_after == failure.retry_after
    )


# --- who asks, and what


HEADER = st.text(st.characters(codec="latin-1"), max_size=8) | st.text(
    st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=("Cs",)), max_size=2
)
"""Header values as aiohttp decodes them."""
KEY = "hunter2-canary"
HEADERS = st.dictionaries(
    st.sampled_from(
        ["Authorization", "x-api-key", "Teleprinter-Key", "Host", "Origin", "Sec-Fetch-Site"]
    ),
    HEADER
    | st.sampled_from(
        [f"Bearer {KEY}", f"bearer  {KEY} ", KEY, f"Basic {KEY}", "127.0.0.1:8080", "[::1"]
    )
    | st.sampled_from(["http://127.0.0.1:8080", "null", "[v1.x]:1", "none", "fe80::1%eth0", "h:٣"]),
    max_size=4,
).map(CIMultiDict)


@examples(80)
@given(headers=HEADERS)
def test_any_headers_let_in_or_out(headers):
    """A caller only by the key, whose header is known; else one declared refusal."""
    keys = Keys([("me", _digest(KEY), Grant())])
    carriers = keys.carriers(headers.items())
    try:
        caller = keys.caller(headers)
    except Failure as failure:
        assert failure.code == "unauthorized"  # noqa: PT017
        assert KEY not in repr(failure)  # noqa: PT017
    else:
        assert KEY in headers[caller.key_header]
        assert caller.key_header == "Teleprinter-Key" or caller.key_header.lower() in carriers
    doors = Doors(["127.0.0.1", "::"], ["Example.test"], ["https://page.test"])
    try:
        doors.check(headers)
    except Failure as failure:
        assert failure.code in {"wrong_host", "forbidden"}  # noqa: PT017
    else:
        assert headers.get("Host")


@examples(60)
@given(
    peer=HEADER | st.just("10.0.0.1"),
    forwarded=st.lists(HEADER | st.just("10.0.0.2"), max_size=4).map(",".join),
)
def test_any_forwarded_address(peer, forwarded):
    """Whatever a front proxy says, there is a client's address; one not trusted is not believed."""
    client = Fronts(["10.0.0.0/8"]).client(peer, forwarded)
    assert peer in {"10.0.0.1", client}
    assert isinstance(client, str)


NUMBERS = st.sampled_from([0, 1, -1, 0.5, "5", "1e3", 10**400, float("nan"), True, "٣", "9" * 5000])
QUERIES = st.dictionaries(
    st.sampled_from(["question", "model", "pace", "delay_ms", "keep", "ticket", "x"]),
    TEXTS | st.sampled_from(["typewriter", "smooth", "off"]) | NUMBERS.map(str),
)
BODIES = st.dictionaries(
    st.sampled_from(["question", "messages", "model", "pace", "delay_ms", "keep", "n", "stream"]),
    JSON | NUMBERS | st.sampled_from(["typewriter", [{"role": "user", "content": "x"}]]),
).map(lambda body: json.dumps(body).encode())


@examples(60)
@given(query=QUERIES, body=BODIES | st.binary(max_size=20), raw=st.binary(max_size=20))
@example(query={}, body=b"[" * 100_000, raw=b"")
@example(query={}, body=b'{"messages": [' + b'{"a":' * 50_000, raw=b"")
def test_any_question_is_asked_or_refused(query, body, raw):
    """Any query and any body: a question that can be sent, or bad_request with its reason."""
    pairs = dict(parse_qsl(raw.decode("latin-1"), keep_blank_values=True))
    for read, given_ in (
        (chat.from_query, query),
        (chat.from_query, pairs),
        (chat.from_json, body),
    ):
        try:
            ask = read(given_)
            pace = chat.pacing(ask.pace, ask.delay_ms, chat.Pacing("off", 0))
        except Failure as failure:
            assert failure.code == "bad_request"  # noqa: PT017
            assert len(failure.message) < 1000  # noqa: PT017
        else:
            sent = json.loads(ask.payload("default"))
            assert sent["stream"] is True
            assert sent["messages"]
            assert 0 <= pace.delay <= 60
    for look in (chat.glance, chat.pace_of, chat.counted):
        look(body)
    renamed = chat.renamed(body, "m")
    assert renamed == body or json.loads(renamed)["model"] == "m"


@examples(60)
@given(text=st.text(max_size=20) | st.from_regex(r"[\w-]{1,4}\.[0-9]{1,17}([+ ][0-9]{1,3})?"))
def test_an_id_is_read_or_refused(text):
    """An id that is read says the same again; anything else is bad_request."""
    try:
        found = ids.parse(text)
    except Failure as failure:
        assert failure.code == "bad_request"  # noqa: PT017
    else:
        assert str(found) == text.replace(" ", "+").rstrip("\n") == text.replace(" ", "+")


@pytest.mark.parametrize("name", ["retry-after", "retry-after-ms"])
@examples(60)
@given(text=TEXTS | NUMBERS.map(str) | st.just("Wed, 21 Oct 99999 07:28:00 GMT"), date=TEXTS)
def test_any_retry_after_is_a_wait_with_an_end(name, text, date):
    """Whatever an upstream asks for: no wait, or a finite one that is not negative."""
    wait = retry.retry_after([(name, text), ("Date", date)])
    assert wait is None or 0 <= wait < float("inf")
