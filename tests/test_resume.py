"""Streams that are kept: gone on with after a dropped line, read by several, stopped.

Resume    Last-Event-ID on /chat, GET /streams/{id}, after any event, on either wire
Keep      how long the upstream is read on without a reader, and what ends it
Owner     a replay belongs to the key that began it
"""

import asyncio
import json

import pytest

from clock import FakeClock
from fakes import Upstream, begun, chat, chat_frame, sse
from relaying import Event, arrived, events, read_cut, read_events, relaying, settled, until

ROLE, HI, YOU, FINISH, DONE = chat(["Hi ", "you"])
KEEP = "[chat]\nkeep = 15\n"
KEYS = '[server]\nkeys = ["alice:key-a", "bob:key-b"]\n'


def bearer(key):
    """Return the header that shows a key."""
    return {"Authorization": f"Bearer {key}"}


async def rest(wire, *frames):
    """Send the rest of a stream, and its end."""
    for frame in frames:
        await wire.chunk(frame)
    await wire.end()


async def first(response, count):
    """Return the first events of a response."""
    found = []
    async for event in events(response):
        found.append(event)
        if len(found) == count:
            return found
    return found


def text(found):
    """Return the text of events."""
    return "".join(event.data["content"] for event in found if event.name == "answer")


async def test_a_dropped_line_goes_on():
    """The client that comes back with its last id gets the rest, and the upstream one request."""
    async with Upstream() as upstream, relaying(upstream.url, toml=KEEP) as relay:
        async with relay.get("/chat", question="Hi") as response:
            wire = await begun(upstream, ROLE, HI)
            found = await first(response, 2)
        await wire.chunk(YOU)
        last = {"Last-Event-ID": found[-1].id}
        async with relay.get("/chat", last, question="Hi") as response:
            assert response.status == 200
            await rest(wire, FINISH, DONE)
            found += await read_events(response)
    assert [event.name for event in found] == ["start", "answer", "answer", "done"]
    assert text(found) == "Hi you"
    assert len(upstream.requests) == 1


async def test_after_any_event():
    """Whichever event was the last: exactly what follows it, on either wire."""
    async with Upstream() as upstream, relaying(upstream.url, toml=KEEP) as relay:
        asking = asyncio.create_task(whole(relay))
        wire = await begun(upstream, ROLE, HI, YOU)
        await rest(wire, FINISH, DONE)
        found = await asking
        name = found[0].data["stream"]
        for number, event in enumerate(found[:-1]):
            async with relay.get(f"/streams/{name}", after=event.id) as response:
                assert await read_events(response) == found[number + 1 :]
        async with relay.get(f"/streams/{name}") as response:
            assert await read_events(response) == found
        async with relay.get(f"/streams/{name}", after=found[-1].id) as response:
            assert response.status == 204
        async with relay.get(f"/streams/{name}", **{"as": "openai"}) as response:
            raw = await response.read()
    frames = [ROLE, HI, YOU, FINISH, DONE]
    ids = [b"id: %s.%d\n" % (name.encode(), number) for number in range(1, 6)]
    assert raw == b"".join(i + frame for i, frame in zip(ids, frames, strict=True))


async def test_after_any_part_of_a_frame():
    """Whoever has a part of a frame that was cut gets its rest, on either wire."""
    long = chat_frame({"reasoning_content": "Hm, 断线。", "content": "Hi, a 👨‍👩‍👧 and you"})
    units = "Hm, 断线。" + "Hi, a 👨‍👩‍👧 and you"
    async with Upstream() as upstream, relaying(upstream.url, toml=KEEP) as relay:
        asking = asyncio.create_task(whole(relay))
        await rest(await begun(upstream, ROLE, long), FINISH, DONE)
        name = (await asking)[0].data["stream"]
        for part in range(1, len(units)):
            last = f"{name}.2+{part}"
            async with relay.get(f"/streams/{name}", after=last) as response:
                found = await read_events(response)
            texts = [event.data["content"] for event in found[:-1]]
            assert ("".join(texts), found[-2].id) == (units[part:], f"{name}.2")
            async with relay.get(f"/streams/{name}", after=last, **{"as": "openai"}) as response:
                block = (await response.read()).split(b"\n\n")[0]
            delta = json.loads(block.partition(b"data: ")[2])["choices"][0]["delta"]
            got = delta.get("reasoning_content", "") + delta.get("content", "")
            assert got == units[part:]


async def whole(relay, **query):
    """Return all events of a question."""
    async with relay.get("/chat", question="Hi", **query) as response:
        return await read_events(response)


