"""A client that leaves takes the upstream's request along, at once, and leaves nothing behind.

The relay runs as production runs it (app.runner). The clock stands still while a client leaves:
whatever is cleaned up does not wait for a time-out.
"""

import asyncio
import os
import socket
import struct
import sys
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
from structlog.testing import capture_logs

from clock import PATIENCE, FakeClock
from fakes import HttpProxy, SocksProxy, Upstream, chat
from fakes.frames import DONE
from fakes.tunnel import Proxy
from line import Line, dial
from program import environment
from relaying import Relay, read_events, relaying, settled, until

ROLE, TOKEN, FINISH, _ = chat(["Hi"])
STREAM = b'{"model": "m", "stream": true}'
PLAIN = b'{"model": "m"}'
SLOW = [("Teleprinter-Delay", "60000")]
LARGE = chat(["x" * 50_000], role=False, finish=None, done=False)[0]

ways = pytest.mark.parametrize("way", ["direct", "absolute", "connect", "socks5"])
kinds = pytest.mark.parametrize("kind", ["FIN", "RST"])
doors = pytest.mark.parametrize("door", ["chat", "v1"])


class Scene(NamedTuple):
    """A relay between a client that will leave and an upstream that the test plays."""

    clock: FakeClock
    upstream: Upstream
    proxy: Proxy | None
    relay: Relay
    logs: list[dict[str, Any]]

    @property
    def lines(self):
        """The log lines of requests."""
        return [entry for entry in self.logs if entry["event"] == "request"]

    async def nothing_is_left(self):
        """Wait until no stream, no connection and no timer is left, and the line is written."""
        await self.upstream.until(lambda: self.upstream.open_connections == 0)
        if self.proxy is not None:
            await self.proxy.until(lambda: self.proxy.open_connections == 0)
        await until(lambda: len(self.relay.gateway.streams) == 0)
        await until(lambda: self.lines)
        await settled()
        assert [task for task in asyncio.all_tasks() if task.get_name().startswith("stream")] == []
        assert self.clock.pending() == []
        assert self.clock.now() == 1000.0

    async def the_next_is_served(self):
        """Ask again, and get the whole answer."""
        async with self.relay.get("/chat", question="And now?") as response:
            _, wire = await self.upstream.next()
            await say(wire, ROLE, TOKEN, FINISH, DONE)
            await wire.end()
            names = [event.name for event in await read_events(response)]
        assert names == ["start", "answer", "done"]


@asynccontextmanager
async def scene(clock, ca, way="direct", toml=""):
    """Set the scene; an upstream that speaks TLS makes an HTTP proxy's client say CONNECT."""
    kind = {"absolute": HttpProxy, "connect": HttpProxy, "socks5": SocksProxy}.get(way)
    tls = ca.server if way in {"connect", "socks5"} else None
    with capture_logs() as logs:
        async with (
            Upstream(ssl=tls) as upstream,
            (kind or HttpProxy)() as proxy,
            relaying(
                upstream.url,
                clock=clock,
                tls=ca.client,
                toml=toml,
                proxy=proxy.url if kind else "direct",
            ) as relay,
        ):
            yield Scene(clock, upstream, proxy if kind else None, relay, logs)


async def ask(line, door, *headers):
    """Send a request for a stream at that door, or a plain one."""
    if door == "chat":
        delay = "&delay_ms=60000" if headers else ""
        await line.send("GET", f"/chat?question=Hi{delay}")
    else:
        body = STREAM if door == "v1" else PLAIN
        await line.send("POST", "/v1/chat/completions", *headers, body=body)


async def say(wire, *frames):
    """Begin an event stream with these frames."""
    await wire.head(content_type="text/event-stream")
    for frame in frames:
        await wire.chunk(frame)


