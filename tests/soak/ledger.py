"""Each stream's account, and the rules that hold for it and for all of them together.

    begun ──▶ Seen, by its client ──┐
      └─────▶ a line in the log ────┴─▶ settled: one outcome, an allowed one, the right text

A stream that is settled is a number in the counts; what breaks a rule is kept in words.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from soak.kinds import Kind, kind_of, text

SHOWN = 3
"""Cases of each broken rule that are kept in words; the rest is a number."""


@dataclass
class Seen:
    """What a client saw of its stream.

    ended     "whole" with the last chunk, "torn" without, "left" by the client itself
    success   the upstream said that it was done: a finish_reason, [DONE], `done`, a whole JSON
    code      of the error that it was told, if any
    returned  it left and came back for the rest, so that the log's last line is another one
    """

    status: int = 0
    text: str = ""
    ended: str = "left"
    success: bool = False
    code: str | None = None
    returned: bool = False
    request: str = ""
    stream: str = ""


class Ledger:
    """What was begun, and what became of it."""

    def __init__(self) -> None:
        self.begun = 0
        self.counts: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.resumed = 0
        self.unheard = 0
        self.broken: list[str] = []
        self.faults: Counter[str] = Counter()
        self._open: set[str] = set()
        self._seen: dict[str, Seen] = {}
        self._lines: dict[str, Mapping[str, Any]] = {}
        self._returns: dict[str, Mapping[str, Any]] = {}

    def begin(self, name: str) -> None:
        """Note that a client asks for this."""
        self.begun += 1
        self._open.add(name)

    def saw(self, name: str, seen: Seen) -> None:
        """Note what its client saw of it."""
        self._seen[name] = seen
        self._settle(name)

    def read(self, record: Mapping[str, Any]) -> None:
        """Note a line of the log about a request that asks for an answer or goes on with one."""
        if record.get("resumed"):
            self.resumed += 1
            self._returns[record["stream"]] = record
            return
        name = record.get("model") or record["id"]
        if name in self._lines or ("model" in record and name not in self._open):
            self.fault(f"one outcome: {name} has a second line in the log")
        self._lines[name] = record
        self._settle(name)

    @property
    def unsettled(self) -> list[str]:
        """The streams of which the client or the log has not told."""
        return sorted(self._open)

    def settle_all(self) -> None:
        """Settle those that the log knows by their request only; the rest has no outcome."""
        for name in self.unsettled:
            self._settle(name)

    def pass_over_unheard(self) -> None:
        """Take those for not begun who left so early that the relay never heard of them."""
        for name in self.unsettled:
            if kind_of(name).act == "hasty" and name in self._seen and name not in self._lines:
                self._open.discard(name)
                self.begun -= 1
                self.unheard += 1

    def fault(self, text: str) -> None:
        """Note a broken rule."""
        rule = text.partition(":")[0]
        self.faults[rule] += 1
        if self.faults[rule] <= SHOWN:
            self.broken.append(text)

    def _settle(self, name: str) -> None:
        seen = self._seen.get(name)
        if seen is None:
            return
        key = name if name in self._lines else seen.request
        if key not in self._lines or (seen.returned and seen.stream not in self._returns):
            return
        record = self._lines.pop(key)
        if seen.returned:
            record = self._returns.pop(seen.stream)
        del self._seen[name]
        self._open.discard(name)
        self.counts[record["outcome"]] += 1
        self.kinds[name.rpartition("-")[0]] += 1
        for fault in faults(name, kind_of(name), seen, record):
            self.fault(fault)


def faults(name: str, kind: Kind, seen: Seen, record: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the end of a stream."""
    outcome, whole, found = record["outcome"], text(name), []
    told = f"{name} is {outcome!r} ({record.get('error', 'no error')}), and its client {seen}"
    if outcome not in kind.outcomes:
        found.append(f"an allowed outcome: {told}")
    if kind.script != "flood" and not whole.startswith(seen.text):
        found.append(f"no invented text: {told}")
    if outcome in ("left", "slow") or kind.act == "leaves":
        return found
    if seen.status != HTTPStatus.OK:
        answered = seen.status == kind.status or "error" in kind.outcomes
        return found if answered and seen.code else [*found, f"a refusal says why: {told}"]
    if outcome == "ok" and seen.text != whole:
        found.append(f"the text of an ok is the upstream's: {told}")
    if (outcome == "ok") != seen.success and outcome != "stopped":  # it had nearly ended
        found.append(f"success only if the upstream said so: {told}")
    if outcome != "ok" and not seen.code and kind.door != "plain":
        found.append(f"a failure says so: {told}")
    if seen.ended != ("whole" if outcome == "ok" or kind.said else "torn"):
        found.append(f"only what is complete ends whole: {told}")
    return found
