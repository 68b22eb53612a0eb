"""Which proxy next: a pool of proxies, what is known of each, and when one rests.

Rule 1: a proxy rests after STRIKES failures to dial in a row, FIRST_REST seconds, twice as long
        each time up to LONGEST_REST, with jitter, so that instances do not return in step.
Rule 2: one success ends its rest and forgets its strikes.
Rule 3: where all rest, the one nearest its end is tried; a pool of one never rests.
Rule 4: nothing goes direct unless `direct` is one of the pool.

Times are seconds on the caller's clock.
"""

from collections.abc import Callable, Sequence
from typing import Final, Literal

from service.core.proxy import Proxy

Policy = Literal["ordered", "fastest", "spread"]

STRIKES: Final = 3
FIRST_REST: Final = 1.0
LONGEST_REST: Final = 60.0
_JITTER: Final = 0.2  # a rest is up to a fifth longer
_SMOOTHING: Final = 0.3  # weight of the newest connect time: a change shows after some three dials


class Member:
    """A proxy of a pool, and what is known of it."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.strikes = 0
        self.rests = 0
        self.resting_until = float("-inf")
        self.why = ""
        self.connect: float | None = None
        self.open = 0

    def rest(self, now: float) -> float:
        """Return the seconds of rest that are left."""
        return max(0.0, self.resting_until - now)


class Pool:
    """Proxies by a policy; `chance` gives numbers from 0 to 1, for the jitter."""

    def __init__(
        self, name: str, proxies: Sequence[Proxy], policy: Policy, chance: Callable[[], float]
    ) -> None:
        self.name = name
        self.policy = policy
        self.members = [Member(proxy) for proxy in proxies]
        self._chance = chance

    def order(self, now: float) -> list[Member]:
        """Return whom to try, the best first."""
        awake = [member for member in self.members if not member.rest(now)]
        if not awake:
            return [min(self.members, key=lambda member: member.resting_until)]
        if self.policy == "fastest":  # one that was never dialled is given its chance
            return sorted(awake, key=lambda member: member.connect or 0.0)
        if self.policy == "spread":
            return sorted(awake, key=lambda member: member.open)
        return awake

    def resting(self, now: float) -> list[Member]:
        """Return whom to probe."""
        return [member for member in self.members if member.rest(now)]

    def usable(self, now: float) -> bool:
        """Tell whether any proxy is awake."""
        return len(self.resting(now)) < len(self.members)

    def succeeded(self, member: Member, seconds: float) -> None:
        """Note a dial that took so long."""
        member.strikes = member.rests = 0
        member.resting_until = float("-inf")
        member.why = ""
        known = seconds if member.connect is None else member.connect
        member.connect = known + _SMOOTHING * (seconds - known)

    def failed(self, member: Member, why: str, now: float) -> None:
        """Note a dial that failed by the proxy's fault."""
        member.strikes += 1
        member.why = why
        if member.strikes >= STRIKES and len(self.members) > 1:
            length = min(LONGEST_REST, FIRST_REST * 2**member.rests)
            member.resting_until = now + length * (1 + _JITTER * self._chance())
            member.rests += 1

    def __repr__(self) -> str:
        return f"Pool({self.name}: " + " · ".join(map(_status, self.members)) + ")"


def _status(member: Member) -> str:
    """Say how a proxy is, without a clock: `http://127.0.0.1:7890 ok 35 ms, 2 open`."""
    if member.resting_until > float("-inf"):
        return f"{member.proxy} resting: {member.why}"
    if member.strikes:
        return f"{member.proxy} {member.strikes} of {STRIKES} strikes: {member.why}"
    if member.connect is None:
        return f"{member.proxy} not dialled yet"
    return f"{member.proxy} ok {member.connect * 1000:.0f} ms, {member.open} open"
