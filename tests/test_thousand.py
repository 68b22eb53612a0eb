"""A thousand streams through three real proxies that are killed and started again at random.

None that had not begun fails, none that had begun ends untruthfully; `pytest -s` shows the count.
"""

import asyncio
import json
import random
from collections import Counter
from contextlib import ExitStack

import aiohttp

from fakes import Upstream, chat
from real import microsocks, sing_box, tinyproxy
from relaying import relaying, until

STREAMS, AT_A_TIME, TOKENS = 1000, 40, 12
BETWEEN_TOKENS = 0.01
"""Seconds; slow enough that a proxy's end finds streams at every stage."""
TEXT = "".join(f"w{number} " for number in range(TOKENS))


async def typing(_, wire):
    """Answer token by token."""
    await wire.head(content_type="text/event-stream")
    for frame in chat([f"w{number} " for number in range(TOKENS)]):
        await wire.chunk(frame)
        await asyncio.sleep(BETWEEN_TOKENS)
    await wire.end()


async def one(relay, counts):
    """Ask for a stream; count how it ended, and check that it says so."""
    text, ended = "", ""
    try:
        async with relay.stream() as response:
            body = ""
            assert response.status == 200, await response.text()
            async for data in response.content.iter_any():
                body += data.decode()
            ended = "whole"
    except aiohttp.ClientPayloadError:
        ended = "torn"
    blocks = [block.removeprefix("data: ") for block in body.split("\n\n") if block]
    error = None
    for block in blocks:
        if block.startswith("{"):
            found = json.loads(block)
            error = found.get("error", error)
            text += "".join(c["delta"].get("content") or "" for c in found.get("choices", []))
    if ended == "whole":
        assert error is None
        assert text == TEXT
        assert any('"finish_reason":"stop"' in block for block in blocks)
    else:
        assert text
        assert TEXT.startswith(text)
        assert "[DONE]" not in blocks
        assert error["code"] == "upstream_cut"
    counts[ended] += 1


async def trouble(proxies, kills):
    """Kill a proxy, start it again, and so on."""
    chance = random.Random(20)  # noqa: S311  the same trouble each time
    while True:
        proxy = chance.choice(proxies)
        await asyncio.to_thread(proxy.kill)
        kills[proxy.output.stem] += 1
        await asyncio.sleep(chance.uniform(0.05, 0.5))
        await asyncio.to_thread(proxy.restart)
        await asyncio.sleep(chance.uniform(0.05, 0.5))


async def test_a_thousand_streams(tmp_path):
    """Each ends whole, or says that it was cut; sockets and tasks are gone at the end."""
    asyncio.get_running_loop().set_debug(False)  # it takes three times as long
    counts, kills = Counter(), Counter()
    with ExitStack() as stack:
        proxies = [stack.enter_context(run(tmp_path)) for run in (microsocks, tinyproxy, sing_box)]
        schemes = ["socks5h", "http", "socks5"]
        ways = ",".join(p.url(s) for p, s in zip(proxies, schemes, strict=True))
        toml = "[retry]\nattempts = 10\n"  # 3 in a row meet a proxy's end now and then
        async with (
            Upstream(typing) as upstream,
            relaying(upstream.url, proxy=ways, toml=toml) as relay,
        ):
            troubling = asyncio.create_task(trouble(proxies, kills))
            left = iter(range(STREAMS))

            async def worker():
                for _ in left:
                    await one(relay, counts)

            try:
                await asyncio.gather(*(worker() for _ in range(AT_A_TIME)))
            finally:
                troubling.cancel()
                await asyncio.gather(troubling, return_exceptions=True)
            await until(lambda: not relay.streams)  # a client may be done before the relay is
            [lane] = relay.gateway._lanes.values()
            assert [member.open for member in lane.pool.members] == [0, 0, 0]
            metric = relay.gateway.metrics._streams
            outcomes = {outcome: n for (_, outcome), n in metric.items() if n}
    print(f"\nclients: {dict(counts)}; relay: {outcomes}; proxies killed: {dict(kills)}")  # noqa: T201
    assert counts["whole"] + counts["torn"] == STREAMS
    assert outcomes.get("ok") == counts["whole"]
    assert outcomes.get("cut", 0) == counts["torn"]
    assert sum(kills.values()) > len(proxies)
