"""Another look at a certificate that was not accepted: for a message, and never for trust.

Python hands out no certificate that it refused; so hands are shaken once more, believing anybody.
"""

import ssl
from typing import NamedTuple

from service.adapters.clock import Clock, Deadline
from service.adapters.dial.hops import Broken, lay
from service.adapters.dial.trust import blind
from service.core.certificate import Certificate, read
from service.core.proxy import Proxy


class Look(NamedTuple):
    """Where to look: through which proxy, at which address, asking for which name.

    `proxies`: whom https hops on the way must be vouched for by, None = the system's authorities.
    """

    through: Proxy
    host: str
    port: int
    name: str
    proxies: ssl.SSLContext | None

    async def at(self, clock: Clock, seconds: float) -> Certificate | None:
        """Shake hands, read, hang up; nothing is sent. None if that fails or takes longer."""
        if seconds <= 0:
            return None
        try:
            async with Deadline(clock, seconds):
                return read(await self._certificate())
        except (Broken, OSError, EOFError, ValueError):
            return None

    async def _certificate(self) -> bytes:
        line = await lay(self.through, self.host, self.port, self.proxies)
        try:
            await line.start_tls(blind(), self.name)
            return line.certificate()
        finally:
            line.abort()
