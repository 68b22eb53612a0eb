"""npm eventsource-parser's own cases, and npm eventsource's, with the relay in between.

Each body goes out in the pieces of the case, once to the client itself and once through the relay's
/v1. The package must make the same of it both times, down to comments, `retry` and its complaints;
and it must be what its own test expects. The cases of web-platform-tests run along.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from cases import PATH, Case, Seen, serving, wpt
from cases.eventsource_parser import FOLLOWED, PARSED
from fakes import Upstream
from node import node
from relaying import relaying

pytestmark = pytest.mark.asyncio(loop_scope="module")

TO_PARSE = (*PARSED, *wpt.FORMAT)
TO_FOLLOW = (*FOLLOWED, *wpt.FORMAT, *wpt.CASES[len(wpt.FORMAT) :])
TO_KEEP = [one for one in TO_PARSE if len(one.body) < 8 << 20]
"""Those that fit into what is kept of one stream."""
ALL = (*TO_PARSE, *TO_FOLLOW)
TYPES = ("message", "test", "welcome", "unicode", "counter", "progress")
ERRORS = {
    "stream with empty `retry` field: 2": [{"error": "invalid-retry"}],
    "stream with partially incorrect retry fields": [{"error": "invalid-retry"}],
    "stream with incorrect retry fields": [{"error": "invalid-retry"}],
    "calls onError when the stream is invalid (through newline)": [
        {"error": "unknown-field", "field": '{"error"'}
    ],
    "calls onError when the stream is invalid (no field separator)": [
        {"error": "unknown-field", "field": "Well, this is not what I expected"}
    ],
    "unknown field lines completed by a cr at a chunk boundary": [
        {"error": "unknown-field", "field": "garbage"}
    ],
}
"""What the parser complains of, by its own tests."""
RETRIES = {
    "stream of identified messages + retry interval": [50, 50],
    "stream with empty `retry` field: 1": [500],
    "stream with partially incorrect retry fields": [1000],
    "stream with incorrect retry fields": [500],
    "format-field-retry.any.js": [3000],
    "format-field-retry-bogus.any.js": [3000],
    "format-field-retry-empty.any.js": [],
}
WRONG = {
    "format-newlines.any.js": "eventsource-parser waits for an LF after the CR that ends a body",
    "a blank cr line ending a chunk dispatches the pending event exactly once": (
        "the same, where a kept stream leaves the LF out that comes after the end of the event"
    ),
    "format-field-id-2.any.js": "eventsource forgets the id after the event that brought it",
    "format-field-id-3.window.js: persists": "eventsource forgets the id",
    "tests.ts: the last event id survives an event without one": "the same, mended after 4.1.1",
}
"""What the packages themselves do not get right: there they must be wrong in the same way."""
COMMENTS = {"stream of heartbeat comments, unnamed events": ["♥"] * 5}


class Way(NamedTuple):
    """What Node said on one way: of each of TO_PARSE, of the same kept, of each of TO_FOLLOW."""

    parsed: list[dict[str, Any]]
    kept: list[dict[str, Any]]
    followed: list[dict[str, Any]]


async def ask(url: str, *, keep: bool) -> Way:
    """Let Node ask this server for all cases, and for what is parsed once more if it may `keep`."""
    where = [f"{url}{PATH.format(n)}" for n in range(len(ALL))]
    jobs = [
        {"url": at, "ends": one.streams, "closes": one.closed, "types": TYPES}
        for at, one in zip(where[len(TO_PARSE) :], TO_FOLLOW, strict=True)
    ]
    parse = [{"url": at} for at in where[: len(TO_PARSE)]]
    parse += [{"url": where[ALL.index(one)], "keep": 60} for one in TO_KEEP if keep]
    async with node("cases.mjs", {"parse": parse, "follow": jobs}) as script:
        said = await script.rest()
    return Way(said[: len(TO_PARSE)], said[len(TO_PARSE) : len(parse)], said[len(parse) :])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def direct() -> Way:
    """Return what Node makes of the server's own answers."""
    async with Upstream(serving(ALL)) as upstream:
        return await ask(upstream.url, keep=False)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def relayed() -> Way:
    """Return what Node makes of the relay's."""
    async with Upstream(serving(ALL)) as upstream, relaying(upstream.url) as relay:
        return await ask(relay.url, keep=True)


def each(cases: Sequence[Case]) -> Any:
    """Run the test for every case."""
    params = [pytest.param(n, one, id=one.source) for n, one in enumerate(cases)]
    return pytest.mark.parametrize(("number", "one"), params)


def of(said: list[Any], kind: str) -> list[Any]:
    """Return what it said of that kind; of errors, all of it."""
    found = [one for one in said if isinstance(one, dict) and kind in one]
    return found if kind == "error" else [one[kind] for one in found]


def events_of(told: dict[str, Any]) -> list[Seen]:
    """Return the events of a report."""
    return [tuple(event) for event in told["said"] if isinstance(event, list)]


@each(TO_PARSE)
async def test_parsed(number: int, one: Case, direct: Way, relayed: Way):
    """eventsource-parser calls back with the same, in the same order, as its own test expects."""
    assert relayed.parsed[number] == direct.parsed[number]
    said = relayed.parsed[number]["said"]
    events = events_of(relayed.parsed[number])
    assert events == list(one.events) or one.source in WRONG
    if one.source in RETRIES:
        assert of(said, "retry") == RETRIES[one.source]
    if one.source in COMMENTS:
        assert of(said, "comment") == COMMENTS[one.source]
    if one in PARSED:
        complaints = of(said, "error")
        assert complaints == ERRORS.get(one.source, complaints)


@each(TO_KEEP)
async def test_kept(number: int, one: Case, direct: Way, relayed: Way):
    """A stream that is kept has the same events under the relay's ids, when read again too."""
    plain = direct.parsed[TO_PARSE.index(one)]
    expected = [event[:2] for event in events_of(plain)]
    told = relayed.kept[number]
    first, again = events_of(told["first"]), events_of(told["again"])
    assert [event[:2] for event in first] == expected or one.source in WRONG
    assert again == first
    assert of(told["first"]["said"], "retry") == of(plain["said"], "retry")
    ids = [name for _, _, name in first]
    assert len(set(ids)) == len(ids)


@each(TO_FOLLOW)
async def test_followed(number: int, one: Case, direct: Way, relayed: Way):
    """The EventSource of npm sees the same events, comes back as often, and gives up alike."""
    seen = relayed.followed[number]
    assert seen == direct.followed[number]
    assert [tuple(event) for event in seen["said"]] == list(one.events) or one.source in WRONG
    assert (seen["opened"], seen["closed"]) == (one.streams, one.closed)
