"""The tables of the settings: frozen structs, each field with its default and what it expects.

What the type of a field cannot say, `__post_init__` checks, and raises Rejected. Where the values
come from, and which of them wins, is no business of a table.
"""

import re
from collections.abc import Iterable
from hashlib import sha256
from ipaddress import ip_address, ip_network
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct
from msgspec.structs import force_setattr

from service.core.fields import (
    Address,
    Count,
    Flag,
    Headers,
    Hidden,
    Host,
    Millis,
    Name,
    Network,
    Origin,
    Port,
    Prefix,
    Seconds,
    Size,
    Text,
    Url,
)
from service.core.proxy import Proxy, chain, parse
from service.core.secret import Secret

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_REDIS: Final = re.compile(r"rediss?://[^/\s]+(/\d+)?$")
_VISIBLE: Final = re.compile(r"[!-~]+")
_LAST_PORT: Final = 65535


class Rejected(ValueError):  # noqa: N818  the past participle says whose fault it is not
    """A value that its table refuses: the field's path in that table, and the reason."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table: checked when it is made, immutable from then on; an unknown key is a fault."""


class Key(Table, frozen=True):
    """A client that is let in, by the secret that it shows; and what it may do, 0 = no bound.

    Either `key`, or `sha256`, the hexadecimal digest of the key, so that the file holds no secret.
    """

    name: Name
    key: Hidden = Secret()
    sha256: Annotated[str, Meta(description="64 hexadecimal digits")] = ""
    models: Annotated[tuple[Text, ...], Meta(min_length=1, description="a list of globs")] = ("*",)
    requests_per_minute: Count = 0
    streams: Count = 0
    tokens_per_day: Count = 0

    def __post_init__(self) -> None:
        force_setattr(self, "sha256", self.sha256.lower())
        if bool(self.key) == bool(self.sha256):
            raise Rejected("key", "expected a key, or sha256 in its place")
        if self.key and not _VISIBLE.fullmatch(self.key.reveal()):
            raise Rejected("key", "expected visible ASCII characters, no space and no line end")
        if self.sha256 and not _SHA256.fullmatch(self.sha256):
            raise Rejected("sha256", "expected 64 hexadecimal digits, as sha256sum prints them")

    @classmethod
    def read(cls, text: str) -> "Key":
        """Read `name:key` or `name:sha256:DIGEST`; ValueError without the text if it is neither."""
        name, _, key = text.partition(":")
        if not (re.fullmatch(r"[A-Za-z0-9._-]+", name) and _VISIBLE.fullmatch(key)):
            raise ValueError(
                "expected name:key, the name of letters, digits, . _ -,"
                " the key of visible ASCII characters"
            )
        kind, _, digest = key.partition(":")
        if kind == "sha256":
            return cls(name=name, sha256=digest)
        return cls(name=name, key=Secret(key))

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the key."""
        if self.sha256:
            return bytes.fromhex(self.sha256)
        return sha256(self.key.reveal().encode()).digest()


class Server(Table, frozen=True):
    """Where the relay listens and whom it lets in."""

    host: Text = "127.0.0.1"
    port: Port = 8080
    admin: Address = ""
    hosts: Annotated[tuple[Host, ...], Meta(description="a list of host names")] = ()
    origins: Annotated[tuple[Origin, ...], Meta(description="a list of origins")] = ()
    keys: Annotated[tuple[Key, ...], Meta(description="a list of name:key texts")] = ()
    open: Flag = False
    log: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="debug, info, warning or error"),
    ] = "info"
    drain: Seconds = 15.0
    metrics_open: Flag = False
    traces: Flag = False
    trusted_proxies: Annotated[tuple[Network, ...], Meta(description="a list of networks")] = ()
    tls_cert: Annotated[str, Meta(description="the path of a PEM file")] = ""
    tls_key: Annotated[str, Meta(description="the path of a PEM file")] = ""

    def __post_init__(self) -> None:
        force_setattr(self, "host", self.host.strip("[]"))
        force_setattr(self, "hosts", tuple(name.strip("[]").lower() for name in self.hosts))
        force_setattr(self, "origins", tuple(o.rstrip("/").lower() for o in self.origins))
        for number, network in enumerate(self.trusted_proxies):
            try:
                ip_network(network, strict=False)
            except ValueError:
                reason = "expected an address or a network such as 10.0.0.0/8"
                raise Rejected(f"trusted_proxies[{number}]", reason) from None
        refuse_twins("keys", "name", (key.name for key in self.keys))
        refuse_twins("keys", "key", (key.digest for key in self.keys))
        if not (self.loopback or self.keys or self.open):
            raise Rejected(
                "host",
                "whoever reaches this address could spend the upstream's key: expected client keys"
                " (TELEPRINTER_KEYS, server.keys), a loopback address such as 127.0.0.1, or"
                " TELEPRINTER_OPEN=1 (server.open) if everybody is welcome",
            )
        self._check_admin()

    def _check_admin(self) -> None:
        host, port = self.admin_at or ("localhost", 0)
        if port > _LAST_PORT:
            raise Rejected("admin", f"expected a port from 1 to {_LAST_PORT}, or 0 for any")
        if not (_is_loopback(host) or self.keys or self.open):
            reason = "expected a loopback address such as 127.0.0.1:9101, or client keys"
            raise Rejected("admin", f"{reason} (TELEPRINTER_KEYS, server.keys)")

    @property
    def loopback(self) -> bool:
        """True if only this machine can connect: 127.0.0.0/8, ::1, localhost."""
        return _is_loopback(self.host)

    @property
    def admin_at(self) -> tuple[str, int] | None:
        """Host and port of this instance's own address, None if it has none."""
        host, _, port = self.admin.rpartition(":")
        return (host.strip("[]"), int(port)) if self.admin else None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Chat(Table, frozen=True):
    """What /chat does when the request does not say; `max_lag_ms` bounds /v1's pace smooth too."""

    model: Text = "gpt-4o-mini"
    pace: Annotated[
        Literal["off", "smooth", "typewriter"], Meta(description="off, smooth or typewriter")
    ] = "off"
    delay_ms: Millis = 0
    max_lag_ms: Millis = 600
    keep: Seconds = 15.0

    def __post_init__(self) -> None:
        if self.delay_ms and self.pace != "typewriter":
            reason = f"expected 0 with the pace {self.pace}; a delay needs the pace typewriter"
            raise Rejected("delay_ms", reason)


