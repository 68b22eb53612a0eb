"""Whether tokens come one by one or in lumps: what tells a buffering proxy from a streaming one.

A proxy that looks into TLS or scans bodies hands on what it has gathered: many tokens in one read,
then nothing for long. An upstream that is merely fast sends many a read, and no gaps.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from service.core.doctor.findings import Flow, Verdict, Way

_ENOUGH: Final = 6
"""Tokens below which nothing can be told."""
_LUMP: Final = 4.0
"""Tokens a read, on the average, from which they come in lumps, if there are gaps as well."""
_GAP: Final = 0.2
"""Seconds between two reads that a reader sees."""
_HOLD: Final = 0.2
"""Seconds for all tokens at once that are more than a quick upstream takes."""


class Read(NamedTuple):
    """The tokens that one read brought, and when, in seconds from the request on."""

    at: float
    tokens: int


def flow(reads: Sequence[Read]) -> Flow:
    """Return how the tokens came; there must be some."""
    full = [read for read in reads if read.tokens]
    gap = max((later.at - sooner.at for sooner, later in pairwise(full)), default=0.0)
    tokens = sum(read.tokens for read in full)
    return Flow(
        verdict=_verdict(full, tokens, gap),
        tokens=tokens,
        reads=len(full),
        largest=max(read.tokens for read in full),
        longest_gap=round(gap, 3),
        first_token=round(full[0].at, 3),
    )


def _verdict(reads: Sequence[Read], tokens: int, gap: float) -> Verdict:
    if tokens < _ENOUGH:
        return "too short to tell"
    if len(reads) == 1 and reads[0].at >= _HOLD:
        return "held back"
    return "lumps" if tokens / len(reads) >= _LUMP and gap >= _GAP else "streams"


def blame(way: Way, ways: Sequence[Way]) -> str:
    """Say whose doing it is that the tokens of that way do not stream; "" if they do."""
    if way.stream is None or way.stream.verdict not in {"lumps", "held back"}:
        return ""
    others = [other for other in ways if other is not way and other.upstream == way.upstream]
    if smooth := [o.way for o in others if o.stream and o.stream.verdict == "streams"]:
        culprit = "the way" if way.way == "direct" else f"the proxy {way.way}"
        return f"the same upstream streams through {smooth[0]}, so {culprit} gathers the tokens"
    if any(other.stream for other in others):
        return "through every way that was tried, so it is probably the upstream itself"
    return "the proxy gathers them, or the upstream does: another way (direct) would tell"
