"""The places where settings are given; a higher one wins over a lower one.

    command line ▸ environment ▸ .env ▸ $CREDENTIALS_DIRECTORY ▸ TOML ▸ defaults

Read here: the four in the middle, as texts and tables; what they mean is for `settings` to say.
An empty variable is as good as unset. `${NAME}` in .env and TOML stands for a value of the
environment, .env or the credentials, `${NAME:-default}` for that default if there is none, and
`$${` for a plain `${`. No message shows a value: this side cannot know which ones are secret.
"""

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any, Final, NamedTuple

from dotenv.parser import Binding, parse_stream

from service.core.faults import nearest

PREFIX: Final = "TELEPRINTER_"
VARIABLES: Final = {
    "TELEPRINTER_UPSTREAM_URL": "upstream[0].url",
    "TELEPRINTER_UPSTREAM_KEY": "upstream[0].key",
    "TELEPRINTER_MODEL": "chat.model",
    "TELEPRINTER_PROXY": "pool[0].proxies",
    "TELEPRINTER_PACE": "chat.pace",
    "TELEPRINTER_DELAY_MS": "chat.delay_ms",
    "TELEPRINTER_HOST": "server.host",
    "TELEPRINTER_PORT": "server.port",
    "TELEPRINTER_KEYS": "server.keys",
    "TELEPRINTER_OPEN": "server.open",
    "TELEPRINTER_STORE": "store.url",
    "TELEPRINTER_LOG": "server.log",
}
SYSTEM_CONFIG: Final = Path("/etc/teleprinter/teleprinter.toml")

_REFERENCE: Final = re.compile(r"\$(\$?)\{([^}]*)(\}?)")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ABSENT: Final = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_PROXY_NAMES: Final = {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}

Lookup = Callable[[str], str | None]


class SettingsError(Exception):
    """The settings cannot be used: a line for each fault, with key, place and what was expected."""


class Layer(NamedTuple):
    """The TELEPRINTER_* variables of one place."""

    place: str
    values: Mapping[str, str]


class Sources(NamedTuple):
    """All that was given: layers from low to high, the file's tables before and after expansion.

    `file` is its name; `proxies` are http_proxy and its kin, of the environment and of .env.
    """

    layers: tuple[Layer, ...]
    file: str
    tables: dict[str, Any]
    expanded: dict[str, Any]
    proxies: dict[str, str]


def read(config: str | None, environ: Mapping[str, str], folder: Path) -> Sources:
    """Read every place; raises SettingsError for what cannot be read or is called wrong."""
    store = Path(environ.get("CREDENTIALS_DIRECTORY") or os.devnull)  # there is nothing in devnull
    dotenv = _dotenv(folder / ".env", environ, store)
    layers = (
        _layer("credentials directory", _credentials(store)),
        _layer(".env", dotenv),
        _layer("environment", environ),
    )
    file, tables = _toml(config, folder)
    known = {**dotenv, **_filled(environ)}
    try:
        expanded = _expanded(tables, "", file, _lookup(known, store))
    except RecursionError:
        raise _beyond(file) from None
    proxies = {name: text for name, text in known.items() if name.lower() in _PROXY_NAMES}
    return Sources(layers, file, tables, expanded, proxies)


def _lookup(known: Mapping[str, str], store: Path) -> Lookup:
    return lambda name: known.get(name) or _credential(store, name)


def _filled(values: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in values.items() if text and _is_utf8(text)}


def _is_utf8(text: str) -> bool:
    """Tell whether a variable was text: its bytes that were not come as lone surrogates."""
    return not re.search("[\ud800-\udfff]", text)


def _layer(place: str, values: Mapping[str, str]) -> Layer:
    own = {name: text for name, text in values.items() if name.startswith(PREFIX)}
    faults = [
        f"{name} ({place}): unknown variable{nearest(name, VARIABLES, PREFIX)}"
        for name in own
        if name not in VARIABLES
    ]
    faults += [
        f"{name} ({place}): expected a text in UTF-8"
        for name, text in own.items()
        if not _is_utf8(text)
    ]
    if faults:
        raise SettingsError("\n".join(faults))
    return Layer(place, _filled(own))


