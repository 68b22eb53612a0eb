"""Key to caller, and what a browser may do.

The relay holds a key that costs money, and it listens where every web page can send requests to:
127.0.0.1. So a request whose Host is a foreign name (DNS rebinding) and a request that another
site's page sent (Fetch Metadata, Origin) are refused, before any key is looked at.
"""

import hmac
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

from service.errors import Failure

_CREDENTIALS = ("authorization", "x-api-key")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^][:@/?#\\\s]*))(?::[0-9]*)?")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Grant(NamedTuple):
    """What a caller may do; 0 = no bound. `models` are globs."""

    models: tuple[str, ...] = ("*",)
    requests_per_minute: int = 0
    streams: int = 0
    tokens_per_day: int = 0

    def check_model(self, model: str | None) -> None:
        """Raise Failure forbidden if the caller may not use this model."""
        if (
            model is None
            or "*" in self.models
            or any(fnmatchcase(model, glob) for glob in self.models)
        ):
            return
        served = ", ".join(self.models)
        raise Failure("forbidden", f"your key may not use the model {model!r}: it may use {served}")

    def check_unseen(self) -> None:
        """Raise Failure forbidden if a body that nobody looks into might name another model."""
        if "*" not in self.models:
            served = ", ".join(self.models)
            text = f"your key may use the models {served} only, and this body does not show its own"
            raise Failure("forbidden", text)


class Caller(NamedTuple):
    """An authenticated client; `key_header` is the header that carried the relay's key.

    `address`: where it asks from, of one that needs no key.
    """

    name: str
    key_header: str | None = None
    grant: Grant = Grant()
    address: str = ""

    @property
    def identity(self) -> str:
        """Whose streams are counted together: the key's, without keys the address's."""
        return f"{self.name} {self.address}" if self.address else self.name


ANYONE = Caller("anyone")


class Keys:
    """The keys of the clients that are let in; with none, everybody is."""

    def __init__(self, keys: Iterable[tuple[str, bytes, Grant]]) -> None:
        """Take name, SHA-256 of the key, and what it grants, of each."""
        self._keys = list(keys)

    def __bool__(self) -> bool:
        """Whether a key is needed."""
        return bool(self._keys)

    def caller(self, headers: Mapping[str, str]) -> Caller:
        """Return who sends these headers; raises Failure unauthorized."""
        if not self:
            return ANYONE
        header, key = _presented(headers)
        found = self._find(key)
        if found is None:
            raise Failure(
                "unauthorized",
                "this relay needs its key: send it as Authorization: Bearer, x-api-key"
                " or Teleprinter-Key"
                + (f"; the key in {header} is not one of them" if key else ""),
            )
        return Caller(found[0], header, found[2])

    def named(self, name: str) -> Caller | None:
        """Return the caller of that name, None if no key is called so (any more)."""
        return next((Caller(one, None, grant) for one, _, grant in self._keys if one == name), None)

    def carriers(self, headers: Iterable[tuple[str, str]]) -> set[str]:
        """Return the headers, lower-case, that carry one of the keys: SDKs may fill in several."""
        return {
            name.lower()
            for name, value in headers
            if name.lower() in _CREDENTIALS and self._find(_bare(value)) is not None
        }

    def _find(self, key: str) -> tuple[str, bytes, Grant] | None:
        """Compare with every key, each in constant time, so that time tells nothing."""
        digest, found = _digest(key), None
        for known in self._keys:
            if hmac.compare_digest(digest, known[1]):
                found = known
        return found


def _bare(value: str) -> str:
    """Return a header's value without `Bearer`."""
    scheme, _, key = value.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else value


def _digest(key: str) -> bytes:
    return sha256(key.encode(errors="surrogateescape")).digest()  # as aiohttp decodes headers


def _presented(headers: Mapping[str, str]) -> tuple[str, str]:
    """Return the header that carries the relay's key, and the key; the most particular one wins."""
    if key := headers.get("Teleprinter-Key"):
        return "Teleprinter-Key", key
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key:
        return "Authorization", key.strip()
    return "x-api-key", headers.get("x-api-key", "")


class Doors:
    """The names by which the relay may be asked for, and the origins whose pages may ask.

    `listening`: the addresses that it listens on; `hosts`: names from the settings.
    """

    def __init__(
        self, listening: Iterable[str], hosts: Iterable[str] = (), origins: Sequence[str] = ()
    ) -> None:
        self._names = {_canonical(name) for name in hosts}
        self._any_address = False
        for address in map(_canonical, listening):
            if _is_wildcard(address):
                self._any_address = True
                self._names |= _LOOPBACK
            elif _is_loopback(address):
                self._names |= _LOOPBACK | {address}
            else:
                self._names.add(address)
        self.origins = frozenset(origins)

    def check(self, headers: Mapping[str, str], *, link: bool = False) -> None:
        """Raise Failure wrong_host or forbidden if this request is not to be served.

        `link`: another site may lead here, as a link to the page does.
        """
        host = headers.get("Host", "")
        if not self._knows(host):
            raise Failure(
                "wrong_host",
                f"this relay is not called {host!r}: if it should be, add the name to server.hosts",
            )
        origin = headers.get("Origin")
        if origin is not None:
            if origin not in self.origins and not _same(origin, host):
                raise Failure(
                    "forbidden",
                    f"pages of {origin!r} may not use this relay:"
                    " if they should, add the origin to server.origins",
                )
        elif not link and headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
            raise Failure("forbidden", "another site's page may not use this relay")

    def _knows(self, host: str) -> bool:
        name = _name(host)
        return name in self._names or (self._any_address and _is_address(name))


@lru_cache(maxsize=256)
def _name(host: str) -> str:
    """Return a Host header's name without the port and IPv6's brackets; of what is none, nothing.

    RFC 9110, section 7.2: a name or an address and a port, without a user and without a path.
    """
    found = _HOST.fullmatch(host)
    return _canonical(found[1] or found[2]) if found else ""


def _canonical(name: str) -> str:
    """Return a name in lower case, an address in its one shortest form, as browsers send it."""
    return str(ipaddress.ip_address(name)) if _is_address(name) else name.lower()


def _same(origin: str, host: str) -> bool:
    """Tell whether the origin is the relay's own page. A front end may have ended TLS."""
    scheme, _, rest = origin.partition("://")
    default = {"http": ":80", "https": ":443"}.get(scheme)
    return default is not None and rest.removesuffix(default) == host.lower().removesuffix(default)


@lru_cache(maxsize=256)  # asked at every request, mostly the same
def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return name == "localhost" or (_is_address(name) and ipaddress.ip_address(name).is_loopback)


def _is_wildcard(name: str) -> bool:
    return name == "" or (_is_address(name) and ipaddress.ip_address(name).is_unspecified)