async def leave(line: Line, kind):
    """Leave with FIN or RST."""
    if kind == "RST":
        sock = line._writer.get_extra_info("socket")
        with socket.socket(fileno=os.dup(sock.fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        line._writer.transport.abort()
    await line.close()


async def closed(wire):
    """Wait until the relay has closed the connection of that request."""
    async with asyncio.timeout(PATIENCE):
        await wire.closed.wait()


# --- a stage each, by every way, with either kind of end


@ways
@kinds
@pytest.mark.parametrize("door", ["chat", "v1", "plain"])
async def test_before_the_upstream_answered(clock, ca, way, kind, door):
    """The upstream has the request and says nothing: its connection is closed."""
    async with scene(clock, ca, way) as found, dial(found.relay.port) as line:
        await ask(line, door)
        _, wire = await found.upstream.next()
        await leave(line, kind)
        await closed(wire)
        await found.nothing_is_left()
        assert found.lines[0]["outcome"] == "left"
        await found.the_next_is_served()


@ways
@kinds
@doors
async def test_before_the_first_token(clock, ca, way, kind, door):
    """The upstream has answered, and sent a role and a comment."""
    async with scene(clock, ca, way) as found, dial(found.relay.port) as line:
        await ask(line, door)
        _, wire = await found.upstream.next()
        await say(wire, ROLE, b": PROCESSING\n\n")
        (stream,) = found.relay.streams
        await until(lambda: stream.frames == 2)
        await leave(line, kind)
        await closed(wire)
        await found.nothing_is_left()
        assert found.lines[0]["outcome"] == "left"
        await found.the_next_is_served()


@ways
@kinds
@doors
async def test_between_tokens(clock, ca, way, kind, door):
    """The client has read a token, the upstream thinks about the next one."""
    async with scene(clock, ca, way) as found, dial(found.relay.port) as line:
        await ask(line, door)
        _, wire = await found.upstream.next()
        await say(wire, ROLE, TOKEN)
        await line.until(b'"Hi"')
        await leave(line, kind)
        await closed(wire)
        await found.nothing_is_left()
        assert found.lines[0]["outcome"] == "left"
        await found.the_next_is_served()


@ways
@kinds
@doors
async def test_while_a_delay_is_waited_out(clock, ca, way, kind, door):
    """The upstream is ahead of the typewriter, which has a minute to wait."""
    async with scene(clock, ca, way) as found, dial(found.relay.port) as line:
        await ask(line, door, *SLOW)
        _, wire = await found.upstream.next()
        await say(wire, ROLE, TOKEN, TOKEN, TOKEN)
        await line.until(b'"Hi"')
        (stream,) = found.relay.streams
        await until(lambda: stream.frames == 4)
        await leave(line, kind)
        await closed(wire)
        await found.nothing_is_left()
        assert found.lines[0]["outcome"] == "left"
        await found.the_next_is_served()


@ways
@kinds
async def test_in_the_middle_of_a_plain_body(clock, ca, way, kind):
    """A body that is no event stream is given up the same way."""
    async with scene(clock, ca, way) as found, dial(found.relay.port) as line:
        await ask(line, "plain")
        _, wire = await found.upstream.next()
        await wire.head(content_type="application/json")
        await wire.chunk(b'{"half": ')
        await line.until(b"half")
        await leave(line, kind)
        await closed(wire)
        await found.nothing_is_left()
        assert found.lines[0]["outcome"] == "left"
        await found.the_next_is_served()


# --- more moments


@kinds
@doors
async def test_after_the_upstream_ended_and_before_the_client_has_it_all(clock, ca, kind, door):
    """The upstream is done, tokens wait for their turn: it is `left`, for nobody got the end."""
    async with scene(clock, ca) as found, dial(found.relay.port) as line:
        await ask(line, door, *SLOW)
        _, wire = await found.upstream.next()
        await say(wire, ROLE, TOKEN, TOKEN, FINISH, DONE)
        await wire.end()
        await line.until(b'"Hi"')
        await until(lambda: not found.relay.streams)
        assert found.lines == []
        await leave(line, kind)
        await until(lambda: found.lines)
        assert found.lines[0]["outcome"] == "left"
        assert found.upstream.open_connections == 1
        assert clock.pending() == []
        await found.the_next_is_served()
        assert found.upstream.connections == 1


@kinds
@doors
async def test_with_an_error_that_waits_behind_the_text(clock, ca, kind, door):
    """A client that left is nobody's failure, whatever it would have been told."""
    async with scene(clock, ca) as found, dial(found.relay.port) as line:
        await ask(line, door, *SLOW)
        _, wire = await found.upstream.next()
        await say(wire, TOKEN, TOKEN)
        await line.until(b'"Hi"')
        wire.reset()
        await until(lambda: not found.relay.streams)
        await leave(line, kind)
        await found.nothing_is_left()
        assert found.lines[0]["outcome"] == "left"
        assert "error" not in found.lines[0]


@kinds
@doors
async def test_while_the_upstream_is_paused(clock, ca, kind, door):
    """The queue is full and the upstream waits for room: it is closed all the same."""
    async with (
        scene(clock, ca, toml="[limits]\nqueue = 1") as found,
        dial(found.relay.port) as line,
    ):
        await ask(line, door, *SLOW)
        _, wire = await found.upstream.next()
        await say(wire, TOKEN, *[LARGE] * 6)
        await line.until(b'"Hi"')
        (stream,) = found.relay.streams
        await until(lambda: stream.replay.full)
        await leave(line, kind)
        await closed(wire)
        await found.nothing_is_left()
        assert found.lines[0]["outcome"] == "left"


@asynccontextmanager
async def stuck(found, line, door):
    """Fill every buffer on the way to a client that does not read; yield the upstream's end."""
    await ask(line, door)
    _, wire = await found.upstream.next()
    sending = asyncio.create_task(endless(wire))
    await until(lambda: found.relay.streams[0].replay.full)
    (stream,) = found.relay.streams
    seen = 0
    while seen < stream.frames or not stream.replay.full:
        seen = stream.frames
        await settled()
    yield wire
    await asyncio.wait([sending])
    assert sending.exception() is None or isinstance(sending.exception(), OSError)
    await until(lambda: not found.relay.streams)
    await until(lambda: found.lines)
    assert found.clock.pending() == []


async def endless(wire):
    """Send tokens until the client is gone."""
    await say(wire, TOKEN)
    while not wire.closed.is_set():
        await wire.chunk(LARGE)


@doors
async def test_while_the_client_does_not_read(clock, ca, door):
    """A client that lets everything pile up, and then leaves."""
    async with scene(clock, ca) as found, dial(found.relay.port) as line:
        async with stuck(found, line, door) as wire:
            await leave(line, "RST")
            await closed(wire)
        assert found.lines[0]["outcome"] == "left"


@doors
async def test_a_client_that_does_not_read_is_made_to_leave(clock, ca, door):
    """After limits.send_timeout it is dropped as if it had left; the log says that it was slow."""
    toml = "[limits]\nsend_timeout = 5\n[heartbeat]\nafter = 0"
    async with scene(clock, ca, toml=toml) as found, dial(found.relay.port) as line:
        async with stuck(found, line, door) as wire:
            clock.advance(4.999)
            await settled()
            assert not wire.closed.is_set()
            clock.advance(0.001)
            await closed(wire)
        assert found.lines[0]["outcome"] == "slow"
        assert found.lines[0]["error"] == "client_too_slow"


@kinds
@doors
@pytest.mark.parametrize("kind_of_proxy", [HttpProxy, SocksProxy])
async def test_while_a_proxy_is_dialled(clock, ca, kind, door, kind_of_proxy):
    """A proxy that does not answer is let go of before its time is over."""
    async with Upstream(ssl=ca.server) as upstream, kind_of_proxy(silent=True) as proxy:
        with capture_logs() as logs:
            async with (
                relaying(upstream.url, clock=clock, proxy=proxy.url) as relay,
                dial(relay.port) as line,
            ):
                found = Scene(clock, upstream, proxy, relay, logs)
                await ask(line, door)
                await proxy.until(lambda: proxy.open_connections == 1)
                await leave(line, kind)
                await found.nothing_is_left()
                assert found.lines[0]["outcome"] == "left"
    assert upstream.connections == 0


@doors
async def test_others_go_on(clock, ca, door):
    """The stream of one client ends, the stream of another one does not."""
    async with (
        scene(clock, ca) as found,
        dial(found.relay.port) as leaver,
        dial(found.relay.port) as stayer,
    ):
        await ask(leaver, door)
        _, left = await found.upstream.next()
        await ask(stayer, door)
        _, stayed = await found.upstream.next()
        for wire in (left, stayed):
            await say(wire, ROLE, TOKEN)
        await leaver.until(b'"Hi"')
        await leave(leaver, "FIN")
        await closed(left)
        assert not stayed.closed.is_set()
        await stayed.chunk(TOKEN + FINISH + DONE)
        await stayed.end()
        answer = await stayer.answer()
        assert answer.whole
        assert answer.body.count(b'"Hi"') == 2


# --- a stream that ended leaves its connection for the next one


@ways
@pytest.mark.parametrize("door", ["chat", "v1", "plain"])
async def test_ten_requests_need_one_connection(clock, ca, way, door):
    """A finished body frees the upstream's connection, and the tunnel to it."""
    async with scene(clock, ca, way) as found:
        for number in range(10):
            async with dial(found.relay.port) as line:
                await ask(line, door)
                _, wire = await found.upstream.next()
                if door == "plain":
                    await wire.reply(200, "{}")
                else:
                    await say(wire, ROLE, TOKEN, FINISH, DONE)
                    await wire.end()
                assert (await line.answer()).whole
                await until(lambda: not found.relay.streams)
            assert found.lines[number]["outcome"] == "ok"
        assert found.upstream.connections == 1
        assert found.proxy is None or found.proxy.connections == 1


@ways
async def test_a_stream_that_was_left_leaves_no_connection_to_be_used_again(clock, ca, way):
    """What an upstream goes on to send belongs to the old request: the next one gets a new way."""
    async with scene(clock, ca, way) as found:
        for number in range(3):
            async with dial(found.relay.port) as line:
                await ask(line, "v1")
                _, wire = await found.upstream.next()
                await say(wire, TOKEN)
                await line.until(b'"Hi"')
                await leave(line, "FIN")
                await closed(wire)
                await until(lambda: not found.relay.streams)
            assert found.upstream.connections == number + 1


@doors
async def test_an_upstream_that_does_not_hang_up_is_not_waited_for(clock, ca, door):
    """[DONE] ends the client's stream; the rest of the upstream's body has 0.1 s to end."""
    async with scene(clock, ca) as found, dial(found.relay.port) as line:
        await ask(line, door)
        _, wire = await found.upstream.next()
        await say(wire, ROLE, TOKEN, FINISH, DONE)
        answer = await line.answer()
        assert answer.whole
        await clock.armed(1000.1)
        clock.advance(0.099)
        await settled()
        assert not wire.closed.is_set()
        clock.advance(0.001)
        await closed(wire)
        await until(lambda: not found.relay.streams)


# --- the process that runs in production


async def test_a_client_that_leaves_the_real_process(tmp_path):
    """`teleprinter serve` notices by itself, long before a heartbeat would tell it."""
    (tmp_path / "teleprinter.toml").write_text("[chat]\nkeep = 0\n")
    async with Upstream() as upstream:
        environ = environment(TELEPRINTER_UPSTREAM_URL=f"{upstream.url}/v1")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service", "serve", "--port", "0"),
            cwd=tmp_path,
            env=environ,
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=PIPE,
        )
        try:
            port = await _port(process.stderr)
            for door in ("chat", "v1", "plain"):
                async with dial(port) as line:
                    await ask(line, door)
                    _, wire = await upstream.next()
                    await leave(line, "FIN")
                    await closed(wire)
        finally:
            process.terminate()
            await process.communicate()


async def _port(errors):
    """Return the port that the process says it listens on."""
    async with asyncio.timeout(3 * PATIENCE):
        while b"listening on" not in (text := await errors.readline()):
            assert text, "the process did not start"
    return int(text.split(b"://")[1].split(b"/")[0].rpartition(b":")[2])
