"""The HTTP surface: handlers, and errors as statuses or events.

boundary ── who asks, may they ─▶ page · health · relay ── /chat ─▶ ChatView ─┐
    ▲                                                   └─ /v1 ──▶ RawView ──┴▶ Outlet
    └── Failure ─▶ status and JSON, a line in the log ◀────────────────────────┘
"""

import asyncio
import math
import secrets
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any, Final

import msgspec
from aiohttp import web
from aiohttp_sse import EventSourceResponse

from service.adapters.clock import Deadline
from service.adapters.logs import log
from service.adapters.outlet import HEARTBEATS, Form, Outlet
from service.adapters.upstream import Answer
from service.core import chat, dialect, pacing, routes
from service.core.access import ANYONE, Caller
from service.core.chat import Pacing
from service.core.events import Ending
from service.core.view import ChatView, PlainView, RawView, View
from service.errors import Failure
from service.gateway import Gateway, Incoming
from service.relay import Stream

GATEWAY: Final = web.AppKey("gateway", Gateway)
NOTE: Final = web.RequestKey("note", dict[str, Any])

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_OPEN: Final = frozenset({"/", "/favicon.ico", "/healthz", "/readyz"})
_PAGES: Final = resources.files("service") / "pages"
_TYPES: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_CSP: Final = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_NEVER: Final = float("inf")


def routed(app: web.Application) -> web.Application:
    """Give the application its routes."""
    app.middlewares.append(boundary)
    app.router.add_get("/", page)
    app.router.add_get("/pages/{name}", page)
    app.router.add_get("/favicon.ico", no_icon)
    app.router.add_get("/healthz", alive)
    app.router.add_get("/readyz", ready)
    app.router.add_route("*", "/{path:.*}", relay)
    return app


@web.middleware
async def boundary(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let in who may come in, turn failures into answers, and write the request's line."""
    gateway = request.app[GATEWAY]
    began = gateway.clock.now()
    note = request[NOTE] = {"id": secrets.token_hex(8), "status": None}
    try:
        response = await _answer(request, handler)
        note["status"] = response.status
    except asyncio.CancelledError:
        note.setdefault("outcome", "left")
        raise
    finally:
        elapsed = round((gateway.clock.now() - began) * 1000)
        log.info("request", method=request.method, path=request.path, duration_ms=elapsed, **note)
    return response


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        caller = _admit(request)
        request[NOTE]["caller"] = caller.name
        response = await handler(request)
    except Failure as failure:
        return _refusal(request, failure)
    except web.HTTPException as error:
        return _refusal(request, _translated(error))
    except ConnectionError:  # the client left in the middle of a write
        request[NOTE]["outcome"] = "left"
        return web.Response()
    except Exception:  # noqa: BLE001  no traceback reaches a client
        log.exception("a request failed by a fault of the relay", id=request[NOTE]["id"])
        text = "the relay failed by a fault of its own; its log says more"
        return _refusal(request, Failure("internal", text))
    if not response.prepared:
        if request.app[GATEWAY].draining:
            response.force_close()
        response.headers["Teleprinter-Request-Id"] = request[NOTE]["id"]
    return response


def _admit(request: web.Request) -> Caller:
    """Return who asks; raises Failure."""
    static = request.path in _OPEN or request.path.startswith("/pages/")
    navigates = request.headers.get("Sec-Fetch-Mode") == "navigate"
    request.app[GATEWAY].doors.check(request.headers, link=static and navigates)
    if "websocket" in request.headers.get("Upgrade", "").lower():
        raise Failure("not_implemented", "this relay speaks no WebSocket: use server-sent events")
    return ANYONE if static else request.app[GATEWAY].keys.caller(request.headers)


def _translated(error: web.HTTPException) -> Failure:
    code = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}.get(error.status)
    texts = {
        "too_large": "the request's body is larger than this relay takes (limits.body)",
        "method_not_allowed": "this path does not take that method",
    }
    return Failure(code or "bad_request", texts.get(code or "", error.reason or "bad request"))


