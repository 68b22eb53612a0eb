"""What can happen to a stream: who does what, and what may become of it."""

from collections.abc import Mapping
from random import Random
from typing import NamedTuple

WORDS = ("the ", "line", " holds\n", "été ", "断线重连", "\U0001f468‍\U0001f469 ", "`x`", "data: ")
KEY = {"Authorization": "Bearer soak-caller"}
"""Of all clients."""
TOKENS = (12, 36)
"""Of an answer, at least and at most."""


class Kind(NamedTuple):
    """One of the things that can happen.

    door       how it is asked: chat, v1, plain (no stream), ticket (GET with a ticket)
    act        what the client does
    script     what the upstream does
    outcomes   what the relay may say became of it
    status     … and the response's status, where no stream begins
    said       the upstream itself says what is wrong, so that the body ends whole
    keep       seconds that it is kept, asked for on /v1
    weight     how often it is chosen
    """

    door: str = "v1"
    act: str = "reads"
    script: str = "whole"
    outcomes: frozenset[str] = frozenset({"ok"})
    status: int = 200
    said: bool = False
    keep: float = 0.0
    weight: int = 2


def _kind(outcomes: str = "ok", **more: object) -> Kind:
    return Kind(outcomes=frozenset(outcomes.split()), **more)


KINDS: Mapping[str, Kind] = {
    # --- whole, whoever asks and however slowly
    "raw": _kind(weight=12),
    "chat": _kind(door="chat", weight=12),
    "smooth": _kind(door="chat smooth"),
    "typed": _kind(door="chat typewriter"),
    "ticket": _kind(door="ticket"),
    "plain": _kind(door="plain", script="plain"),
    "malformed": _kind(script="malformed"),
    "malformed-chat": _kind(door="chat", script="malformed"),
    # --- what the upstream does wrong
    "reset": _kind("cut", script="reset", status=502, weight=1),
    "cut": _kind("cut", script="cut"),
    "cut-chat": _kind("cut", door="chat", script="cut"),
    "torn": _kind("cut", script="torn"),
    "torn-chat": _kind("cut", door="chat", script="torn"),
    "torn-plain": _kind("cut", door="plain", script="torn-plain"),
    "stall": _kind("stalled", script="stall"),
    "stall-chat": _kind("stalled", door="chat", script="stall"),
    "mute": _kind("stalled", script="mute", weight=1),
    "says": _kind("error", script="says", said=True),
    "says-chat": _kind("error", door="chat", script="says", said=True),
    "long": _kind("too_long", script="slow"),
    "429": _kind(script="429", status=429, said=True, weight=1),
    "500": _kind(script="500", status=500, said=True, weight=1),
    "503-chat": _kind("error", door="chat", script="503", weight=1),
    "page": _kind("error", script="page", status=502, weight=1),
    "rescued": _kind(weight=1),
    # --- what is on the way
    "shaky": _kind("ok cut error", weight=12),
    "shaky-chat": _kind("ok cut error", door="chat", weight=6),
    "dead": _kind("error", status=502, weight=1),
    "gone": _kind("error", status=502, weight=1),
    "denied": _kind("error", status=502, weight=1),
    # --- what the client does; where it was slow, the answer may have come to its end
    "leaves": _kind("left ok", act="leaves"),
    "leaves-chat": _kind("left ok", door="chat", act="leaves"),
    "hasty": _kind("left", act="hasty", script="mute"),
    "stuck": _kind("slow", act="sticks", script="flood", weight=1),
    "returns": _kind(door="chat", act="returns", weight=4),
    "returns-raw": _kind(act="returns", keep=60, weight=4),
    "stopped": _kind("stopped ok", door="chat", act="stops"),
    "stopped-raw": _kind("stopped ok", act="stops", keep=60),
    "wrong": _kind("refused", door="wrong", status=400, weight=1),
}


def kind_of(name: str) -> Kind:
    """Return the kind of the stream of that name, KIND-NUMBER."""
    return KINDS[name.rpartition("-")[0]]


def tokens(name: str) -> list[str]:
    """Return the tokens of the answer of that name."""
    chance = Random(name)  # noqa: S311  the same at both ends
    return chance.choices(WORDS, k=chance.randint(*TOKENS))


def text(name: str) -> str:
    """Return the whole text of the answer of that name."""
    return "".join(tokens(name))
