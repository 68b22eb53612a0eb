"""SIGTERM: no new streams, the open ones may end, and the process goes by itself."""

import asyncio
import signal
import sys
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from fakes import Upstream, chat_frame
from line import dial
from serving import ASK, HELLO, JSON, finish, gone, serving, streaming, upstream_toml

HAND = """
import os, socket, sys
listening = socket.create_server(("127.0.0.1", 0))
os.dup2(listening.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Hands over a socket that listens, as systemd does: sd_listen_fds(3)."""
MANY = 200
KEEP = ("Connection", "keep-alive")


def toml(upstream, drain):
    """Return the settings of a relay before this upstream."""
    return f"[server]\ndrain = {drain}\n\n{upstream_toml(upstream)}"


async def kept(line):
    """Make a connection one that is kept."""
    await line.send("GET", "/readyz", KEEP)
    await line.until(b'"ok"}')
    line.received = b""


async def stopping(relay, number=signal.SIGTERM):
    """Send a signal, and wait until new connections are refused."""
    relay.signal(number)
    while True:
        try:
            async with dial(relay.port):
                await asyncio.sleep(0)
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            pass  # it waited for accept when the port closed


async def test_a_kept_connection_is_told_that_the_relay_drains(tmp_path):
    """/readyz turns 503 on it and /healthz stays well; both say that the connection ends."""
    async with Upstream() as upstream, serving(tmp_path, toml(upstream, 60)) as relay:
        async with streaming(relay, upstream) as (_, wire):
            async with dial(relay.port) as ready, dial(relay.port) as alive:
                await kept(ready)
                await kept(alive)
                await stopping(relay)
                await ready.send("GET", "/readyz", KEEP)
                answer = await ready.answer()
                assert (answer.status, answer.get("connection")) == (503, "close")
                await alive.send("GET", "/healthz", KEEP)
                answer = await alive.answer()
                assert (answer.status, answer.get("connection")) == (200, "close")
            await finish(wire)
        assert await relay.code() == 0


async def test_a_new_request_on_a_kept_connection_is_refused(tmp_path):
    """503 `draining`, retryable, with Retry-After and the end of the connection."""
    async with Upstream() as upstream, serving(tmp_path, toml(upstream, 60)) as relay:
        async with streaming(relay, upstream) as (_, wire), dial(relay.port) as line:
            await kept(line)
            await stopping(relay)
            await line.send("POST", "/v1/chat/completions", KEEP, JSON, body=ASK)
            answer = await line.answer()
            assert (answer.status, answer.error["code"]) == (503, "draining")
            assert answer.error["retryable"]
            assert (answer.get("retry-after"), answer.get("connection")) == ("1", "close")
            assert answer.get("x-should-retry") is None
            assert len(upstream.requests) == 1
            await finish(wire)
        assert await relay.code() == 0


async def test_an_open_stream_goes_on_to_its_end(tmp_path):
    """It is relayed while the relay drains, whole; then the process goes before `drain` is over."""
    async with Upstream() as upstream, serving(tmp_path, toml(upstream, 86400)) as relay:
        async with streaming(relay, upstream) as (line, wire):
            await stopping(relay)
            await wire.chunk(HELLO.replace(b"Hi", b"Later"))
            await line.until(b"Later")
            await finish(wire)
            answer = await line.answer()
            assert answer.whole
            assert answer.body.endswith(b"data: [DONE]\n\n")
        assert await relay.code() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once(tmp_path, number):
    """It dies by that signal, without a traceback, although a stream is open."""
    async with (
        Upstream() as upstream,
        serving(tmp_path, toml(upstream, 86400)) as relay,
        streaming(relay, upstream),
    ):
        await stopping(relay)
        relay.signal(number)
        assert await relay.code() == -number
    assert "Traceback" not in relay.text


async def test_sigint_drains_too(tmp_path):
    """Ctrl-C is the first signal as much as SIGTERM is."""
    async with Upstream() as upstream, serving(tmp_path, toml(upstream, 86400)) as relay:
        async with streaming(relay, upstream) as (line, wire):
            await stopping(relay, signal.SIGINT)
            await finish(wire)
            assert (await line.answer()).whole
        assert await relay.code() == 0


