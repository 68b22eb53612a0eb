"""A relay, the client's side and the upstream's side of it, one proxy between, time in hand.

    World ─┬─ begin · come_back · delete ─▶ Visit   a client's connection, byte by byte
           ├─ asked ──────────────────────▶ Ask     what an upstream was asked, and what it said
           ├─ proxy.die · proxy.revive
           └─ passes(seconds)

What must always be true is in `check`; what must be true in the end, in `close`.
"""

import asyncio
import json
import os
import socket
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import web

from clock import FakeClock
from fakes import HttpProxy, Upstream
from fakes.server import Connection
from line import BODILESS
from relaying import until
from service.app import application, runner
from service.boundary import GATEWAY
from service.relay import _OUTCOMES
from service.settings import Settings, load

OK, EMPTY, GONE = 200, 204, 410
TURNS = 60
"""Turns of the loop in which whatever is on its way within this process arrives."""
KERNEL = 16 * 1024
"""Bytes that the kernel may hold on a client's way, so that a stalled one is felt soon."""
SILENCE = 15.0
"""Seconds without a byte after which a client hears a heartbeat."""
RETAIN = 60.0
LAST = 400.0
"""Seconds after which nothing may be left, whatever happened: every clock below has run out."""
TOML = """
[[upstream]]
name = "u"
url = "{url}/v1"
[[pool]]
name = "p"
proxies = ["{proxy}"]
[clocks]
connect = 5
headers = 20
first_token = 40
idle = 20
[retry]
attempts = {attempts}
[heartbeat]
after = 15
open_after = 10
[limits]
send_timeout = 30
[store]
retain = 60
"""


class Way(HttpProxy):
    """A proxy that can be killed, and started again where it was."""

    alive = True

    def die(self) -> None:
        """Refuse, and break what stands."""
        self._server.close()
        self.reset_connections()
        self.alive = False

    async def revive(self) -> None:
        """Listen again."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), "127.0.0.1", self.port)
        self.alive = True


class Heard(NamedTuple):
    """What a client makes of the bytes of its response so far."""

    status: int = 0
    stream: str = ""
    text: str = ""
    """Of the answer, or a body that is no event stream."""
    last: str = ""
    """The id of the last event."""
    done: bool = False
    error: str = ""
    """The code of the error that the stream or the response told."""
    whole: bool = False
    """It ended as HTTP says."""


class Ask:
    """A stream that a client began. `sent`: what the upstream said of its text so far."""

    def __init__(self, number: int, door: str, *, keep: float) -> None:
        self.marker = f"q{number}"
        self.door = door
        self.keep = keep
        self.name = ""
        self.wire: Any = None
        self.headed = self.framed = False
        self.sent = ""
        self.finished = self.erred = self.torn = False
        self.status = 200
        self.speaker: asyncio.Task[None] | None = None
        self.orders: asyncio.Queue[Any] = asyncio.Queue()
        self.visits: list[Visit] = []
        self.deleted = self.flooded = False

    @property
    def answerable(self) -> bool:
        """Whether the upstream can still say something."""
        open_ = self.wire is not None and not self.wire.finished.is_set()
        return open_ and not self.wire.closed.is_set()

    def order(self, wire: Any) -> None:
        """Begin an answer: the first one, or one after an attempt that told nothing."""
        assert not any(visit.total for visit in self.visits), "asked again after it had been told"
        self.stop()
        self.wire, self.sent = wire, ""
        self.headed = self.framed = self.finished = self.erred = self.torn = False
        self.status = 200
        self.orders = asyncio.Queue()
        self.speaker = asyncio.create_task(self._speak(self.orders))

    async def _speak(self, orders: asyncio.Queue[Any]) -> None:
        """Say one thing after another; a client that reads no more makes this wait."""
        with suppress(OSError):
            while True:
                method, *args = await orders.get()
                await method(*args)

    def say(self, *order: Any) -> None:
        """Say something once what came before it is said."""
        self.orders.put_nowait(order)

    def stop(self) -> None:
        """Say nothing more."""
        if self.speaker is not None:
            self.speaker.cancel()


class Visit:
    """One connection of a client. `before`: the text that it had when it came."""

    def __init__(self, ask: Ask, before: str) -> None:
        self.ask = ask
        self.before = before
        self.data = bytearray()
        self.reading = True
        self.left = self.ended = self.stalled = False

    async def open(self, port: int, request: bytes) -> None:
        """Connect and ask."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL)
        sock.setblocking(False)  # noqa: FBT003
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", port))
        self.transport, _ = await loop.create_connection(lambda: _Ear(self), sock=sock)
        self.transport.write(request)

    def read(self, *, on: bool) -> None:
        """Read on, or stop reading."""
        if on != self.reading and not (self.left or self.ended):
            self.reading = on
            self.stalled = self.stalled or not on
            (self.transport.resume_reading if on else self.transport.pause_reading)()

    def leave(self, *, rudely: bool) -> None:
        """Go, with RST or FIN."""
        self.left = True
        if rudely:
            self.transport.abort()
        else:
            self.transport.close()

    @property
    def heard(self) -> Heard:
        """What has come."""
        return _heard(bytes(self.data), self.ask.door)

    @property
    def total(self) -> str:
        """All the text that this client has."""
        return self.before + self.heard.text


