"""What is wrong with a table, in the words of its fields.

msgspec says "Expected `int` <= 65535 - at `$.port`", a user reads "expected a port from 1 to …".
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple, get_args, get_type_hints

from msgspec import Meta, Struct, ValidationError

from service.core.tables import Rejected

_PLACE: Final = re.compile(r"(?s)(?P<text>.*) - at (?:`key` in )?`\$\.?(?P<path>.*)`")
_PATH: Final = re.compile(r"(\w+)(\[.*\])?\.?(.*)")
_KEY: Final = re.compile(r"(?s)Object (?P<fault>contains|missing) \w+ field `(?P<key>.*)`")


class Fault(NamedTuple):
    """The path of a field in its table, what is wrong with it; a misspelt key has no value."""

    path: str
    reason: str
    unknown: bool = False


def fault_of(error: ValidationError | Rejected, kind: type[Struct]) -> Fault:
    """Translate an error that a table of that kind met."""
    if isinstance(error, Rejected):
        return Fault(error.field, error.reason)
    found = _PLACE.fullmatch(str(error))
    text, path = found.groups() if found else (str(error), "")
    if isinstance(error.__cause__, Rejected):
        return Fault(_join(path, error.__cause__.field), error.__cause__.reason)  # in __post_init__
    if not (key := _KEY.fullmatch(text)):
        return Fault(path, f"expected {_description(kind, path)}")
    below = _join(path, key["key"])
    if key["fault"] == "contains":
        return Fault(below, f"unknown key{nearest(key['key'], _fields(kind, path))}", unknown=True)
    return Fault(below, f"is missing: expected {_description(kind, below)}")


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Return "; did you mean …?" for the known name most like this one, else their list.

    A prefix that all of them share does not make names alike.
    """
    names = [other.removeprefix(prefix) for other in known]
    if close := difflib.get_close_matches(name.removeprefix(prefix), names, 1):
        return f"; did you mean {prefix}{close[0]}?"
    return f"; expected one of {', '.join(prefix + other for other in names)}"


def _join(path: str, field: str) -> str:
    return f"{path}.{field}" if path else field


def _fields(kind: type[Struct], path: str) -> tuple[str, ...]:
    """Return the keys of the table at that path: this one, or one that a field of it holds.

    A field may hold several: `keys[0]`.
    """
    name = path.partition("[")[0]
    return _struct(_hints(kind)[name]).__struct_fields__ if path else kind.__struct_fields__


def _description(kind: type[Struct], path: str) -> str:
    """Return what a field expects, such as `clocks.idle`; of `hosts[0]` what its entries do."""
    found = _PATH.fullmatch(path)
    name, entry, below = found.groups() if found else (path, "", "")
    hint = _hints(kind).get(name)
    if hint is None:  # a key can be so odd that it looks like a part of msgspec's message
        return f"one of {', '.join(kind.__struct_fields__)}"
    if below:
        return _description(_struct(hint), below)
    return list(_descriptions(hint))[-1 if entry else 0]


def _descriptions(hint: Any) -> Iterator[str]:
    """Yield the descriptions in a type, from the outside in."""
    for meta in getattr(hint, "__metadata__", ()):
        if isinstance(meta, Meta) and meta.description:
            yield meta.description
    for part in get_args(hint):
        yield from _descriptions(part)


def _hints(kind: type[Struct]) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _struct(hint: Any) -> type[Struct]:
    """Return the struct in `Annotated[Clocks | None, …]`."""
    if isinstance(hint, type) and issubclass(hint, Struct):
        return hint
    return next(found for part in get_args(hint) if (found := _struct(part)))
