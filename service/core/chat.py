"""What a request asks: of `/chat`, and what can be told of a `/v1` body without changing it."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from service.errors import Failure

TYPEWRITER_MS = 50
"""Milliseconds between tokens where the typewriter is asked for and nobody said how slow."""
_LONGEST_DELAY_MS = 60_000
_LONGEST_KEEP = 3600
_SECONDS = re.compile(r"[0-9]{1,4}(\.[0-9]{1,3})?")
_DIGITS = re.compile(r"[0-9]{1,9}")
_EXCERPT = 60  # characters of a wrong value that a message repeats
_PACES = ("off", "smooth", "typewriter")
_NO_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_OWN = frozenset({"question", "pace", "delay_ms", "keep", "ticket", "stream"})


class Pacing(NamedTuple):
    """The pace of one response; `delay` in seconds."""

    name: str
    delay: float


class Ask(NamedTuple):
    """A chat completion to ask for: the upstream's request body, and what is the relay's own."""

    body: dict[str, Any]
    pace: str | None
    delay_ms: int | None
    keep: float | None

    def payload(self, model: str) -> bytes:
        """Return the body as JSON, for this model unless it names its own."""
        return msgspec.json.encode({**self.body, "model": self.model or model, "stream": True})

    @property
    def model(self) -> str | None:
        """The model that was asked for."""
        return self.body.get("model")


def from_query(query: Mapping[str, str]) -> Ask:
    """Read `GET /chat?question=…`; raises Failure bad_request."""
    body: dict[str, Any] = {"messages": _messages(query.get("question"))}
    if model := query.get("model"):
        body["model"] = model
    return Ask(
        body, query.get("pace"), whole_delay(query.get("delay_ms")), keeping(query.get("keep"))
    )


def from_json(data: bytes) -> Ask:
    """Read the body of `POST /chat`; raises Failure bad_request."""
    try:
        asked = msgspec.json.decode(data)
    except _NO_JSON as error:
        raise _bad(f"the body is not JSON: {error}") from None
    if not isinstance(asked, dict):
        raise _bad('the body must be a JSON object such as {"question": "…"}')
    body = {name: value for name, value in asked.items() if name not in _OWN}
    if "question" in asked or "messages" not in asked:
        if "messages" in asked:
            raise _bad("the body has both question and messages: send one of them")
        body["messages"] = _messages(asked.get("question"))
    if not isinstance(body["messages"], list) or not body["messages"]:
        raise _bad("messages must be a list with at least one message")
    if not isinstance(body.get("model"), str | None):
        raise _bad("model must be a text")
    if body.get("n") not in (1, None):  # no set: it may be a list
        raise _bad("n must be 1: an event stream has one answer")
    pace = asked.get("pace")
    if pace is not None and not isinstance(pace, str):
        raise _bad(f"pace must be one of {', '.join(_PACES)}")
    return Ask(body, pace, whole_delay(asked.get("delay_ms")), keeping(asked.get("keep")))


def _messages(question: Any) -> list[dict[str, str]]:
    if not isinstance(question, str) or not question.strip():
        raise _bad('there is no question: send question=… or the JSON {"question": "…"}')
    return [{"role": "user", "content": question}]


def whole_delay(value: Any, name: str = "delay_ms") -> int | None:
    """Return a delay in milliseconds, None if there is none; raises Failure bad_request."""
    if value is None:
        return None
    number = int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else value
    if type(number) is not int or not 0 <= number <= _LONGEST_DELAY_MS:
        wrong = repr(value)[:_EXCERPT]
        raise _bad(f"{name} must be a whole number from 0 to {_LONGEST_DELAY_MS}, not {wrong}")
    return number


def keeping(value: Any, name: str = "keep") -> float | None:
    """Return for how many seconds a stream is to be kept, None if nobody said so."""
    if value is None:
        return None
    number = float(value) if isinstance(value, str) and _SECONDS.fullmatch(value) else value
    if type(number) not in {int, float} or not 0 <= number <= _LONGEST_KEEP:
        wrong = repr(value)[:_EXCERPT]
        raise _bad(f"{name} must be seconds from 0 to {_LONGEST_KEEP}, not {wrong}")
    return float(number)


def pacing(
    pace: str | None,
    delay_ms: int | None,
    default: Pacing,
    names: tuple[str, str] = ("pace", "delay_ms"),
) -> Pacing:
    """Return the pace that was asked for, else the default; raises Failure bad_request.

    `names`: what pace and delay are called where they were asked for.
    """
    if pace is not None and pace not in _PACES:
        wrong = repr(pace)[:_EXCERPT]
        raise _bad(f"{names[0]} must be one of {', '.join(_PACES)}, not {wrong}")
    if delay_ms and pace not in {None, "typewriter"}:
        raise _bad(f"{names[1]} needs the {names[0]} typewriter, not {pace}")
    name = pace or ("typewriter" if delay_ms else default.name)
    if delay_ms == 0 and pace != "smooth":
        name = "off"
    if name != "typewriter":
        return Pacing(name, 0)
    seconds = delay_ms / 1000 if delay_ms else default.delay
    return Pacing(name, seconds or TYPEWRITER_MS / 1000)


def pacing_of_headers(headers: Mapping[str, str]) -> Pacing | None:
    """Return what Teleprinter-Pace and Teleprinter-Delay ask for, None if there is neither.

    Raises Failure bad_request.
    """
    names = "Teleprinter-Pace", "Teleprinter-Delay"
    pace, delay = headers.get(names[0]), headers.get(names[1])
    if pace is None and delay is None:
        return None
    return pacing(pace, whole_delay(delay, names[1]), Pacing("off", 0), names)


class Glance(msgspec.Struct):
    """What routing needs to know of a JSON body."""

    model: Any = None
    stream: Any = None
    background: Any = None

    @property
    def named(self) -> str | None:
        """The model, if it is named by a text."""
        return self.model if isinstance(self.model, str) else None


_glance = msgspec.json.Decoder(Glance).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def glance(data: bytes) -> Glance:
    """Look into a body that may be JSON; anything else names no model and asks for no stream."""
    if data.lstrip()[:1] != b"{":
        return Glance()
    try:
        return _glance(data)
    except _NO_JSON:
        return Glance()


def pace_of(data: bytes) -> Mapping[str, Any]:
    """Return the members pace and delay_ms of a JSON body, as far as there are any."""
    try:
        found = _members(data)
    except _NO_JSON:
        return {}
    return {
        name: msgspec.json.decode(found[name]) for name in ("pace", "delay_ms") if name in found
    }


def renamed(data: bytes, model: str) -> bytes:
    """Return a JSON body that asks for this model; all else in it stays as it was written."""
    try:
        body = _members(data)
    except _NO_JSON:
        return data
    body["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(body)


def counted(data: bytes) -> tuple[bytes, bool]:
    """Return the request's body so that the upstream tells the usage, and whether it had to change.

    OpenAI API: `stream_options.include_usage` gives one chunk more, with the usage and no choices.
    """
    try:
        body = msgspec.json.decode(data)
    except _NO_JSON:
        return data, False
    options = (body.get("stream_options") or {}) if isinstance(body, dict) else None
    if not isinstance(options, dict) or options.get("include_usage"):
        return data, False
    body["stream_options"] = {**options, "include_usage": True}
    return msgspec.json.encode(body), True


def _bad(message: str) -> Failure:
    return Failure("bad_request", message)