class _Ear(asyncio.Protocol):
    def __init__(self, visit: Visit) -> None:
        self._visit = visit

    def data_received(self, data: bytes) -> None:
        self._visit.data += data

    def connection_lost(self, _: Exception | None) -> None:
        self._visit.ended = True


class World:
    """All of it; `begun`: the asks, in their order."""

    def __init__(self, attempts: int) -> None:
        self.clock = FakeClock()
        self.begun: list[Ask] = []
        self.visits: list[Visit] = []
        self.endings: dict[str, list[Any]] = {}
        self.ended_at: dict[str, float] = {}
        self.refused = 0
        """How many came back in vain, where a stream might have begun."""
        self._attempts = attempts

    async def open(self) -> None:
        """Start everything."""
        self.upstream = await Upstream().__aenter__()
        self.proxy = await Way().__aenter__()
        toml = TOML.format(url=self.upstream.url, proxy=self.proxy.url, attempts=self._attempts)
        app = application(_settings(toml), clock=lambda: self.clock)
        self._serving = runner(app)
        await self._serving.setup()
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL)
        await web.SockSite(self._serving, listener).start()
        self.port = listener.getsockname()[1]
        self.gateway = app[GATEWAY]
        settle = self.gateway._settle

        def noted(stream, caller):
            settle(stream, caller)
            ending = stream.replay.ending
            self.endings.setdefault(stream.name, []).append(ending)
            self.ended_at[stream.name] = self.clock.now()

        self.gateway._settle = noted

    # --- what clients do

    async def begin(self, door: str, *, keep: float, pace: str | None = None) -> None:
        """Ask for an answer."""
        ask = Ask(len(self.begun), door, keep=keep)
        self.begun.append(ask)
        streams = door != "plain"
        if door == "chat":
            body: dict[str, Any] = {"question": ask.marker, "keep": keep}
            extra = {}
        else:
            messages = [{"role": "user", "content": ask.marker}]
            body = {"model": "m", "messages": messages, "stream": streams}
            extra = {"Teleprinter-Keep": f"{keep:g}"}
        if pace and door == "chat":
            body["pace"] = pace
        elif pace and streams:
            extra["Teleprinter-Pace"] = pace
        path = "/chat" if door == "chat" else "/v1/chat/completions"
        await self._visit(ask, "", "POST", path, extra, json.dumps(body).encode())
        await until(lambda: len(self.gateway.streams) + len(self.endings) >= len(self.begun))

    async def come_back(self, visit: Visit) -> None:
        """Go on with what a visit was told, behind its last event."""
        last = {"Last-Event-ID": visit.heard.last}
        path = "/chat" if visit.ask.door == "chat" else f"/streams/{visit.heard.stream}"
        kept = self._is_kept(visit.ask)
        again = await self._visit(visit.ask, visit.total, "GET", path, last)
        over = bool(visit.heard.done or visit.heard.error)
        status = again.heard.status
        allowed = {EMPTY, GONE} if over and visit.ask.door == "chat" else {OK, EMPTY, GONE}
        if kept:
            allowed -= {GONE}
        assert status in allowed, (status, bytes(again.data))
        self.refused += status == GONE and path == "/chat"

    def _is_kept(self, ask: Ask) -> bool:
        """Whether it must be there to come back to."""
        ended = self.ended_at.get(ask.name, self.clock.now())
        forgotten = not ask.keep or ask.deleted or ask.flooded
        return not forgotten and self.clock.now() < ended + RETAIN

    async def delete(self, ask: Ask) -> None:
        """Stop a stream."""
        ask.deleted = True
        gone = Ask(-1, "plain", keep=0)
        visit = await self._visit(gone, "", "DELETE", f"/streams/{ask.name}")
        assert visit.heard.status in {EMPTY, GONE}, bytes(visit.data)

    async def _visit(  # noqa: PLR0913, PLR0917  the parts of a request
        self, ask: Ask, before: str, method: str, path: str, headers=(), body: bytes = b""
    ) -> Visit:
        visit = Visit(ask, before)
        self.visits.append(visit)
        ask.visits.append(visit)
        pairs = {
            "Host": f"127.0.0.1:{self.port}",
            "Connection": "close",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **dict(headers),
        }
        lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in pairs.items()), "", ""]
        await visit.open(self.port, "\r\n".join(lines).encode() + body)
        await self.settle()
        return visit

    # --- time, and what arrives in it

    async def passes(self, seconds: float) -> None:
        """Let time pass, no more at once than a heartbeat."""
        while seconds > 0:
            step = min(seconds, SILENCE)
            heard = {visit: len(visit.data) for visit in self.visits if self._listens(visit)}
            self.clock.advance(step)
            await self.settle()
            seconds -= step
            for visit, size in heard.items() if step == SILENCE else ():
                assert len(visit.data) > size, "silence without a heartbeat"

    def _listens(self, visit: Visit) -> bool:
        heard = visit.heard
        follows = heard.status == OK and visit.ask.framed
        return (
            follows
            and visit.ask.door != "plain"
            and not (visit.left or visit.ended or visit.stalled)
        )

    async def settle(self) -> None:
        """Let what is on its way arrive, and hand each new request to its Ask."""
        for _ in range(TURNS):
            await asyncio.sleep(0)
        while not self.upstream._waiting.empty():
            request, wire = self.upstream._waiting.get_nowait()
            marker = request.json()["messages"][0]["content"]
            self.begun[int(marker[1:])].order(wire)
        for visit in self.visits:
            visit.ask.name = visit.ask.name or visit.heard.stream

    # --- what must be true

    def check(self) -> None:
        """Hold at any moment: nothing doubled or invented, one ending at most, time goes on."""
        for endings in self.endings.values():
            assert len(endings) == 1, endings
        for visit in self.visits:
            self._check_visit(visit)
        for ask in self.begun:
            forsaken = ask.name and not ask.keep and all(visit.left for visit in ask.visits)
            assert not forsaken or ask.name in self.endings, "read on, for nobody"
        open_ = len(self.gateway.streams)
        assert open_ + len(self.endings) == len(self.begun)
        assert not open_ or self.clock.next_due() is not None, "a wait without an end"
        self._check_metrics()

    def _check_visit(self, visit: Visit) -> None:
        heard, ask = visit.heard, visit.ask
        assert heard.error != "internal", bytes(visit.data)
        if heard.status != OK or ask.status != OK:
            return
        assert ask.sent.startswith(visit.total), (ask.sent, visit.total)
        if heard.done or (heard.whole and not heard.error):
            known = ask.erred and any(
                other.heard.error for other in ask.visits
            )  # came back behind it
            assert ask.finished or known, "an end that the upstream did not say"
            assert visit.total == ask.sent, (ask.sent, visit.total)

    def _check_metrics(self) -> None:
        outcomes = Counter(
            ending[0].outcome if ending[0] else "left" for ending in self.endings.values()
        )
        counted: Counter[str] = Counter()
        for (_, outcome), number in self.gateway.metrics._streams.items():
            if number:
                counted[outcome] += number
        outcomes["refused"] = self.refused
        assert counted == outcomes, (counted, outcomes)
        assert self.gateway.metrics.open_streams() == len(self.gateway.streams)

    async def close(self) -> None:
        """Hold in the end: every stream has its ending, every client knows it, nothing is left."""
        for visit in self.visits:
            visit.read(on=True)
        await self.passes(LAST)
        self.check()
        assert not self.gateway.streams
        assert not len(self.gateway.store), "a stream is kept beyond its time"
        assert not len(self.gateway.tickets)
        assert all(visit.ended for visit in self.visits), "a client waits for what cannot come"
        for visit in self.visits:
            self._check_told(visit)
        down = sum(member.down for member in self.gateway.lane("u").pool.members)
        assert len(self.clock.pending()) <= down, "a timer is left"

    def _check_told(self, visit: Visit) -> None:
        """Hold that what a client was told of the end is what was counted."""
        ask, heard = visit.ask, visit.heard
        if ask.name not in self.endings:
            return
        [ending] = self.endings[ask.name]
        assert ending is not None or visit.left
        if heard.done and ask.door == "chat":
            assert ending.outcome == "ok"
        if heard.error and ask.door == "chat" and heard.status == OK:
            assert ending.failure.code == heard.error
            assert ending.outcome == _OUTCOMES.get(heard.error, "error")
        if ask.door == "chat" and heard.status == OK and not (visit.left or visit.stalled):
            assert heard.done or heard.error, "an end without a word"

    async def shut(self) -> None:
        """Stop everything; nothing of it may be left."""
        for visit in self.visits:
            visit.transport.abort()
        for ask in self.begun:
            ask.stop()
        await self._serving.cleanup()
        await self.proxy.__aexit__(None)
        await self.upstream.__aexit__(None)
        for _ in range(TURNS):
            await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left


