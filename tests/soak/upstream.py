"""The process beyond the relay: an API that is asked for its faults by name, and steady proxies.

It writes one line, the ports, as JSON, and ends when its standard input does.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from random import Random

from fakes import HttpProxy, Request, SocksProxy, Upstream, Wire, chat, frame
from soak.kinds import kind_of, tokens
from soak.loop import run

GAP = 0.6
"""Seconds between two tokens, on average."""
FLOOD = 64, 128 * 1024
"""Frames that nobody reads, and the bytes of each: more than all buffers hold."""
USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
JSON = ("Content-Type", "application/json")
ERROR = {"error": {"message": "Not now.", "type": "server_error"}}


async def api(request: Request, wire: Wire) -> None:
    """Do as the kind of the model's name says."""
    body = json.loads(request.body)
    name = body["model"]
    script = kind_of(name).script
    if name.startswith("rescued") and request.target.startswith("/broken"):
        script = "503"
    await SCRIPTS.get(script, _status)(name, wire)


async def _typed(wire: Wire, frames: list[bytes]) -> None:
    chance = Random()  # noqa: S311
    await wire.head(content_type="text/event-stream")
    for data in frames:
        await wire.chunk(data)
        await asyncio.sleep(chance.uniform(0, 2 * GAP))


async def _whole(name: str, wire: Wire) -> None:
    await _typed(wire, chat(tokens(name), usage=USAGE, model=name))
    await wire.end()


async def _slow(name: str, wire: Wire) -> None:
    await _half(name, wire)
    while not wire.closed.is_set():
        await wire.chunk(b": still here\n\n")
        await asyncio.sleep(1)


async def _half(name: str, wire: Wire) -> None:
    said = tokens(name)
    await _typed(wire, chat(said[: len(said) // 2], finish=None, done=False, model=name))


async def _cut(name: str, wire: Wire) -> None:
    await _half(name, wire)
    wire.close()


async def _torn(name: str, wire: Wire) -> None:
    await _half(name, wire)
    wire.reset()


async def _stall(name: str, wire: Wire) -> None:
    await _half(name, wire)
    await wire.closed.wait()


async def _malformed(name: str, wire: Wire) -> None:
    frames = chat(tokens(name), usage=USAGE, model=name)
    await _typed(wire, [*frames[:4], b'data: {"choices": [{\n\n', *frames[4:]])
    await wire.end()


async def _says(name: str, wire: Wire) -> None:
    await _half(name, wire)
    await wire.chunk(frame(ERROR))
    await wire.end()


async def _plain(name: str, wire: Wire) -> None:
    await asyncio.sleep(GAP)
    await wire.reply(200, _answer(name), JSON)


async def _torn_plain(name: str, wire: Wire) -> None:
    answer = _answer(name)
    await wire.head(200, JSON, ("Content-Length", str(len(answer))), chunked=False)
    await wire.send(answer[: len(answer) // 2])
    await asyncio.sleep(GAP)
    wire.close()


def _answer(name: str) -> bytes:
    choice = {"message": {"content": "".join(tokens(name))}, "finish_reason": "stop"}
    return json.dumps({"object": "chat.completion", "choices": [choice], "usage": USAGE}).encode()


async def _flood(name: str, wire: Wire) -> None:
    await wire.head(content_type="text/event-stream")
    count, size = FLOOD
    for data in chat(["x" * size for _ in range(count)], model=name):
        await wire.chunk(data)
    await wire.end()


async def _mute(_name: str, wire: Wire) -> None:
    await wire.closed.wait()


async def _reset(_name: str, wire: Wire) -> None:
    wire.reset()


async def _page(_name: str, wire: Wire) -> None:
    await wire.reply(200, b"<html>Log in", content_type="text/html")


async def _status(name: str, wire: Wire) -> None:
    status = kind_of(name).script
    await wire.reply(int(status) if status.isdigit() else 503, json.dumps(ERROR).encode(), JSON)


SCRIPTS: dict[str, Callable[[str, Wire], Awaitable[None]]] = {
    "whole": _whole,
    "slow": _slow,
    "cut": _cut,
    "torn": _torn,
    "stall": _stall,
    "malformed": _malformed,
    "says": _says,
    "plain": _plain,
    "torn-plain": _torn_plain,
    "flood": _flood,
    "mute": _mute,
    "reset": _reset,
    "page": _page,
}


async def forgetful(*servers: Upstream | HttpProxy | SocksProxy) -> None:
    """Drop what the fakes note for tests: here nobody looks, and it would fill the memory."""
    while True:
        await asyncio.sleep(1)
        for server in servers:
            for noted in ("requests", "targets", "up", "down", "dials"):
                if hasattr(server, noted):
                    getattr(server, noted).clear()


async def main() -> None:
    """Serve until standard input ends."""
    async with (
        Upstream(api) as upstream,
        HttpProxy() as http,
        SocksProxy() as socks,
        HttpProxy(refuse=403) as denying,
    ):
        servers = {"upstream": upstream, "http": http, "socks": socks, "denying": denying}
        cleaning = asyncio.create_task(forgetful(*servers.values()))
        ports = {name: server.port for name, server in servers.items()}
        sys.stdout.write(json.dumps(ports) + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)
        cleaning.cancel()


if __name__ == "__main__":
    run(main())
