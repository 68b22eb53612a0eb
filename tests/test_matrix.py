"""Each fault at each stage of a stream: what the client saw, who got a strike, what is left.

    dial ─▶ handshake ─▶ headers ─▶ first token ─▶ between tokens ─▶ last token

The way is an HTTP proxy's tunnel to an upstream that speaks TLS, so that every stage is there.
Missing are the cells that cannot be: inside a tunnel no proxy can say 407 or speak another
protocol, and before there is one the upstream's bytes do not reach anybody.
"""

import asyncio
import json
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
from structlog.testing import capture_logs

from clock import FakeClock
from fakes import HttpProxy, Upstream, chat
from line import dial
from relaying import relaying, settled, until
from service.errors import Failure

pytestmark = pytest.mark.usefixtures("heard_at_once")

ROLE, HI, YOU, FINISH, DONE = chat(["Hi ", "you"])
SENT = {"headers": None, "first token": [ROLE], "between tokens": [ROLE, HI]}
SENT["last token"] = [ROLE, HI, YOU]
TOML = "[heartbeat]\nafter = 0\nopen_after = 0\n"
JSON = ("Content-Type", "application/json")
ASK = b'{"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": true}'
NO_PROXY = b"SSH-2.0-OpenSSH_9.2\r\n"
GARBAGE = b"\x00\xff{{{ no chunk\r\n"


class Tunnel(HttpProxy):
    """An HTTP proxy that can fail when it has granted the tunnel, or let nothing through it."""

    after_grant = None

    async def dial(self, host, port):
        """Dial, unless the target is one that never answers."""
        if self.after_grant == "target hangs":
            await asyncio.Event().wait()
        return await super().dial(host, port)

    async def tunnel(self, connection, target):
        """Copy, or fail as told."""
        if self.after_grant == "dies":
            connection.reset()
        elif self.after_grant == "silent":
            target[1].close()
            await connection.gone.wait()
        elif self.after_grant == "garbage":
            await connection.send(NO_PROXY)
        else:
            return await super().tunnel(connection, target)
        target[1].close()
        return None


class Odd(Upstream):
    """An upstream that fails in the TLS handshake, once it has seen its first bytes."""

    fault = None

    async def serve(self, connection):
        """Fail as told."""
        await connection.reader.read(1)
        if self.fault == "resets":
            connection.reset()
        elif self.fault == "silent":
            await connection.gone.wait()
        elif self.fault == "garbage":
            await connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")


class Cell(NamedTuple):
    """What comes of a fault: the error's code, or the outcome; the proxy's strikes."""

    code: str
    strikes: int = 0


LEFT, DRAINING = Cell("left"), Cell("draining")
EXPECTED = {
    "dial": {
        "proxy dies": Cell("proxy_unreachable", 1),
        "proxy silent": Cell("proxy_timeout", 1),
        "proxy 407": Cell("proxy_refused", 1),
        "proxy of another protocol": Cell("proxy_protocol", 1),
        "upstream resets": Cell("upstream_unreachable"),
        "upstream silent": Cell("proxy_timeout", 1),
        "client leaves": LEFT,
        "SIGTERM": DRAINING,
    },
    "handshake": {
        "proxy dies": Cell("upstream_unreachable"),
        "proxy silent": Cell("proxy_timeout", 1),
        "proxy of another protocol": Cell("upstream_tls"),
        "upstream resets": Cell("upstream_unreachable"),
        "upstream silent": Cell("proxy_timeout", 1),
        "upstream cuts": Cell("upstream_unreachable"),
        "upstream sends garbage": Cell("upstream_tls"),
        "client leaves": LEFT,
        "SIGTERM": DRAINING,
    },
    "headers": {
        "proxy dies": Cell("upstream_cut"),
        "proxy silent": Cell("upstream_timeout_headers"),
        "upstream resets": Cell("upstream_cut"),
        "upstream silent": Cell("upstream_timeout_headers"),
        "upstream cuts": Cell("upstream_cut"),
        "upstream sends garbage": Cell("upstream_malformed"),
        "client leaves": LEFT,
        "SIGTERM": DRAINING,
    },
    "first token": {
        "proxy dies": Cell("upstream_cut"),
        "proxy silent": Cell("upstream_timeout_first_token"),
        "upstream resets": Cell("upstream_cut"),
        "upstream silent": Cell("upstream_timeout_first_token"),
        "upstream cuts": Cell("upstream_cut"),
        "upstream sends garbage": Cell("upstream_cut"),
        "client leaves": LEFT,
        "SIGTERM": DRAINING,
    },
    "between tokens": {
        "proxy dies": Cell("upstream_cut"),
        "proxy silent": Cell("upstream_stalled"),
        "upstream resets": Cell("upstream_cut"),
        "upstream silent": Cell("upstream_stalled"),
        "upstream cuts": Cell("upstream_cut"),
        "upstream sends garbage": Cell("upstream_cut"),
        "client leaves": LEFT,
        "SIGTERM": DRAINING,
    },
}
EXPECTED["last token"] = EXPECTED["between tokens"]
CELLS = [(stage, fault) for stage, faults in EXPECTED.items() for fault in faults]
OUTCOMES = {"upstream_cut": "cut", "left": "left", "draining": "draining"}
STALLED = {"upstream_stalled", "upstream_timeout_headers", "upstream_timeout_first_token"}
SECONDS = {"dial": 10, "handshake": 10, "headers": 120, "first token": 600}