async def test_the_header_wins_over_the_query():
    """A browser reconnects to the URL it began with, and its header is newer."""
    async with Upstream() as upstream, relaying(upstream.url, toml=KEEP) as relay:
        asking = asyncio.create_task(whole(relay))
        await rest(await begun(upstream, ROLE, HI, YOU), FINISH, DONE)
        found = await asking
        name = found[0].data["stream"]
        last = {"Last-Event-ID": found[2].id}
        async with relay.get(f"/streams/{name}", last, after=found[0].id) as response:
            assert await read_events(response) == found[3:]


async def test_several_readers():
    """Two follow one stream, one from the middle; both have its end."""
    async with (
        Upstream() as upstream,
        relaying(upstream.url, toml=KEEP) as relay,
        relay.get("/chat", question="Hi") as response,
    ):
        wire = await begun(upstream, ROLE, HI)
        name = response.headers["Teleprinter-Stream"]
        async with relay.get(f"/streams/{name}") as other:
            assert text(await first(other, 2)) == "Hi "
            await rest(wire, YOU, FINISH, DONE)
            one, two = await read_events(response), await read_events(other)
    assert text(one) == "Hi you"
    assert text(two) == "you"
    assert one[-1].name == two[-1].name == "done"


async def test_who_leaves_a_stream_that_became_too_long_leaves_it_to_the_others():
    """The cap ended the keeping, not the stream: who reads on gets all of it."""
    toml = KEEP + "[store]\nstream_bytes = 20000\n"
    long = chat_frame({"content": "x" * 30_000})
    async with Upstream() as upstream, relaying(upstream.url, toml=toml) as relay:
        async with relay.get("/chat", question="Hi") as response:
            wire = await begun(upstream, ROLE, HI)
            name = response.headers["Teleprinter-Stream"]
            other = await relay.get(f"/streams/{name}").__aenter__()
            assert text(await first(other, 2)) == "Hi "
            await wire.chunk(long)
            await until(lambda: not relay.streams[0].kept)
        await until(lambda: len(relay.streams[0].replay._readers) == 1)
        await settled()
        await rest(wire, YOU, FINISH, DONE)
        async with other:
            found = await read_events(other)
    assert text(found) == "x" * 30_000 + "you"
    assert found[-1].name == "done"


async def test_a_stream_whose_first_frame_is_too_long_to_keep_reaches_its_reader():
    """The cap may be passed before the response begins: the stream goes on, unkept."""
    toml = KEEP + "[store]\nstream_bytes = 20000\n"
    frames = chat(["x" * 30_000, "you"])
    async with Upstream(sse(*frames)) as upstream, relaying(upstream.url, toml=toml) as relay:
        body = {"model": "m", "messages": [], "stream": True}
        keep = {"Teleprinter-Keep": "60"}
        async with relay.post("/v1/chat/completions", body, keep) as response:
            received = await response.read()
    assert received.count(b"data: ") == len(frames)
    assert received.endswith(DONE)


async def test_a_return_that_is_refused_is_no_reader():
    """A pace that is none is a 400, and nobody has come back by it."""
    async with Upstream() as upstream, relaying(upstream.url, toml=KEEP) as relay:
        async with relay.get("/chat", question="Hi") as response:
            wire = await begun(upstream, ROLE, HI)
            found = await first(response, 2)
        last = {"Last-Event-ID": found[-1].id}
        async with relay.get("/chat", last, question="Hi", pace="nonsense") as response:
            assert response.status == 400
        await until(lambda: not relay.streams[0].replay.watched)
        await rest(wire, FINISH, DONE)
        await until(lambda: not relay.streams)


async def test_catching_up_is_not_paced():
    """What was missed comes at once, what follows at the pace."""
    clock = FakeClock()
    async with Upstream() as upstream, relaying(upstream.url, toml=KEEP, clock=clock) as relay:
        query = {"question": "Hi", "pace": "typewriter", "delay_ms": 1000}
        async with relay.get("/chat", **query) as response:
            tokens = [chat_frame({"content": f"{number} "}) for number in range(5)]
            await begun(upstream, ROLE, *tokens)
            found = await first(response, 2)
            await settled()
        last = {"Last-Event-ID": found[-1].id}
        async with relay.get("/chat", last, **query) as response:
            found += await first(response, 4)
            assert text(found) == "0 1 2 3 4 "
            assert clock.now() == 1000.0


@pytest.mark.parametrize(("pace", "status"), [("typewriter", 200), ("fast", 400), (["off"], 400)])
async def test_a_post_goes_on_at_the_pace_of_its_body(pace, status):
    """It is what the body says, as the first time, and not what the settings say."""
    clock = FakeClock()
    async with Upstream() as upstream, relaying(upstream.url, toml=KEEP, clock=clock) as relay:
        body = {"question": "Hi", "pace": "typewriter", "delay_ms": 1000}
        async with relay.post("/chat", body) as response:
            wire = await begun(upstream, ROLE, HI)
            found = await first(response, 2)
        last = {"Last-Event-ID": found[-1].id}
        async with relay.post("/chat", body | {"pace": pace}, last) as response:
            assert response.status == status
            if status == 200:
                await wire.chunk(YOU + chat_frame({"content": "!"}))
                assert text(await first(response, 1)) == "you"
                clock.advance(0.9)
                assert await arrived(response) == b""
                clock.advance(0.1)
                assert text(await first(response, 1)) == "!"


