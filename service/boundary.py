"""Who may come in, and what leaves when something fails.

    request ─▶ the door (Host, Origin) ─▶ key ─▶ handler ─▶ response
                    └──────────┴───────────┴──▶ Failure ─▶ status and JSON in the API's dialect

Either way a request ends as one line in the log.
"""

import asyncio
import math
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from aiohttp import web

from service.adapters.logs import log
from service.adapters.tracing import Ended
from service.core import dialect
from service.core.access import ANYONE, Caller
from service.core.events import Ending, Summary
from service.core.routes import NOTHING_HERE
from service.errors import Failure
from service.gateway import Gateway

GATEWAY: Final = web.AppKey("gateway", Gateway)
CALLER: Final = web.RequestKey("caller", Caller)
NAME: Final = web.RequestKey("name", str)
"""The name of the stream that the request may begin."""
SUMMARY: Final = web.RequestKey("summary", Summary)
"""What the request's stream came to."""
NOTE: Final = web.RequestKey("note", dict[str, Any])
"""What the request's line in the log will say."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_OPEN: Final = frozenset({"/", "/status", "/favicon.ico", "/healthz", "/readyz"})
"""A browser that opens a page shows no key; the pages hold no data, and what they ask for needs
one."""
_ADMIN: Final = frozenset({"/metrics", "/healthz", "/readyz", "/status.json"})
"""What server.admin answers: an instance's own state, and nothing that costs."""
_EXPOSED: Final = (
    "Teleprinter-Request-Id, Teleprinter-Stream, Teleprinter-Upstream, x-request-id, Retry-After"
)
_PREFLIGHT_AGE: Final = "600"
_SEEN_WITHIN: Final = 0.2
"""Seconds that a client has to read an answer that comes before it has sent all."""


async def share(request: web.Request, response: web.StreamResponse) -> None:
    """Let the page of an allowed origin read the response (Fetch, section 3.3: CORS)."""
    origin = request.headers.get("Origin")
    if origin is not None and origin in request.app[GATEWAY].doors.origins:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = _EXPOSED
        response.headers.add("Vary", "Origin")


def _preflight(request: web.Request) -> web.Response | None:
    """Answer the question of a browser that asks before it sends a request; it shows no key."""
    asked = request.headers.get("Access-Control-Request-Method")
    if request.method != "OPTIONS" or asked is None or "Origin" not in request.headers:
        return None
    response = web.Response(status=204)
    response.headers["Access-Control-Allow-Methods"] = asked
    response.headers["Access-Control-Max-Age"] = _PREFLIGHT_AGE
    if wanted := request.headers.get("Access-Control-Request-Headers"):
        response.headers["Access-Control-Allow-Headers"] = wanted
    return response