def _dotenv(file: Path, environ: Mapping[str, str], store: Path) -> dict[str, str]:
    """Return the variables of a .env file in the syntax of python-dotenv; none without a file."""
    known: dict[str, str] = {}
    for binding in parse_stream(StringIO(_text(file, ".env", _ABSENT))):
        name, value = binding.key or "", binding.value
        own, place = name.startswith(PREFIX), f".env line {_line(binding)}"
        if binding.error or (own and value is None):
            raise SettingsError(f"{place}: expected NAME=value, with quotes closed, or a # comment")
        outside = {**known, **_filled(environ)}
        try:
            known[name] = expand(value or "", f"{name} ({place})", _lookup(outside, store))
        except SettingsError:
            if own:  # what others do with their lines is their business
                raise
    return _filled(known)


def _line(binding: Binding) -> int:
    """Return the number of the binding's line: the parser counts the blank ones before it in."""
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")


def _credentials(store: Path) -> dict[str, str]:
    names = [file.name for file in store.iterdir()] if store.is_dir() else []
    return {name: _credential(store, name) or "" for name in names if name.startswith(PREFIX)}


def _credential(store: Path, name: str) -> str | None:
    """Return a file of systemd's credentials directory without the newline at its end."""
    return _text(store / name, f"credential {name}", _ABSENT).removesuffix("\n") or None


def _toml(config: str | None, folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the name of the settings file and its tables; no tables if there is no file."""
    if config is not None:
        name, text = config, _text(folder / config, config)
    else:
        own = folder / "teleprinter.toml"
        file, name = (own, own.name) if own.exists() else (SYSTEM_CONFIG, str(SYSTEM_CONFIG))
        text = _text(file, name, _ABSENT)
    try:
        return name, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{name}: not TOML: {error}") from None
    except (ValueError, RecursionError):
        raise _beyond(name) from None


def _beyond(file: str) -> SettingsError:
    """Return what a number of thousands of digits, or as many tables in each other, come to."""
    return SettingsError(f"{file}: expected settings: a number is too long, or tables too deep")


def _text(file: Path, name: str, absent: tuple[type[OSError], ...] = ()) -> str:
    """Return a file's text, without one "" if that is allowed."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except absent:
        return ""
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SettingsError(f"{name}: {reason}: expected a file that can be read") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{name}: expected a text in UTF-8") from None


def _expanded(value: Any, path: str, file: str, lookup: Lookup) -> Any:
    """Return a TOML value with the references in all of its texts replaced."""
    if isinstance(value, dict):
        rows = ((key, f"{path}.{key}" if path else key) for key in value)
        return {key: _expanded(value[key], below, file, lookup) for key, below in rows}
    if isinstance(value, list):
        return [_expanded(v, f"{path}[{n}]", file, lookup) for n, v in enumerate(value)]
    return expand(value, f"{path} ({file})", lookup) if isinstance(value, str) else value


def expand(text: str, where: str, lookup: Lookup) -> str:
    """Replace the references in a text; SettingsError names the place and the missing name."""

    def replaced(found: re.Match[str]) -> str:
        escaped, (name, dash, default), closed = found[1], found[2].partition(":-"), found[3]
        if escaped:
            return found[0][1:]
        if not (closed and _NAME.fullmatch(name)):
            raise SettingsError(f"{where}: expected ${{NAME}}, or $${{ where a plain ${{ is meant")
        value = lookup(name)
        if value is None and not dash:
            raise SettingsError(
                f"{where}: ${{{name}}} is not set; expected {name} in the environment,"
                " .env or the credentials directory"
            )
        return default if value is None else value

    return _REFERENCE.sub(replaced, text)
