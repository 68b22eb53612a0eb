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
import contextlib
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from service.adapters.clock import Clock, Deadline, Timer
from service.adapters.logs import log
from service.adapters.metrics import Gaps
from service.adapters.replay import Replay
from service.adapters.upload import Upload
from service.adapters.upstream import Answer, Order
from service.core.dialect import Dialect, Plain
from service.core.events import Ending, Frame, Outcome, Summary
from service.core.sse import Framer, FrameTooLong
from service.errors import Failure

_OUTCOMES: Final[dict[str, Outcome]] = {
    "upstream_cut": "cut",
    "upstream_stalled": "stalled",
    "upstream_timeout_headers": "stalled",
    "upstream_timeout_first_token": "stalled",
    "client_too_slow": "slow",
    "stopped": "stopped",
    "draining": "draining",
}


class Lane(Protocol):
    """The ways to an upstream."""

    async def ask(self, order: Order, on_dialled: Callable[[], None]) -> Answer: ...  # noqa: D102

    def begin(self) -> None: ...  # noqa: D102

    def end(self) -> None: ...  # noqa: D102


class Terms(NamedTuple):
    """What a stream may take: seconds of each clock (0 = off), bytes of a frame."""

    headers: float
    first_token: float
    idle: float
    open_after: float
    frame: int


