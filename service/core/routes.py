"""Path and model of a request to the upstream that answers it; the headers that go either way."""

import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from operator import itemgetter
from typing import Final, NamedTuple, Protocol, TypeVar

from service.errors import Failure


class Target(Protocol):
    """What routing needs to know of an upstream."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def prefix(self) -> str: ...  # noqa: D102

    @property
    def models(self) -> Sequence[str]: ...  # noqa: D102


T = TypeVar("T", bound=Target)


NOTHING_HERE: Final = (
    "there is nothing here: the page is at /, the event stream at /chat, the API below /v1"
)
_SLASH: Final = r"/|\\|%2f|%5c"
"""What a server may take for a slash, a browser's URL parser too."""
_DOTS: Final = re.compile(rf"(?:^|{_SLASH})(?:\.|%2e){{1,2}}(?:;|%3b|{_SLASH}|\Z)", re.IGNORECASE)
"""A segment that leads to itself or upwards; a server may pass over its parameters."""


class Place(NamedTuple):
    """A path, taken apart: `/tokyo/v1/chat/completions` is (`/tokyo`, `v1`, `chat/completions`)."""

    prefix: str
    door: str
    rest: str


def ranked(prefixes: Iterable[str]) -> Sequence[str]:
    """Return the prefixes as `place` takes them: the longest first, and the empty one last."""
    return sorted({*prefixes, ""}, key=len, reverse=True)


def place(path: str, prefixes: Sequence[str]) -> Place:
    """Take a raw path without its query apart; raises Failure not_found, bad_request.

    `prefixes` as `ranked` returns them: the first one that fits is taken.
    """
    if ("." in path or "%" in path) and _DOTS.search(path):
        raise Failure("bad_request", "the path has a dot segment: send the path that you mean")
    longest = ""
    for prefix in prefixes:
        if not path.startswith(f"{prefix}/"):
            continue
        longest = longest or prefix
        door, slash, rest = path[len(prefix) + 1 :].partition("/")
        if door == "chat" and not slash:
            return Place(prefix, "chat", "")
        if door == "v1" and rest:
            return Place(prefix, "v1", rest)
    raise Failure("not_found", _whereabouts(path, longest))


def _whereabouts(path: str, prefix: str) -> str:
    known = re.search(
        r"/(chat/completions|completions|embeddings|models|responses|messages|files|audio/\w+|images/\w+)/?$",
        path,
    )
    if known:
        right = f"{prefix}/v1{known.group()}"
        return f"there is nothing at {path}: the API is below {prefix}/v1, so ask for {right}"
    return NOTHING_HERE


def choose(upstreams: Sequence[T], prefix: str, model: str | None) -> T:
    """Return the first upstream whose prefix and models fit; raises Failure not_found."""
    for upstream in upstreams:
        globs = upstream.models
        if upstream.prefix == prefix and (
            model is None or "*" in globs or any(fnmatchcase(model, glob) for glob in globs)
        ):
            return upstream
    fitting = [upstream for upstream in upstreams if upstream.prefix == prefix]
    if not fitting:
        raise Failure("not_found", f"no upstream has the prefix {prefix or '/'}")
    served = ", ".join(sorted({glob for upstream in fitting for glob in upstream.models}))
    raise Failure("not_found", f"no upstream here serves the model {model!r}: there is {served}")


HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""RFC 9110, section 7.6.1, and what older proxies send."""

_NOT_UP = HOP_BY_HOP | {
    "host",
    "content-length",
    "accept-encoding",  # compressed streams come in lumps
    "expect",
    "forwarded",
    "x-forwarded",
    "x-original-forwarded-for",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-originating-ip",
    "x-remote-addr",
    "x-remote-ip",
    "x-envoy-external-address",
    "x-azure-clientip",
    "client-ip",
    "true-client-ip",
    "fastly-client-ip",
    "fly-client-ip",
    "via",
    "cookie",
    "cookie2",
    "origin",
    "referer",
    "last-event-id",
}
_NOT_UP_PREFIXES = ("x-forwarded-", "cf-", "sec-", "teleprinter-")

_NOT_DOWN = HOP_BY_HOP | {
    "set-cookie",
    "set-cookie2",
    "strict-transport-security",
    "alt-svc",
}

_NOT_DOWN_PREFIXES = ("access-control-", "teleprinter-")

_DECODED = frozenset({"gzip", "deflate", "br", "zstd"})
"""The codings of a body that aiohttp decodes on the way in."""

Headers = list[tuple[str, str]]

CREDENTIALS = frozenset({"authorization", "x-api-key", "api-key"})
"""The headers in which the APIs look for a key."""


def credentials(api: str, key: str) -> Headers:
    """Return how an upstream of this kind is shown its key.

    OpenAI: Authorization. Azure: `api-key`. Anthropic: `x-api-key`, and Authorization for the
    paths that it has in OpenAI's form.
    """
    bearer = ("Authorization", f"Bearer {key}")
    if api == "azure":
        return [("api-key", key)]
    return [("x-api-key", key), bearer] if api == "anthropic" else [bearer]


def upstream_headers(headers: Iterable[tuple[str, str]], without: Iterable[str] = ()) -> Headers:
    """Return what of a client's headers goes to the upstream: nothing that tells who it is."""
    return _onward(list(headers), {*map(str.lower, without)}, _stays_here)


def client_headers(headers: Iterable[tuple[str, str]]) -> Headers:
    """Return what of an upstream's headers goes to the client."""
    return _onward(list(headers), set(), _stays_there)


@lru_cache(maxsize=256)  # asked of every header of every request, mostly the same
def _stays_here(name: str) -> bool:
    return name in _NOT_UP or name.startswith(_NOT_UP_PREFIXES)


@lru_cache(maxsize=256)
def _stays_there(name: str) -> bool:
    return name in _NOT_DOWN or name.startswith(_NOT_DOWN_PREFIXES)


def _onward(headers: Headers, barred: set[str], stays: Callable[[str], bool]) -> Headers:
    """Return the headers that are for the next hop too, and that hold of a body as decoded."""
    names = [*map(str.lower, map(itemgetter(0), headers))]
    if "connection" in names:
        barred = barred | _named(headers)
    kept = [
        pair
        for low, pair in zip(names, headers, strict=True)
        if not stays(low) and low not in barred
    ]
    if "content-encoding" in names:
        kept = [pair for pair in kept if not _is_decoded(*pair)]
    return kept


def _is_decoded(name: str, value: str) -> bool:
    return name.lower() == "content-encoding" and value.lower() in _DECODED


def _named(headers: Iterable[tuple[str, str]]) -> set[str]:
    """Return the headers that `Connection` names as meant for this hop alone."""
    return {
        token.strip().lower()
        for name, value in headers
        if name.lower() == "connection"
        for token in value.split(",")
    }
