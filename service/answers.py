"""An answer that is no event stream, as an HTTP response: as the upstream sent it.

A small one that is here to its end goes out with its head in one write; any other by an outlet.
"""

from typing import Final

from aiohttp import web

from service.adapters.outlet import Reader
from service.adapters.upstream import Answer
from service.boundary import GATEWAY, NOTE
from service.core.view import PlainView
from service.relay import Stream
from service.responses import Leave, begin, hand_on, leaving, outlet_of, serve

_SMALL: Final = 8 * 1024
"""Bytes of a body that have room, with their head, where nothing else waits: no write has to."""


async def serve_plain(request: web.Request, stream: Stream, answer: Answer) -> web.StreamResponse:
    """Write an answer that is no event stream; a small one that is here to its end, at once."""
    reader = stream.replay.reader()
    leave = leaving(request, stream, reader)
    if not _is_whole(request, stream, answer, reader):
        outlet = outlet_of(request.app[GATEWAY], reader, PlainView(), None)
        return await serve(request, plain(request, stream, answer), outlet, leave)
    body = b"".join(frame.raw for frame in reader.take())
    return await _send(request, plain(request, stream, answer, body), leave)


async def _send(
    request: web.Request, response: web.StreamResponse, leave: Leave
) -> web.StreamResponse:
    """Send head and body."""
    try:
        await begin(request, response)
        await response.write_eof()
    except BaseException:
        leave("left", None)
        raise
    leave("ok", None)
    return response


def _is_whole(request: web.Request, stream: Stream, answer: Answer, reader: Reader) -> bool:
    """Tell whether all of a small body is here, and the client's connection has room for it."""
    ending, size, transport = stream.replay.ending, reader.behind, request.transport
    return (
        ending is not None
        and ending.outcome == "ok"
        and 0 < size <= _SMALL
        and size == answer.length
        and transport is not None
        and not transport.get_write_buffer_size()
    )


def plain(
    request: web.Request, stream: Stream, answer: Answer, body: bytes | None = None
) -> web.StreamResponse:
    """Return the head of an answer that is no event stream, as the upstream sent it.

    With its whole `body`, if that is here: then both go out in one write.
    """
    if body is not None:
        response: web.StreamResponse = web.Response(
            status=answer.status, reason=answer.reason, body=body
        )
    else:
        response = web.StreamResponse(status=answer.status, reason=answer.reason)
        if answer.length is not None:
            response.content_length = answer.length
    response.headers["Teleprinter-Request-Id"] = request[NOTE]["id"]
    response.headers["Teleprinter-Upstream"] = stream.summary.upstream or ""
    hand_on(response, answer)
    return response