class Stream:
    """One answer on its way from an upstream to its reader.

    `committed`: the client's response is an event stream already, so that nothing is held back and
    whatever fails is an event.
    """

    def __init__(  # noqa: PLR0913  the parts of a stream
        self,
        name: str,
        order: Order,
        lane: Lane,
        dialect: Dialect,
        *,
        terms: Terms,
        clock: Clock,
        caller: str,
        upstream: str,
        committed: bool,
    ) -> None:
        self.name = name
        self.caller = caller
        self.dialect = dialect
        self.answer: Answer | None = None
        self.replay = Replay()
        self.gaps = Gaps()
        self.hides_usage = False
        self.summary = Summary(model=order.model, upstream=upstream)
        self._order = order
        self._lane = lane
        self._terms = terms
        self._clock = clock
        self._committed = committed
        self._framer: Framer | None = None
        self.frames = 0
        self._began = self._last = clock.now()
        self._stage = "dial"
        self._opened = committed
        self._ready = asyncio.Event()
        self._early: Timer | None = None
        self._parting: Failure | None = None
        lane.begin()
        self.task = asyncio.create_task(self._run(), name=f"stream {name}")
        self.task.add_done_callback(lambda _: lane.end())

    async def ready(self) -> None:
        """Wait until the client's response may begin; raises Failure if it is to be a refusal."""
        if self._order.streams:
            self._hold_back()
        await self._ready.wait()
        ending = self.replay.ending
        if ending is not None and ending.failure is not None and not (self._opened or ending.said):
            raise ending.failure

    def _hold_back(self) -> None:
        """Let the client wait for the first content, so long and no longer."""
        if self._early is None and not self._opened and self._terms.open_after > 0:
            when = self._clock.now() + self._terms.open_after
            self._early = self._clock.call_at(when, self._open)

    @property
    def framed(self) -> bool:
        """Whether the upstream's body is an event stream."""
        return self._framer is not None

    @property
    def began(self) -> bool:
        """Whether the upstream has sent any of the answer."""
        return self.summary.first_token_ms is not None

    def end(self, failure: Failure | None = None) -> None:
        """Nobody reads any more, or the relay wants it to end (`failure` says why)."""
        if self.replay.ending is None:
            self._parting = failure
            self.task.cancel()

    async def _run(self) -> None:
        """Relay from the first byte to the last; whatever happens, there is one ending."""
        try:
            async with Deadline(self._clock) as deadline:
                await self._relay(deadline)
        except (TimeoutError, Failure) as error:
            if self.dialect.complete:  # the upstream had said so; how it hung up does not matter
                self._conclude()
            elif isinstance(error, TimeoutError):
                self._finish(self._overdue())
            else:
                if error.stage == "stream":  # of the body: whether content has come is known here
                    error.stage = self._stage
                self._finish(error)
        except asyncio.CancelledError:
            self._finish(self._parting, "left")
            raise
        except Exception:  # noqa: BLE001  logged, and told to the client without its words
            log.exception("a stream failed by a fault of the relay", stream=self.name)
            text = "the relay failed by a fault of its own; its log says more"
            self._finish(Failure("internal", text, stage=self._stage))

    async def _relay(self, deadline: Deadline) -> None:
        def on_dialled() -> None:
            self._stage = "headers"
            deadline.restart(self._terms.headers)

        self._heed(deadline)
        self.summary.attempts += 1
        async with await self._lane.ask(self._order, on_dialled) as answer:
            await self._begin(answer, deadline)
            await self._read(answer, deadline)
            deadline.stop()
            self._conclude()

    def _heed(self, deadline: Deadline) -> None:
        """Stop the upstream's clock while it waits for a body that the client sends slowly."""

        def set_to(seconds: float) -> None:
            if self._stage == "headers":
                deadline.restart(seconds)

        body = self._order.body
        if isinstance(body, Upload):
            body.on_wait = lambda: set_to(0)
            body.on_piece = lambda: set_to(self._terms.headers)

    async def _begin(self, answer: Answer, deadline: Deadline) -> None:
        """Decide by the upstream's head what its body is."""
        self.summary.proxy = str(answer.proxy)
        success = HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES
        if success and answer.content_type == "text/event-stream":
            self._stage = "first_token"
            self._framer = Framer(self._terms.frame)
            self.answer = answer
            self._hold_back()
            deadline.restart(self._terms.first_token)
            return
        deadline.restart(self._terms.idle)
        if self._opened:
            raise await _refusal(answer, self._order)
        if success and self._order.streams and not _is_answer(answer.content_type):
            raise _no_stream(answer, self._order)
        self._stage = "stream"
        self.dialect = Plain()
        self.answer = answer
        self._open()

    async def _read(self, answer: Answer, deadline: Deadline) -> None:
        while not self.dialect.over and (data := await answer.read()):
            if self._feed(data):
                deadline.restart(self._terms.idle)
            if self.replay.full:
                self._open()
                deadline.stop()  # a pause that the relay causes is not the upstream's
                await self.replay.room()
                first = self._stage == "first_token"
                deadline.restart(self._terms.first_token if first else self._terms.idle)
        if self._framer is not None and self._framer.halved:
            self._feed(await answer.read())

    def _feed(self, data: bytes) -> bool:
        """Hand bytes on as whole frames; return whether they re-arm the idle clock."""
        if self._framer is None:
            return self._take([data])
        try:
            return self._take(self._framer.feed(data))
        except FrameTooLong as error:
            self._take(error.frames)
            text = f"the stream of {self._order.origin} cannot be followed: {error}"
            raise Failure("upstream_malformed", text, stage="stream") from None

    def _take(self, raws: list[bytes]) -> bool:
        alive = False
        frames = []
        for raw in raws:
            event = self.dialect.read(raw)
            self.frames += 1
            frames.append(Frame(self.frames, raw, event))
            alive = alive or event.data
            if event.content and self.summary.first_token_ms is None:
                self._first_content()
            elif event.malformed:
                self.summary.malformed += 1
        self.replay.append(frames)
        if alive and self._stage == "stream":
            now = self._clock.now()
            self.gaps.add(now - self._last)
            self._last = now
            return True
        return False

    def _first_content(self) -> None:
        self._stage = "stream"
        self._last = self._clock.now()
        self.summary.first_token_ms = self._elapsed()
        self._open()

    def _open(self) -> None:
        self._opened = True
        self._ready.set()

    def _conclude(self) -> None:
        """Decide what the stream came to: its body is at its end, or nothing of use can follow."""
        rest = self._framer.rest if self._framer is not None else b""
        if rest and (event := self.dialect.read_rest(rest)) is not None:
            self.frames += 1
            self.replay.append([Frame(self.frames, rest, event)])
        dialect = self.dialect
        if dialect.error is not None:
            text = f"the upstream {self._order.origin} said: {_words(dialect.error)}"
            self._finish(Failure("upstream_error", text, stage=self._stage), said=True)
        elif dialect.complete or dialect.trusting:
            self._finish(None)
        else:
            text = (
                f"the upstream {self._order.origin} ended its stream"
                " before it said that the answer was complete"
            )
            self._finish(Failure("upstream_cut", text, stage=self._stage))

    def _finish(
        self, failure: Failure | None, otherwise: Outcome = "ok", *, said: bool = False
    ) -> None:
        outcome = otherwise if failure is None else _OUTCOMES.get(failure.code, "error")
        summary, dialect = self.summary, self.dialect
        summary.model = dialect.model or summary.model
        summary.finish_reason = dialect.finish_reason
        summary.usage = dialect.usage
        summary.elapsed_ms = self._elapsed()
        if self._early is not None:
            self._early.cancel()
        self.replay.finish(Ending(self.frames + 1, outcome, summary, failure, said))
        self._ready.set()

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