@pytest.mark.parametrize("back", [False, True])
async def test_an_upstream_is_read_on_for_a_while(back):
    """15 s without a reader, then it is cancelled; who came back in time keeps it."""
    clock = FakeClock()
    async with Upstream() as upstream, relaying(upstream.url, toml=KEEP, clock=clock) as relay:
        async with relay.get("/chat", question="Hi") as response:
            wire = await begun(upstream, ROLE, HI)
            name = response.headers["Teleprinter-Stream"]
            await first(response, 2)
        await until(lambda: not relay.streams[0].replay.watched)
        clock.advance(14)
        await settled()
        assert not wire.closed.is_set()
        if back:
            async with relay.get(f"/streams/{name}") as response:
                await first(response, 2)
                clock.advance(100)
                assert not wire.closed.is_set()
            await until(lambda: not relay.streams[0].replay.watched)
            clock.advance(14)
            assert relay.streams
        clock.advance(1)
        await wire.closed.wait()
        async with relay.get(f"/streams/{name}") as response:
            found = await read_cut(response)
    assert (found[-1].name, found[-1].data["code"]) == ("error", "stopped")
    assert "15 s" in found[-1].data["message"]


@pytest.mark.parametrize("how", ["query", "body", "settings"])
async def test_keep_0_cancels_at_once(how):
    """keep=0 in the query, in the body, or in the settings."""
    toml = "[chat]\nkeep = 0\n" if how == "settings" else KEEP
    async with Upstream() as upstream, relaying(upstream.url, toml=toml) as relay:
        asked = {"question": "Hi"} | ({} if how == "settings" else {"keep": 0})
        asking = relay.post("/chat", asked) if how == "body" else relay.get("/chat", **asked)
        async with asking as response:
            wire = await begun(upstream, ROLE, HI)
            await first(response, 2)
        await wire.closed.wait()
        name = response.headers["Teleprinter-Stream"]
        async with relay.get(f"/streams/{name}") as response:
            assert (response.status, (await response.json())["error"]["code"]) == (
                410,
                "stream_gone",
            )


async def test_v1_is_kept_on_request():
    """Teleprinter-Keep gives each frame an id, and the stream goes on without its client."""
    keep = {"Teleprinter-Keep": "15", "Authorization": "Bearer sk"}
    body = {"model": "m", "messages": [], "stream": True}
    async with Upstream() as upstream, relaying(upstream.url) as relay:
        beginning = asyncio.create_task(begun(upstream, ROLE, HI))
        async with relay.post("/v1/chat/completions", body, keep) as response:
            wire = await beginning
            name = response.headers["Teleprinter-Stream"].encode()
            expected = b"id: %s.1\n%sid: %s.2\n%s" % (name, ROLE, name, HI)
            assert await response.content.readexactly(len(expected)) == expected
        await rest(wire, YOU, FINISH, DONE)
        async with relay.get(f"/streams/{name.decode()}", after=f"{name.decode()}.2") as response:
            numbered = enumerate([YOU, FINISH, DONE], 3)
            rested = b"".join(b"id: %s.%d\n%s" % (name, n, frame) for n, frame in numbered)
            assert await response.read() == rested
    assert upstream.requests[0].get("teleprinter-keep") is None


async def test_an_upstream_may_say_that_v1_is_kept():
    """`keep` of an [[upstream]] is for its streams; plain answers have no id."""
    async with Upstream() as upstream:
        toml = f'[[upstream]]\nname = "u"\nurl = "{upstream.url}/v1"\nkeep = 5\n'
        async with relaying(toml=toml) as relay:
            beginning = asyncio.create_task(begun(upstream, ROLE, HI))
            async with relay.stream() as response:
                await rest(await beginning, FINISH, DONE)
                assert (await response.read()).startswith(b"id: ")
            plain = asyncio.create_task(upstream.next())
            asking = asyncio.create_task(relay.stream(stream=False).__aenter__())
            _, wire = await plain
            await wire.reply(200, "{}", content_type="application/json")
            assert await (await asking).read() == b"{}"