def _refusal(request: web.Request, failure: Failure) -> web.Response:
    """Return a failure as status and JSON, in the dialect of the API that was asked."""
    request[NOTE].update(outcome="refused", error=failure.code, message=failure.message)
    api = dialect.for_path(request.path.rpartition("/v1/")[2])
    response = web.Response(
        status=failure.status,
        body=msgspec.json.encode(api.refusal(failure)),
        content_type="application/json",
        headers={"Teleprinter-Request-Id": request[NOTE]["id"]},
    )
    if not failure.retryable:
        response.headers["x-should-retry"] = "false"
    if failure.retry_after is not None:
        response.headers["Retry-After"] = str(math.ceil(failure.retry_after))
    return response


async def page(request: web.Request) -> web.Response:
    """Return the typewriter page, or a part of it."""
    name = request.match_info.get("name", "index.html")
    kind = _TYPES.get(name.rpartition(".")[2])
    file = _PAGES / name
    if kind is None or "/" in name or not file.is_file():
        raise Failure("not_found", f"there is no {request.path}")
    response = web.Response(body=file.read_bytes(), content_type=kind, charset="utf-8")
    response.headers["Content-Security-Policy"] = _CSP
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-cache"
    return response


async def no_icon(_: web.Request) -> web.Response:
    """Spare the log of a browser that asks for an icon."""
    return web.Response(status=204)


async def alive(_: web.Request) -> web.Response:
    """Say that the relay is alive."""
    return web.json_response({"status": "ok"})


async def ready(request: web.Request) -> web.Response:
    """Say whether new requests are welcome."""
    if request.app[GATEWAY].draining:
        return web.json_response({"status": "draining"}, status=503)
    return web.json_response({"status": "ok"})


async def relay(request: web.Request) -> web.StreamResponse:
    """Relay `/chat` and `/v1/…`, with or without a prefix."""
    gateway = request.app[GATEWAY]
    path, _, query = _raw_target(request).partition("?")
    place = routes.place(path, gateway.prefixes)
    caller = request.app[GATEWAY].keys.caller(request.headers)
    body = await _body(request)
    incoming = Incoming(request.method, place, query, list(request.headers.items()), body)
    if place.door == "chat":
        return await _chat(request, caller, incoming)
    return await _v1(request, caller, incoming)


async def _body(request: web.Request) -> bytes:
    """Return the request's body; raises Failure request_timeout if it does not arrive in time."""
    if not request.can_read_body:
        return b""
    gateway = request.app[GATEWAY]
    seconds = gateway.settings.limits.body_timeout
    try:
        async with Deadline(gateway.clock, seconds):
            return await request.read()
    except TimeoutError:
        text = f"the request's body did not arrive within {seconds:g} s (limits.body_timeout)"
        raise Failure("request_timeout", text) from None


def _raw_target(request: web.Request) -> str:
    """Return path and query as they were sent; an absolute-form target without its origin."""
    target = request.raw_path
    if target.startswith("/"):
        return target
    _, _, rest = target.partition("://")
    return "/" + rest.partition("/")[2]


async def _chat(request: web.Request, caller: Caller, incoming: Incoming) -> web.StreamResponse:
    gateway = request.app[GATEWAY]
    if request.method not in {"GET", "POST"}:
        raise Failure("method_not_allowed", "/chat takes GET and POST")
    if (
        "Last-Event-ID" in request.headers
    ):  # nothing is kept, so that there is nothing to go on with
        return web.Response(status=204)
    posted = request.method == "POST"
    ask = chat.from_json(incoming.body) if posted else chat.from_query(request.query)
    settings = gateway.settings.chat
    default = Pacing(settings.pace, settings.delay_ms / 1000)
    pace = chat.pacing(ask.pace, ask.delay_ms, default)
    stream = gateway.chat(caller, incoming, ask)
    view = ChatView(stream.name)
    response = _event_stream(request, stream)
    outlet = _outlet(gateway, stream, view, pace)
    outlet.send(view.start(stream.summary.model))
    return await _serve(request, stream, response, outlet)


