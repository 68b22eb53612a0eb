"""The HTTP surface: which path does what.

    boundary ─▶ page · health · relay ─┬─ /chat ─▶ ChatView ─┐
                                       └─ /v1 ──▶ RawView ──┴─▶ responses.serve

Who may ask for what is the boundary's business; here a request has been let in.
"""

from hashlib import sha256
from importlib import resources
from typing import Final

from aiohttp import web

from service.adapters.upload import Upload
from service.answers import serve_plain
from service.boundary import CALLER, GATEWAY, NAME, NOTE, boundary, share
from service.catalogue import Source, union
from service.core import chat, ids, routes
from service.core.chat import Glance
from service.core.routes import Place
from service.core.view import ChatView
from service.errors import Failure
from service.gateway import Gateway, Incoming
from service.responses import (
    event_stream,
    hand_on,
    leaving,
    outlet_of,
    serve,
    until_ready,
)
from service.resuming import raw_view, resume, stop, streams
from service.status_page import add_status

_PAGES: Final = resources.files("service") / "pages"
_SHELLS: Final = {"/": "index.html", "/status": "status.html"}
_TYPES: Final = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}
_UNLABELLED: Final = frozenset({"application/x-www-form-urlencoded", "text/plain"})
"""What `curl -d` and fetch call a body when nobody says what it is."""
_PAGE_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""Nothing from elsewhere, nothing inline, no text that becomes markup; asked anew each time, and
told by the ETag that it is the same."""


def routed(app: web.Application) -> web.Application:
    """Give the application its routes."""
    app.middlewares.append(boundary)
    app.on_response_prepare.append(share)
    app.router.add_get("/", page)
    app.router.add_get("/status", page)
    app.router.add_get("/pages/{name}", page)
    app.router.add_get("/favicon.ico", no_icon)
    app.router.add_post("/tickets", tickets)
    app.router.add_get("/streams/{name}", streams)
    app.router.add_delete("/streams/{name}", stop)
    app.router.add_get("/metrics", metrics)
    add_status(app)
    app.router.add_get("/healthz", alive)
    app.router.add_get("/readyz", ready)
    app.router.add_route("*", "/v1/{path:(?s:.*)}", relay)  # as below, and found sooner
    app.router.add_route("*", "/{path:(?s:.*)}", relay)
    return app


async def page(request: web.Request) -> web.Response:
    """Return the typewriter page, the status page, or a part of them."""
    name = request.match_info.get("name") or _SHELLS[request.path]
    kind = _TYPES.get(name.rpartition(".")[2])
    file = _PAGES / name
    if kind is None or "/" in name or not file.is_file():
        raise Failure("not_found", f"there is no {request.path}")
    body = file.read_bytes()
    tag = sha256(body).hexdigest()[:16]
    known = [etag.value for etag in request.if_none_match or ()]
    if tag in known:
        response = web.Response(status=304, headers=_PAGE_HEADERS)
    else:
        response = web.Response(
            body=body, content_type=kind, charset="utf-8", headers=_PAGE_HEADERS
        )
    response.etag = tag
    return response


async def no_icon(_: web.Request) -> web.Response:
    """Spare the log of a browser that asks for an icon."""
    return web.Response(status=204)


async def tickets(request: web.Request) -> web.Response:
    """Issue a ticket for an EventSource of this caller."""
    gateway = request.app[GATEWAY]
    ticket = gateway.tickets.issue(request[CALLER], gateway.clock.now())
    return web.json_response({"ticket": ticket}, headers={"Cache-Control": "no-store"})


async def metrics(request: web.Request) -> web.Response:
    """Return the metrics for Prometheus."""
    body, kind = request.app[GATEWAY].metrics.expose()
    return web.Response(body=body, headers={"Content-Type": kind})


async def alive(_: web.Request) -> web.Response:
    """Say that the relay is alive."""
    return web.json_response({"status": "ok"})


async def ready(request: web.Request) -> web.Response:
    """Say whether new requests are welcome."""
    gateway = request.app[GATEWAY]
    if gateway.draining:
        return web.json_response({"status": "draining"}, status=503)
    if not gateway.usable:
        return web.json_response({"status": "no way to any upstream"}, status=503)
    return web.json_response({"status": "ok"})


async def relay(request: web.Request) -> web.StreamResponse:
    """Relay `/chat` and `/v1/…`, with or without a prefix."""
    gateway = request.app[GATEWAY]
    if request.method == "TRACE":
        raise Failure("method_not_allowed", "TRACE goes nowhere: its answer would show the keys")
    path, _, query = _raw_target(request).partition("?")
    place = routes.place(path, gateway.prefixes)
    if place.door == "chat":
        return await _chat(request, place)
    return await _v1(request, gateway, await _incoming(request, gateway, place, query))


async def _incoming(request: web.Request, gateway: Gateway, place: Place, query: str) -> Incoming:
    upload = _upload(request, gateway)
    body = await upload.read() if _may_be_json(request) else upload
    headers = list(request.headers.items())
    return Incoming(request.method, place, query, headers, body)


def _upload(request: web.Request, gateway: Gateway) -> Upload:
    """Return the request's body, not read yet; raises Failure too_large if it says so itself."""
    limits = gateway.settings.limits
    plain = request.headers.get("Content-Encoding", "identity") == "identity"
    return Upload(
        request.content,
        gateway.clock,
        size=request.content_length if plain else None,  # else aiohttp decodes it
        most=limits.body,
        seconds=limits.body_timeout,
    )