class Clocks(Table, frozen=True):
    """How long each stage may take, in seconds; 0 = off, None = the rule of the method below."""

    connect: Seconds = 10.0
    headers: Seconds | None = None
    first_token: Seconds | None = None
    idle: Seconds = 120.0
    total: Seconds = 0.0

    def headers_for(self, *, stream: bool) -> float:
        """Seconds from the request to the status line: 120 for `stream: true`, else 600."""
        return (120.0 if stream else 600.0) if self.headers is None else self.headers

    def first_token_for(self, *, fallback: bool = False) -> float:
        """Seconds from the status line to the first content: 300, without a fallback 600."""
        return (300.0 if fallback else 600.0) if self.first_token is None else self.first_token


class Retry(Table, frozen=True):
    """What may be sent again: attempts an upstream, seconds of a Retry-After, bytes of a body."""

    attempts: Annotated[int, Meta(ge=1, le=10, description="a whole number from 1 to 10")] = 3
    wait: Seconds = 5.0
    body: Size = 8 * 1024 * 1024


class Heartbeat(Table, frozen=True):
    """Seconds of silence before a comment line, seconds before a stream is opened; their form."""

    after: Seconds = 15.0
    open_after: Seconds = 20.0
    form: Annotated[Literal["auto", "blank", "line"], Meta(description="auto, blank or line")] = (
        "auto"
    )


class Limits(Table, frozen=True):
    """Bounds; 0 = none, for those that may be.

    Bytes of a request's body, of one frame, of what a paced stream may hold back; open streams in
    all and for one caller; seconds for a request's body to arrive, for a client to take what it is
    sent.
    """

    body: Size = 32 * 1024 * 1024
    frame: Size = 16 * 1024 * 1024
    queue: Size = 1024 * 1024
    streams: Count = 0
    streams_per_caller: Count = 0
    body_timeout: Seconds = 60.0
    send_timeout: Seconds = 120.0


class Store(Table, frozen=True):
    """Where streams are kept that may be read again, and what several instances share.

    `memory` (in each process, nothing is shared), or a Redis. Seconds that a stream is kept after
    its end; bytes of one stream, kept streams of one caller, bytes in all; 0 = no bound.
    """

    url: Annotated[str, Meta(description="memory or redis://HOST:PORT")] = "memory"
    retain: Seconds = 300.0
    stream_bytes: Count = 8 * 1024 * 1024
    streams_per_caller: Count = 1000
    total_bytes: Count = 256 * 1024 * 1024

    def __post_init__(self) -> None:
        if self.url != "memory" and not _REDIS.match(self.url):
            raise Rejected("url", "expected memory, or redis://[USER:PASSWORD@]HOST[:PORT][/DB]")

    def __repr__(self) -> str:
        return f"Store({self.shown()})"

    def shown(self) -> str:
        """Return the URL without its credentials."""
        return re.sub(r"//[^/]*@", "//", self.url)


