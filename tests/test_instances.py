"""Two instances that share a Redis, when one of the three goes away in mid-stream.

What the stores do then is in test_replay_redis.py; here it is what the clients see.
"""

import asyncio
import os
import signal
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from time import monotonic

import pytest
from redis.asyncio import Redis

import real
from fakes import Upstream, begun, chat
from relaying import events, read_cut, read_events, relaying
from replaying import until
from serving import gone, serving

ROLE, HI, YOU, FINISH, DONE = chat(["Hi ", "you"])
TOML = "[chat]\nkeep = 15\n"


@asynccontextmanager
async def two(upstream, redis):
    """Run two instances on this Redis."""
    async with AsyncExitStack() as stack:
        url = redis.url("redis")
        each = [relaying(upstream.url, toml=TOML, store=url) for _ in range(2)]
        yield [await stack.enter_async_context(one) for one in each]


async def upto(response, text):
    """Return the events up to the one that has this text."""
    found = []
    async for event in events(response):
        found.append(event)
        if event.data.get("content") == text:
            return found
    raise AssertionError(found)


async def lost(relay, name):
    """Check that nobody can go on with that stream there, by either door."""
    for path, headers in ((f"/streams/{name}", {}), ("/chat", {"Last-Event-ID": f"{name}.2"})):
        async with relay.get(path, headers, question="Hi") as response:
            assert (response.status, (await response.json())["error"]["code"]) == (
                503,
                "resume_lost",
            )


async def test_redis_killed_and_started_again(tmp_path):
    """Who reads live reads on; to go on is lost meanwhile; then new streams are kept again."""
    with ExitStack() as stack:
        redis = stack.enter_context(real.redis_server(tmp_path))
        async with Upstream() as upstream, two(upstream, redis) as (here, there):
            async with here.get("/chat", question="Hi") as response:
                wire = await begun(upstream, ROLE, HI)
                name = response.headers["Teleprinter-Stream"]
                live = await upto(response, "Hi ")
                async with there.get(f"/streams/{name}") as other:
                    await upto(other, "Hi ")
                    os.kill(redis.pid, signal.SIGKILL)
                    told = (await read_cut(other))[-1]
                assert (told.name, told.data["code"]) == ("error", "resume_lost")
                await until(lambda: here.gateway.store.away)
                await lost(here, name)
                await lost(there, name)
                for frame in (YOU, FINISH, DONE):
                    await wire.chunk(frame)
                await wire.end()
                live += await read_events(response)
            assert [event.name for event in live] == ["start", "answer", "answer", "done"]
            async with here.get("/chat", question="Hi") as response:
                wire = await begun(upstream, ROLE, HI)
                await upto(response, "Hi ")
                await lost(here, response.headers["Teleprinter-Stream"])
            await gone(wire)  # nobody could come back to it
            stack.enter_context(real.redis_server(tmp_path, port=redis.port))
            await until(lambda: not (here.gateway.store.away or there.gateway.store.away))
            async with here.get("/chat", question="Hi") as response:
                wire = await begun(upstream, ROLE, HI)
                last = (await upto(response, "Hi "))[-1].id
            async with there.get("/chat", {"Last-Event-ID": last}, question="Hi") as response:
                for frame in (YOU, FINISH, DONE):
                    await wire.chunk(frame)
                await wire.end()
                again = await read_events(response)
            assert [event.name for event in again] == ["answer", "done"]
        assert len(upstream.requests) == 3


async def test_a_name_that_a_client_has_is_known_to_all(tmp_path):
    """The response begins once Redis has the stream: who is told its name may go on elsewhere."""
    with real.redis_server(tmp_path) as redis:
        async with (
            Redis(port=redis.port, protocol=2) as admin,
            Upstream() as upstream,
            two(upstream, redis) as (here, there),
        ):
            await admin.client_pause(60_000, all=False)  # writes wait, reads do not
            asking = asyncio.ensure_future(here.get("/chat", question="Hi"))
            wire = await begun(upstream, ROLE, HI)
            assert not asking.done()
            await admin.client_unpause()
            async with await asking as response:
                name = response.headers["Teleprinter-Stream"]
            async with there.get(f"/streams/{name}") as other:
                await upto(other, "Hi ")
                for frame in (YOU, FINISH, DONE):
                    await wire.chunk(frame)
                await wire.end()
                assert (await read_events(other))[-1].name == "done"


async def test_an_instance_killed(tmp_path):
    """Readers elsewhere get upstream_cut within 5 s, and so does who comes later, or elsewhere.

    The 5 s are those of the lease: see test_a_dead_writer_is_known_within_5_seconds.
    """
    with ExitStack() as stack:
        redis = stack.enter_context(real.redis_server(tmp_path))
        async with Upstream() as upstream, two(upstream, redis) as (there, third):
            variables = {
                "TELEPRINTER_UPSTREAM_URL": f"{upstream.url}/v1",
                "TELEPRINTER_STORE": redis.url("redis"),
            }
            async with (
                serving(tmp_path, TOML, **variables) as killed,
                there.session.get(f"{killed.url}/chat?question=Hi") as response,
            ):
                wire = await begun(upstream, ROLE, HI)
                name = response.headers["Teleprinter-Stream"]
                await upto(response, "Hi ")
                async with there.get(f"/streams/{name}") as other:
                    found = await upto(other, "Hi ")
                    killed.signal(signal.SIGKILL)
                    since = monotonic()
                    found += await read_cut(other)
                    seconds = monotonic() - since
                await gone(wire)
            print(f"an instance was killed: known elsewhere after {seconds:.1f} s")  # noqa: T201
            cut = found[-1]
            assert [event.name for event in found] == ["start", "answer", "error"]
            assert (cut.data["code"], cut.data["partial"]) == ("upstream_cut", True)
            for relay in (there, third):
                async with relay.get(f"/streams/{name}") as response:
                    assert await read_cut(response) == found
                async with relay.get("/chat", {"Last-Event-ID": cut.id}) as response:
                    assert response.status == 204
                async with relay.get(f"/streams/{name}", **{"as": "openai"}) as response:
                    with pytest.raises(Exception, match="not completed"):
                        await response.read()
    assert len(upstream.requests) == 1
