"""Kept streams in Redis (7, or Valkey), so that a reader may go on at another instance.

    uplinks ─▶ outbox ─ one pipeline a turn ─▶ Redis ─▶ feed ─ one XREAD for all ─┬─▶ mirrors
               messages to other instances ──────┘                                └─▶ messages
    beat: this instance's lease · are those alive that it depends on

The instance that reads an upstream has the stream's log in its own memory too: readers there need
no Redis. Elsewhere a reader gets a mirror. An instance that dies leaves its lease to run out, and
whoever notices ends its streams; should it still live, the ids of its next entries are refused.

Redis away: what goes on is read on here, and kept no longer; it is said once in the log, and once
when it is back, from when on streams are kept again. The caps hold for each instance's own streams.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final

from service.adapters.clock import Clock, Deadline, sleep
from service.adapters.logs import log as logger
from service.adapters.redis_client import client, errors, place
from service.adapters.replay.feed import PAGE, Feed
from service.adapters.replay.log import Log
from service.adapters.replay.memory import MemoryStore, check_owner, gone
from service.adapters.replay.outbox import Outbox, pipeline
from service.adapters.replay.shared import (
    Command,
    Mirror,
    Uplink,
    expire,
    inbox_key,
    lease_key,
    lost,
    stream_key,
)
from service.core import records
from service.core.keeping import Caps
from service.core.records import Facts, Opening
from service.errors import Failure

CONNECTIONS: Final = 4
"""One for the outbox, one for the beat, the others for readers who begin; one more for XREAD."""
BEAT: Final = 1.0
"""Seconds between signs of life."""
LEASE: Final = 3.0
"""Seconds without one after which an instance is dead; with a beat more, readers know within 5."""
ANSWER_WITHIN: Final = 2.0
"""Seconds that Redis may take."""
BACKLOG: Final = 1024 * 1024
"""Bytes of one stream that may wait for Redis; with more its keeping ends."""
_AGAIN: Final = 0.05
"""Seconds until a task is cancelled anew: redis-py's asyncio.wait_for may lose it (gh-86296)."""
_MESSAGES: Final = 10_000
_LOST: Final = frozenset({"resume_lost", "stream_gone"})


