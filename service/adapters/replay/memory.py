"""Kept streams in this process's memory: they are lost with it, and no other instance has them.

open ──▶ Log ── ends ──▶ held for `retain` ──▶ gone
          └── no room, too long ──▶ goes on unkept, nobody else may read it
"""

from collections.abc import Callable
from typing import Protocol

from service.adapters.clock import Clock, Timer
from service.adapters.replay.log import Log
from service.core.keeping import Caps, Ledger, Room
from service.core.records import Facts
from service.errors import Failure

Forgotten = Callable[[str], None]


class Store(Protocol):
    """Where kept streams are."""

    def open(self, name: str, owner: str, facts: Facts) -> Log:
        """Return a log to write a new stream into; `kept` is False where there is no room."""

    async def find(self, name: str, owner: str) -> Log:
        """Return a log to read from; raises Failure stream_gone, resume_lost, not_found."""

    async def owner(self, name: str, ticket: bytes) -> str | None:
        """Return whose stream it is if a ticket of this digest has started it; else None.

        Raises Failure resume_lost.
        """

    async def stop(self, name: str, owner: str) -> None:
        """End a stream; forget one that has ended. Raises what `find` does."""

    def adopt(self, caps: Caps, retain: float) -> None:
        """Go by these bounds from now on; seconds that a stream is kept after its end."""

    async def close(self) -> None:
        """Forget all; nothing runs on afterwards. No stream may be under way."""


class MemoryStore:
    """Kept streams, `retain` seconds beyond their end by that clock."""

    def __init__(self, clock: Clock, caps: Caps, retain: float) -> None:
        self.retain = retain
        self.on_forgotten: Forgotten | None = None
        """Called with the name of one that ended and is forgotten before its time."""
        self._clock = clock
        self._ledger = Ledger(caps)
        self._logs: dict[str, Log] = {}
        self._timers: dict[str, Timer] = {}

    def adopt(self, caps: Caps, retain: float) -> None:
        """Go by these bounds from now on."""
        self._ledger.caps = caps
        self.retain = retain

    def __contains__(self, name: str) -> bool:
        return name in self._logs

    def __len__(self) -> int:
        return len(self._logs)

    def get(self, name: str) -> Log | None:
        """Return a log, whoever it is of."""
        return self._logs.get(name)

    def open(self, name: str, owner: str, facts: Facts) -> Log:
        """Return a log to write a new stream into; raises ValueError if there is one already."""
        if name in self._logs:
            raise ValueError("a stream of this name is there already")
        log = self._logs[name] = Log(name, owner, facts, self)
        self._settle(log, self._ledger.open(name, owner))
        return log

    async def find(self, name: str, owner: str) -> Log:
        """Return a log to read from; raises Failure stream_gone, resume_lost, not_found."""
        log = self._owned(name, owner)
        if log.lost is not None:
            raise log.lost.with_traceback(None)
        return log

    async def owner(self, name: str, ticket: bytes) -> str | None:
        """Return whose stream it is if a ticket of this digest has started it; else None."""
        log = self._logs.get(name)
        return log.owner if log is not None and log.facts.begun_by(ticket) else None

    async def stop(self, name: str, owner: str) -> None:
        """End a stream; forget one that has ended. Raises Failure stream_gone, not_found."""
        log = self._owned(name, owner)
        if log.ending is None:
            log.stop()
        else:
            self.forget(name)

    async def close(self) -> None:
        """Forget all."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._logs.clear()

    def more(self, log: Log) -> int:
        """Return how many bytes may be kept of a log; 0, and it is released, if no more."""
        room = self._ledger.grow(log.name, log.weight)
        self._settle(log, room)
        return room.reserved

    def finished(self, log: Log) -> None:
        """Hold a log that has ended for so long and no longer."""
        if log.kept:
            self._ledger.end(log.name, log.weight)
        if self.retain > 0:
            when = self._clock.now() + self.retain
            self._timers[log.name] = self._clock.call_at(when, lambda: self._drop(log.name))
        else:
            self._drop(log.name)

    def released(self, log: Log) -> None:
        """Count what a log holds no more."""
        self._ledger.forget(log.name)

    def _owned(self, name: str, owner: str) -> Log:
        log = self._logs.get(name)
        if log is None:
            raise gone()
        check_owner(log.owner, owner)
        return log

    def _settle(self, log: Log, room: Room) -> None:
        for name in room.drop:
            self.forget(name, "newer ones needed its room")
        if room.refusal:
            log.release(gone(room.refusal))

    def forget(self, name: str, why: str = "") -> None:
        """Give up a stream that has ended, before its time; who reads it reads on."""
        log = self._drop(name)
        if log is not None:
            log.release(gone(why))
        if self.on_forgotten is not None:
            self.on_forgotten(name)

    def _drop(self, name: str) -> Log | None:
        self._ledger.forget(name)
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()
        return self._logs.pop(name, None)


def gone(why: str = "") -> Failure:
    """Return the failure of one who asks for a stream that is not kept."""
    text = f"the stream is not kept: {why}" if why else "the stream is unknown or no longer kept"
    return Failure("stream_gone", f"{text}; ask the question again")


def check_owner(owner: str, caller: str) -> None:
    """Raise Failure not_found if a stream is another caller's."""
    if owner != caller:
        raise Failure("not_found", "there is no such stream of yours")
