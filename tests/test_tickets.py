"""A ticket opens one stream within a minute, and then nothing but that stream."""

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.access import Caller
from service.core.tickets import LIFETIME, OPEN_LIMIT, Tickets
from service.errors import Failure

ALICE = Caller("alice", "Authorization")
BOB = Caller("bob", "x-api-key")
NOW = 1000.0


@pytest.fixture
def tickets():
    """Return tickets whose tokens count up: secret-0, secret-1."""
    numbers = count()
    return Tickets(lambda: f"secret-{next(numbers)}")


def refused(call, *args):
    """Return the words of the refusal; it must be 401 and say how to get a ticket."""
    with pytest.raises(Failure) as caught:
        call(*args)
    failure = caught.value
    assert (failure.code, failure.status, failure.retryable) == ("unauthorized", 401, False)
    assert failure.message.endswith("get a new one with POST /tickets")
    assert "secret" not in failure.message
    return failure.message


def test_starts_one_stream_as_its_caller(tickets):
    """A ticket lets in as the caller who got it; each is another one."""
    first, second = tickets.issue(ALICE, NOW), tickets.issue(BOB, NOW)
    assert first != second
    assert tickets.start(second, "s2", NOW).name == "bob"
    assert tickets.start(first, "s1", NOW).name == "alice"


def test_the_callers_header_is_not_taken_for_the_relays_key(tickets):
    """The ticket's request carries no key of the relay: no header of it is to be withheld."""
    ticket = tickets.issue(ALICE, NOW)
    assert tickets.start(ticket, "s", NOW).key_header is None
    assert tickets.resume(ticket, "s").key_header is None


def test_starts_no_second_stream(tickets):
    """A used ticket starts nothing more, also not the same name, and it says why."""
    ticket = tickets.issue(ALICE, NOW)
    tickets.start(ticket, "s", NOW)
    for stream in ("s", "other"):
        assert "reconnects" in refused(tickets.start, ticket, stream, NOW)


@pytest.mark.parametrize(
    ("age", "fits"), [(0, True), (LIFETIME - 0.001, True), (LIFETIME, False), (3600, False)]
)
def test_is_good_for_a_minute(tickets, age, fits):
    """60 s after it was issued a ticket starts nothing, whether it was swept or not."""
    ticket = tickets.issue(ALICE, NOW)
    if fits:
        assert tickets.start(ticket, "s", NOW + age).name == "alice"
    else:
        assert "older than 60 s" in refused(tickets.start, ticket, "s", NOW + age)


def test_an_expired_ticket_is_spent_by_the_attempt(tickets):
    """What was refused as too old is not let in by a clock that another caller reads earlier."""
    ticket = tickets.issue(ALICE, NOW)
    refused(tickets.start, ticket, "s", NOW + LIFETIME)
    refused(tickets.start, ticket, "s", NOW)


@pytest.mark.parametrize("ticket", ["", "secret-1", "secret-00", "\ud800", "s" * 100_000])
def test_unknown_texts_are_refused(tickets, ticket):
    """Whatever a URL carries is refused with the same words, lone surrogates too."""
    tickets.issue(ALICE, NOW)
    assert "unknown" in refused(tickets.start, ticket, "s", NOW)
    assert "unknown" in refused(tickets.resume, ticket, "s")


def test_resumes_its_stream_for_as_long_as_it_is_kept(tickets):
    """Reconnects are let in, any number of them; a minute does not matter any more."""
    ticket = tickets.issue(ALICE, NOW)
    tickets.start(ticket, "s", NOW)
    tickets.issue(BOB, NOW + 100 * LIFETIME)  # sweeps
    assert [tickets.resume(ticket, "s").name for _ in range(3)] == ["alice"] * 3


def test_resumes_no_other_stream(tickets):
    """The ticket of one stream is refused for another, of the same caller too."""
    mine, other = tickets.issue(ALICE, NOW), tickets.issue(ALICE, NOW)
    tickets.start(mine, "s1", NOW)
    tickets.start(other, "s2", NOW)
    for stream in ("s2", "s3", ""):
        assert "that one only" in refused(tickets.resume, mine, stream)


