"""Who failed, at which stage, and what may happen next.

    Failure ─┬─ whose: client · proxy · upstream · ours
             ├─ stage: request · dial · headers · first_token · stream
             └─ status, retryable, retry_after

Every failure that a user can meet is one of the codes below. Foreign exceptions are turned into
them at the adapter that met them and nowhere else. A message names the cause as a user would say it
and never carries a secret, a prompt or the query of a URL.
"""

from enum import StrEnum
from typing import Any, NamedTuple


class Whose(StrEnum):
    """The party whose fault it is."""

    CLIENT = "client"
    PROXY = "proxy"
    UPSTREAM = "upstream"
    OURS = "ours"


class Code(NamedTuple):
    """What is always true of an error code."""

    status: int
    whose: Whose
    retryable: bool
    type: str


CODES = {
    "bad_request": Code(400, Whose.CLIENT, retryable=False, type="invalid_request_error"),
    "unauthorized": Code(401, Whose.CLIENT, retryable=False, type="authentication_error"),
    "forbidden": Code(403, Whose.CLIENT, retryable=False, type="permission_error"),
    "not_found": Code(404, Whose.CLIENT, retryable=False, type="not_found_error"),
    "method_not_allowed": Code(405, Whose.CLIENT, retryable=False, type="invalid_request_error"),
    "request_timeout": Code(408, Whose.CLIENT, retryable=True, type="timeout_error"),
    "stream_gone": Code(410, Whose.CLIENT, retryable=False, type="not_found_error"),
    "too_large": Code(413, Whose.CLIENT, retryable=False, type="request_too_large"),
    "rate_limited": Code(429, Whose.CLIENT, retryable=True, type="rate_limit_error"),
    "too_many_streams": Code(429, Whose.CLIENT, retryable=True, type="rate_limit_error"),
    "client_too_slow": Code(408, Whose.CLIENT, retryable=False, type="timeout_error"),
    "wrong_host": Code(421, Whose.CLIENT, retryable=False, type="invalid_request_error"),
    "not_implemented": Code(501, Whose.CLIENT, retryable=False, type="invalid_request_error"),
    "proxy_unreachable": Code(502, Whose.PROXY, retryable=True, type="api_error"),
    "proxy_timeout": Code(504, Whose.PROXY, retryable=True, type="timeout_error"),
    "proxy_refused": Code(502, Whose.PROXY, retryable=False, type="api_error"),
    "proxy_protocol": Code(502, Whose.PROXY, retryable=False, type="api_error"),
    "upstream_unreachable": Code(502, Whose.UPSTREAM, retryable=True, type="api_error"),
    "upstream_tls": Code(502, Whose.UPSTREAM, retryable=False, type="api_error"),
    "upstream_malformed": Code(502, Whose.UPSTREAM, retryable=True, type="api_error"),
    "upstream_cut": Code(502, Whose.UPSTREAM, retryable=True, type="api_error"),
    "upstream_error": Code(502, Whose.UPSTREAM, retryable=False, type="api_error"),
    "upstream_timeout_headers": Code(504, Whose.UPSTREAM, retryable=True, type="timeout_error"),
    "upstream_timeout_first_token": Code(504, Whose.UPSTREAM, retryable=True, type="timeout_error"),
    "upstream_stalled": Code(504, Whose.UPSTREAM, retryable=True, type="timeout_error"),
    "too_long": Code(504, Whose.OURS, retryable=False, type="timeout_error"),
    "no_proxy": Code(503, Whose.OURS, retryable=True, type="overloaded_error"),
    "draining": Code(503, Whose.OURS, retryable=True, type="overloaded_error"),
    "resume_lost": Code(503, Whose.OURS, retryable=True, type="api_error"),
    "stopped": Code(503, Whose.OURS, retryable=False, type="api_error"),
    "internal": Code(500, Whose.OURS, retryable=True, type="api_error"),
}


class Failure(Exception):  # noqa: N818  a noun of the domain, raised and also sent
    """A failure with one of the CODES; `status` is the HTTP status when nothing was sent yet.

    `note`: what may be said beside the message.
    """

    def __init__(  # noqa: PLR0913  what may differ from the code's rule
        self,
        code: str,
        message: str,
        *,
        stage: str = "request",
        status: int | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.note = ""
        rule = CODES[code]
        self.code = code
        self.message = message
        self.stage = stage
        self.status = rule.status if status is None else status
        self.retryable = rule.retryable if retryable is None else retryable
        self.retry_after = retry_after
        self.whose = rule.whose
        self.type = rule.type

    def fields(self) -> dict[str, Any]:
        """Return what a client is told, as JSON fields."""
        return {
            "message": f"{self.message} ({self.note})" if self.note else self.message,
            "type": self.type,
            "code": self.code,
            "stage": self.stage,
            "retryable": self.retryable,
        }

    def notes(self) -> dict[str, Any]:
        """Return what the log is told: no words that a client or an upstream may have chosen."""
        if self.code == "upstream_error":
            return {"error": self.code, "upstream_status": self.status}
        told = {} if self.code == "bad_request" else {"message": self.message}
        return {"error": self.code, **told}

    def __repr__(self) -> str:
        return f"Failure({self.code}, {self.stage}: {self.message})"
