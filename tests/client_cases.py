"""What must work with every client.

A test file names its clients and gets every case with each of them:

    class TestNode(Cases):
        CLIENTS = (OPENAI, ...)     # test_cut[node-openai: cut]
"""

import json
from typing import Any

from client import Client, PerClient, Running
from client_scene import KEY, Scene, answer, scene
from fakes import SocksProxy, Wire, chat_frame, reply, sse
from fakes.frames import DONE

HEARTBEAT = b": keep-alive\n\n"
AFTER, OPEN_AFTER = 15, 20
"""Seconds of the settings heartbeat.after and heartbeat.open_after, by default."""
CUT = "upstream_cut"


class Cases(PerClient):
    """What every client must have; the programs are real, and time is the test's."""

    async def test_plain(self, client: Client):
        """What the upstream streams is what the program gets, token by token, and its end.

        The key of a client that has one goes to the upstream.
        """
        async with (
            scene(sse(*client.api.frames("Hel", "lo"))) as at,
            client.run(at.url) as program,
        ):
            assert await program.rest() == [{"text": "Hel"}, {"text": "lo"}, client.done]
        (request,) = at.upstream.requests
        assert request.target == client.api.path
        assert request.json()["stream"] is True
        assert at.proxy.targets == [f"127.0.0.1:{at.upstream.port}"]
        if not client.chat:
            assert request.get_all("authorization") == [f"Bearer {KEY}"]

    async def test_socks(self, client: Client):
        """It is the same through a SOCKS proxy, that resolves the name."""
        async with (
            scene(sse(*client.api.frames("Hel", "lo")), way=SocksProxy) as at,
            client.run(at.url) as program,
        ):
            assert await program.rest() == [{"text": "Hel"}, {"text": "lo"}, client.done]
        assert [dial.port for dial in at.proxy.targets] == [at.upstream.port]

    async def test_cjk_and_emoji(self, client: Client):
        """Text arrives as it was sent, both ways, whatever the upstream's packets cut in two."""
        tokens = ["你好", "，世界", "👩‍👩‍👧‍👦", "🇨🇳", "かな한글", "e\u0301", "\u2028", '"\\\n']
        question = "天気は？ 👋🏽 &+%="
        async with (
            scene(sse(*client.api.frames(*tokens), split=5)) as at,
            client.run(at.url, question) as program,
        ):
            assert await program.rest() == [*({"text": text} for text in tokens), client.done]
        (request,) = at.upstream.requests
        assert request.json()["messages"][0]["content"] == question

    async def test_heartbeat_before_the_first_token(self, client: Client):
        """An upstream that thinks: the response is opened, comments come, none is taken for text.

        `/v1` waits OPEN_AFTER before it opens the response; `/chat` opened it at once.
        """
        async with scene() as at, client.run(at.url) as program:
            _, wire = await at.upstream.next()
            if client.chat:
                await at.tap.passed(b"event: start\n")
            else:
                await at.clock.armed(at.clock.now() + OPEN_AFTER)
            at.clock.advance(OPEN_AFTER)
            await at.tap.passed(HEARTBEAT)
            at.clock.advance(AFTER)
            await at.tap.passed(HEARTBEAT, times=2)
            await answer(wire, *client.api.frames("Hel", "lo"))
            assert await program.rest() == [{"text": "Hel"}, {"text": "lo"}, client.done]

    async def test_heartbeat_between_tokens(self, client: Client):
        """A pause of the upstream's: comments come between two tokens, and harm neither."""
        async with scene() as at, client.run(at.url) as program:
            wire = await self._begun(at, client, program)
            for beats in (1, 2):
                at.clock.advance(AFTER)
                await at.tap.passed(HEARTBEAT, beats)
            await wire.chunk(client.api.token("lo") + client.api.closing)
            await wire.end()
            assert await program.rest() == [{"text": "lo"}, client.done]

    async def test_cut(self, client: Client):
        """The upstream's connection ends in the middle: the program learns of it; nothing is done.

        What came before is there. The relay asks the upstream no second time. The reason goes out
        before the cut, time for the program to read it: a body that breaks may lose what was not.
        """
        async with scene() as at, client.run(at.url) as program:
            wire = await self._begun(at, client, program)
            wire.close()
            error, *lost = await self._told(at, program)
            assert CUT in str(error["error"])
            assert lost == list(client.lost)
        assert len(at.upstream.requests) == 1
        if lost:
            at.last_words.assert_awaited_once()

    async def test_end_without_a_finish(self, client: Client):
        """The upstream's body ends as bodies do, but it never said so: that is a cut too."""
        async with scene() as at, client.run(at.url) as program:
            wire = await self._begun(at, client, program)
            await wire.end()
            error, *lost = await self._told(at, program)
            assert CUT in str(error["error"])
            assert lost == list(client.lost)

    async def test_error_status(self, client: Client, status: int):
        """The upstream refuses: the program gets the status and the words.

        429: an SDK waits as long as the upstream's `retry-after-ms` says, and asks twice more.
        """
        words = json.dumps(client.api.refusal("配额已用完"))
        refuse = reply(status, words, content_type="application/json", retry_after_ms="1")
        async with scene(refuse) as at, client.run(at.url) as program:
            error, *lost = await self._told(at, program)
            assert error["error"]["status"] == status
            assert "配额已用完" in error["error"]["message"]
            assert lost == list(client.lost if client.chat else client.refused)
        assert len(at.upstream.requests) == (client.attempts if status == 429 else 1)

    async def test_refused_by_the_relay(self, client: Client):
        """The relay itself refuses with a status, and asks no upstream."""
        async with scene(keys="me:another-key") as at, client.run(at.url) as program:
            said = await program.rest()
            if client.sees_status:
                error = said.pop(0)["error"]
                assert error["status"] == 401
                assert "key" in error["message"]
            assert said == list(client.refused)
        assert at.upstream.requests == []

    async def test_cancel(self, client: Client):
        """The program aborts: the upstream's connection is closed while time stands still."""
        async with scene() as at, client.run(at.url) as program:
            wire = await self._begun(at, client, program)
            await program.abort()
            await at.upstream.until(wire.closed.is_set)
            await program.rest()

    async def test_cancel_before_the_first_token(self, client: Client):
        """The same while the upstream has not answered yet."""
        async with scene() as at, client.run(at.url) as program:
            _, wire = await at.upstream.next()
            await program.abort()
            await at.upstream.until(wire.closed.is_set)
            assert await program.rest() == []

    async def _begun(self, at: Scene, client: Client, program: Running) -> Wire:
        """Return the way of an answer whose first token has arrived."""
        _, wire = await at.upstream.next()
        await wire.head(content_type="text/event-stream")
        await wire.chunk(client.api.opening + client.api.token("Hel"))
        assert await program.says() == {"text": "Hel"}
        return wire

    async def _told(self, at: Scene, program: Running) -> list[Any]:
        """Return what it says of a failure, the connection being cut after its first words."""
        first = await program.says()
        at.heard.set()
        return [first, *await program.rest()]


