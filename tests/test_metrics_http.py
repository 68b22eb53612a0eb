"""/metrics over HTTP: every name of the contract, with the right values."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from prometheus_client.parser import text_string_to_metric_families

from clock import PATIENCE
from fakes import HttpProxy, Upstream, chat, chat_frame, reply
from line import dial, exchange
from relaying import relaying, settled, until
from service.errors import Failure
from serving import serving, upstream_toml

JSON = ("Content-Type", "application/json")
ASK = b'{"model": "m", "stream": true}'
PATH = "/v1/chat/completions"
USAGE = {"prompt_tokens": 30, "completion_tokens": 12, "total_tokens": 42}
HELLO = chat_frame({"content": "Hi"})
NAMES = {
    "teleprinter_streams_open",
    "teleprinter_streams",
    "teleprinter_events",
    "teleprinter_first_token_seconds",
    "teleprinter_event_gap_seconds",
    "teleprinter_attempts",
    "teleprinter_proxy_up",
    "teleprinter_proxy_connect_seconds",
    "teleprinter_tokens",
    "teleprinter_loop_lag_seconds",
}


async def scrape(port, *pairs):
    """Return the samples by name and labels."""
    answer = await exchange(port, "GET", "/metrics", *pairs)
    assert answer.status == 200
    families = list(text_string_to_metric_families(answer.body.decode()))
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }
    return {family.name for family in families}, samples


async def test_one_stream_of_each_outcome(clock):  # noqa: PLR0915  one scene, told in a row
    """Each is counted once under its own outcome, with its events, tokens, attempts and times."""
    toml = (
        "[clocks]\nidle = 50\n[heartbeat]\nafter = 0\nopen_after = 0\n[limits]\nsend_timeout = 9\n"
    )
    async with (
        Upstream() as upstream,
        HttpProxy() as proxy,
        relaying(upstream.url, proxy=proxy.url, toml=toml, clock=clock) as relay,
        AsyncExitStack() as stack,
    ):

        async def begin():
            """Begin a stream; return the client's line and the upstream's wire."""
            line = await stack.enter_async_context(dial(relay.port))
            await line.send("POST", PATH, JSON, body=ASK)
            _, wire = await upstream.next()
            await wire.head(content_type="text/event-stream")
            await wire.chunk(HELLO)
            await line.until(b"Hi")
            return line, wire

        async def over():
            await until(lambda: len(relay.gateway.streams) == 0)

        line, wire = await begin()
        _, samples = await scrape(relay.port)
        assert samples[("teleprinter_streams_open",)] == 1
        for data in chat([], role=False, usage=USAGE):
            clock.advance(0.02)
            await settled()
            await wire.chunk(data)
        await wire.end()
        await line.answer()  # ok
        await over()
        line, wire = await begin()
        await line.close()  # left
        await over()
        line, wire = await begin()
        wire.close()  # cut
        await line.answer()
        line, wire = await begin()
        await clock.armed(clock.now() + 50)
        clock.advance(50)  # stalled
        await line.answer()
        line, wire = await begin()
        await wire.chunk(b'data: {"error": {"message": "no"}}\n\n')
        await wire.end()  # error
        await line.answer()
        for code in ("draining", "stopped"):
            line, wire = await begin()
            relay.streams[0].end(Failure(code, "it is so", stage="stream"))
            await line.answer()
        line, wire = await begin()
        line._writer.transport.pause_reading()
        filling = asyncio.create_task(fill(wire))
        await clock.armed(clock.now() + 9)
        await settled()
        while len(relay.gateway.streams):  # slow
            clock.advance(9)
            await settled()
        with pytest.raises(ConnectionError):
            await filling
        await line.close()
        assert (await exchange(relay.port, "POST", "/chat", JSON, body=b"{}")).status == 400
        names, samples = await scrape(relay.port)
        shown = f"127.0.0.1:{proxy.port}"

    def value(name, **labels):
        return samples[(f"teleprinter_{name}", *sorted(labels.items()))]

    assert names >= NAMES
    outcomes = ["ok", "left", "cut", "stalled", "error", "draining", "stopped", "slow"]
    assert [value("streams_total", upstream="127.0.0.1", outcome=each) for each in outcomes] == [
        1
    ] * len(outcomes)
    assert value("streams_total", upstream="127.0.0.1", outcome="too_long") == 0
    assert value("streams_total", upstream="other", outcome="refused") == 1
    assert value("streams_open") == 0
    assert value("events_total") > len(outcomes)
    assert value("first_token_seconds_count") == len(outcomes)
    assert value("event_gap_seconds_count") >= 3
    assert value("tokens_total", upstream="127.0.0.1", kind="prompt") == 30
    assert value("tokens_total", upstream="127.0.0.1", kind="completion") == 12
    [way] = [key for key in samples if key[0] == "teleprinter_proxy_up"]
    assert shown in str(way)
    assert samples[way] == 1
    [tried] = [key for key in samples if key[0] == "teleprinter_attempts_total"]
    assert "'ok'" in str(tried)
    assert samples[tried] == len(outcomes)
    [connected] = [key for key in samples if key[0] == "teleprinter_proxy_connect_seconds_count"]
    assert 1 <= samples[connected] <= len(outcomes)


async def fill(wire):
    """Send until the relay leaves."""
    async with asyncio.timeout(PATIENCE):
        while True:
            await wire.chunk(HELLO * 100)


async def test_a_refused_key_counts_as_refused():
    """What never became a stream has no upstream."""
    toml = '[server]\nkeys = ["a:k"]\nmetrics_open = true\n'
    async with Upstream(reply(200)) as upstream, relaying(upstream.url, toml=toml) as relay:
        await exchange(relay.port, "POST", PATH, JSON, body=ASK)
        await exchange(relay.port, "GET", "/elsewhere")
        _, samples = await scrape(relay.port)
    key = ("teleprinter_streams_total", ("outcome", "refused"), ("upstream", "other"))
    assert samples[key] == 1


async def test_metrics_need_a_key_unless_they_are_open():
    """With keys 401; `metrics_open` lifts it; without keys everybody may look."""
    keys = '[server]\nkeys = ["a:k"]\n'
    async with relaying("http://127.0.0.1:9", toml=keys) as relay:
        assert (await exchange(relay.port, "GET", "/metrics")).status == 401
        await scrape(relay.port, ("Teleprinter-Key", "k"))
    async with relaying("http://127.0.0.1:9", toml=keys + "metrics_open = true\n") as relay:
        await scrape(relay.port)
    async with relaying("http://127.0.0.1:9") as relay:
        await scrape(relay.port)


async def test_the_loops_lag_is_measured(tmp_path):
    """A running relay counts how late its own loop is."""
    key = ("teleprinter_loop_lag_seconds_count",)
    async with Upstream() as upstream, serving(tmp_path, upstream_toml(upstream)) as relay:
        async with asyncio.timeout(6 * PATIENCE):
            while (await scrape(relay.port))[1][key] < 2:  # noqa: ASYNC110  the relay's own time
                await asyncio.sleep(0.05)