class Scene:
    """A relay behind a proxy, a client at one of its doors, and the end of it."""

    def __init__(self, relay, proxy, upstream, line, clock):
        self.relay = relay
        self.proxy = proxy
        self.upstream = upstream
        self.line = line
        self.clock = clock
        self.wire = None

    async def reach(self, stage):
        """Let the stream come to that stage."""
        if stage == "dial":
            await self.proxy.until(lambda: self.proxy.connections)
        elif stage == "handshake":
            await self.proxy.until(lambda: self.proxy.connects)
        else:
            _, self.wire = await self.upstream.next()
            for number, data in enumerate(SENT[stage] or []):
                if number == 0:
                    await self.wire.head(content_type="text/event-stream")
                await self.wire.chunk(data)
            await settled()

    async def happen(self, stage, fault):
        """Let the fault happen, where it is not in the nature of the proxy or the upstream."""
        if fault == "client leaves":
            await self.line.close()
        elif fault == "SIGTERM":
            self.relay.gateway.draining = True
            failure = Failure("draining", "the relay is shutting down: ask again")
            await self.relay.gateway.streams.close(failure)
        elif fault.endswith("silent"):
            await self.wait_out(SECONDS.get(stage, 120))
        elif self.wire is not None:
            await self.break_off(fault)

    async def wait_out(self, seconds):
        """Let the clock of this stage run out."""
        await settled()
        self.clock.advance(seconds)

    async def break_off(self, fault):
        """Break the connection that stands."""
        if fault == "proxy dies":
            self.proxy.reset_connections()
        elif fault == "upstream resets":
            self.wire.reset()
        elif fault == "upstream cuts":
            self.wire.close()
        else:
            await self.wire.send(GARBAGE)
            self.wire.close()


def parts(stage, fault, ca):
    """Return the proxy and the upstream, as far as the fault is in their nature."""
    proxy, upstream = Tunnel(), Upstream(ssl=ca.server)
    if stage == "dial":
        proxy.silent = fault in {"proxy silent", "client leaves", "SIGTERM"}
        proxy.refuse = {"proxy 407": 407, "upstream resets": 502}.get(fault)
        proxy.garbage = NO_PROXY if fault == "proxy of another protocol" else None
        proxy.after_grant = "target hangs" if fault == "upstream silent" else None
    elif stage == "handshake":
        grants = {"proxy dies": "dies", "proxy of another protocol": "garbage"}
        proxy.after_grant = grants.get(fault)
        if fault in {"proxy silent", "client leaves", "SIGTERM"}:
            proxy.after_grant = "silent"
        if fault.startswith("upstream"):
            upstream = Odd()
            upstream.fault = fault.removeprefix("upstream ").removeprefix("sends ")
    return proxy, upstream


@asynccontextmanager
async def scene(stage, fault, door, ca, dead_port):
    """Set the scene, and ask at that door."""
    clock = FakeClock()
    proxy, upstream = parts(stage, fault, ca)
    async with upstream, proxy:
        way = f"http://127.0.0.1:{dead_port}" if (stage, fault) == DEAD else proxy.url
        url = f"https://127.0.0.1:{upstream.port}"
        async with (
            relaying(url, clock=clock, toml=TOML, tls=ca.client, proxy=way) as relay,
            dial(relay.port) as line,
        ):
            path = "/chat" if door == "chat" else "/v1/chat/completions"
            await line.send("POST", path, JSON, body=ASK)
            yield Scene(relay, proxy, upstream, line, clock)
            await until(lambda: not relay.streams)
        await until(lambda: upstream.open_connections == proxy.open_connections == 0)


DEAD = "dial", "proxy dies"


def error_of(answer, door):
    """Return the code of the error that the client was told, and whether the answer is whole."""
    if answer.status != 200:
        return answer.error["code"], answer.whole
    block = answer.body.decode().strip().split("\n\n")[-1]
    data = json.loads(block.rpartition("data: ")[2])
    return (data if door == "chat" else data["error"])["code"], answer.whole


@pytest.mark.parametrize("door", ["v1", "chat"])
@pytest.mark.parametrize(("stage", "fault"), CELLS)
async def test_a_fault_at_a_stage(stage, fault, door, ca, dead_port):
    """The client hears what happened and never takes a torso for an answer; nothing is left."""
    expected = EXPECTED[stage][fault]
    with capture_logs() as logs:
        async with scene(stage, fault, door, ca, dead_port) as found:
            if (stage, fault) != DEAD:
                await found.reach(stage)
            await found.happen(stage, fault)
            if expected is not LEFT:
                code, whole = error_of(await found.line.answer(), door)
                refused = door == "v1" and stage not in {"between tokens", "last token"}
                assert (code, whole) == (expected.code, refused)
            await until(lambda: not found.relay.streams)
            [lane] = found.relay.gateway._lanes.values()
            assert lane.pool.members[0].strikes == expected.strikes
            assert lane.pool.members[0].open == 0
    [line] = [line for line in logs if line["event"] == "request"]
    outcome = "stalled" if expected.code in STALLED else OUTCOMES.get(expected.code, "error")
    assert line["outcome"] == outcome
