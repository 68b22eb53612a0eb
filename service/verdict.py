"""What the head of an upstream's answer means for the stream that waits for it."""

import json
from http import HTTPStatus
from typing import Any, Final

import msgspec

from service.adapters.upstream import Answer, Order
from service.core import retry, routes
from service.core.dialect.base import NO_JSON
from service.errors import Failure

_OK: Final = int(HTTPStatus.OK)
_MULTIPLE_CHOICES: Final = int(HTTPStatus.MULTIPLE_CHOICES)
_ANSWERS: Final = ("audio/", "image/", "video/")
_BODILESS: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT})
"""By 204 an EventSource is told not to come back, whatever Content-Type stands there (WHATWG)."""

_KEY: Final = "set TELEPRINTER_UPSTREAM_KEY, or `key` of its [[upstream]]"


def succeeded(answer: Answer) -> bool:
    """Tell whether the upstream did what it was asked."""
    return _OK <= answer.status < _MULTIPLE_CHOICES


def streams(answer: Answer) -> bool:
    """Tell whether the body is an event stream."""
    if answer.status in _BODILESS:
        return False
    return succeeded(answer) and answer.content_type == "text/event-stream"


def refused(answer: Answer, order: Order) -> Failure:
    """Return the failure that a status stands for, before its body is read."""
    text = f"the upstream {order.origin} answered {answer.status} {answer.reason or ''}".rstrip()
    if answer.status == HTTPStatus.UNAUTHORIZED and not _is_keyed(order):
        text += f" to a request without a key ({_KEY})"
    if answer.status < HTTPStatus.BAD_REQUEST:
        text += " where an event stream was due"
        return Failure("upstream_malformed", text, stage="headers")
    told = {name.lower(): value for name, value in answer.headers}.get("x-should-retry")
    again = answer.status in retry.STATUSES or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return Failure(
        "upstream_error",
        text,
        stage="headers",
        status=answer.status,
        retryable=again and told != "false",
        retry_after=retry.retry_after(answer.headers),
    )


def _is_keyed(order: Order) -> bool:
    """Tell whether a key goes upstream with it, the relay's or the client's own."""
    return not routes.CREDENTIALS.isdisjoint(name.lower() for name, _ in order.headers)


async def in_its_words(failure: Failure, answer: Answer) -> Failure:
    """Add what the body says to the failure, as far as it is an API's error."""
    if failure.code == "upstream_error" and (said := _words_of(await answer.excerpt())):
        failure.message = f"{failure.message}: {said}"
    return failure


def no_stream(answer: Answer, order: Order) -> Failure | None:
    """Return the failure of a page, for one, where a stream was asked for; None for an answer."""
    kind = answer.content_type
    if "json" in kind or kind.startswith(_ANSWERS):
        return None
    text = (
        f"the upstream {order.origin} answered a request for a stream with {kind}:"
        " is its URL right, with /v1 at its end if it needs one?"
    )
    return Failure("upstream_malformed", text, stage="headers")


def page(answer: Answer, order: Order) -> Failure | None:
    """Return the failure of a page where JSON was due; None for anything else."""
    if answer.content_type != "text/html":
        return None
    text = f"the upstream {order.origin} answered with a page: is its URL right?"
    return Failure("upstream_malformed", text, stage="headers")


def torn(answer: Answer, body: bytes) -> bool:
    """Tell whether a whole body that calls itself JSON is none."""
    if "json" not in answer.content_type:
        return False
    try:
        msgspec.json.decode(body)
    except NO_JSON:
        return not _readable(body)
    return False


def _readable(body: bytes) -> bool:
    """Tell whether it is JSON to those who let more pass: NaN, a byte order mark."""
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def void(order: Order, stage: str) -> Failure:
    """Return the failure of an answer in which there is nothing."""
    text = f"the upstream {order.origin} ended its answer as if it were complete, and it is not"
    return Failure("upstream_malformed", text, stage=stage)


def said(error: Any, order: Order, stage: str) -> Failure:
    """Return the failure that an error in the stream stands for."""
    text = f"the upstream {order.origin} said: {_words(error)}"
    status = retry.status_of(error)
    return Failure("upstream_error", text, stage=stage, status=status, retryable=status is not None)


def _words_of(body: bytes) -> str:
    try:
        error = msgspec.json.decode(body)
    except NO_JSON:
        return ""
    return _words(error) if isinstance(error, dict) else ""


def _words(error: Any) -> str:
    """Return the sentence in an API's error object, whatever its form."""
    while isinstance(error, dict):
        error = next(
            (error[name] for name in ("error", "message", "detail") if error.get(name)), ""
        )
    return error if isinstance(error, str) else msgspec.json.encode(error).decode()
