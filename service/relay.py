"""The life of one stream, readable top to bottom.

    Order ─▶ Lane.ask ─▶ Answer ─▶ Framer ─▶ Dialect ─▶ Replay ─▶ reader
             (dial, send)          (frames)  (events)

A Stream is an object of the application: its own task reads the upstream, so that the handler
that began it may be cancelled while the reading goes on, or ends. It has exactly one Ending.

Held back: until the first content the client has seen nothing, so that what fails before can still
be answered with a status. `ready` says when that is over: with the first content, the end, the head
of a body that is no event stream, or after `open_after`.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from service import verdict
from service.adapters.clock import Clock, Deadline, Timer, sleep
from service.adapters.logs import log
from service.adapters.metrics import Gaps
from service.adapters.replay.log import Log
from service.adapters.replay.unkept import Replay
from service.adapters.upload import Upload
from service.adapters.upstream import Answer, Order
from service.core import retry
from service.core.circuit import Circuit, Trouble
from service.core.dialect import Dialect, Plain
from service.core.events import Ending, Frame, Outcome, Summary
from service.core.proxy import Proxy
from service.core.rejoin import Different, Rejoin, Sent
from service.core.retry import Course, Step
from service.core.sse import Framer, FrameTooLong
from service.errors import Failure, Whose
from service.gate import Gate

_OUTCOMES: Final[dict[str, Outcome]] = {
    "upstream_cut": "cut",
    "upstream_stalled": "stalled",
    "upstream_timeout_headers": "stalled",
    "upstream_timeout_first_token": "stalled",
    "client_too_slow": "slow",
    "stopped": "stopped",
    "draining": "draining",
    "too_long": "too_long",
}


class Lane(Protocol):
    """The ways to an upstream."""

    async def ask(  # noqa: D102
        self, order: Order, on_dialled: Callable[[Proxy, bool], None], avoid: Proxy | None
    ) -> Answer: ...

    def begin(self) -> None: ...  # noqa: D102

    def end(self) -> None: ...  # noqa: D102


class Terms(NamedTuple):
    """What a stream may take: seconds of each clock (0 = off), bytes of a frame."""

    headers: float
    first_token: float
    idle: float
    total: float
    open_after: float
    frame: int


class Leg(NamedTuple):
    """An upstream that may serve the stream; order and dialect are made when it comes to that."""

    upstream: str
    lane: Lane
    circuit: Circuit
    terms: Terms
    compose: Callable[[], Order]
    dialect: Callable[[], Dialect]


class Stream:
    """One answer on its way from an upstream to its reader.

    `legs`: the upstream and its fallbacks, which `course` goes through; `repeatable`: the request
    may be sent twice, `too_large` why it is not nevertheless; `continues`: also to go on with an
    answer that was cut. `replay` takes the frames; if it is a Log, the upstream is read on for
    `keep` seconds without a reader. `committed`: the client's response is an event stream already,
    so that whatever fails is an event.
    """

    __slots__ = (
        "__weakref__",
        "_alone",
        "_avoid",
        "_awaited",
        "_began",
        "_circuit",
        "_clock",
        "_course",
        "_cut",
        "_deadline",
        "_framer",
        "_gate",
        "_keep",
        "_lanes",
        "_last",
        "_legs",
        "_order",
        "_parting",
        "_rejoin",
        "_repeatable",
        "_reused",
        "_said",
        "_sent",
        "_stage",
        "_terms",
        "_told",
        "_too_large",
        "_total",
        "_via",
        "answer",
        "caller",
        "dialect",
        "frames",
        "gaps",
        "hides_usage",
        "name",
        "replay",
        "summary",
        "task",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913  the parts of a stream
        self,
        name: str,
        legs: Sequence[Leg],
        course: Course,
        *,
        clock: Clock,
        replay: Replay | Log,
        keep: float,
        caller: str,
        repeatable: bool,
        too_large: str,
        continues: bool,
        committed: bool,
    ) -> None:
        self.name = name
        self.caller = caller
        self.replay = replay
        self.gaps = Gaps()
        self.hides_usage = False
        self.summary = Summary()
        self.frames = 0
        self._legs = legs
        self._course = course
        self._clock = clock
        self._repeatable = repeatable
        self._too_large = too_large
        self._began = self._last = clock.now()
        self._avoid: Proxy | None = None
        self._gate = Gate(replay, clock, committed=committed)
        self._parting: Failure | None = None
        self._told = Sent() if continues and repeatable else None
        self._rejoin: Rejoin | None = None
        self._cut: Failure | None = None
        self._alone: Timer | None = None
        self._keep = keep
        if isinstance(replay, Log):
            replay.on_watch, replay.on_stop = self._watch, self.stop
        self._turn_to(course.target)
        self._lanes = [leg.lane for leg in legs]
        for lane in self._lanes:
            lane.begin()
        self.task = asyncio.create_task(self._run(), name=f"stream {name}")
        self.task.add_done_callback(self._leave)

    def _turn_to(self, target: int) -> None:
        """Ask this upstream from now on."""
        leg = self._legs[target]
        self._circuit = leg.circuit
        self._terms = leg.terms
        self._order = leg.compose()
        self.summary.upstream, self.summary.model = leg.upstream, self._order.model
        self._start_over()

    def _start_over(self) -> None:
        """Forget what an attempt has brought; what the client has of it is to come again."""
        self.dialect = self.replay.dialect = self._leg.dialect()
        self.frames -= self._gate.start_over()
        if self._gate.released and self._told is not None:
            self._rejoin = Rejoin(self._told)
        else:
            self.summary.first_token_ms = None
        self._awaited = True  # the first content of this attempt
        self._sent = self._reused = self._said = False
        self._framer: Framer | None = None
        self.answer: Answer | None = None
        self._stage = "dial"
        if not self._order.streams:  # only the answer's body has one
            self._gate.hold()

    @property
    def _leg(self) -> Leg:
        """The upstream that is asked."""
        return self._legs[self._course.target]

    def _forget(self) -> None:
        """Let go of what has been asked: it is not asked again, and the answer may take long."""
        self._order = self._order.asked()
        self._legs = ()

    def _leave(self, _: object) -> None:
        for lane in self._lanes:
            lane.end()

    async def ready(self) -> None:
        """Wait until the client's response may begin; raises Failure if it is to be a refusal."""
        if self._order.streams:
            self._gate.open_after(self._terms.open_after)
        await self._gate.ready()
        if isinstance(self.replay, Log) and self.replay.announced is not None:
            await self.replay.announced.wait()  # the client learns its name, and may come back
        ending = self.replay.ending
        failure = ending.failure if ending is not None and not ending.said else None
        if failure is not None and not self._gate.opened:
            raise failure

    @property
    def framed(self) -> bool:
        """Whether the upstream's body is an event stream."""
        return self._framer is not None

    @property
    def began(self) -> bool:
        """Whether the upstream has sent any of the answer."""
        return self.summary.first_token_ms is not None

    @property
    def stage(self) -> str:
        """How far it has come: `dial`, `headers`, `first_token`, `stream`."""
        return self._stage

    @property
    def moments(self) -> tuple[float, float]:
        """When it began, and when its last event came, by its clock; the beginning if none has."""
        return self._began, self._last

    @property
    def server(self) -> str | None:
        """The upstream that serves it, None while a fallback may yet."""
        certain = self.began or self.replay.ending is not None or len(self._lanes) == 1
        return self.summary.upstream if certain else None

    def end(self, failure: Failure | None = None) -> None:
        """Nobody reads any more, or the relay wants it to end (`failure` says why)."""
        if self.replay.ending is None:
            self._parting = failure
            self.task.cancel()

    def leave(self, failure: Failure | None = None) -> None:
        """Go without this reader; a Log may have others, and says by itself when it has none."""
        if not isinstance(self.replay, Log):
            self.end(failure)

    @property
    def kept(self) -> bool:
        """Whether somebody may read it again."""
        return isinstance(self.replay, Log) and self.replay.kept

    def _watch(self, watched: bool) -> None:  # noqa: FBT001
        """Read on for a while when nobody follows any more; not at all if nobody can come back."""
        if self._alone is not None:
            self._alone.cancel()
            self._alone = None
        if watched:
            return
        if self.kept and self._keep > 0:
            self._alone = self._clock.call_at(self._clock.now() + self._keep, self.end)
        else:
            self.end()

    def _forsaken(self) -> Failure | None:
        """Return what those are told who come back too late to a stream that is kept."""
        if not isinstance(self.replay, Log):
            return None
        text = f"nobody had read the stream for {self._keep:g} s, so that it was ended"
        return Failure("stopped", text, stage=self._stage, retryable=True)

    def stop(self) -> None:
        """End it, for its owner wants so."""
        self.end(Failure("stopped", "the stream was stopped on request", stage=self._stage))

    async def _run(self) -> None:
        """Relay from the first byte to the last; whatever happens, there is one ending."""
        seconds = self._terms.total
        try:
            async with Deadline(self._clock, seconds) as self._total:
                await self._pursue()
        except TimeoutError:
            text = f"the stream took longer than the {seconds:g} s that it may (total)"
            self._finish(Failure("too_long", text, stage=self._stage))
        except asyncio.CancelledError:
            self._finish(self._parting or self._forsaken(), "left")
            raise
        except Exception:  # noqa: BLE001  logged, and told to the client without its words
            log.exception("a stream failed by a fault of the relay", stream=self.name)
            text = "the relay failed by a fault of its own; its log says more"
            self._finish(Failure("internal", text, stage=self._stage))

    async def _pursue(self) -> None:
        """Ask until there is an answer, or nothing is left to try."""
        while (failure := await self._attempt()) is not None:
            self._judge(failure)
            step = self._next(failure)
            if step is None:
                self._finish(self._cut or failure)
                return
            cut = failure.code == "upstream_cut" and not self._stale(failure)
            self._avoid = self._via if cut else None
            await self._do(step)
        self._finish(None)

    def _next(self, failure: Failure) -> Step | None:
        """Return what may be tried after that, None if nothing."""
        if self._sent and not self._repeatable:
            return None
        if self._gate.released and not self._may_go_on(failure):
            return None
        step = self._course.after(failure, self._clock.now(), stale=self._stale(failure))
        if step is not None and self._sent and self._too_large:
            failure.note = self._too_large
            return None
        return step

    def _may_go_on(self, failure: Failure) -> bool:
        """Tell whether the answer may be asked for again, for what is left of it."""
        if self._told is None or not self._told.known:
            return False
        if self._cut is None and failure.code in {"upstream_cut", "upstream_stalled"}:
            self._cut = failure
        return self._cut is not None

    def _stale(self, failure: Failure) -> bool:
        """Tell whether it was a kept connection, closed while nobody used it: nothing is wrong."""
        return self._reused and failure.code == "upstream_cut" and failure.stage == "headers"

    async def _do(self, step: Step) -> None:
        if step.wait:
            await sleep(self._clock, step.wait)
        moved = step.target != self._course.target
        self._course.take(step, self._clock.now())
        if moved:
            self._turn_to(step.target)
        else:
            self._start_over()

    async def _attempt(self) -> Failure | None:
        """Ask the upstream once; return what went wrong."""
        try:
            async with Deadline(self._clock) as self._deadline:
                return await self._relay()
        except TimeoutError:
            return self._outcome() if self.dialect.complete else self._overdue()
        except Failure as failure:
            if self.dialect.complete:  # the upstream had said so; how it hung up does not matter
                return self._outcome()
            if failure.stage == "stream":  # of the body: whether content has come is known here
                failure.stage = self._stage
            return failure

    async def _relay(self) -> Failure | None:
        def on_dialled(proxy: Proxy, reused: bool) -> None:  # noqa: FBT001
            self._stage, self._sent = "headers", True
            self._via, self._reused = proxy, reused
            self.summary.proxy = str(proxy)
            self.summary.attempts += 1
            self._course.sent()
            self._deadline.restart(self._terms.headers)

        self._heed()
        async with await self._leg.lane.ask(self._order, on_dialled, self._avoid) as answer:
            await self._begin(answer)
            await self._read(answer)
            self._deadline.stop()
            failure = self._outcome()
            if failure is None:
                self._finish(None)  # the connection may take a while to come to its end
            else:
                answer.drop()
            return failure

    def _heed(self) -> None:
        """Stop the upstream's clock while it waits for a body that the client sends slowly."""

        def set_to(seconds: float) -> None:
            if self._stage == "headers":
                self._deadline.restart(seconds)

        body = self._order.body
        if isinstance(body, Upload):
            body.on_wait = lambda: set_to(0)
            body.on_piece = lambda: set_to(self._terms.headers)

    async def _begin(self, answer: Answer) -> None:
        """Decide by the upstream's head what its body is."""
        if verdict.streams(answer):
            self._stage = "first_token"
            self._framer = Framer(self._terms.frame)
            self.answer = answer
            self._gate.open_after(self._terms.open_after)
            self._deadline.restart(self._terms.first_token)
            return
        self._deadline.restart(self._terms.idle)
        fine = verdict.succeeded(answer)
        if self._gate.opened or not fine:
            await self._refuse(answer)
        elif self._order.streams and (failure := verdict.no_stream(answer, self._order)):
            raise failure
        elif failure := verdict.page(answer, self._order):
            self._reject(failure)
        self._stage = "stream"
        self.dialect = Plain()
        self.answer = answer
        self._gate.plain = True
        if fine:
            self._circuit.succeeded()
        if self._repeatable and fine and not self._course.exhausted:
            # at its end, so that a torso is not all that the client gets
            self._gate.open_after(self._terms.open_after)
        else:
            self._gate.open()

    async def _refuse(self, answer: Answer) -> None:
        """Raise what the status stands for, unless it is to be handed on as it came."""
        failure = verdict.refused(answer, self._order)
        if self._next(failure) is not None:
            raise failure
        if self._gate.opened:
            raise await verdict.in_its_words(failure, answer)
        self._judge(failure)

    def _judge(self, failure: Failure) -> None:
        """Let the circuit know what the upstream is good for."""
        if failure.whose is Whose.CLIENT or self._stale(failure):
            return
        now = self._clock.now()
        if retry.ails(failure):
            self._circuit.failed(now)
        else:
            self._circuit.succeeded()
        self._circuit.trouble = Trouble(failure.code, failure.status, now)

    async def _read(self, answer: Answer) -> None:
        """Hand the body on, in frames if it is an event stream."""
        try:
            await self._absorb(answer)
            if self._framer is not None and self._framer.halved:
                self._take(self._framer.feed(await answer.read()))
        except FrameTooLong as error:
            self._take(error.frames)
            text = f"the stream of {self._order.origin} cannot be followed: {error}"
            raise Failure("upstream_malformed", text, stage="stream") from None

    async def _absorb(self, answer: Answer) -> None:
        dialect, replay = self.dialect, self.replay
        cut = _as_it_is if self._framer is None else self._framer.feed

        def absorb(data: bytes) -> bool:
            self._take(cut(data))
            if dialect.error is not None:  # its end need not be waited for
                self._reject(verdict.said(dialect.error, self._order, self._stage))
            return not (dialect.over or replay.full)

        while not self.dialect.over and (data := await answer.read()):
            flows = absorb(data) and self._gate.flowing
            del data
            if flows:
                await answer.push(absorb)
            if self.replay.full:
                await self._pause()

    def _reject(self, failure: Failure) -> None:
        """Raise it if nobody has seen the answer and there is a remedy; else it goes as it came."""
        if self._next(failure) is not None:
            raise failure

    def _flaw(self) -> Failure | None:
        """Return why an answer that ended as it should is none, if there is a remedy."""
        if self.answer is None or self._gate.released:
            return None
        body = b"".join(frame.raw for frame in self._gate.held)
        if not (self.dialect.empty if self.framed else verdict.torn(self.answer, body)):
            return None
        failure = verdict.void(self._order, self._stage)
        return None if self._next(failure) is None else failure

    async def _pause(self) -> None:
        """Wait for the reader; a pause that the relay causes is not the upstream's."""
        self._deadline.stop()
        self._total.pause()
        await self.replay.room()
        self._total.resume()
        if self._stage == "first_token":
            self._deadline.restart(self._terms.first_token)
        else:
            self._deadline.restart(self._terms.idle, self._heard)

    def _take(self, raws: list[bytes]) -> None:
        """Hand frames on; those with data re-arm the idle clock."""
        alive, first = False, self._awaited
        frames = []
        for raw in raws:
            event = self.dialect.read(raw)
            number = self.frames + 1
            frame = Frame(number, raw, event)
            if event.data:
                alive = True
            if event.content:
                if self._awaited:
                    self._first_content()
            elif event.malformed:
                self.summary.malformed += 1
            if self._told is None or self._is_new(frame, self._told):
                self.frames = number
                frames.append(frame)
        gate = self._gate
        if gate.flowing and gate.released:  # as nearly all
            self.replay.append(frames)
        else:
            gate.take(frames, alive=alive)
        if alive and self._stage == "stream":
            now = self._clock.now()
            if not first:
                self.gaps.add(now - self._last)
            self._last = now

    def _heard(self) -> float:
        """Return when the last event came that re-arms the idle clock."""
        return self._last

    def _is_new(self, frame: Frame, told: Sent) -> bool:
        """Tell whether the client lacks it; of one that it has in part, leave the rest."""
        if self._rejoin is not None:
            try:
                rest = self._rejoin.rest_of(frame, self.dialect)
            except Different:
                told.known = False
                text = "the answer was asked for again, and came differently"
                raise Failure("upstream_cut", text, stage="stream") from None
            if rest is None:
                return False
            frame.raw, frame.event = rest.raw, rest.event
        told.note(frame.event, self.dialect)
        return True

    def _first_content(self) -> None:
        self._stage = "stream"
        self._awaited = False
        self._last = self._clock.now()
        self._deadline.restart(self._terms.idle, self._heard)
        if not self.began:
            self.summary.first_token_ms = self._elapsed()
        if self._framer is not None:
            self._circuit.succeeded()
            self._gate.open()
            if self._told is None:
                self._forget()

    def _outcome(self) -> Failure | None:
        """Return what is wrong with a body that is at its end; nothing of use can follow."""
        rest = self._framer.rest if self._framer is not None else b""
        if rest and (event := self.dialect.read_rest(rest)) is not None:
            self.frames += 1
            self._gate.take([Frame(self.frames, rest, event)], alive=event.data)
        dialect = self.dialect
        if dialect.error is not None:
            self._said = True
            return verdict.said(dialect.error, self._order, self._stage)
        if dialect.complete or dialect.trusting:
            return self._flaw()
        text = (
            f"the upstream {self._order.origin} ended its stream"
            " before it said that the answer was complete"
        )
        return Failure("upstream_cut", text, stage=self._stage)

    def _finish(self, failure: Failure | None, otherwise: Outcome = "ok") -> None:
        """End the stream, once."""
        if self.replay.ending is not None:
            return
        left = otherwise == "left" and self._parting is None
        outcome = _OUTCOMES.get(failure.code, "error") if failure and not left else otherwise
        summary, dialect = self.summary, self.dialect
        summary.model = dialect.model or summary.model
        summary.finish_reason = dialect.finish_reason
        summary.usage = dialect.usage
        summary.elapsed_ms = self._elapsed()
        if self._alone is not None:
            self._alone.cancel()
        self._gate.end(shown=failure is None or self._said)
        self.replay.finish(Ending(self.frames + 1, outcome, summary, failure, self._said))
        self._gate.ended()

    def _elapsed(self) -> int:
        return round((self._clock.now() - self._began) * 1000)

    def _overdue(self) -> Failure:
        """Return the failure of the clock that ran out at this stage."""
        terms, upstream = self._terms, f"the upstream {self._order.origin}"
        if self._stage == "headers":
            text = f"{upstream} did not answer within {terms.headers:g} s"
            return Failure("upstream_timeout_headers", text, stage="headers")
        if self._stage == "first_token":
            text = f"{upstream} sent no content within {terms.first_token:g} s"
            return Failure("upstream_timeout_first_token", text, stage="first_token")
        text = f"{upstream} sent nothing for {terms.idle:g} s"
        return Failure("upstream_stalled", text, stage="stream")


def _as_it_is(data: bytes) -> list[bytes]:
    return [data]