async def test_without_streams_it_goes_at_once(tmp_path):
    """An idle connection does not keep it, however long `drain` is."""
    async with (
        Upstream() as upstream,
        serving(tmp_path, toml(upstream, 86400)) as relay,
        dial(relay.port) as line,
    ):
        await kept(line)
        relay.signal(signal.SIGTERM)
        assert await relay.code() == 0


async def test_a_client_that_does_not_read_does_not_keep_it(tmp_path):
    """Its stream is cut with the others: the process ends by itself, the upstream is left."""
    big = chat_frame({"content": "x" * 60_000})
    async with (
        Upstream() as upstream,
        serving(tmp_path, toml(upstream, 1)) as relay,
        streaming(relay, upstream) as (line, wire),
    ):
        line._reader._transport.pause_reading()

        async def fill():
            while True:
                await wire.chunk(big)

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(fill(), 1)  # the buffers on the way are full
        relay.signal(signal.SIGTERM)
        assert await relay.code() == 0
        await gone(wire)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat"])
@pytest.mark.parametrize("drain", [0, 1])
async def test_what_is_cut_is_told_so(tmp_path, path, drain):
    """The last event is `draining`, retryable; the body has no end, the upstream is cancelled."""
    async with Upstream() as upstream, serving(tmp_path, toml(upstream, drain)) as relay:
        async with streaming(relay, upstream, path=path) as (line, wire):
            relay.signal(signal.SIGTERM)
            answer = await line.answer()
            last = answer.body.split(b"\n\n")[-2]
            assert b'"code":"draining"' in last
            assert b'"retryable":true' in last
            assert not answer.whole
            assert b"[DONE]" not in answer.body
            await gone(wire)
        assert await relay.code() == 0


async def test_a_socket_that_was_handed_over(tmp_path):
    """It is served; at the end who is kept or silent is let go, to come again at systemd's."""
    hand = (sys.executable, "-c", HAND)
    async with Upstream() as upstream, serving(tmp_path, toml(upstream, 60), prefix=hand) as relay:
        async with (
            streaming(relay, upstream) as (line, wire),
            dial(relay.port) as idle,
            dial(relay.port) as silent,
        ):
            await kept(idle)
            relay.signal(signal.SIGTERM)
            assert [await idle._reader.read(), await silent._reader.read()] == [b"", b""]
            await finish(wire)
            assert (await line.answer()).whole
        assert await relay.code() == 0


async def test_sigterm_under_200_streams(tmp_path):
    """A third ends whole, a third leaves, the rest is cut: each has its outcome, none is lost."""
    async with (
        Upstream() as upstream,
        serving(tmp_path, toml(upstream, 5)) as relay,
        AsyncExitStack() as stack,
    ):
        opened = [await stack.enter_async_context(streaming(relay, upstream)) for _ in range(MANY)]
        relay.signal(signal.SIGTERM)
        whole, leaving, cut = opened[::3], opened[1::3], opened[2::3]
        for line, _ in leaving:
            await line.close()
        for _, wire in whole:
            await finish(wire)
        seen = Counter([ending(await line.answer()) for line, _ in whole + cut])
        assert await relay.code() == 0
        for _, wire in leaving + cut:
            await gone(wire)
    outcomes = Counter(record["outcome"] for record in relay.records())
    print(f"SIGTERM under {MANY} streams: {dict(outcomes)}; clients saw {dict(seen)}")  # noqa: T201
    assert outcomes == {"ok": len(whole), "left": len(leaving), "draining": len(cut)}
    assert seen == {"done": len(whole), "draining": len(cut)}


def ending(answer):
    """Return what a client takes its answer for."""
    if answer.whole and answer.body.endswith(b"data: [DONE]\n\n"):
        return "done"
    told = b'"code":"draining"' in answer.body.split(b"\n\n")[-2]
    return "draining" if told and not answer.whole and b"[DONE]" not in answer.body else "lost"