async def _v1(request: web.Request, caller: Caller, incoming: Incoming) -> web.StreamResponse:
    gateway = request.app[GATEWAY]
    pace = chat.pacing_of_headers(request.headers)
    stream = gateway.v1(caller, incoming, chat.glance(incoming.body))
    try:
        await stream.ready()
    except BaseException:
        _note(request, stream)
        stream.end()
        raise
    answer = stream.answer
    if answer is not None and not stream.framed:
        response: web.StreamResponse = _plain(request, stream, answer)
        return await _serve(request, stream, response, _outlet(gateway, stream, PlainView(), None))
    response = _event_stream(request, stream)
    if answer is not None:
        _hand_on(response, answer)
    outlet = _outlet(gateway, stream, RawView(stream.dialect), pace)
    if not stream.began and stream.replay.ending is None:
        outlet.beat()
    return await _serve(request, stream, response, outlet)


def _event_stream(request: web.Request, stream: Stream) -> EventSourceResponse:
    response = EventSourceResponse(allow_all_methods=True, ping_interval=_NEVER)
    del response.headers["Connection"]  # aiohttp knows what the client asked for
    response.headers["Teleprinter-Request-Id"] = request[NOTE]["id"]
    response.headers["Teleprinter-Stream"] = stream.name
    response.headers["Teleprinter-Upstream"] = stream.summary.upstream or ""
    return response


def _plain(request: web.Request, stream: Stream, answer: Answer) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, reason=answer.reason)
    response.headers["Teleprinter-Request-Id"] = request[NOTE]["id"]
    response.headers["Teleprinter-Upstream"] = stream.summary.upstream or ""
    _hand_on(response, answer)
    if answer.length is not None:
        response.content_length = answer.length
    return response


_FRAMING: Final = frozenset({"content-length", "cache-control", "x-accel-buffering"})


def _hand_on(response: web.StreamResponse, answer: Answer) -> None:
    """Add the upstream's headers to the client's response."""
    ours = _FRAMING if isinstance(response, EventSourceResponse) else {"content-length"}
    for name, value in routes.client_headers(answer.headers):
        if name.lower() == "content-type":
            response.headers["Content-Type"] = value
        elif name.lower() not in ours:
            response.headers.add(name, value)


def _outlet(gateway: Gateway, stream: Stream, view: View, pace: Pacing | None) -> Outlet:
    heartbeat = gateway.settings.heartbeat
    form: Form = "line" if heartbeat.form == "line" else "blank"
    return Outlet(
        stream.replay,
        view,
        pacing.strategy(pace.name, pace.delay) if pace is not None else None,
        gateway.clock,
        heartbeat=b"" if isinstance(view, PlainView) else HEARTBEATS[form],
        every=heartbeat.after,
        queue=gateway.settings.limits.queue,
        patience=gateway.settings.limits.send_timeout,
    )


async def _serve(
    request: web.Request, stream: Stream, response: web.StreamResponse, outlet: Outlet
) -> web.StreamResponse:
    """Write the stream to its end. A client that leaves takes the upstream's request along."""
    if request.app[GATEWAY].draining:
        response.force_close()
    try:
        await response.prepare(request)
        request[NOTE]["status"] = response.status
        ending = await outlet.run(response)
    except TimeoutError:
        _cut_off(request, stream)
        return response
    finally:
        stream.end()
        _note(request, stream)
        if isinstance(response, EventSourceResponse) and response.prepared:
            response.stop_streaming()
    _close_if_cut(request, ending)
    return response


def _cut_off(request: web.Request, stream: Stream) -> None:
    """End the stream of a client that does not read. What it has not taken is dropped."""
    text = "the client did not take what it was sent (limits.send_timeout)"
    stream.end(Failure("client_too_slow", text, stage="stream"))
    if request.transport is not None:
        request.transport.abort()


def _close_if_cut(request: web.Request, ending: Ending) -> None:
    """Leave a body that is not whole without its last chunk, so that nobody takes it for whole."""
    if ending.failure is not None and not ending.said and request.transport is not None:
        request.transport.close()


def _note(request: web.Request, stream: Stream) -> None:
    """Add to the request's line what its stream came to."""
    summary, ending = stream.summary, stream.replay.ending
    request[NOTE].update(
        stream=stream.name,
        upstream=summary.upstream,
        proxy=summary.proxy,
        model=summary.model,
        attempts=summary.attempts,
        first_token_ms=summary.first_token_ms,
        events=stream.frames,
        outcome=ending.outcome if ending is not None else "left",
    )
    if ending is not None and ending.failure is not None:
        request[NOTE].update(error=ending.failure.code, message=ending.failure.message)
