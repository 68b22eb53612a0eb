"""The settings before they are checked: tables, and who gave which value.

    file's tables ──┐
    lay(variables) ─┼──▶ build ──▶ one struct a table
    lay(options) ───┘          └─▶ faults: key, place, value unless secret, what was expected

All faults are collected, so that one run of `teleprinter check` shows them together.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from msgspec import ValidationError, convert
from msgspec.structs import asdict

from service.core.faults import Fault, fault_of, nearest
from service.core.secret import Secret
from service.core.tables import (
    Chat,
    Clocks,
    Heartbeat,
    Key,
    Limits,
    Pool,
    Rejected,
    Retry,
    Server,
    Store,
    Table,
    Upstream,
)

TABLES: Final[dict[str, type[Table]]] = {
    "server": Server,
    "chat": Chat,
    "clocks": Clocks,
    "retry": Retry,
    "heartbeat": Heartbeat,
    "limits": Limits,
    "store": Store,
}
LISTS: Final[dict[str, type[Table]]] = {"upstream": Upstream, "pool": Pool}

_SECRET: Final = re.compile(
    r"server\.keys|store\.url|upstream\[\d+\]\.(key|headers)|pool\[\d+\]\.proxies"
)
_PLAIN_URL: Final = re.compile(
    r"https?://([\w.-]+)(:\d{1,5})?(/[\w./~-]*)?", re.ASCII | re.IGNORECASE
)

_LONGEST: Final = 128  # bits of a number that a message repeats; Python writes no endless ones


class Given(NamedTuple):
    """A value with the name that its user knows it by, and the place where it stands."""

    name: str
    place: str
    value: object


def _whole(text: str) -> object:
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,20}", text) else text


def _flag(text: str) -> object:
    words = {"true": True, "1": True, "yes": True, "on": True}
    words.update({"false": False, "0": False, "no": False, "off": False})
    return words.get(text.lower(), text)


def _list(text: str) -> object:
    return [entry.strip() for entry in text.split(",") if entry.strip()] or text


# How the text of a variable or an option becomes a value; what does not convert is left as it is,
# so that the table's own check names it.
_READERS: Final[dict[str, Callable[[str], object]]] = {
    "chat.delay_ms": _whole,
    "chat.pace": str.lower,
    "pool[0].proxies": _list,
    "server.keys": _list,
    "server.log": str.lower,
    "server.open": _flag,
    "server.port": _whole,
}


class Draft:
    """What was given so far; `faults` are the lines of the error message."""

    def __init__(self, file: str, raw: Mapping[str, Any], tables: Mapping[str, Any]) -> None:
        self.faults: list[str] = []
        self._file = file
        self._raw = raw
        self._tables = dict(tables)
        self._given: dict[str, Given] = {}

    def lay(self, place: str, values: Mapping[str, tuple[str, object]]) -> None:
        """Lay the values of a place over those of the lower ones: path → (name, value)."""
        given = {path: Given(name, place, _value(path, v)) for path, (name, v) in values.items()}
        pace, delay = given.get("chat.pace"), given.get("chat.delay_ms")
        if delay and not pace and _positive(delay.value):
            given["chat.pace"] = delay._replace(value="typewriter")
        if pace and not delay and pace.value != "typewriter":
            given["chat.delay_ms"] = pace._replace(value=0)
        self._given |= given

    def build(self) -> dict[str, Any]:
        """Return the checked tables by name; a table that failed is in `faults` instead."""
        known = {**TABLES, **LISTS}
        for name in sorted(self._tables.keys() - known.keys()):
            self.fault(Fault(name, f"unknown key{nearest(name, known)}", unknown=True))
        for name in LISTS:
            self._add_row(name)
        made: dict[str, Any] = {name: self._table(name, kind) for name, kind in TABLES.items()}
        for name, kind in LISTS.items():
            made[name] = self._list(name, kind, made["clocks"])
        return made

    def fault(self, fault: Fault) -> None:
        """Add the line about a fault: the key as its user knows it, the place and the reason."""
        base, entry = re.fullmatch(r"(?s)(.*?)(?:\[(\d+)\])?", fault.path).groups()  # type: ignore[union-attr]
        given = self._given.get(base)
        if given:
            name = f"{given.name}, entry {int(entry) + 1}" if entry else given.name
            value = None if entry else given.value
        else:
            name = json.dumps(fault.path, ensure_ascii=False)[1:-1]  # a key may hold line ends
            value = None if fault.unknown else _at(self._raw, fault.path)
        place = given.place if given else self._file
        self.faults.append(f"{name}{_shown(fault.path, value)} ({place}): {fault.reason}")

    def _add_row(self, table: str) -> None:
        """Make the one row of a list that variables may give where the file has none."""
        row = self._given_to(f"{table}[0]")
        if not row:
            return
        path = f"{table}[0].{next(iter(row))}"
        if self._tables.get(table):
            reason = f"expected no [[{table}]] tables beside it, but {self._file} has some"
            self.fault(Fault(path, reason))
        elif table == "upstream" and "url" not in row:
            self.fault(Fault(path, "expected TELEPRINTER_UPSTREAM_URL beside it"))
        else:
            self._tables[table] = [{"name": _row_name(row), **row}]

    def _given_to(self, table: str) -> dict[str, Any]:
        paths = (path.rpartition(".") for path in self._given)
        return {f: self._given[f"{t}.{f}"].value for t, _, f in paths if t == table}

    def _table(self, name: str, kind: type[Table]) -> Any:
        own = self._tables.get(name, {})
        if not isinstance(own, dict):
            self.fault(Fault(name, f"expected a table: [{name}]"))
            return None
        values = {**own, **self._given_to(name)}
        if name == "chat" and _positive(values.get("delay_ms")):
            values.setdefault("pace", "typewriter")
        return self._checked(name, kind, values)

    def _list(self, name: str, kind: type[Table], clocks: Clocks | None) -> tuple[Any, ...]:
        rows = self._tables.get(name, [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            self.fault(Fault(name, f"expected tables in two brackets: [[{name}]]"))
            return ()
        for row in rows:
            if clocks and isinstance(row.get("clocks"), dict):
                row["clocks"] = {**asdict(clocks), **row["clocks"]}
        return tuple(self._checked(f"{name}[{n}]", kind, row) for n, row in enumerate(rows))

    def _checked(self, path: str, kind: type[Table], values: dict[str, Any]) -> Any:
        try:
            return convert(_with_keys(values), kind, dec_hook=_secret)
        except (ValidationError, Rejected) as error:
            fault = fault_of(error, kind)
            self.fault(fault._replace(path=f"{path}.{fault.path}" if fault.path else path))


def _value(path: str, value: object) -> object:
    return _READERS.get(path, str)(value) if isinstance(value, str) else value


def _positive(value: object) -> bool:
    return isinstance(value, int) and value > 0


def _row_name(row: Mapping[str, Any]) -> str:
    """Name an upstream that variables gave after its host, their pool `default`."""
    if "url" not in row:
        return "default"
    found = _PLAIN_URL.match(row["url"])
    return found[1] if found else "upstream"


def _with_keys(values: dict[str, Any]) -> dict[str, Any]:
    """Read the `name:key` texts of a table that has some; a key may also be a table."""
    keys = values.get("keys")
    if not isinstance(keys, list):
        return values
    read: list[Any] = []
    for number, text in enumerate(keys):
        try:
            read.append(text if isinstance(text, dict) else Key.read(str(text)))
        except Rejected as error:
            raise Rejected(f"keys[{number}]", error.reason) from None
        except ValueError as error:
            raise Rejected(f"keys[{number}]", str(error)) from None
    return {**values, "keys": read}


def _secret(_: type, value: object) -> Secret:
    if not isinstance(value, str):
        raise TypeError
    return Secret(value)


def _at(value: Any, path: str) -> object:
    """Return what stands at a path of the file, None if nothing does."""
    for name, number in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        try:
            value = value[int(number) if number else name]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _shown(path: str, value: object) -> str:
    """Return ` = value` for a message; nothing for what is secret, or might be, or is no scalar."""
    if _SECRET.match(path) or not isinstance(value, str | int | float):
        return ""
    if isinstance(value, int) and value.bit_length() > _LONGEST:
        return ""
    if path.endswith(".url") and not _PLAIN_URL.fullmatch(str(value)):
        return ""
    if "@" in str(value):  # a URL with a password, in the wrong place
        return ""
    return f" = {json.dumps(value, ensure_ascii=False)}"