class Streams:
    """The streams that are under way."""

    def __init__(self) -> None:
        self._streams: dict[str, Stream] = {}

    def add(self, stream: Stream) -> Stream:
        """Keep a stream until its task is done."""
        self._streams[stream.name] = stream
        stream.task.add_done_callback(lambda _: self._streams.pop(stream.name))
        return stream

    def __len__(self) -> int:
        return len(self._streams)

    def of(self, caller: str) -> int:
        """Return how many streams of this caller are under way."""
        return sum(stream.caller == caller for stream in self._streams.values())

    async def ended(self, clock: Clock, seconds: float) -> None:
        """Wait until no stream is under way, but not longer than that."""
        with contextlib.suppress(TimeoutError):
            async with Deadline(clock, seconds):
                while seconds and self._streams:
                    await asyncio.wait(
                        [stream.task for stream in self._streams.values()],
                        return_when=asyncio.FIRST_COMPLETED,
                    )

    async def close(self, failure: Failure) -> None:
        """End every stream; return when nothing of them is left."""
        streams = list(self._streams.values())
        for stream in streams:
            stream.end(failure)
        if streams:
            await asyncio.wait([stream.task for stream in streams])


async def _refusal(answer: Answer, order: Order) -> Failure:
    """Return the failure that an upstream's status stands for, in its own words."""
    body = await answer.excerpt()
    try:
        error = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        error = None
    said = _words(error) if isinstance(error, dict) else ""
    text = f"the upstream {order.origin} answered {answer.status} {answer.reason or ''}".rstrip()
    if answer.status < HTTPStatus.BAD_REQUEST:
        text += " where an event stream was due"
        return Failure("upstream_malformed", text, stage="headers")
    retryable = answer.status in {408, 429} or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    text = f"{text}: {said}" if said else text
    return Failure(
        "upstream_error", text, stage="headers", status=answer.status, retryable=retryable
    )


def _words(error: Any) -> str:
    """Return the sentence in an API's error object, whatever its form."""
    while isinstance(error, dict):
        error = next(
            (error[name] for name in ("error", "message", "detail") if error.get(name)), ""
        )
    return error if isinstance(error, str) else msgspec.json.encode(error).decode()


def _is_answer(content_type: str) -> bool:
    """Tell whether a model may answer so where a stream was asked for; a page, for one, may not."""
    return "json" in content_type or content_type.startswith(("audio/", "image/", "video/"))


def _no_stream(answer: Answer, order: Order) -> Failure:
    text = (
        f"the upstream {order.origin} answered a request for a stream with {answer.content_type}:"
        " is its URL right, with /v1 at its end if it needs one?"
    )
    return Failure("upstream_malformed", text, stage="headers")
