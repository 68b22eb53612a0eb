"""One way out of the house: a proxy, a chain of them, or none.

    text ──parse──▶ Proxy ◀──from_environment── https_proxy, all_proxy, no_proxy
    texts ──chain──▶ Proxy ─via─▶ Proxy ─via─▶ …

Nothing here reads the environment or opens a socket; no text made here shows a password.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from service.core.secret import Secret

# The defaults of Chromium's net/docs/proxy.md; curl agrees but for plain http, where it takes 1080.
_PORTS: Final = {
    "http": 80,
    "https": 443,
    "socks4": 1080,
    "socks4a": 1080,
    "socks5": 1080,
    "socks5h": 1080,
}

_SHAPE = "SCHEME://[USER:PASSWORD@]HOST[:PORT], such as socks5h://127.0.0.1:1080"
_KINDS = ", ".join(_PORTS)
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://"
    r"(?:(?P<login>[^/?#\s]*)@)?"  # up to the last @, as browsers and curl read it
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[\w.-]+))"
    r"(?::(?P<port>[0-9]{1,9}))?/?"
)
_BARE = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[\w.-]+):[0-9]{1,5}")
_FIELD_LIMIT = 255  # bytes of a user name or password in SOCKS5, RFC 1929
_PORT_LIMIT = 65535


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy as dialled; `direct` has no host. Equal ones are the same way.

    `via`: the proxy through which this one is dialled; all else is of this one, which is the last
    hop of its chain. `str` shows the chain: `http://127.0.0.1:7890 -> socks5h://far:1080`.
    """

    scheme: str
    host: str = ""
    port: int = 0
    username: str = ""
    password: Secret = field(default_factory=Secret)
    via: "Proxy | None" = None
    shown: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        shown = self.scheme if self.scheme == "direct" else f"{self.scheme}://{self.address}"
        whole = shown if self.via is None else f"{self.via} -> {shown}"
        object.__setattr__(self, "shown", whole)  # frozen, and asked for at every request

    def __hash__(self) -> int:
        """Tell most of them apart; it is asked several times a request."""
        return hash((self.host, self.port))

    def __str__(self) -> str:
        return self.shown

    def __repr__(self) -> str:
        return f"Proxy({self})"

    @property
    def hops(self) -> "tuple[Proxy, ...]":
        """The proxies on the way, the one that is dialled first at the head; none for `direct`."""
        if self.scheme == "direct":
            return ()
        return (self,) if self.via is None else (*self.via.hops, self)

    @property
    def title(self) -> str:
        """`proxy far:1080`, and what it is reached through, as the subject of a message."""
        if self.via is None:
            return f"proxy {self.address}"
        before = " and ".join(hop.address for hop in self.via.hops)
        return f"proxy {self.address}, reached through {before},"

    @property
    def address(self) -> str:
        """`127.0.0.1:7890` or `[::1]:1080`, for messages; `direct` where there is no proxy."""
        if self.scheme == "direct":
            return self.scheme
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """This hop's URL with its credentials, percent-encoded: never for a message."""
        if not (self.username or self.password):
            return str(replace(self, via=None))
        user, password = quote(self.username, safe=""), quote(self.password.reveal(), safe="")
        login = f"{user}:{password}" if password else user
        return f"{self.scheme}://{login}@{self.address}"

    @property
    def remote_dns(self) -> bool:
        """True where the proxy resolves the upstream's name, so that no query leaves this host."""
        return self.scheme in {"http", "https", "socks4a", "socks5h"}


DIRECT: Final = Proxy("direct")


class Leg(NamedTuple):
    """A part of the way: a proxy, and the next one that it dials; None = it dials the upstream."""

    proxy: Proxy
    onward: Proxy | None = None


def parse(text: str) -> Proxy:
    """Read `SCHEME://[USER[:PASSWORD]@]HOST[:PORT]`, or `direct`.

    Credentials may be percent-encoded; an IPv6 host stands in brackets; without a port it is 80 for
    http, 443 for https and 1080 for SOCKS (the defaults of Chromium's net/docs/proxy.md).
    Raises ValueError that says what was expected, and nothing that could be a password.
    """
    if text == "direct":
        return DIRECT
    scheme, separator, _ = text.partition("://")
    if not separator:
        raise ValueError(_schemeless(text))
    scheme = scheme.lower()
    if scheme not in _PORTS:
        raise ValueError(f"unknown kind of proxy before ://, expected one of {_KINDS}")
    found = _URL.fullmatch(text)
    if not found:
        raise ValueError(
            f"expected {_SHAPE}; no path, and @ / ? # in a password as %40 %2F %3F %23"
        )
    username, password = _login(scheme, found["login"])
    return Proxy(scheme, _host(found), _port(scheme, found["port"]), username, Secret(password))