@web.middleware
async def boundary(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let in who may come in, turn failures into answers, and write the request's line."""
    gateway = request.app[GATEWAY]
    began = gateway.clock.now()
    request[NAME] = secrets.token_urlsafe(16)
    forwarded = ",".join(request.headers.getall("X-Forwarded-For", ()))
    client = gateway.fronts.client(request.remote or "", forwarded)
    note = request[NOTE] = {"client": client, "id": secrets.token_hex(8), "status": None}
    try:
        response = await _answer(request, handler, gateway)
        note["status"] = response.status
        note.setdefault("outcome", "ok")
        await _leave_packed(request, response)
    except asyncio.CancelledError:
        note.setdefault("outcome", "left")
        raise
    finally:
        seconds = gateway.clock.now() - began
        elapsed = round(seconds * 1000)
        log.info("request", method=request.method, path=request.path, duration_ms=elapsed, **note)
        summary = request.get(SUMMARY) or Summary()
        gateway.traces.request(Ended(request.method, request.headers, note, summary), seconds)
    return response


async def _leave_packed(request: web.Request, response: web.StreamResponse) -> None:
    """Hang up on who still sends a packed body when the answer is there.

    aiohttp reads on for 10 s, so that the client sees the answer, and unpacks all that comes: a
    thousand times of what was sent.
    """
    transport = request.transport
    over = request.content.is_eof() or "Content-Encoding" not in request.headers
    if over or transport is None or transport.is_closing():
        return
    if not response.prepared:
        await response.prepare(request)
    await response.write_eof()
    await asyncio.sleep(_SEEN_WITHIN)
    request.protocol.force_close()


async def _answer(request: web.Request, handler: Handler, gateway: Gateway) -> web.StreamResponse:
    response = await _attempt(request, handler, gateway)
    if not response.prepared:
        if gateway.draining:
            response.force_close()
        response.headers["Teleprinter-Request-Id"] = request[NOTE]["id"]
    return response


async def _attempt(request: web.Request, handler: Handler, gateway: Gateway) -> web.StreamResponse:
    """Return the handler's response, or what its failure comes to."""
    try:
        opened = _is_open(request, gateway)
        _check_door(request, gateway, opened=opened)
        if (preflight := _preflight(request)) is not None:
            return preflight
        request[CALLER] = caller = ANYONE if opened else await _admit(request, gateway)
        request[NOTE]["caller"] = caller.name
        return await handler(request)
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


def _check_door(request: web.Request, gateway: Gateway, *, opened: bool) -> None:
    """Raise Failure if nobody may ask so, or not here."""
    if request.version.major != 1:
        raise Failure("bad_request", "this relay speaks HTTP/1.1", status=505)
    if gateway.admin and request.path not in _ADMIN and _is_admin(request, gateway):
        text = f"server.admin answers {', '.join(sorted(_ADMIN))} only: the rest is at server.port"
        raise Failure("not_found", text)
    headers = request.headers
    link = opened and headers.get("Sec-Fetch-Mode") == "navigate"
    gateway.doors.check(headers, link=link)
    if "websocket" in headers.get("Upgrade", "").lower():
        raise Failure("not_implemented", "this relay speaks no WebSocket: use server-sent events")


def _is_admin(request: web.Request, gateway: Gateway) -> bool:
    """Tell whether the request came in by server.admin."""
    local = request.get_extra_info("sockname")
    if not isinstance(local, tuple):
        return False
    here = {(host, local[1]) for host in (local[0], "0.0.0.0", "::")}  # noqa: S104  compared only
    return not here.isdisjoint(gateway.admin)


def _ticket(request: web.Request) -> str | None:
    """Return the ticket of an EventSource, which can send no header."""
    asks = request.method == "GET" and request.path.rpartition("/")[2] == "chat"
    return request.query.get("ticket") if asks else None


def _is_open(request: web.Request, gateway: Gateway) -> bool:
    """Tell whether nobody needs a key for it."""
    path = request.path
    if path == "/metrics":
        return gateway.settings.server.metrics_open
    return path in _OPEN or path.startswith("/pages/")


async def _admit(request: web.Request, gateway: Gateway) -> Caller:
    """Return who asks; raises Failure unauthorized, bad_request, resume_lost."""
    ticket = _ticket(request)
    if ticket is not None and gateway.keys:
        last = request.headers.get("Last-Event-ID")
        return await gateway.redeem(ticket, request[NAME], last)
    if not gateway.keys:
        return ANYONE._replace(address=request[NOTE]["client"])
    return gateway.keys.caller(request.headers)


def _translated(error: web.HTTPException) -> Failure:
    code = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}.get(error.status)
    texts = {
        "not_found": NOTHING_HERE,
        "too_large": "the request's body is larger than this relay takes (limits.body)",
        "method_not_allowed": "this path does not take that method",
    }
    return Failure(code or "bad_request", texts.get(code or "", error.reason or "bad request"))


def _note_refusal(request: web.Request, failure: Failure) -> None:
    """Say so in the request's line; count it, unless it had a stream, which counts itself."""
    note = request[NOTE]
    note.update(failure.notes())
    if "stream" not in note:
        note["outcome"] = "refused"
        if "/v1/" in request.path or request.path.endswith("/chat"):
            summary = Summary()
            ending = Ending(1, "refused", summary, failure)
            request.app[GATEWAY].metrics.stream_ended(summary, ending, None)
            request.app[GATEWAY].recent.refused(request.app[GATEWAY].clock.now())


def _refusal(request: web.Request, failure: Failure) -> web.Response:
    """Return a failure as status and JSON, in the dialect of the API that was asked."""
    request.app[GATEWAY].tickets.release(request[NAME])  # there is no stream that has used it
    _note_refusal(request, failure)
    api = dialect.for_path(request.path.rpartition("/v1/")[2])
    response = web.Response(
        status=failure.status,
        body=msgspec.json.encode(api.refusal(failure)),
        content_type="application/json",
    )
    if not failure.retryable:
        response.headers["x-should-retry"] = "false"
    if failure.retry_after is not None:
        response.headers["Retry-After"] = str(math.ceil(failure.retry_after))
    return response
