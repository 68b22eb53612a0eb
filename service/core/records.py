"""A kept stream as entries of a log that several instances share, such as a Redis Stream.

    entry    id                 fields
    opening  0-1                o: who writes, whose it is, what a reader must know
    frames   NUMBER-0           NUMBER: bytes, NUMBER + 1: bytes, …
    ending   NUMBER-0           e: outcome, summary, failure

An entry has the number of its first frame, so that its id and its length say what the next id must
be: of two that write after the same entry, the second is refused, and a missing entry is noticed.
"""

from collections.abc import Mapping
from hmac import compare_digest
from typing import Any, Final, Literal, NamedTuple

import msgspec

from service.core.dialect import Dialect, for_path
from service.core.events import Ending, Frame, Outcome, Summary
from service.errors import CODES, Failure

OPENING_ID: Final = "0-1"
_OPENING: Final = b"o"
_ENDING: Final = b"e"


Door = Literal["chat", "v1"]


class Facts(msgspec.Struct, frozen=True):
    """What has to be known of a stream to render its frames.

    `path`, `api`: of the request below `/v1/` and of its upstream, which name the dialect.
    `hides_usage`: the relay asked for the usage, not the client; `door`: where it was asked for;
    `ticket`: digest of the one that has started it, so that any instance knows it again.
    """

    path: str = "chat/completions"
    api: str = "openai"
    model: str | None = None
    upstream: str | None = None
    hides_usage: bool = False
    door: Door = "chat"
    ticket: bytes | None = None

    def dialect(self) -> Dialect:
        """Return a reader for the frames, from the first one on."""
        return for_path(self.path, self.api)

    def begun_by(self, ticket: bytes) -> bool:
        """Tell whether a ticket of this digest has started it."""
        return self.ticket is not None and compare_digest(self.ticket, ticket)


class Opening(msgspec.Struct, frozen=True):
    """How a stream begins: the instance that writes, the identity of the caller that it is of."""

    writer: str
    owner: str
    facts: Facts


class _Fault(msgspec.Struct):
    code: str
    message: str
    stage: str
    status: int
    retryable: bool
    retry_after: float | None


class _Ending(msgspec.Struct):
    number: int
    outcome: Outcome
    summary: Summary
    fault: _Fault | None
    said: bool


class Entry(NamedTuple):
    """What an entry holds: bytes of frames from `number` on, or the ending."""

    number: int
    raws: list[bytes]
    ending: Ending | None = None


Fields = list[tuple[bytes, bytes]]

_encode = msgspec.json.Encoder().encode
_opening = msgspec.json.Decoder(Opening).decode
_ending = msgspec.json.Decoder(_Ending).decode


def entry_id(number: int) -> str:
    """Return the id of the entry whose first frame has this number."""
    return f"{number}-0"


def opening_fields(opening: Opening) -> Fields:
    """Return the fields of the first entry."""
    return [(_OPENING, _encode(opening))]


def frame_fields(frames: list[Frame]) -> Fields:
    """Return the fields of an entry of frames."""
    return [(b"%d" % frame.number, frame.raw) for frame in frames]


def ending_fields(ending: Ending) -> Fields:
    """Return the fields of the last entry."""
    fault = None
    if (failure := ending.failure) is not None:
        fault = _Fault(*(getattr(failure, name) for name in _Fault.__struct_fields__))
    return [
        (
            _ENDING,
            _encode(_Ending(ending.number, ending.outcome, ending.summary, fault, ending.said)),
        )
    ]


def read_opening(fields: Mapping[bytes, bytes]) -> Opening:
    """Read a first entry; raises ValueError if it is none."""
    return _opening(fields.get(_OPENING, b""))


def is_ending(fields: Mapping[bytes, bytes]) -> bool:
    """Tell whether an entry is the last one."""
    return _ENDING in fields


def read_entry(entry_id: bytes, fields: Mapping[bytes, bytes]) -> Entry:
    """Read any other entry; raises ValueError if it is none."""
    number = int(entry_id.partition(b"-")[0])
    if (text := fields.get(_ENDING)) is None:
        return Entry(number, list(fields.values()))
    told = _ending(text)
    failure = None
    if told.fault is not None:
        if told.fault.code not in CODES:  # that of a newer relay
            raise ValueError("no such code")
        rest: dict[str, Any] = msgspec.structs.asdict(told.fault)
        failure = Failure(rest.pop("code"), rest.pop("message"), **rest)
    return Entry(number, [], Ending(told.number, told.outcome, told.summary, failure, told.said))
