"""Cures of what fails before the first byte of a request.

    the addresses of a name · a failed dial · what a port speaks ─▶ what to do

Nothing here asks anybody: what listens where, and what it speaks, is given.
"""

from collections.abc import Collection, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Final

from service.core.proxy import Proxy
from service.errors import Failure

USUAL_PORTS: Final = (7890, 7891, 7897, 1080, 1087, 10808, 10809, 2080, 8118)
"""Where Clash, Clash Verge, ssh -D, ShadowsocksX, v2rayN, sing-box and Privoxy listen."""

_LOCAL_NAMES: Final = (
    "localhost", "local", "localdomain", "internal", "intranet", "lan", "home", "home.arpa",
    "corp", "private", "test", "svc", "cluster.local",
)  # fmt: skip
"""Ends of names that may well be private: RFC 6762, 8375, 2606, and what networks use."""
_FAKE: Final = ip_network("198.18.0.0/15")  # RFC 2544; Clash and sing-box hand out names from it
_SPEAKS: Final = {"http": "http", "socks5": "socks5h"}
_NAMES: Final = {"http": "HTTP", "socks5": "SOCKS5"}


def doubtful(name: str, addresses: Sequence[str]) -> str:
    """Say what is wrong with the answer for that name; "" if nothing is.

    A public name has a dot, and none of the ends that private networks use.
    """
    if "." not in name or name.endswith(tuple(f".{end}" for end in _LOCAL_NAMES)):
        return ""
    return next((text for each in addresses if (text := _bogus(each))), "")


def _bogus(text: str) -> str:
    address = ip_address(text.partition("%")[0])
    if address in _FAKE:
        return f"{text} is a fake address, as Clash's fake-ip mode hands out"
    if address.is_loopback or address.is_unspecified:
        return f"{text} is this machine itself: the answer is poisoned or blocked"
    if address.is_private or address.is_link_local:
        return f"{text} is a private address: the answer is poisoned, or a network's own"
    if address.is_multicast or address.is_reserved:
        return f"{text} is nobody's address: the answer is poisoned"
    return ""


def let_it_resolve(proxy: Proxy) -> str:
    """Return the cure for names that are resolved wrongly here."""
    if not proxy.hops:
        return "go through a proxy that resolves names itself, such as socks5h://127.0.0.1:7890"
    other = {"socks5": "socks5h", "socks4": "socks4a"}.get(proxy.scheme, "socks5h")
    return f"let the proxy resolve names: write {other}://{_place(proxy)}"


def go_by(variable: str) -> str:
    """Return the cure where the environment has a proxy that the settings do not name."""
    return f"{variable} is set, and not gone by: set TELEPRINTER_PROXY=env, or name a proxy in it"


def elsewhere(proxy: Proxy, failure: Failure, step: str) -> str:
    """Return the cure for a proxy on another machine; "" if it is not what failed."""
    if failure.code not in {"proxy_unreachable", "proxy_timeout"}:
        return ""
    if step != "tcp":
        return f"look at the log of {proxy.title}: can that machine reach the upstream?"
    return (
        f"is the machine {proxy.host} up, does a proxy listen there at port {proxy.port}, and do"
        " the firewalls between let this machine in?"
    )


def of_dial(failure: Failure, proxy: Proxy, *, local: bool, suspect: bool) -> str:
    """Return the cure for a dial that failed; `suspect`: the name was resolved to something odd.

    `local`: the upstream is on this machine.
    """
    if suspect and failure.whose != "proxy":
        return let_it_resolve(proxy)
    if failure.code == "proxy_refused" and "user name" in failure.message:
        return _credentials(proxy)
    if failure.code == "upstream_tls":
        return _of_tls(failure, proxy)
    if failure.code == "upstream_unreachable" and not proxy.hops:
        if local:
            return "start it, or correct the port in the upstream's url"
        return "if this network does not let you out, name a proxy: TELEPRINTER_PROXY"
    return _CURES.get(failure.code, "")


_CURES: Final[Mapping[str, str]] = {
    "proxy_unreachable": "correct host and port of the proxy, or start it",
    "proxy_timeout": "is the port right? If it is, try another node in the proxy's own program",
    "proxy_refused": "allow this host in the proxy's rules, or go another way",
    "proxy_protocol": "correct the kind or the port in the proxy's URL",
    "upstream_cut": "something on the way, or the upstream, hangs up: try another way",
    "upstream_malformed": "does that port speak HTTP? If it speaks TLS, write https:// in the url",
    "upstream_unreachable": "look at the proxy's own log; try another node or rule there",
}


def _credentials(proxy: Proxy) -> str:
    user = "USER" if proxy.scheme.startswith("socks4") else "USER:PASSWORD"
    return f"write {proxy.scheme}://{user}@{_place(proxy)}, with @ / ? # in it percent-encoded"


def _of_tls(failure: Failure, proxy: Proxy) -> str:
    if "does not speak TLS" in failure.message:
        return "write http:// in the upstream's url, or correct its port"
    if "signed by itself" in failure.message:
        return "if it is your own server's, name the PEM file of that certificate in ca_file"
    if "certificate" not in failure.message:
        return "try another way: something on this one breaks TLS"
    if proxy.remote_dns:
        return "if you trust that issuer, name its PEM file in ca_file; else try another way"
    return (
        "if you trust that issuer, name its PEM file in ca_file; if not, the line or the DNS answer"
        f" is tampered with: {let_it_resolve(proxy)}"
    )


def wrong_kind(proxy: Proxy, speaks: Collection[str]) -> str:
    """Return the cure where that proxy's port speaks these protocols; "" if they are the right."""
    kind = "socks5" if proxy.scheme.startswith("socks") else proxy.scheme
    if kind in speaks or (kind == "https" and not speaks):
        return ""
    if not speaks:
        return f"what listens at {proxy.address} speaks neither HTTP proxy nor SOCKS5: wrong port?"
    found = "http" if "http" in speaks and kind == "https" else min(speaks)
    return f"{proxy.address} speaks {_NAMES[found]}: write {_SPEAKS[found]}://{_login(proxy)}{_place(proxy)}"


def nobody_there(proxy: Proxy, found: Mapping[int, Collection[str]]) -> str:
    """Return the cure where nothing listens on this machine; `found`: ports that do, and what."""
    if not found:
        ports = ", ".join(map(str, USUAL_PORTS))
        return (
            f"is Clash (or what should listen at {proxy.address}) running? Nothing speaks a proxy's"
            f" protocol at the usual ports either: {ports}"
        )
    listed = "; ".join(
        f"{port} speaks {' and '.join(_NAMES[kind] for kind in sorted(kinds))}"
        for port, kinds in found.items()
    )
    port, speaks = next(iter(found.items()))
    url = f"{_SPEAKS[min(speaks)]}://{_login(proxy)}{_place(proxy, port)}"
    return f"is Clash running? On this machine {listed}: write {url}"


def _place(proxy: Proxy, port: int | None = None) -> str:
    """Return HOST:PORT, with another port perhaps."""
    host = f"[{proxy.host}]" if ":" in proxy.host else proxy.host
    return f"{host}:{port or proxy.port}"


def _login(proxy: Proxy) -> str:
    return "USER:PASSWORD@" if proxy.username or proxy.password else ""
