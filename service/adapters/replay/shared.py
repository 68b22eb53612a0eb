"""A kept stream that several instances share: the writer's way in, and what a reader elsewhere has.

    upstream ─▶ Log ─▶ Uplink ─▶ entries of a Redis Stream ─▶ Mirror ─▶ Log ─▶ readers elsewhere
                 └──▶ readers here

Neither of them waits or knows a connection: an uplink says which commands are due, a mirror is fed.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from service.adapters.replay.log import Log
from service.core import records
from service.core.events import Ending, Frame, Outcome, Summary
from service.core.records import Opening
from service.errors import Failure

UNSEEN: Final = 1_000_000
"""More frames than a client can have had of the writer that never came here: the ending of a stream
whose last frames are unknown is numbered beyond them, so that nobody takes it for one of those."""
PREFIX: Final = "teleprinter:"

Command = tuple[bytes | str | int, ...]
Entries = Iterable[tuple[bytes, Mapping[bytes, bytes]]]


def stream_key(name: str) -> str:
    """Return the key of a stream's entries."""
    return f"{PREFIX}stream:{name}"


def lease_key(instance: str) -> str:
    """Return the key that is there while an instance lives."""
    return f"{PREFIX}alive:{instance}"


def inbox_key(instance: str) -> str:
    """Return the key of the messages to an instance."""
    return f"{PREFIX}inbox:{instance}"


def lost(why: str, *, stage: str = "request", retryable: bool = False) -> Failure:
    """Return the failure of one who wants to go on with a stream whose frames were lost."""
    text = f"the stream cannot be gone on with: {why}; ask the question again"
    return Failure("resume_lost", text, stage=stage, retryable=retryable)


def add(name: str, entry_id: str, fields: records.Fields, *, first: bool = False) -> Command:
    """Return the command for an entry; none but the first makes the stream."""
    flat = [part for field in fields for part in field]
    return ("XADD", stream_key(name), *(() if first else ("NOMKSTREAM",)), entry_id, *flat)


def end(name: str, last: int, ending: Ending, hold: float) -> list[Command]:
    """Return the commands for the ending behind that frame, which stays for so many seconds."""
    entry = add(name, records.entry_id(last + 1), records.ending_fields(ending))
    return [entry, expire(name, hold)]


def expire(name: str, seconds: float) -> Command:
    """Return the command that lets a stream go after so long."""
    return ("PEXPIRE", stream_key(name), max(round(seconds * 1000), 1))


class Uplink:
    """A log on its way into the shared log.

    `wake` is called when there are commands; `backlog`: bytes that may wait for them to be sent.
    """

    __slots__ = (
        "_backlog", "_opening", "_reader", "_wake", "announced", "ended", "log", "opened",
        "renewed",
    )  # fmt: skip

    def __init__(
        self, log: Log, opening: Opening, wake: Callable[["Uplink"], None], backlog: int
    ) -> None:
        self.log = log
        self.opened = False
        """The shared log may know of the stream."""
        self.ended = False
        """Nothing follows."""
        self.renewed = float("-inf")
        self.announced = log.announced = asyncio.Event()
        self._opening = opening
        self._wake = wake
        self._backlog = backlog
        self._reader = log.reader(watches=False)
        self._reader.follow(self._notified)

    @property
    def due(self) -> bool:
        """Whether there is anything to send."""
        if self.ended:
            return False
        return not self.opened or self._reader.behind > 0 or self._reader.ending is not None

    def commands(self, live_for: float, retain: float) -> list[Command]:
        """Return what to send now, at most about a window of frames; their answers in order."""
        name, reader = self.log.name, self._reader
        found: list[Command] = []
        if not self.opened:
            self.opened = True
            opening = records.opening_fields(self._opening)
            found.append(add(name, records.OPENING_ID, opening, first=True))
            found.append(expire(name, live_for))
        if frames := reader.take():
            number = records.entry_id(frames[0].number)
            found.append(add(name, number, records.frame_fields(frames)))
        if (ending := reader.ending) is not None:
            self.close()
            found += self._last(ending, retain)
        return found

    def close(self) -> None:
        """Send nothing more."""
        self.ended = True
        self.announced.set()
        self._reader.close()

    def words(self, why: Failure, hold: float) -> list[Command]:
        """Return what tells the readers elsewhere that the keeping has ended, and close."""
        self.close()
        told = Failure(why.code, why.message, stage="stream")
        summary = Summary(model=self.log.facts.model, upstream=self.log.facts.upstream)
        last = self._reader.after
        return self._last(Ending(last + UNSEEN, "error", summary, told), hold)

    def _last(self, ending: Ending, hold: float) -> list[Command]:
        return end(self.log.name, self._reader.after, ending, hold)

    def _notified(self) -> None:
        if self.log.kept and self._reader.behind > self._backlog:
            self.log.release(lost("Redis (TELEPRINTER_STORE) is too slow for it"))
        else:
            self._wake(self)


class Mirror:
    """A log that is filled from the shared log, and read here."""

    __slots__ = ("_began", "log", "seen", "writer")

    def __init__(self, name: str, opening: Opening) -> None:
        self.log = Log(name, opening.owner, opening.facts)
        self.writer = opening.writer
        self.seen = records.OPENING_ID
        """The id of the last entry."""
        self._began = False

    def feed(self, entries: Entries) -> None:
        """Take entries; those that it has already are passed over, a missing one ends it."""
        for entry_id, fields in entries:
            try:
                entry = records.read_entry(entry_id, fields)
            except ValueError:
                self.end(lost("its entries in Redis are not to be read", stage="stream"))
                return
            if entry.number > self.log.last + 1:
                self.end(lost("Redis has lost a part of it", stage="stream"))
            if entry.number != self.log.last + 1 or self.log.ending is not None:
                continue
            self.seen = entry_id.decode()
            if entry.ending is not None:
                self.log.finish(entry.ending)
            else:
                self._append(entry)

    def end(self, failure: Failure) -> None:
        """End it for its readers here."""
        self.log.finish(self._ending("error", failure))

    def cut(self, hold: float) -> list[Command]:
        """Return what ends a stream whose writer is dead, for all its readers."""
        text = "the instance of the relay that read the upstream's stream is gone"
        ending = self._ending("cut", Failure("upstream_cut", text, stage="stream"))
        return end(self.log.name, self.log.last, ending, hold)

    def _append(self, entry: records.Entry) -> None:
        frames = []
        for number, raw in enumerate(entry.raws, entry.number):
            event = self.log.dialect.read(raw)
            self._began = self._began or event.content
            frames.append(Frame(number, raw, event))
        self.log.append(frames)

    def _ending(self, outcome: Outcome, failure: Failure) -> Ending:
        facts = self.log.facts
        # when the first token came nobody here knows; that one came tells the client what it has
        summary = Summary(
            model=self.log.dialect.model or facts.model,
            upstream=facts.upstream,
            first_token_ms=0 if self._began else None,
        )
        return Ending(self.log.last + UNSEEN, outcome, summary, failure)