def _may_be_json(request: web.Request) -> bool:
    """Tell whether the body has to be looked into, by its type or by what curl and fetch forget."""
    kind = request.content_type
    typed = request.can_read_body and "Content-Type" in request.headers
    return not typed or "json" in kind or kind in _UNLABELLED


def _raw_target(request: web.Request) -> str:
    """Return path and query as they were sent; an absolute-form target without its origin."""
    target = request.raw_path
    if target.startswith("/"):
        return target
    _, _, rest = target.partition("://")
    return "/" + rest.partition("/")[2]


async def _chat(request: web.Request, place: Place) -> web.StreamResponse:
    gateway = request.app[GATEWAY]
    if request.method not in {"GET", "POST"}:
        raise Failure("method_not_allowed", "/chat takes GET and POST")
    posted = request.method == "POST"
    body = await _upload(request, gateway).read()
    if (last := request.headers.get("Last-Event-ID")) is not None:
        paced = chat.pace_of(body) if posted else request.query
        return await resume(request, ids.parse(last), "chat", paced)
    ask = chat.from_json(body) if posted else chat.from_query(request.query)
    pace = gateway.chat_pace(ask.pace, ask.delay_ms)
    caller = request[CALLER]
    await gateway.admit(caller, ask.model or gateway.settings.chat.model)
    incoming = Incoming(request.method, place, "", list(request.headers.items()), body)
    stream = gateway.chat(request[NAME], caller, incoming, ask)
    del incoming, ask, body  # a stream may be held for long, and the prompt be large
    await until_ready(request, stream)
    view, reader = ChatView(stream.name), stream.replay.reader()
    response = event_stream(request, stream.name, stream.server)
    outlet = outlet_of(gateway, reader, view, pace)
    outlet.send(view.start(stream.summary.model))
    return await serve(request, response, outlet, leaving(request, stream, reader))


async def _models(request: web.Request, sources: list[Source]) -> web.Response:
    listed, told = await union(sources, request.app[GATEWAY].clock)
    headers = {
        "Teleprinter-Request-Id": request[NOTE]["id"],
        "Teleprinter-Upstream": ", ".join(told),
    }
    return web.Response(body=listed, content_type="application/json", headers=headers)


async def _v1(request: web.Request, gateway: Gateway, incoming: Incoming) -> web.StreamResponse:
    pace = chat.pacing_of_headers(request.headers)
    keep = chat.keeping(request.headers.get("Teleprinter-Keep"), "Teleprinter-Keep")
    caller = request[CALLER]
    if isinstance(incoming.body, Upload):
        caller.grant.check_unseen()
        glance = Glance()
    else:
        glance = chat.glance(incoming.body)
    await gateway.admit(caller, glance.named)
    if incoming.method == "GET" and incoming.place.rest == "models":
        sources = gateway.sources(caller, incoming)
        if len(sources) > 1:
            return await _models(request, sources)
    stream = gateway.v1(request[NAME], caller, incoming, glance, keep)
    del incoming, glance  # a stream may be held for long, and the prompt be large
    await until_ready(request, stream)
    answer = stream.answer
    if answer is not None and not stream.framed:
        return await serve_plain(request, stream, answer)
    reader = stream.replay.reader()
    response = event_stream(request, stream.name, stream.server)
    if answer is not None:
        response.set_status(answer.status, answer.reason)
        hand_on(response, answer)
    view = raw_view(stream.replay, stream.dialect, stream.hides_usage)
    outlet = outlet_of(gateway, reader, view, pace or gateway.pace_of(stream))
    if not stream.began and stream.replay.ending is None:
        outlet.beat()
    return await serve(request, response, outlet, leaving(request, stream, reader))