async def test_delete_stops_it():
    """204; the upstream is cancelled, the reader gets `stopped`."""
    async with Upstream() as upstream, relaying(upstream.url, toml=KEEP) as relay:
        async with relay.get("/chat", question="Hi") as response:
            wire = await begun(upstream, ROLE, HI)
            found = await first(response, 2)
            name = response.headers["Teleprinter-Stream"]
            async with relay.session.delete(f"{relay.url}/streams/{name}") as deleted:
                assert deleted.status == 204
            found += await read_cut(response)
        await wire.closed.wait()
        async with relay.session.delete(f"{relay.url}/streams/{name}") as deleted:
            assert deleted.status == 204
        async with relay.session.delete(f"{relay.url}/streams/{name}") as deleted:
            assert deleted.status == 410
    assert (found[-1].name, found[-1].data["code"]) == ("error", "stopped")
    assert found[-1].data["retryable"] is False


async def test_delete_stops_one_that_is_not_kept():
    """Its owner may stop any stream that is under way."""
    async with Upstream() as upstream, relaying(upstream.url) as relay:
        beginning = asyncio.create_task(begun(upstream, ROLE, HI))
        async with relay.stream() as response:
            wire = await beginning
            name = response.headers["Teleprinter-Stream"]
            async with relay.session.delete(f"{relay.url}/streams/{name}") as deleted:
                assert deleted.status == 204
            body = await response.content.read(10_000)
            body += await response.content.read(10_000)
        await wire.closed.wait()
    assert b'"code":"stopped"' in body


async def test_nobody_stops_another_s_stream():
    """One that is not kept belongs to its key as well: 404, and it goes on."""
    body = {"model": "m", "messages": [], "stream": True}
    async with Upstream() as upstream, relaying(upstream.url, toml=KEYS) as relay:
        beginning = asyncio.create_task(begun(upstream, ROLE, HI))
        async with relay.post("/v1/chat/completions", body, bearer("key-a")) as response:
            wire = await beginning
            url = f"{relay.url}/streams/{response.headers['Teleprinter-Stream']}"
            async with relay.session.delete(url, headers=bearer("key-b")) as refused:
                assert refused.status == 404
            await rest(wire, FINISH, DONE)
            assert (await response.read()).endswith(DONE)


async def test_a_replay_belongs_to_its_key():
    """Another's is 404, whether read or stopped; without a key nobody is let in."""
    toml = KEYS + KEEP
    async with Upstream() as upstream, relaying(upstream.url, toml=toml) as relay:
        async with relay.get("/chat", bearer("key-a"), question="Hi") as response:
            wire = await begun(upstream, ROLE, HI)
            name = response.headers["Teleprinter-Stream"]
            for method in ("GET", "DELETE"):
                for headers, status in ((bearer("key-b"), 404), ({}, 401)):
                    url = f"{relay.url}/streams/{name}"
                    async with relay.session.request(method, url, headers=headers) as other:
                        assert other.status == status
            await rest(wire, FINISH, DONE)
            await response.read()
        async with relay.get(f"/streams/{name}", bearer("key-a")) as response:
            assert response.status == 200


async def test_it_is_gone_after_retain():
    """300 s after its end a stream is 410."""
    clock = FakeClock()
    async with Upstream() as upstream, relaying(upstream.url, toml=KEEP, clock=clock) as relay:
        asking = asyncio.create_task(whole(relay))
        await rest(await begun(upstream, ROLE, HI), FINISH, DONE)
        name = (await asking)[0].data["stream"]
        await until(lambda: not relay.streams)
        for seconds, status in ((299, 200), (1, 410)):
            clock.advance(seconds)
            async with relay.get(f"/streams/{name}") as response:
                assert response.status == status


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        ("/streams/x", {}, 410),
        ("/streams/x", {"after": "x.3"}, 410),
        ("/streams/x", {"after": "y.3"}, 400),
        ("/streams/x", {"after": "nonsense"}, 400),
        ("/streams/x", {"as": "html"}, 400),
    ],
)
async def test_what_is_not_there(path, query, status):
    """An unknown stream is 410, an id that is none 400: never a silent gap."""
    async with (
        relaying("http://127.0.0.1:9", toml=KEEP) as relay,
        relay.get(path, **query) as response,
    ):
        assert response.status == status
        assert "error" in json.loads(await response.read())


async def test_a_heartbeat_between_ids_has_one_newline():
    """A blank line after an id crashes openai-python."""
    clock = FakeClock()
    keep = {"Teleprinter-Keep": "15"}
    body = {"model": "m", "messages": [], "stream": True}
    async with Upstream() as upstream, relaying(upstream.url, clock=clock) as relay:
        beginning = asyncio.create_task(begun(upstream, ROLE, HI))
        async with relay.post("/v1/chat/completions", body, keep) as response:
            wire = await beginning
            await response.content.readuntil(b"Hi ")
            await settled()
            clock.advance(15)
            await rest(wire, FINISH, DONE)
            assert b"\n\n: keep-alive\nid: " in await response.read()


def test_events_compare():
    """The harness compares events by all that a client sees of them."""
    assert Event("a", "1", {}) == Event("a", "1", {})
