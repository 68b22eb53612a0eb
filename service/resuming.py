"""Streams that are kept: read again from any event on, or stopped.

    Last-Event-ID ─▶ ids.parse ─▶ store.find ─▶ Log.reader(after) ─▶ view.after ─▶ serve

The upstream is never asked again. What was missed is sent at once, what follows at its pace.
"""

from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from service.adapters.replay.log import Log
from service.adapters.replay.unkept import Replay
from service.boundary import CALLER, GATEWAY, NOTE
from service.core import chat, ids
from service.core.dialect import Dialect
from service.core.events import Outcome
from service.core.ids import Id
from service.core.records import Door
from service.core.view import ChatView, RawView
from service.errors import Failure
from service.responses import event_stream, outlet_of, serve

_AS: Final[Mapping[str, Door]] = {"chat": "chat", "openai": "v1"}
_BEGINNING: Final = -1


async def streams(request: web.Request) -> web.StreamResponse:
    """Replay a kept stream after an event, or from its beginning, then go on live."""
    name = request.match_info["name"]
    last = request.headers.get("Last-Event-ID", request.query.get("after"))
    position = ids.parse(last) if last else Id(name, _BEGINNING)
    if position.stream != name:
        raise Failure("bad_request", f"{last!r:.80} is no event of the stream {name!r:.80}")
    wanted = request.query.get("as")
    if wanted is not None and wanted not in _AS:
        raise Failure("bad_request", f"as must be chat or openai, not {wanted!r:.60}")
    door = _AS[wanted] if wanted is not None else None
    return await resume(request, position, door, request.query)


async def stop(request: web.Request) -> web.Response:
    """End a stream of this caller's."""
    await request.app[GATEWAY].stop(request.match_info["name"], request[CALLER])
    return web.Response(status=204)


async def resume(
    request: web.Request, position: Id, door: Door | None, paced: Mapping[str, Any]
) -> web.StreamResponse:
    """Go on with a stream behind an event, on this door's wire; None: on that where it began.

    `paced`: pace and delay_ms, as far as they are asked for, of `/chat`.
    Raises Failure bad_request, not_found, stream_gone, resume_lost.
    """
    gateway = request.app[GATEWAY]
    log = await gateway.store.find(position.stream, request[CALLER].name)
    if not position.part and log.over(position.frame):
        return web.Response(status=204)
    chatting = (door or log.facts.door) == "chat"
    view = ChatView(log.name) if chatting else raw_view(log, log.dialect, log.facts.hides_usage)
    asked = paced.get("pace"), chat.whole_delay(paced.get("delay_ms") if chatting else None)
    pace = gateway.chat_pace(*asked) if chatting else chat.pacing_of_headers(request.headers)
    if position.part:
        view.after(position.frame, position.part)
    response = event_stream(request, log.name, log.facts.upstream)
    reader = log.reader(max(position.after, 0))  # what may be refused has been: it counts
    outlet = outlet_of(gateway, reader, view, pace)
    if isinstance(view, ChatView) and position.frame == _BEGINNING:
        outlet.send(view.start(log.facts.model))

    def leave(outcome: Outcome, failure: Failure | None) -> None:
        reader.close()
        request[NOTE].update(stream=log.name, resumed=True, outcome=outcome)
        if failure is not None:
            request[NOTE].update(failure.notes())

    return await serve(request, response, outlet, leave)


def raw_view(replay: Replay | Log, dialect: Dialect, hides_usage: bool) -> RawView:  # noqa: FBT001
    """Return the view of `/v1`; with ids if the stream can be read again."""
    name = replay.name if isinstance(replay, Log) and replay.kept else None
    return RawView(dialect, name, hide_usage=hides_usage)
