"""What clients do: ask, read, leave, stop reading, come back, stop the stream."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from random import Random
from typing import Any

import aiohttp

from soak.kinds import KEY, Kind, kind_of, text
from soak.ledger import Seen

ABSENCE = 0.1, 2.0
"""Seconds that a client is away, at least and at most."""
STUCK = 30.0
"""Seconds that a client reads nothing: more than limits.send_timeout in rig.py."""


class Parsed:
    """What has come of a body: whole blocks, and what they mean."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self.last = ""
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take bytes, and read the blocks that are whole."""
        *blocks, self._rest = (self._rest + data).split(b"\n\n")
        for block in blocks:
            self._read(block.decode())

    def _read(self, block: str) -> None:
        fields = dict(line.partition(": ")[::2] for line in block.split("\n") if line)
        self.last = fields.get("id", self.last)
        data = fields.get("data")
        if data == "[DONE]":
            self.seen.success = True
        elif data is not None:
            with suppress(ValueError):  # some of what upstreams send is no JSON
                self._take(fields.get("event", ""), json.loads(data))

    def _take(self, event: str, data: dict[str, Any]) -> None:
        seen = self.seen
        if event == "answer":
            seen.text += data["content"]
        elif event == "done":
            seen.success = True
        elif event == "error":
            seen.code = data["code"]
        elif "error" in data:
            seen.code = data["error"].get("code") or data["error"]["type"]
        else:
            for choice in data.get("choices", ()):
                seen.text += choice["delta"].get("content") or ""
                seen.success = seen.success or choice["finish_reason"] is not None

    def whole(self, kind: Kind, body: bytes) -> None:
        """Read a body that is no event stream."""
        with suppress(ValueError):
            data = json.loads(body)
            if "error" in data:
                self.seen.code = data["error"].get("code") or data["error"]["type"]
            elif kind.door == "plain":
                self.seen.text = data["choices"][0]["message"]["content"]
                self.seen.success = True


class Visitor:
    """A client that visits the relay for one stream after another."""

    def __init__(self, url: str, session: aiohttp.ClientSession, chance: Random) -> None:
        self._url = url
        self._session = session
        self._chance = chance

    async def visit(self, name: str) -> Seen:
        """Do what the stream's kind says; return what was seen."""
        kind = kind_of(name)
        if kind.act == "sticks":
            return await self._stick(name)
        seen = Seen()
        parsed = Parsed(seen)
        with suppress(aiohttp.ClientPayloadError):
            if kind.act == "hasty":
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._chance.uniform(1, 3)):
                        await self._read(name, kind, parsed)
            else:
                await self._read(name, kind, parsed)
        if seen.ended == "left" and kind.act == "returns":
            seen.returned = True
            await asyncio.sleep(self._chance.uniform(*ABSENCE))
            await self._return(kind, parsed)
        return seen

    async def _read(self, name: str, kind: Kind, parsed: Parsed) -> None:
        seen = parsed.seen
        enough = None if kind.act == "reads" else self._chance.randint(1, len(text(name)) // 2)
        async with await self._ask(name, kind) as response:
            seen.status = response.status
            seen.request = response.headers.get("Teleprinter-Request-Id", "")
            seen.stream = response.headers.get("Teleprinter-Stream", "")
            seen.ended = "torn"
            if response.content_type != "text/event-stream":
                parsed.whole(kind, await response.read())
                seen.ended = "whole"
                return
            async for data in response.content.iter_any():
                parsed.feed(data)
                if enough is not None and len(seen.text) >= enough:
                    if kind.act != "stops":
                        seen.ended = "left"
                        return
                    enough = None
                    await self._stop(seen.stream)
            seen.ended = "whole"

    async def _ask(self, name: str, kind: Kind) -> Any:
        if kind.door == "ticket":
            async with self._session.post(self._url + "/tickets", headers=KEY) as response:
                ticket = (await response.json())["ticket"]
            query = {"question": "Hi", "model": name, "ticket": ticket}
            return self._session.get(self._url + "/chat", params=query)
        door, _, pace = kind.door.partition(" ")
        if door == "chat":
            body: dict[str, Any] = {"question": "Hi", "model": name}
            body |= {"pace": pace} if pace else {}
            body |= {"keep": 0} if kind.act == "leaves" else {}
            return self._session.post(self._url + "/chat", json=body, headers=KEY)
        body = {"model": name, "messages": [{"role": "user", "content": "Hi"}]}
        body |= {} if door == "plain" else {"stream": True}
        headers = KEY | ({"Teleprinter-Keep": f"{kind.keep:g}"} if kind.keep else {})
        headers |= {"Teleprinter-Pace": "hurried"} if door == "wrong" else {}
        url = self._url + "/v1/chat/completions"
        return self._session.post(url, json=body, headers=headers)

    async def _stop(self, stream: str) -> None:
        async with self._session.delete(f"{self._url}/streams/{stream}", headers=KEY) as response:
            assert response.status in (204, 410), f"DELETE: {response.status}"

    async def _return(self, kind: Kind, parsed: Parsed) -> None:
        """Come back with the last id, at one of the doors that lead there."""
        seen = parsed.seen
        headers = KEY | {"Last-Event-ID": parsed.last}
        path = f"/streams/{seen.stream}"
        if kind.door == "chat" and self._chance.random() < 1 / 2:
            path = "/chat"
        last, parsed = parsed.last, Parsed(seen)
        seen.ended = "torn"
        with suppress(aiohttp.ClientPayloadError):
            async with self._session.get(self._url + path, headers=headers) as response:
                if response.status == 204:  # it had all
                    seen.returned, seen.success = False, True
                else:
                    assert response.status == 200, f"{path}: {response.status} behind {last}"
                async for data in response.content.iter_any():
                    parsed.feed(data)
            seen.ended = "whole"

    async def _stick(self, name: str) -> Seen:
        """Ask, and read nothing until the relay has had enough."""
        body = json.dumps({"model": name, "messages": [], "stream": True}).encode()
        host, port = self._url.removeprefix("http://").split(":")
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.setblocking(False)  # noqa: FBT003  its only argument
        loop = asyncio.get_running_loop()
        await loop.sock_connect(line, (host, int(port)))
        _, writer = await asyncio.open_connection(sock=line, limit=1)
        try:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\n"
            head += "".join(f"{field}: {value}\r\n" for field, value in KEY.items())
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await asyncio.sleep(STUCK)
        finally:
            writer.transport.abort()
        return Seen(status=200)


async def gone(url: str, session: aiohttp.ClientSession, streams: list[str]) -> AsyncIterator[str]:
    """Yield those of the streams that can still be read."""
    for stream in streams:
        async with session.get(f"{url}/streams/{stream}", headers=KEY) as response:
            if response.status != 410:
                yield stream
