"""The settings, from wherever they were given.

    sources.read ──▶ draft: tables + who gave what ──▶ one struct a table ──▶ Settings
                                 └── a fault: key, place, value unless secret, what was expected

The structs themselves are in `core.tables`; they are also to be had from here.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from msgspec import NODEFAULT
from msgspec.structs import FieldInfo, fields, replace

from service.adapters.dial.trust import Trust, trust
from service.core.faults import Fault
from service.core.proxy import DIRECT, Proxy, from_environment, variable_for
from service.core.secret import HIDDEN, Secret
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
    refuse_twins,
    way,
)
from service.draft import TABLES, Draft
from service.sources import VARIABLES, SettingsError, read

__all__ = [
    "Chat",
    "Clocks",
    "Heartbeat",
    "Key",
    "Limits",
    "Pool",
    "Retry",
    "Server",
    "Settings",
    "SettingsError",
    "Store",
    "Upstream",
    "load",
    "redacted",
]

_NOTHING: Final[Mapping[str, object]] = MappingProxyType({})


class Settings(Table, frozen=True):
    """All that can be set; `environ` has http_proxy and its kin, for pools that say `env`."""

    server: Server = Server()
    chat: Chat = Chat()
    clocks: Clocks = Clocks()
    retry: Retry = Retry()
    heartbeat: Heartbeat = Heartbeat()
    limits: Limits = Limits()
    store: Store = Store()
    upstream: tuple[Upstream, ...] = ()
    pool: tuple[Pool, ...] = ()
    environ: Mapping[str, str] = MappingProxyType({})

    def __post_init__(self) -> None:
        refuse_twins("upstream", "name", (upstream.name for upstream in self.upstream))
        refuse_twins("pool", "name", (pool.name for pool in self.pool))
        for upstream in self.upstream:
            self.ways(upstream)
            self.trust(upstream)
            self.targets(upstream)

    def __repr__(self) -> str:
        return f"Settings(upstream={self.upstream}, pool={self.pool})"

    def ways(self, upstream: Upstream) -> tuple[Proxy, ...]:
        """Return the proxies towards that upstream, in order of preference, each once.

        Without a `pool` it is the only one, or the one called `default`; with no pools at all it
        is DIRECT. Raises Rejected when that leaves no answer: never a silent way past a proxy.
        """
        pool = self.pool_of(upstream)
        if pool is None:
            return (DIRECT,)
        try:
            ways = [
                from_environment(upstream.url, self.environ) if entry == "env" else way(entry)
                for entry in pool.proxies
            ]
        except ValueError as error:
            raise Rejected(f"pool[{self.pool.index(pool)}].proxies", f"env: {error}") from None
        if "[" in upstream.url and any(each.scheme == "socks4" for each in ways):
            reason = f"SOCKS4 cannot carry the IPv6 address in {upstream.name}'s url: use socks5"
            raise Rejected(f"pool[{self.pool.index(pool)}].proxies", reason)
        return tuple(dict.fromkeys(ways))

    def overlooked(self, upstream: Upstream) -> str:
        """Return the variable with a proxy for that upstream that nobody goes by; "" if none."""
        if self.pool_of(upstream) is not None:
            return ""
        return variable_for(upstream.url, self.environ) or ""

    def targets(self, upstream: Upstream) -> list[Upstream]:
        """Return the upstream and its fallbacks; raises Rejected for a name that is none."""
        if not upstream.fallback:
            return [upstream]
        known = {other.name: other for other in self.upstream if other is not upstream}
        for number, name in enumerate(upstream.fallback):
            if name not in known:
                path = f"upstream[{self.upstream.index(upstream)}].fallback[{number}]"
                others = ", ".join(known) or "there is none"
                raise Rejected(path, f"expected the name of another [[upstream]]: {others}")
        return [upstream, *(known[name] for name in dict.fromkeys(upstream.fallback))]

    def trust(self, upstream: Upstream) -> Trust | None:
        """Return the TLS towards that upstream and its https proxies; None = the system's trust.

        Raises Rejected for files that are none.
        """
        try:
            return trust(upstream)
        except Rejected as error:
            path = f"upstream[{self.upstream.index(upstream)}].{error.field}"
            raise Rejected(path, error.reason) from None

    def clocks_of(self, upstream: Upstream) -> Clocks:
        """Return the upstream's own clocks, else everybody's."""
        return upstream.clocks or self.clocks

    def pool_of(self, upstream: Upstream) -> Pool | None:
        """Return the pool that the upstream goes through; None: there is none, it goes direct."""
        pools = {pool.name: pool for pool in self.pool}
        if not (pools or upstream.pool):
            return None
        if len(pools) == 1 and not upstream.pool:
            return self.pool[0]
        if pool := pools.get(upstream.pool or "default"):
            return pool
        raise Rejected(
            f"upstream[{self.upstream.index(upstream)}].pool",
            f"expected the name of a [[pool]], one of: {', '.join(pools) or 'none is set'}",
        )


def load(
    argv_overrides: Mapping[str, object] = _NOTHING,
    *,
    config: str | None = None,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Settings:
    """Read the settings from all places and check them; raises SettingsError.

    `argv_overrides` are the options of the command line by the path of their setting, such as
    {"server.port": "9000"}; None = not given. `config` is relative to `cwd`.
    """
    sources = read(config, os.environ if environ is None else environ, cwd or Path.cwd())
    draft = Draft(sources.file, sources.tables, sources.expanded)
    for place, texts in sources.layers:
        draft.lay(place, {VARIABLES[name]: (name, text) for name, text in texts.items()})
    options = {path: value for path, value in argv_overrides.items() if value is not None}
    draft.lay("command line", {p: (f"--{p.split('.')[-1]}", v) for p, v in options.items()})
    made = draft.build()
    try:
        if not draft.faults:
            return Settings(**made, environ=sources.proxies)
    except Rejected as error:
        draft.fault(Fault(error.field, error.reason))
    raise SettingsError("\n".join(draft.faults))


def redacted(settings: Settings) -> str:
    """Return the settings as TOML without their secrets, each upstream's ways as a comment.

    A row that differs from its default says what that is.
    """
    shown = replace(settings, store=replace(settings.store, url=settings.store.shown()))
    parts = [_table(f"[{name}]", getattr(shown, name)) for name in TABLES]
    for upstream in settings.upstream:
        ways = ", ".join(map(str, settings.ways(upstream)))
        if name := settings.overlooked(upstream):
            ways += f" ({name} is set, and not gone by: TELEPRINTER_PROXY=env does)"
        parts.append(_table("[[upstream]]", upstream) + f"\n# ways out: {ways}")
    pools = (replace(pool, proxies=pool.shown()) for pool in settings.pool)
    parts.extend(_table("[[pool]]", pool) for pool in pools)
    if not settings.upstream:
        parts.append("# no upstream: the built-in demo answers")
    return "\n\n".join(parts)


def _table(title: str, table: Table) -> str:
    usual = {field.name: field for field in fields(table)}
    rows = ((n, getattr(table, n)) for n in table.__struct_fields__)
    return "\n".join([title, *(_row(n, value) + _unlike(value, usual[n]) for n, value in rows)])


def _unlike(value: object, field: FieldInfo) -> str:
    """Return a comment with the default, if there is one and it is another."""
    if field.required:
        return ""
    usual = field.default if field.default_factory is NODEFAULT else field.default_factory()
    if value == usual:
        return ""
    return f"  # default: {'not set' if usual is None else _toml(usual)}"


def _row(name: str, value: object) -> str:
    """Write a row as TOML; header texts count as secrets."""
    if name == "headers" and isinstance(value, dict):
        value = {header: Secret(text) for header, text in value.items()}
    return f"# {name}: not set" if value is None else f"{name} = {_toml(value)}"


def _toml(value: object) -> str:
    """Write a value as TOML, with secrets hidden."""
    if isinstance(value, Secret):
        return json.dumps(HIDDEN if value else "")
    if isinstance(value, Key):
        return json.dumps(f"{value.name}:{HIDDEN}")
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(each) for each in value)}]"
    if isinstance(value, Table):
        return _inline({n: getattr(value, n) for n in value.__struct_fields__})
    if isinstance(value, dict):
        return _inline({json.dumps(name): each for name, each in value.items()})
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON allows it bare


def _inline(rows: Mapping[str, object]) -> str:
    given = (f"{name} = {_toml(value)}" for name, value in rows.items() if value is not None)
    return f"{{{', '.join(given)}}}"