def test_an_open_ticket_resumes_nothing_and_stays_open(tickets):
    """A ticket that started no stream does not reach another's, and is not used up by trying."""
    used, ticket = tickets.issue(ALICE, NOW), tickets.issue(BOB, NOW)
    tickets.start(used, "s", NOW)
    assert "no stream yet" in refused(tickets.resume, ticket, "s")
    assert tickets.start(ticket, "s2", NOW).name == "bob"


def test_a_forgotten_stream_takes_its_ticket_along(tickets):
    """When a stream is no longer kept, nothing of its ticket is; forgetting twice is no fault."""
    ticket, other = tickets.issue(ALICE, NOW), tickets.issue(ALICE, NOW)
    tickets.start(ticket, "s", NOW)
    tickets.start(other, "s2", NOW)
    tickets.forget("s")
    tickets.forget("s")
    tickets.forget("never started")
    assert "its stream is gone" in refused(tickets.resume, ticket, "s")
    assert "its stream is gone" in refused(tickets.start, ticket, "s", NOW)
    assert tickets.resume(other, "s2").name == "alice"
    assert len(tickets) == 1


def test_a_stream_that_does_not_begin_gives_its_ticket_back(tickets):
    """It may start another one, in its minute; one that began has used it up."""
    ticket = tickets.issue(ALICE, NOW)
    tickets.start(ticket, "s", NOW)
    tickets.release("s")
    tickets.release("s")
    assert "no stream yet" in refused(tickets.resume, ticket, "s")
    assert tickets.start(ticket, "s2", NOW + 59).name == "alice"
    tickets.release("s2")
    assert "older than" in refused(tickets.start, ticket, "s3", NOW + LIFETIME)


def test_holds_a_bounded_number_for_each_caller(tickets):
    """Beyond the limit the caller's own oldest ticket is void, nobody else's."""
    bobs = tickets.issue(BOB, NOW)
    alices = [tickets.issue(ALICE, NOW) for _ in range(OPEN_LIMIT + 1)]
    assert len(tickets) == OPEN_LIMIT + 1
    assert "unknown" in refused(tickets.start, alices[0], "s0", NOW)
    assert tickets.start(alices[1], "s1", NOW).name == "alice"
    assert tickets.start(alices[-1], "s2", NOW).name == "alice"
    assert tickets.start(bobs, "s3", NOW).name == "bob"


def test_expired_tickets_are_swept(tickets):
    """The next ticket that anybody gets drops all that are too old, and only those."""
    for _ in range(10):
        tickets.issue(ALICE, NOW)
    young = tickets.issue(ALICE, NOW + 1)
    tickets.issue(BOB, NOW + LIFETIME)
    assert len(tickets) == 2
    assert tickets.start(young, "s", NOW + LIFETIME).name == "alice"


def test_holds_no_ticket_in_the_clear(tickets):
    """Nothing that is held contains a ticket's text."""
    tickets.issue(ALICE, NOW)
    tickets.start(tickets.issue(ALICE, NOW), "s", NOW)
    assert "secret" not in repr(vars(tickets))


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("isrf"), st.integers(0, 5), st.integers(0, 25))))
def test_a_ticket_never_opens_two_streams(steps):
    """In any order of calls: one stream a ticket, within its minute, and only that one resumed."""
    numbers = count()
    tickets = Tickets(lambda: f"secret-{next(numbers)}")
    issued, started, forgotten, now = {}, {}, set(), NOW
    for number, (what, which, wait) in enumerate(steps):
        now += wait
        ticket, stream = f"secret-{which}", f"stream-{number}"
        if what == "i":
            issued[tickets.issue(ALICE, now)] = now
        elif what == "s":
            fits = now - issued.get(ticket, -LIFETIME) < LIFETIME and ticket not in started
            if fits:
                tickets.start(ticket, stream, now)
                started[ticket] = stream
            else:
                refused(tickets.start, ticket, stream, now)
        elif ticket in started and what == "f":
            tickets.forget(started[ticket])
            forgotten.add(ticket)
        else:
            for mine in issued:
                for other, theirs in started.items():
                    if mine == other and mine not in forgotten:
                        assert tickets.resume(mine, theirs) == Caller("alice")
                    else:
                        refused(tickets.resume, mine, theirs)
    assert len(tickets) <= len(issued)
