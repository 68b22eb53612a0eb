"""Tickets over HTTP: how an EventSource, which can send no key, is let in."""

import pytest

import real
from fakes import Upstream, chat, sse
from relaying import read_events, relaying, until

TOML = '[server]\nkeys = ["alice:ka", { name = "bob", key = "kb", models = ["none"] }]\n'
ANSWER = sse(*chat(["Hi"]))


async def issued(relay, key="ka"):
    """Return a ticket of that caller."""
    async with relay.post("/tickets", None, {"Teleprinter-Key": key}) as response:
        assert response.status == 200
        assert response.headers["Cache-Control"] == "no-store"
        return (await response.json())["ticket"]


async def status(relay, path="/chat", **query):
    """Return the status of a question that shows no key."""
    async with relay.get(path, question="Hi", **query) as response:
        await response.read()
        return response.status


async def test_a_ticket_starts_a_stream_as_its_caller():
    """The stream is the caller's, and counts as such."""
    async with Upstream(ANSWER) as upstream, relaying(upstream.url, toml=TOML) as relay:
        ticket = await issued(relay)
        async with relay.get("/chat", question="Hi", ticket=ticket) as response:
            events = await read_events(response)
        assert [event.name for event in events] == ["start", "answer", "done"]
        assert await status(relay, ticket=await issued(relay, "kb")) == 403
    assert ticket not in str(upstream.requests[0])


@pytest.mark.parametrize("ticket", ["", "nonsense", "ka"])
async def test_what_is_no_ticket_is_401(ticket):
    """Neither an invented one nor a key in its place opens."""
    async with Upstream(ANSWER) as upstream, relaying(upstream.url, toml=TOML) as relay:
        assert await status(relay, ticket=ticket) == 401
    assert upstream.requests == []


async def test_a_request_that_is_refused_costs_no_ticket():
    """Who forgot the question asks again."""
    async with Upstream(ANSWER) as upstream, relaying(upstream.url, toml=TOML) as relay:
        ticket = await issued(relay)
        async with relay.get("/chat", ticket=ticket) as response:
            assert response.status == 400
        assert await status(relay, ticket=ticket) == 200


async def test_a_used_ticket_starts_no_second_stream():
    """Neither while its stream is open, nor when it has ended."""
    async with Upstream() as upstream, relaying(upstream.url, toml=TOML) as relay:
        ticket = await issued(relay)
        async with relay.get("/chat", question="Hi", ticket=ticket):
            _, wire = await upstream.next()
            assert await status(relay, ticket=ticket) == 401
            await wire.reply(500)
        await until(lambda: len(relay.gateway.streams) == 0)
        assert await status(relay, ticket=ticket) == 401


async def test_a_ticket_is_good_for_a_minute(clock):
    """59 s later it opens, 60 s later it does not."""
    toml = TOML + "[heartbeat]\nafter = 0\n"
    async with (
        Upstream(ANSWER) as upstream,
        relaying(upstream.url, toml=toml, clock=clock) as relay,
    ):
        young, old = await issued(relay), await issued(relay)
        clock.advance(59)
        assert await status(relay, ticket=young) == 200
        clock.advance(1)
        assert await status(relay, ticket=old) == 401


async def test_a_reconnect_shows_the_ticket_and_the_id():
    """It is let in while its stream is kept, and no other is."""
    toml = TOML + "[chat]\nkeep = 15\n"
    async with Upstream() as upstream, relaying(upstream.url, toml=toml) as relay:
        ticket, other = await issued(relay), await issued(relay)
        async with relay.get("/chat", question="Hi", ticket=ticket) as response:
            _, wire = await upstream.next()
            name = response.headers["Teleprinter-Stream"]
            again = {"Last-Event-ID": f"{name}.0"}
            async with relay.get("/chat", again, question="Hi", ticket=ticket) as second:
                assert second.status == 200
            for last, shown in (("x.0", ticket), (f"{name}.0", other), (f"{name}.0", "x")):
                pair = {"Last-Event-ID": last}
                async with relay.get("/chat", pair, question="Hi", ticket=shown) as second:
                    assert second.status == 401
            await wire.reply(500)
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/v1/chat/completions"])
async def test_a_ticket_opens_chat_only(path):
    """And no other path."""
    async with Upstream(ANSWER) as upstream, relaying(upstream.url, toml=TOML) as relay:
        assert await status(relay, path, ticket=await issued(relay)) == 401
    assert upstream.requests == []


async def test_a_ticket_needs_a_key():
    """POST /tickets without one is 401."""
    async with (
        relaying("http://127.0.0.1:9", toml=TOML) as relay,
        relay.post("/tickets", None) as response,
    ):
        assert response.status == 401


KEPT = TOML + "[chat]\nkeep = 15\n"


async def test_a_ticket_outlives_its_stream_as_long_as_that_is_kept(clock):
    """A reconnect behind the end gets what is left, or 204; after `retain` neither is there."""
    async with (
        Upstream(ANSWER) as upstream,
        relaying(upstream.url, toml=KEPT, clock=clock) as relay,
    ):
        ticket = await issued(relay)
        async with relay.get("/chat", question="Hi", ticket=ticket) as response:
            events = await read_events(response)
        await until(lambda: len(relay.gateway.streams) == 0)
        for seconds, found, last in ((299, 200, 204), (1, 401, 401)):
            clock.advance(seconds)
            for event, expected in ((events[0], found), (events[-1], last)):
                again = {"Last-Event-ID": event.id}
                async with relay.get("/chat", again, question="Hi", ticket=ticket) as response:
                    assert response.status == expected
    assert len(upstream.requests) == 1


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    """Run a Redis for the tests of this file."""
    with real.redis_server(tmp_path_factory.mktemp("redis")) as redis:
        yield redis


async def test_a_ticket_is_known_at_every_instance(redis):
    """The stream that it has started is gone on with elsewhere, live and after its end.

    No other stream is, no other ticket is let in, nor that of a key that is known no longer.
    """
    store, other_keys = redis.url("redis"), KEPT.replace("alice", "carol")
    async with (
        Upstream() as upstream,
        relaying(upstream.url, toml=KEPT, store=store) as here,
        relaying(upstream.url, toml=KEPT, store=store) as there,
        relaying(upstream.url, toml=other_keys, store=store) as stranger,
    ):
        ticket, unused, elsewhere = await issued(here), await issued(here), await issued(there)
        async with here.get("/chat", question="Hi", ticket=ticket) as response:
            _, wire = await upstream.next()
            last = {"Last-Event-ID": f"{response.headers['Teleprinter-Stream']}.0"}
            await wire.head(content_type="text/event-stream")
            async with there.get("/chat", last, question="Hi", ticket=ticket) as again:
                assert again.status == 200
                for frame in chat(["Hi"]):
                    await wire.chunk(frame)
                await wire.end()
                assert [event.name for event in await read_events(again)] == ["answer", "done"]
        for relay, pair, shown, expected in (
            (there, last, ticket, 200),
            (there, last, unused, 401),
            (there, last, elsewhere, 401),
            (there, {"Last-Event-ID": "x.0"}, ticket, 401),
            (there, {"Last-Event-ID": "nonsense"}, ticket, 400),
            (there, {}, ticket, 401),
            (stranger, last, ticket, 401),
        ):
            async with relay.get("/chat", pair, question="Hi", ticket=shown) as again:
                assert again.status == expected
    assert len(upstream.requests) == 1