def _settings(toml: str) -> Settings:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "t.toml").write_text(toml, encoding="utf-8")
        return load(environ={}, config="t.toml", cwd=Path(folder))


def descriptors() -> int:
    """Return how many files and sockets this process has open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def _heard(data: bytes, door: str) -> Heard:
    """Read a response as a client does."""
    head, blank, tail = data.partition(b"\r\n\r\n")
    if not blank:
        return Heard()
    lines = head.decode("latin-1").split("\r\n")
    status = int(lines[0].split(" ")[1])
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
    body, whole = tail, status in BODILESS
    if headers.get("transfer-encoding") == "chunked":
        body, whole = _unchunked(tail)
    elif "content-length" in headers:
        whole = len(tail) == int(headers["content-length"])
    known = Heard(status, headers.get("teleprinter-stream", ""), whole=whole)
    if headers.get("content-type", "").startswith("text/event-stream"):
        return _events(known, body, door)
    error = _code(json.loads(body)) if status != OK and whole and body else ""
    return known._replace(text=body.decode(errors="ignore"), error=error)


def _unchunked(data: bytes) -> tuple[bytes, bool]:
    body = b""
    while data:
        size, end, data = data.partition(b"\r\n")
        if not end:
            break
        length = int(size, 16)
        if length == 0:
            return body, data == b"\r\n"
        body, data = body + data[:length], data[length + 2 :]
    return body, False


def _events(known: Heard, body: bytes, door: str) -> Heard:
    """Read the events that are whole."""
    text, last, done, error = [], "", False, ""
    for block in body.split(b"\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.decode().split("\n") if ": " in line)
        last = fields.get("id", last)
        data = fields.get("data")
        if data is None:
            continue
        told = _json(data)
        if door == "chat":
            name = fields["event"]
            text.append(told["content"] if name == "answer" else "")
            done = done or name == "done"
            error = told["code"] if name == "error" else error
        elif data == "[DONE]":
            done = True
        elif isinstance(told, dict):
            choices = told.get("choices") or [{}]
            text.append(choices[0].get("delta", {}).get("content", ""))
            error = _code(told) or error
    return known._replace(text="".join(text), last=last, done=done, error=error)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _code(told: Any) -> str:
    error = told.get("error") if isinstance(told, dict) else None
    return str(error.get("code") or "said") if isinstance(error, dict) else ""
