"""Who asks, when a front proxy asks for them.

Only a peer that the settings trust is believed, and of what it says only the part that trusted
proxies wrote: read from the right, X-Forwarded-For names the client at the first address that is
not one of them. The answer serves logs and rates, never access.
"""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache


class Fronts:
    """The networks of the front proxies, as CIDR texts."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(text, strict=False) for text in networks]

    def client(self, peer: str, forwarded: str) -> str:
        """Return the client's address; `forwarded`: X-Forwarded-For as `peer` sent it."""
        if not (forwarded and self._trusts(peer)):
            return peer
        hops = [hop.strip().strip("[]") for hop in forwarded.split(",")]
        for hop in reversed(hops):
            if not _is_address(hop):
                return peer
            if not self._trusts(hop):
                return hop
        return hops[0]

    def _trusts(self, address: str) -> bool:
        if not _is_address(address):
            return False
        found = ipaddress.ip_address(address)
        return any(found in network for network in self._networks)


@lru_cache(maxsize=256)  # asked at every request, mostly the same
def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