class Upstream(Table, frozen=True):
    """A language-model API: `url` without its last slash; no `key` = the client's own goes.

    `pace`: that of /v1 where the request does not say; "" = off.
    """

    name: Name
    url: Url
    api: Annotated[
        Literal["openai", "anthropic", "azure"], Meta(description="openai, anthropic or azure")
    ] = "openai"
    key: Hidden = Secret()
    headers: Headers = {}
    models: Annotated[tuple[Text, ...], Meta(min_length=1, description="a list of globs")] = ("*",)
    prefix: Prefix = ""
    model_map: Annotated[
        dict[Text, Text], Meta(description="a table of model names, asked for = sent")
    ] = {}
    pool: Annotated[str, Meta(description="the name of a [[pool]]")] = ""
    fallback: Annotated[tuple[Name, ...], Meta(description="a list of [[upstream]] names")] = ()
    continue_on_cut: Flag = False
    ca_file: Annotated[str, Meta(description="the path of a PEM file")] = ""
    client_cert: Annotated[str, Meta(description="the path of a PEM file")] = ""
    client_key: Annotated[str, Meta(description="the path of a PEM file")] = ""
    server_name: Annotated[
        str,
        Meta(
            pattern=r"^([A-Za-z0-9_-][A-Za-z0-9_.-]*|[0-9A-Fa-f:.]*)\Z",
            description="a host name such as api.openai.com",
        ),
    ] = ""
    keep: Seconds = 0.0
    pace: Annotated[
        Literal["", "off", "smooth", "typewriter"], Meta(description="off, smooth or typewriter")
    ] = ""
    clocks: Annotated[Clocks | None, Meta(description="a table like [clocks]")] = None

    def __post_init__(self) -> None:
        force_setattr(self, "url", self.url.rstrip("/"))
        force_setattr(self, "prefix", self.prefix.rstrip("/"))
        if fault := _url_fault(self.url):
            raise Rejected("url", fault)
        if self.key and not _VISIBLE.fullmatch(self.key.reveal()):
            raise Rejected("key", "expected visible ASCII characters, no space and no line end")
        if self.client_key and not self.client_cert:
            raise Rejected("client_key", "expected client_cert beside it")
        for name in ("client_cert", "server_name"):
            if getattr(self, name) and not self.url.lower().startswith("https:"):
                raise Rejected(name, "expected an https:// url beside it: http has no certificates")

    def __repr__(self) -> str:
        return f"Upstream({self.name}, {self.url})"


Hops = tuple[str, ...]
"""A chain: the URLs of proxies, each dialled through those before it."""


class Pool(Table, frozen=True):
    """Proxies in order of preference: URLs, `direct`, or `env` for what the environment says.

    An entry that is a list is a chain of hops.
    """

    name: Name
    proxies: Annotated[
        tuple[str | Hops, ...],
        Meta(min_length=1, description="a list of proxy URLs, direct, env or lists of URLs"),
    ]
    policy: Annotated[
        Literal["ordered", "fastest", "spread"], Meta(description="ordered, fastest or spread")
    ] = "ordered"

    def __post_init__(self) -> None:
        for number, entry in enumerate(self.proxies):
            try:
                entry == "env" or way(entry)
            except ValueError as error:
                raise Rejected(f"proxies[{number}]", str(error)) from None

    def __repr__(self) -> str:
        ways = (entry if entry == "env" else str(way(entry)) for entry in self.proxies)
        return f"Pool({self.name}, {', '.join(ways)})"

    def shown(self) -> tuple[str | Hops, ...]:
        """Return the entries without their credentials."""
        return tuple(_shown(entry) for entry in self.proxies)


def way(entry: str | Hops) -> Proxy:
    """Read an entry of a pool other than `env`; ValueError says what was expected."""
    return parse(entry) if isinstance(entry, str) else chain(entry)


def _shown(entry: str | Hops) -> str | Hops:
    if isinstance(entry, str):
        return entry if entry == "env" else str(parse(entry))
    return tuple(str(parse(hop)) for hop in entry)


def refuse_twins(table: str, field: str, values: Iterable[object]) -> None:
    """Raise Rejected if two rows of a list of tables have the same value in that field."""
    seen: dict[object, int] = {}
    for number, value in enumerate(values):
        first = seen.setdefault(value, number)
        if first != number:
            reason = f"the same {field} as {table}[{first}]: expected each {field} once"
            raise Rejected(f"{table}[{number}]", reason)


def _url_fault(url: str) -> str:
    """Say what is wrong with an upstream's base URL, without quoting it; empty if nothing is."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "expected a base URL such as https://api.openai.com/v1"
    if "@" in parts.netloc:
        return "expected no user name or password in the URL: set `key` or TELEPRINTER_UPSTREAM_KEY"
    if parts.scheme not in {"http", "https"} or not host or re.search(r"[\s\\\x00-\x1f]", url):
        return "expected http:// or https:// and a host, such as https://api.openai.com/v1"
    return "expected a base URL without ? and #" if re.search(r"[?#]", url) else ""