class RedisStore:
    """Kept streams, shared by all instances that have this `url`.

    `caps`, `retain`: as MemoryStore has them; `beat`, `lease`, `within`, `backlog`: as above.
    Raises ValueError, without the URL, if the redis extra is not installed or the URL is wrong.
    Nothing is sent to Redis before the first stream.
    """

    def __init__(  # noqa: PLR0913  what tests must make short
        self,
        url: str,
        clock: Clock,
        caps: Caps,
        retain: float,
        *,
        beat: float = BEAT,
        lease: float = LEASE,
        within: float = ANSWER_WITHIN,
        backlog: int = BACKLOG,
    ) -> None:
        self.name = secrets.token_hex(8)
        """This instance."""
        self.memory = MemoryStore(clock, caps, retain)
        self.memory.on_forgotten = lambda name: self._post(("UNLINK", stream_key(name)))
        self._clock = clock
        self._beat, self._lease, self._within, self._backlog = beat, lease, within, backlog
        self._place = place(url)
        self._redis = client(url, CONNECTIONS, within)
        self._reading = client(url, 1, beat + within)
        self._outbox = Outbox(self._redis)
        self.adopt(caps, retain)
        self._feed = Feed(self._reading, self.name, beat, self._hear)
        self._watching: dict[str, set[str]] = {}  # instances that read a stream of ours
        self._up = asyncio.Event()
        self._up.set()
        self._losses = 0
        self._asked = 0  # questions that Redis has not answered, but for the beat's
        self._asking = asyncio.Semaphore(CONNECTIONS - 2)
        self._tasks: list[asyncio.Task[None]] = []

    def open(self, name: str, owner: str, facts: Facts) -> Log:
        """Return a log to write a new stream into; `kept` is False where there is no room."""
        log = self.memory.open(name, owner, facts)
        if log.kept and self.away:
            log.release(self._why_lost())
        if log.kept:
            self._start()
            opening = Opening(self.name, owner, facts)
            uplink = Uplink(log, opening, self._notified, self._backlog)
            self._outbox.uplinks[name] = uplink
            self._outbox.due(uplink)
        return log

    async def find(self, name: str, owner: str) -> Log:
        """Return a log to read from; raises Failure stream_gone, resume_lost, not_found."""
        if name in self.memory:
            return await self.memory.find(name, owner)
        mirror = self._feed.mirror(name) or await self._ask(self._fill(name, owner))
        mirror = self._feed.mirror(name) or mirror  # somebody else may have been quicker
        check_owner(mirror.log.owner, owner)
        ending = mirror.log.ending
        if ending is not None and ending.failure is not None and ending.failure.code in _LOST:
            raise ending.failure.with_traceback(None)
        log: Log = mirror.log
        return log

    async def owner(self, name: str, ticket: bytes) -> str | None:
        """Return whose stream it is if a ticket of this digest has started it; else None.

        Raises Failure resume_lost.
        """
        if name in self.memory:
            return await self.memory.owner(name, ticket)
        opening: Opening | None = await self._ask(self._first(name))
        begun = opening is not None and opening.facts.begun_by(ticket)
        return opening.owner if opening is not None and begun else None

    async def stop(self, name: str, owner: str) -> None:
        """End a stream wherever it is read; forget one that has ended. Raises what `find` does."""
        if name in self.memory:
            await self.memory.stop(name, owner)
        else:
            await self._ask(self._stop(name, owner))

    def adopt(self, caps: Caps, retain: float) -> None:
        """Go by these bounds from now on; seconds that a stream is kept after its end."""
        self.memory.adopt(caps, retain)
        self._outbox.live_for = 2 * (retain + self._lease)
        self._outbox.hold = max(retain, self._lease)

    async def close(self) -> None:
        """Send what is left to send, and forget all; no stream may be under way."""
        try:
            async with Deadline(self._clock, self._within):
                await self._outbox.idle.wait()
                if self._tasks and not self.away:
                    await self._redis.delete(lease_key(self.name), inbox_key(self.name))
        except errors():  # TimeoutError is an OSError
            logger.debug("Redis was not told of the end", store=self._place)
        while left := [task for task in self._tasks if not task.done()]:
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=_AGAIN)
        for uplink in self._outbox.uplinks.values():
            uplink.close()
        for connections in (self._redis, self._reading):
            await connections.aclose()
            await connections.connection_pool.disconnect()
        await self.memory.close()

    @property
    def away(self) -> bool:
        """Whether Redis does not answer."""
        return not self._up.is_set()

    # what is written here

    def _post(self, *commands: Command) -> None:
        if not self.away:
            self._outbox.post(*commands)

    def _notified(self, uplink: Uplink) -> None:
        """Send what is new of a stream, or tell those who read it elsewhere that no more comes."""
        if uplink.log.ending is not None:
            self._nobody_watches(uplink.log.name)
        if (why := uplink.log.lost) is None:
            self._outbox.due(uplink)
        elif self._outbox.remove(uplink):
            if uplink.opened and not uplink.ended:
                self._post(*uplink.words(why, self._lease))
            uplink.close()
            self._nobody_watches(uplink.log.name)

    def _hear(self, what: str, name: str, instance: str) -> None:
        """Do what another instance asks for a stream that is written here."""
        log = self.memory.get(name)
        if log is None:
            return
        if what == "stop":
            log.stop()
        elif what == "forget" and log.ending is not None:
            self.memory.forget(name)
        elif what == "watch" and name in self._outbox.uplinks and log.ending is None:
            instances = self._watching.setdefault(name, set())
            if instance not in instances:
                instances.add(instance)
                log.join()
        elif what == "leave":
            self._left(name, instance)

    def _left(self, name: str, instance: str) -> None:
        instances = self._watching.get(name, set())
        if instance in instances:
            instances.remove(instance)
            if (log := self.memory.get(name)) is not None:
                log.leave()
        if not instances:
            self._watching.pop(name, None)

    def _nobody_watches(self, name: str) -> None:
        for instance in list(self._watching.get(name, ())):
            self._left(name, instance)

    # what is read here and written elsewhere

    async def _ask(self, question: Coroutine[Any, Any, Any]) -> Any:
        """Return the answer to what somebody waits for; so many at a time as have a connection."""
        if self.away:
            question.close()
            raise self._why_lost()
        self._start()
        async with self._asking:
            try:
                with self._question():
                    return await question
            except errors() as error:
                self._lose(error)
                raise self._why_lost() from None

    async def _fill(self, name: str, owner: str) -> Mirror:
        """Return all that there is of a stream; what comes later is read once it is watched."""
        key = stream_key(name)
        page = await self._redis.xrange(key, count=PAGE)
        mirror = Mirror(name, self._opening(page, owner))
        mirror.log.on_watch = lambda reads: self._watch(mirror, reads=reads)
        mirror.feed(page[1:])
        while len(page) == PAGE:
            page = await self._redis.xrange(key, min=f"({page[-1][0].decode()}", count=PAGE)
            mirror.feed(page)
        return mirror

    async def _first(self, name: str) -> Opening | None:
        page = await self._redis.xrange(stream_key(name), count=1)
        return self._read_opening(page) if page else None

    async def _stop(self, name: str, owner: str) -> None:
        key = stream_key(name)
        opening = self._opening(await self._redis.xrange(key, count=1), owner)
        last = await self._redis.xrevrange(key, count=1)
        ended = any(records.is_ending(fields) for _, fields in last)
        sent = self._message(opening.writer, "forget" if ended else "stop", name)
        await pipeline(self._redis, [*sent, ("UNLINK", key)] if ended else sent)

    def _opening(self, page: Any, owner: str) -> Opening:
        """Return how a stream begins; raises Failure stream_gone, resume_lost, not_found."""
        if not page:
            raise gone()
        opening = self._read_opening(page)
        check_owner(opening.owner, owner)
        return opening

    def _read_opening(self, page: Any) -> Opening:
        try:
            return records.read_opening(page[0][1])
        except ValueError:
            raise lost("its entries in Redis are not to be read") from None

    def _watch(self, mirror: Mirror, *, reads: bool) -> None:
        """Follow what somebody reads, and let the writer know whether anybody does."""
        if mirror.log.ending is not None:
            return
        name = mirror.log.name
        if self.away:
            mirror.end(self._why_lost("stream"))
        elif reads:
            self._feed.mirrors.add(mirror)
            wake = self._message(self.name, "wake")  # so that the next XREAD knows the mirror
            self._post(*self._message(mirror.writer, "watch", name), *wake)
        else:
            self._feed.mirrors.discard(mirror)
            self._post(*self._message(mirror.writer, "leave", name))

    def _message(self, instance: str, what: str, name: str = "") -> list[Command]:
        key = inbox_key(instance)
        fields = ("do", what, "of", name, "by", self.name)
        return [
            ("XADD", key, "MAXLEN", "~", _MESSAGES, "*", *fields),
            ("PEXPIRE", key, round(self._outbox.live_for * 1000)),
        ]

    # life and death

    def _start(self) -> None:
        """Begin to live: whoever finds a stream of this instance must find its lease too."""
        if not self._tasks:
            self._post(self._sign_of_life())
            rounds = (self._look, self._send, self._read)
            self._tasks = [asyncio.create_task(self._forever(each)) for each in rounds]

    async def _forever(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except errors() as error:
                self._lose(error)
            except Exception as error:  # noqa: BLE001  it must go on
                logger.exception("the store failed by a fault of the relay")
                self._lose(error)
            else:
                continue
            await sleep(self._clock, self._beat)

    async def _send(self) -> None:
        await self._outbox.woken.wait()
        await self._up.wait()
        with self._question():
            await self._outbox.send()

    async def _read(self) -> None:
        await self._up.wait()
        with self._question():
            await self._feed.read()

    @contextmanager
    def _question(self) -> Iterator[None]:
        self._asked += 1
        try:
            yield
        finally:
            self._asked -= 1

    def _sign_of_life(self) -> Command:
        return ("SET", lease_key(self.name), b"1", "PX", round(self._lease * 1000))

    async def _look(self) -> None:
        """Show that this instance lives, and look whether the others do."""
        mirrors = list(self._feed.mirrors)
        others = list({m.writer for m in mirrors}.union(*self._watching.values()))
        there = [("EXISTS", lease_key(other)) for other in others]
        there += [("EXISTS", stream_key(mirror.log.name)) for mirror in mirrors]
        told = [self._sign_of_life(), *self._renewals()]
        losses = self._losses
        answers = await pipeline(self._redis, [*told, *there])
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        found = answers[len(told) :]
        dead = {other for other, lives in zip(others, found, strict=False) if not lives}
        for mirror, is_there in zip(mirrors, found[len(others) :], strict=True):
            self._check(mirror, dead=mirror.writer in dead, there=bool(is_there))
        for name, instances in list(self._watching.items()):
            for instance in instances & dead:
                self._left(name, instance)
        if losses == self._losses:  # what was answered before a loss is no return
            self._return()
        await sleep(self._clock, self._beat)

    def _renewals(self) -> list[Command]:
        """Return what keeps the streams that are under way."""
        now = self._clock.now()
        found = []
        for name, uplink in self._outbox.uplinks.items():
            if uplink.opened and now - uplink.renewed > self.memory.retain:
                uplink.renewed = now
                found.append(expire(name, self._outbox.live_for))
        return found

    def _check(self, mirror: Mirror, *, dead: bool, there: bool) -> None:
        """End what nobody writes any more; an entry that was not read yet refuses that."""
        if mirror.log.ending is None and not there:
            mirror.end(lost("Redis has forgotten it", stage="stream"))
            self._feed.mirrors.discard(mirror)
        elif mirror.log.ending is None and dead:
            self._post(*mirror.cut(self._outbox.hold))

    def _lose(self, error: Exception) -> None:
        """Go on without Redis."""
        if self.away:
            return
        self._up.clear()
        self._losses += 1
        text = "Redis does not answer (TELEPRINTER_STORE): streams are not kept"
        logger.warning(text, store=self._place, error=str(error))
        self._outbox.clear()
        for uplink in list(self._outbox.uplinks.values()):
            uplink.log.release(self._why_lost())
            self._notified(uplink)  # of one that was released before, too
        for mirror in self._feed.mirrors:
            mirror.end(self._why_lost("stream"))
        self._feed.mirrors.clear()

    def _return(self) -> None:
        """Keep streams again, once no question of before can fail any more."""
        if self.away and not self._asked:
            self._up.set()
            logger.info("Redis is back: new streams are kept", store=self._place)

    def _why_lost(self, stage: str = "request") -> Failure:
        return lost("Redis (TELEPRINTER_STORE) was or is away", stage=stage)
