"""What an upstream's answer to `GET /models` says of its URL, its key, and its health."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

import msgspec

from service.core.doctor.findings import Result, Step

_REDIRECT: Final = "write the address that it redirects to into the url"
_BUSY: Final = "the key works, but its rate or its quota is used up"
_BROKEN: Final = "the upstream itself fails, or the proxy in its name: try later, or another way"
PERHAPS: Final = "it may have no /models: --stream asks it for an answer instead"
NO_BASE: Final = "the url is not the base of an API: correct it"
_ELSEWHERE: Final = (
    "the upstream does not serve the place where this way ends: use a proxy elsewhere"
)
KEY: Final = "correct TELEPRINTER_UPSTREAM_KEY, or the key of this [[upstream]]"
_PLACE: Final = ("country", "region", "territory")
_ID: Final = re.compile(rb'"id"\s*:\s*"([^"\\]{1,200})"')
_WORDS: Final = 160


def other_base(url: str) -> str:
    """Return the base URL with /v1 if it has none, without it if it has."""
    return url.removesuffix("/v1") if url.endswith("/v1") else f"{url}/v1"


def of_models(status: int, kind: str, *, keyed: bool, words: str = "") -> Step:
    """Return the step `models`; `kind`: list, json, html or other; `keyed`: a key was sent.

    `words`: what the upstream said, without secrets.
    """
    if status == 200 and kind == "list":  # noqa: PLR2004
        return Step("models", "ok", said="200, a list of models")
    if status in {401, 403}:
        return _unauthorized(status, words, keyed=keyed)
    result, cure = _rule(status, kind)
    what = {"html": "a page", "json": words or "JSON"}.get(kind, "no JSON")
    return Step("models", result, said=f"{status}, {what}", cure=cure)


def _rule(status: int, kind: str) -> tuple[Result, str]:
    if 300 <= status < 400:  # noqa: PLR2004
        return "failed", _REDIRECT
    if status == 429:  # noqa: PLR2004
        return "warning", _BUSY
    if status >= 500:  # noqa: PLR2004
        return "failed", _BROKEN
    if kind == "json" and status >= 400:  # noqa: PLR2004
        return "warning", PERHAPS
    return "failed", NO_BASE


def _unauthorized(status: int, words: str, *, keyed: bool) -> Step:
    if any(word in words.lower() for word in _PLACE):
        return Step("models", "failed", said=f"{status}: not served there", cure=_ELSEWHERE)
    if not keyed:
        said = f"{status}: it wants a key, and the settings have none: each client brings its own"
        return Step("models", "ok", said=said)
    return Step("models", "failed", said=f"{status}: the key is not accepted", cure=KEY)


def kind_of(content_type: str, body: bytes) -> str:
    """Return what a body is: list (of models), json, html or other; its end may be cut off."""
    if content_type == "text/html" or body.lstrip()[:1] == b"<":
        return "html"
    try:
        whole = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        long_list = body.lstrip().startswith(b"{") and b'"data"' in body and b'"id"' in body
        return "list" if long_list else "other"
    listed = isinstance(whole, dict) and isinstance(whole.get("data"), list)
    return "list" if listed else "json"


def words_of(body: bytes, secrets: Sequence[str]) -> str:
    """Return the sentence in an API's error, in one short line without any of the secrets."""
    try:
        said: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    while isinstance(said, dict):
        said = next((said[n] for n in ("error", "message", "detail") if said.get(n)), "")
    text = said if isinstance(said, str) else ""
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return "".join(c if c.isprintable() else " " for c in text)[:_WORDS].strip()


def model_for(default: str, globs: Sequence[str], body: bytes) -> str:
    """Return a model to ask: the default if it may be, else one that is named, else one listed."""
    listed = [found.decode(errors="replace") for found in _ID.findall(body)]
    fitting = [name for name in listed if any(fnmatchcase(name, glob) for glob in globs)]
    if any(fnmatchcase(default, glob) for glob in globs) and (not listed or default in listed):
        return default
    named = [glob for glob in globs if not any(c in glob for c in "*?[")]
    return next(iter([*named, *fitting]), default)
