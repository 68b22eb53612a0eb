"""Which proxy next: the ways of a pool, what became of each, and in which order they are tried.

    order(now) ─▶ dial ─┬─ succeeded ─▶ no strikes, usable at once
                        └─ failed ────▶ the third strike in a row: rests 1, 2, 4 … 60 s

A strike is a dial that failed by the proxy's own fault, or one that failed where another proxy got
through for the same request; what the upstream says or does not say is never one. A pool of one
never rests, and where all rest they are tried after all, the one whose rest is over first at the
head. Nothing is ever added: `direct` is a way only where it is listed.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Literal

import msgspec

from service.core.proxy import Proxy

Policy = Literal["ordered", "fastest", "spread"]

STRIKES: Final = 3
"""Dials that fail in a row before a proxy rests."""
_FIRST_REST: Final = 1.0
_LONGEST_REST: Final = 60.0
_JITTER: Final = 0.25
"""A rest is so much shorter or longer, so that proxies that fell together do not return so."""
_WEIGHT: Final = 0.3
"""Of the newest connect time in the smoothed one."""
_REMEMBERED: Final = 30
"""Dials of a proxy that can be looked at."""


def _dials() -> deque[float | None]:
    return deque(maxlen=_REMEMBERED)


class Member(msgspec.Struct):
    """A proxy in its pool. Times in seconds, `until` on the pool's clock.

    `connect`: smoothed connect time, None until one was measured, at `measured`; `open`: streams.
    For who looks at it: `said`: the last failure's words; `since`: when it came up or went down,
    None if neither has happened; `dials`: the last ones' seconds, None for one that failed.
    """

    proxy: Proxy
    strikes: int = 0
    rests: int = 0
    until: float = 0.0
    why: str = ""
    connect: float | None = None
    measured: float = float("-inf")
    open: int = 0
    said: str = ""
    since: float | None = None
    dials: deque[float | None] = msgspec.field(default_factory=_dials)

    @property
    def down(self) -> bool:
        """Whether it failed so often in a row that it has to prove itself."""
        return self.strikes >= STRIKES


class Pool:
    """The ways out under one name. `chance`: returns a number from 0 to 1."""

    def __init__(
        self,
        name: str,
        ways: Sequence[Proxy],
        policy: Policy = "ordered",
        chance: Callable[[], float] = lambda: 0.5,
    ) -> None:
        self.name = name
        self.policy = policy
        self.members = [Member(way) for way in ways]
        self._by_proxy = {member.proxy: member for member in self.members}
        self._chance = chance

    def order(self, now: float, avoid: Proxy | None = None) -> list[Proxy]:
        """Return the ways to try, the first first; `avoid` comes last, if another can be had."""
        if len(self.members) == 1:
            return [self.members[0].proxy]
        usable = [member for member in self.members if not self.rests(member, now)]
        ranked = sorted(usable, key=self._rank)
        if not ranked:
            ranked = sorted(self.members, key=lambda member: member.until)
        if avoid is not None:
            ranked.sort(key=lambda member: member.proxy == avoid)
        return [member.proxy for member in ranked]

    def _rank(self, member: Member) -> float:
        """Return what comes first by the policy; equals stay in the order of the list."""
        if self.policy == "fastest":
            return member.connect or 0.0  # not measured yet: find out
        return member.open if self.policy == "spread" else 0

    def member(self, proxy: Proxy) -> Member:
        """Return what is known of a proxy."""
        return self._by_proxy[proxy]

    def rests(self, member: Member, now: float) -> bool:
        """Tell whether a proxy is passed over for now."""
        return len(self.members) > 1 and member.down and now < member.until

    def wait(self, now: float) -> float | None:
        """Return the seconds until a proxy may be tried, if all rest; None if one does not."""
        if not self.rests(self.members[0], now):  # the first choice, as nearly always
            return None
        if not all(self.rests(member, now) for member in self.members):
            return None
        return min(member.until for member in self.members) - now

    @property
    def usable(self) -> bool:
        """Whether there is a way that does not have to prove itself."""
        return not all(member.down for member in self.members)

    def succeeded(self, proxy: Proxy, seconds: float | None, now: float) -> bool:
        """Count a dial that stood after so many seconds, None for one that stood before.

        Returns whether the proxy is back from being down.
        """
        member = self._by_proxy[proxy]
        back = member.down
        if back or member.since is None:
            member.since = now
        member.strikes = member.rests = 0
        member.until, member.why, member.said = 0.0, "", ""
        if seconds is not None:
            old = member.connect
            member.connect = seconds if old is None else old + _WEIGHT * (seconds - old)
            member.measured = now
            member.dials.append(seconds)
        return back

    def failed(self, proxy: Proxy, why: str, now: float, said: str = "") -> float | None:
        """Count a strike; return for how many seconds the proxy rests now, None if it does not.

        `why`: the failure's code, `said`: its words.
        One that had rested and fails again rests at once, and longer.
        """
        member = self._by_proxy[proxy]
        member.dials.append(None)
        if self.rests(member, now):  # tried since all rest, or dialled before it began to
            return None
        member.strikes += 1
        member.why, member.said = why, said
        if not member.down:
            return None
        if member.strikes == STRIKES:
            member.since = now
        rest = min(_FIRST_REST * 2.0 ** min(member.rests, 16), _LONGEST_REST)
        rest *= 1 + _JITTER * (2 * self._chance() - 1)
        member.rests += 1
        member.until = now + rest
        return rest

    def opened(self, proxy: Proxy) -> None:
        """Count a stream that goes through this proxy."""
        self._by_proxy[proxy].open += 1

    def closed(self, proxy: Proxy) -> None:
        """Count it out."""
        self._by_proxy[proxy].open -= 1

    def __repr__(self) -> str:
        """Read like a status line: `Pool(hk, ordered: http://a:1 up 12 ms 3 open, …)`."""
        ways = ", ".join(map(_state, self.members))
        return f"Pool({self.name}, {self.policy}: {ways})"


def _state(member: Member) -> str:
    words = [str(member.proxy)]
    if member.down:
        words.append(f"down after {member.strikes} strikes ({member.why})")
    else:
        words.append("up" if member.connect is not None else "untried")
    if member.connect is not None:
        words.append(f"{member.connect * 1000:.0f} ms")
    if member.open:
        words.append(f"{member.open} open")
    return " ".join(words)