def chain(texts: Sequence[str]) -> Proxy:
    """Read proxies in the order in which they are passed; the last one's `via` is the one before.

    Raises ValueError as `parse` does, with the number of the hop.
    """
    if not texts:
        raise ValueError("expected a chain of at least one proxy")
    way: Proxy | None = None
    for number, text in enumerate(texts, 1):
        way = replace(_hop(number, text), via=way)
        if way.via and way.via.scheme == "socks4" and ":" in way.host:
            raise ValueError(f"hop {number - 1}: SOCKS4 cannot carry an IPv6 address: use socks5")
    assert way is not None  # noqa: S101  there is a text
    return way


def _hop(number: int, text: str) -> Proxy:
    if text in {"direct", "env"}:
        raise ValueError(f"hop {number}: expected a proxy, {text} cannot be part of a chain")
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"hop {number}: {error}") from None


def _schemeless(text: str) -> str:
    if _BARE.fullmatch(text):
        return (
            f"expected a proxy with its kind: http://{text} or socks5h://{text}"
            " (a local Clash or sing-box port mostly takes both)"
        )
    return f"expected {_SHAPE}, or direct"


def _host(found: re.Match[str]) -> str:
    host = found["host"] or found["v6"]
    try:
        if found["v6"]:
            return str(IPv6Address(host))
        return str(IPv4Address(host)) if re.fullmatch(r"[0-9.]+", host) else host.lower()
    except ValueError:
        raise ValueError("expected a host name or an IP address after ://") from None


def _port(scheme: str, digits: str | None) -> int:
    port = int(digits) if digits else _PORTS[scheme]
    if not 1 <= port <= _PORT_LIMIT:
        raise ValueError("expected a port from 1 to 65535")
    return port


def _login(scheme: str, login: str | None) -> tuple[str, str]:
    """Return user name and password; raise where the proxy's protocol has no room for them."""
    user, _, secret = (login or "").partition(":")
    try:
        username, password = unquote(user, errors="strict"), unquote(secret, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("expected credentials percent-encoded as UTF-8") from None
    if scheme.startswith("socks4") and password:
        raise ValueError("SOCKS4 knows a user name but no password: leave it out, or use socks5h")
    if scheme.startswith("socks5"):
        if password and not username:
            raise ValueError(
                "SOCKS5 takes a password only with a user name: expected USER:PASSWORD"
            )
        if max(len(username.encode()), len(password.encode())) > _FIELD_LIMIT:
            raise ValueError(
                "SOCKS5 takes at most 255 bytes of user name and of password (RFC 1929)"
            )
    if scheme.startswith("http") and ":" in username:
        raise ValueError("an HTTP proxy's user name cannot hold a colon (RFC 7617)")
    if "\0" in username + password:
        raise ValueError("expected credentials without a NUL byte")
    return username, password


def from_environment(url: str, environ: Mapping[str, str]) -> Proxy:
    """Return what the customary variables say for that upstream URL, DIRECT when nothing applies.

    The rules are curl's: `https_proxy`, `HTTPS_PROXY` for https; for http only the lower-case
    `http_proxy` (a CGI server sets the other from a request header); then `all_proxy`, `ALL_PROXY`;
    `no_proxy`, `NO_PROXY` win over all. A value without a scheme is an http proxy; an empty one is
    as good as unset. Raises ValueError that names the variable.
    """
    name = variable_for(url, environ)
    if name is None:
        return DIRECT
    value = environ[name].strip()
    try:
        return parse(value if "://" in value else f"http://{value}")
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def variable_for(url: str, environ: Mapping[str, str]) -> str | None:
    """Return the variable that names the proxy for that URL by those rules; None if none does."""
    if _excepted(url, environ.get("no_proxy") or environ.get("NO_PROXY") or ""):
        return None
    plain = urlsplit(url).scheme == "http"
    own = ("http_proxy",) if plain else ("https_proxy", "HTTPS_PROXY")
    return next((n for n in (*own, "all_proxy", "ALL_PROXY") if environ.get(n)), None)


def _excepted(url: str, exceptions: str) -> bool:
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    return any(_matches(entry.lower(), host, port) for entry in re.split(r"[,\s]+", exceptions))


def _matches(entry: str, host: str, port: int) -> bool:
    """Tell whether an entry means the host: `*`, an address, a network or a name, or one:port."""
    if entry in {"", "*"}:
        return entry == "*"
    with_port = re.fullmatch(r"(\[.+\]|[^:]+):([0-9]{1,5})", entry)
    if with_port:
        if int(with_port[2]) != port:
            return False
        entry = with_port[1]
    try:
        address = ip_address(host)
    except ValueError:
        name = entry.removeprefix("*").strip(".")
        return bool(name) and f".{host}".endswith(f".{name}")
    try:
        return address in ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return False
