"""What a relay at work tells of itself on /status/events, made up: one proxy of three is down."""

import math

import msgspec

from service.core.health import PoolState, RelayState, UpstreamState, WayState, findings
from service.status import Rates, Snapshot, StreamsState, StreamState

SAID = "proxy hk.example:7890 refused the connection: is it running?"
MODELS = ("gpt-4o", "gpt-4o-mini", "deepseek-chat", "gpt-4o")
SLOTS = 90


def _dials(about: float, failed: int = 0) -> list[float | None]:
    worked = [round(about * (1 + 0.35 * math.sin(n * n)), 1) for n in range(30 - failed)]
    return [*worked, *[None] * failed]


def _ways() -> list[WayState]:
    hk, jp, sg = "hk.example:7890", "jp.example:7890", "sg.example:1080"
    refused = {"code": "proxy_unreachable", "said": SAID, "connect_ms": 54.0}
    return [
        WayState(
            f"http://{hk}",
            hk,
            "down",
            3.0,
            1.0,
            dials=_dials(54, 4),
            open=1,
            attempts={"ok": 150, "proxy_unreachable": 4},
            **refused,
        ),
        WayState(
            f"http://{jp}", jp, "up", 3085.0, connect_ms=44.2, dials=_dials(44), open=2,
            attempts={"ok": 169},
        ),
        WayState(
            f"socks5h://{sg}", sg, "up", 2456.0, connect_ms=66.1, dials=_dials(66), open=1,
            attempts={"ok": 181},
        ),
    ]  # fmt: skip


def _upstream(name: str, ok: int, failed: int, first: float) -> UpstreamState:
    return UpstreamState(
        name,
        f"api.{name}.com",
        "asia",
        own_key=True,
        ok=ok,
        failed=failed,
        success=ok / (ok + failed),
        first_token={"p50": first, "p95": first * 2.4},
        gap={"p50": 0.015, "p95": 0.071},
    )


def _stream(number: int, model: str, way: WayState) -> StreamState:
    name = "deepseek" if model.startswith("deepseek") else "openai"
    waits = number == len(MODELS) - 1
    return StreamState(
        id=f"stream-{number}",
        caller="ann",
        upstream=name,
        proxy=way.proxy,
        model=model,
        stage="headers" if waits else "stream",
        age=18.0 - 4 * number,
        quiet=6.0 if waits else 0.2,
        events=0 if waits else 340 - 110 * number,
        attempts=1,
        first_token_ms=None if waits else 430 + 80 * number,
    )


def busy(*models: str) -> Snapshot:
    """Return it, with an open stream of each model."""
    ways = _ways()
    pools = [PoolState("asia", "spread", ["openai", "deepseek"], ways)]
    upstreams = [_upstream("openai", 194, 7, 0.557), _upstream("deepseek", 114, 1, 1.3)]
    shown = [_stream(n, model, ways[n % 3]) for n, model in enumerate(models or MODELS)]
    relay = RelayState("0.1.0", 7260.0, open=len(shown) + 2)
    done = [round(22 + 14 * math.sin(n / 2) + n % 3) for n in range(15)]
    outcomes = {
        "ok": done,
        "left": [n % 4 for n in range(15)],
        "refused": [n % 3 == 0 for n in range(15)],
        "cut": [4 * (n == 6) + (n == 13) for n in range(15)],
        "stalled": [2 * (n == 6) for n in range(15)],
    }
    minutes = {name: list(map(int, row)) for name, row in outcomes.items()}
    events = [round(150 + 90 * math.sin(n / 7) + 40 * math.sin(n * n), 1) for n in range(SLOTS)]
    return Snapshot(
        findings(relay, pools, upstreams),
        relay,
        pools,
        upstreams,
        Rates(minutes, 10.0, events),
        StreamsState(len(shown) + 2, len(shown), shown, 41.0),
    )


def told(snapshot: Snapshot) -> str:
    """Return it as the event that carries it."""
    return f"event: status\ndata: {msgspec.json.encode(snapshot).decode()}\n\n"