class ChatCases(PerClient):
    """What clients of `/chat` have besides."""

    async def test_reasoning_and_tools(self, client: Client):
        """Thoughts, text and tool calls are told apart, in the upstream's order."""
        call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f"}}
        frames = [
            chat_frame({"reasoning_content": "嗯…"}),
            chat_frame({"reasoning": "so"}),
            chat_frame({"content": "Hel"}),
            chat_frame({"tool_calls": [call]}),
            chat_frame({}, finish="tool_calls") + DONE,
        ]
        async with scene(sse(*frames)) as at, client.run(at.url) as program:
            assert await program.rest() == [
                {"reasoning": "嗯…"},
                {"reasoning": "so"},
                {"text": "Hel"},
                {"tools": [call]},
                {"done": "tool_calls"},
            ]


class LeftOpenCases(PerClient):
    """An EventSource that its page forgets to close comes back: it must cost no second answer."""

    GONE = ({"lost": "connecting"}, {"lost": "closed"})

    async def test_left_open_after_the_end(self, client: Client):
        """It asks again with Last-Event-ID, gets 204, and stops; the upstream saw one request."""
        frames = client.api.frames("Hel")
        async with scene(sse(*frames)) as at, client.run(at.url, stays=True) as program:
            assert await program.rest() == [{"text": "Hel"}, client.done, *self.GONE]
        self.came_back_in_vain(at)

    async def test_left_open_after_a_cut(self, client: Client):
        """The same after a cut, of which it was told."""
        frames = client.api.frames("Hel")[:-1]
        async with scene(sse(*frames, end=False)) as at, client.run(at.url, stays=True) as program:
            assert await program.says() == {"text": "Hel"}
            error = await program.says()
            assert error["error"]["code"] == CUT
            at.heard.set()
            lost = await program.rest()
            assert lost == list(self.GONE)
        self.came_back_in_vain(at)

    def came_back_in_vain(self, at: Scene) -> None:
        """Fail unless the client asked twice, and the upstream was asked once."""
        assert at.tap.up.count(b"GET /chat?") == 2
        assert at.tap.up.lower().count(b"\nlast-event-id: ") == 1
        assert len(at.upstream.requests) == 1
