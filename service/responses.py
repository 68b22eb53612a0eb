"""A stream as an HTTP response: its head, the outlet that writes it, and how it is left."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from aiohttp import web
from aiohttp_sse import EventSourceResponse

from service.adapters.outlet import HEARTBEATS, Form, Outlet, Reader
from service.adapters.push import Direct
from service.adapters.upstream import Answer
from service.boundary import GATEWAY, NOTE, SUMMARY
from service.core import pacing, routes
from service.core.chat import Pacing
from service.core.events import Outcome
from service.core.view import PlainView, View
from service.errors import Failure
from service.gateway import Gateway
from service.relay import Stream

_UNSENT: Final = 16 * 1024
"""Bytes that wait for the kernel before a write has to; aiohttp looks once in 64 KiB."""
_HEARD_WITHIN: Final = 0.2
"""Seconds; with 0.05 a busy machine's Chromium lost 1 of 40, with 0.2 none."""


class _EventStream(EventSourceResponse):
    """Without its pings, a task beside each stream: the outlet has its own."""

    async def prepare(self, request: web.BaseRequest) -> None:
        """Send the head."""
        if not self.prepared:
            self._set_tcp_user_timeout(request)
        await web.StreamResponse.prepare(self, request)


def event_stream(request: web.Request, name: str, upstream: str | None) -> EventSourceResponse:
    """Return the head of an event stream; `upstream`: who serves it, None if that may change."""
    response = _EventStream()
    del response.headers["Connection"]  # aiohttp knows what the client asked for
    response.headers["Teleprinter-Request-Id"] = request[NOTE]["id"]
    response.headers["Teleprinter-Stream"] = name
    if upstream is not None:
        response.headers["Teleprinter-Upstream"] = upstream
    return response


_FRAMING: Final = frozenset({"content-length", "cache-control", "x-accel-buffering"})


def hand_on(response: web.StreamResponse, answer: Answer) -> None:
    """Add the upstream's headers to the client's response."""
    ours = _FRAMING if isinstance(response, EventSourceResponse) else {"content-length"}
    headers = response.headers
    for name, value in routes.client_headers(answer.headers):
        low = name.lower()
        if low == "content-type":
            headers["Content-Type"] = value
        elif low not in ours:
            headers.add(name, value)


def outlet_of(gateway: Gateway, reader: Reader, view: View, pace: Pacing | None) -> Outlet:
    """Return what writes what the reader takes for a client of this view, at this pace."""
    settings = gateway.settings
    heartbeat, max_lag = settings.heartbeat, settings.chat.max_lag_ms / 1000
    fit: Form = "blank" if view.blank_lines else "line"
    form: Form = fit if heartbeat.form == "auto" else heartbeat.form
    return Outlet(
        reader,
        view,
        pacing.strategy(pace.name, pace.delay, max_lag) if pace is not None else None,
        gateway.clock,
        heartbeat=b"" if isinstance(view, PlainView) else HEARTBEATS[form],
        every=heartbeat.after,
        queue=settings.limits.queue,
        patience=settings.limits.send_timeout,
    )


Leave = Callable[[Outcome, Failure | None], None]
"""Called when a client has its stream's end, or has left."""


async def begin(request: web.Request, response: web.StreamResponse) -> None:
    """Send the head; a relay that drains ends the connection with its response."""
    if request.app[GATEWAY].draining:
        response.force_close()
    await response.prepare(request)


async def serve(
    request: web.Request, response: web.StreamResponse, outlet: Outlet, leave: Leave
) -> web.StreamResponse:
    """Write a stream to its end."""
    outcome: Outcome = "left"  # until the client has it all
    failure: Failure | None = None
    try:
        if request.transport is not None:
            request.transport.set_write_buffer_limits(_UNSENT)
        await begin(request, response)
        if isinstance(response, EventSourceResponse):  # which is held for long
            request.protocol.keep_alive(val=True)  # the time in which a request is to come: it has
        request[NOTE]["status"] = response.status
        ending = await outlet.run(response, Direct(request, response, _UNSENT))
        outcome, failure = ending.outcome, ending.failure
    except TimeoutError:
        outcome, failure = "slow", _cut_off(request)
        return response
    finally:
        leave(outcome, failure)
    if ending.failure is not None and not ending.said:
        await _cut(request, response)
    return response


def _cut_off(request: web.Request) -> Failure:
    """Drop a client that does not read, and what it has not taken; return why."""
    if request.transport is not None:
        request.transport.abort()
    text = "the client did not take what it was sent (limits.send_timeout)"
    return Failure("client_too_slow", text, stage="stream")


async def _cut(request: web.Request, response: web.StreamResponse) -> None:
    """Close without the last chunk, so that nobody takes the body for whole."""
    if isinstance(response, EventSourceResponse):
        await _last_words()
    if request.transport is not None:
        request.transport.close()


async def _last_words() -> None:
    """Let the client read why, before it sees the cut.

    A body that breaks loses what its page has not read yet: WHATWG Streams,
    ReadableStreamDefaultControllerError; Chromium's fetch lost the error event in 2 of 5 cuts.
    """
    await asyncio.sleep(_HEARD_WITHIN)


async def until_ready(request: web.Request, stream: Stream) -> None:
    """Wait until its response may begin; end it if that is to be a refusal, or nobody waits."""
    try:
        await stream.ready()
    except BaseException:
        ending = stream.replay.ending
        note_stream(request, stream, "left" if ending is None else ending.outcome)
        stream.end()
        raise


def leaving(request: web.Request, stream: Stream, reader: Reader) -> Leave:
    """Return what notes the end of a client who began a stream, and lets the stream know."""
    return partial(_leave, request, stream, reader)


def _leave(
    request: web.Request, stream: Stream, reader: Reader, outcome: Outcome, failure: Failure | None
) -> None:
    stream.leave(failure)
    reader.close()
    note_stream(request, stream, outcome, failure)


def note_stream(
    request: web.Request, stream: Stream, outcome: Outcome, failure: Failure | None = None
) -> None:
    """Add to the request's line what its stream came to for the client."""
    request[SUMMARY] = summary = stream.summary
    request[NOTE].update(
        stream=stream.name,
        upstream=summary.upstream,
        proxy=summary.proxy,
        model=summary.model,
        attempts=summary.attempts,
        first_token_ms=summary.first_token_ms,
        events=stream.frames,
        outcome=outcome,
    )
    if failure is not None:
        request[NOTE].update(failure.notes())
