"""What a provider does wrong, how a client may ask, and a relay between them.

    WAYS      /chat, /v1 streamed, /v1 plain, /v1/messages
    FAULTS    by name: what the upstream does, and what a client hears who has no fallback

async with relaying(toml=pair(url, backup.url), clock=clock) as relay:
    answer = await ask(relay, WAYS["/chat"], clock=clock, moves=[0.5, 1])
"""

import json
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

from clock import FakeClock
from fakes import HttpProxy, Request, Script, Upstream, Wire, chat, frame, reply, sse
from line import Answer, dial
from relaying import Relay, settled

JSON = ("Content-Type", "application/json")
CLIENTS_KEY = ("Authorization", "Bearer sk-client")
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
QUIET = "[heartbeat]\nafter = 0\nopen_after = 0\n"
CLOCKS = "[clocks]\nconnect = 10\nheaders = 30\nfirst_token = 20\nidle = 25\n"
RETRY = "[retry]\nattempts = 3\n"
BACK_OFF = (0.5, 1)
"""Seconds between three attempts, where chance stands still."""
DATE = ("Date", "Sun, 01 Mar 2026 12:00:00 GMT")
IN_FIVE = ("Retry-After", "Sun, 01 Mar 2026 12:00:05 GMT")

# --- ways to ask


def typed(kind: str, **more: Any) -> bytes:
    """Return a frame of Anthropic's."""
    return frame({"type": kind, **more}, kind)


MESSAGE = {"model": "m", "usage": {"input_tokens": 5}}
ANTHROPIC = [
    typed("message_start", message=MESSAGE),
    typed("content_block_start", content_block={"type": "text", "text": ""}),
    typed("content_block_delta", delta={"type": "text_delta", "text": "Hel"}),
    typed("ping"),
    typed("content_block_delta", delta={"type": "text_delta", "text": "lo"}),
    typed("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 2}),
    typed("message_stop"),
]
OPENAI = chat(["Hel", "lo"], usage=USAGE, model="m-2026")
PLAIN = json.dumps({"object": "chat.completion", "choices": [{}], "usage": USAGE}).encode()


class Way(NamedTuple):
    """How a client asks; `frames`: of a good answer, none if it is not streamed."""

    path: str
    body: dict[str, Any]
    frames: list[bytes]

    @property
    def good(self) -> Script:
        """A script that answers well."""
        if self.frames:
            return sse(*self.frames)
        return reply(200, PLAIN, content_type="application/json")

    @property
    def role(self) -> bytes:
        """The frames before the first content."""
        return b"".join(self.frames[: 2 if self.frames is ANTHROPIC else 1])

    @property
    def begun(self) -> bytes:
        """The frames up to the first content."""
        return b"".join(self.frames[: 3 if self.frames is ANTHROPIC else 2])

    @property
    def answer(self) -> bytes:
        """A good answer's bytes."""
        return b"".join(self.frames) or PLAIN

    @property
    def sent(self) -> bytes:
        """The request's bytes."""
        return json.dumps(self.body).encode()


ASKED = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
WAYS = {
    "/chat": Way("/chat", {"question": "Hi", "model": "m"}, OPENAI),
    "/v1 streamed": Way("/v1/chat/completions", {**ASKED, "stream": True}, OPENAI),
    "/v1 plain": Way("/v1/chat/completions", ASKED, []),
    "/v1/messages": Way("/v1/messages", {**ASKED, "stream": True}, ANTHROPIC),
}
STREAMED = [name for name, way in WAYS.items() if way.frames]


async def ask(
    relay: Relay,
    way: Way,
    *pairs: tuple[str, str],
    clock: FakeClock | None = None,
    moves: Sequence[float] = (),
) -> Answer:
    """Ask, and move the clock by each of these once somebody waits for that moment."""
    async with dial(relay.port) as line:
        await line.send("POST", way.path, JSON, CLIENTS_KEY, *pairs, body=way.sent)
        await moved(clock, *moves)
        return await line.answer()


async def moved(clock: FakeClock | None, *moves: float) -> None:
    """Move the clock by each of these once somebody waits for that moment."""
    for seconds in moves:
        await clock.armed(clock.now() + seconds)
        clock.advance(seconds)


def events_of(answer: Answer) -> list[tuple[str, Any]]:
    """Return name and data of each event of /chat."""
    found = []
    for block in answer.body.decode().rstrip("\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((fields["event"], json.loads(fields["data"])))
    return found


def text_of(answer: Answer) -> str:
    """Return the text of the answers of /chat."""
    return "".join(data["content"] for name, data in events_of(answer) if name == "answer")


def upstream(name: str, url: str, more: str = "") -> str:
    """Return the table of an upstream."""
    return f'[[upstream]]\nname = "{name}"\nurl = "{url}/v1"\n{more}\n'


def alone(url: str, more: str = "") -> str:
    """Return the settings with one upstream, called a."""
    return QUIET + CLOCKS + RETRY + upstream("a", url, more)


def pair(first: str, second: str, more: str = "", backup: str = "") -> str:
    """Return the settings with an upstream a, whose fallback is b; none has a key."""
    return alone(first, f'fallback = ["b"]\n{more}') + upstream("b", second, backup)


# --- faults


class Fault(NamedTuple):
    """What an upstream does wrong.

    script   how it answers each request, by the way it is asked; None: it cannot be dialled
    code     what a client hears who has no fallback; None: what the upstream sent, as it came
    status   … and the status
    moves    seconds that go by
    seen     how many requests it gets
    ways     who can meet it
    """

    script: Callable[[Way], Script] | None
    code: str | None
    status: int
    moves: Sequence[float] = ()
    seen: int = 1
    ways: Sequence[str] = tuple(WAYS)


async def silent(_request: Request, wire: Wire) -> None:
    """Take the request and say nothing."""
    await wire.closed.wait()


async def reset(_request: Request, wire: Wire) -> None:
    """Break off before the status line."""
    wire.reset()


async def garbage(_request: Request, wire: Wire) -> None:
    """Speak another protocol."""
    await wire.send(b"\x00\x01 SSH-2.0-OpenSSH\r\n\r\n")
    wire.close()


def begins(way: Way, data: bytes = b"", *, then: str = "reset") -> Script:
    """Return a script that begins well, and then breaks off, or is silent."""

    async def script(_request: Request, wire: Wire) -> None:
        if way.frames:
            await wire.head(content_type="text/event-stream")
            await wire.chunk(data) if data else None
        else:
            await wire.head(200, content_type="application/json", content_length=str(len(PLAIN)))
            await wire.send(data)
        if then == "silence":
            await wire.closed.wait()
        await settled()  # a reset takes along what was not read
        getattr(wire, "reset" if then == "reset" else "close")()

    return script


def error_first(openai: Any, anthropic: Any) -> Callable[[Way], Script]:
    """Return what makes a script whose stream is an error and nothing else."""
    theirs, ours = typed("error", error=anthropic), frame({"error": openai})
    return lambda way: sse(theirs if way.frames is ANTHROPIC else ours)


def says(status: int, *pairs: tuple[str, str]) -> Callable[[Way], Script]:
    """Return what makes a script that answers with a status."""
    said = reply(status, b'{"error": {"message": "Not now."}}', JSON, *pairs)
    return lambda _: said


def always(script: Script) -> Callable[[Way], Script]:
    """Return the script, whatever is asked."""
    return lambda _: script


_PAGE = always(reply(200, b"<html>Log in", content_type="text/html"))
_TORN = always(reply(200, PLAIN[:30], content_type="application/json"))
_REPEATED: Any = {"moves": BACK_OFF, "seen": 3}
_CUT: Any = {"code": "upstream_cut", "status": 502, **_REPEATED}
_WORDS: Any = {"code": None, "status": 200}
_STREAMS: Any = {"ways": STREAMED}
_JSON: Any = {"ways": ["/v1 plain"]}

FAULTS = {
    "connection refused": Fault(None, "upstream_unreachable", 502, seen=0),
    "unknown name": Fault(None, "upstream_unreachable", 502, seen=0),
    "no TLS": Fault(None, "upstream_tls", 502, seen=0),
    "silent after accept": Fault(None, "upstream_unreachable", 504, [10], 0),
    "silent after the request": Fault(always(silent), "upstream_timeout_headers", 504, [30]),
    **{
        f"{status}": Fault(says(status), None, status, **_REPEATED)
        for status in (408, 429, 500, 502, 503, 504, 529)
    },
    "429, in 2 s": Fault(says(429, ("Retry-After", "2")), None, 429, [2, 2], 3),
    "503, at a date in 5 s": Fault(says(503, DATE, IN_FIVE), None, 503, [5, 5], 3),
    "429, in 6 s": Fault(says(429, ("Retry-After", "6")), None, 429),
    "529, not again": Fault(says(529, ("x-should-retry", "false")), None, 529),
    "reset before the status line": Fault(always(reset), **_CUT),
    "reset after the head": Fault(begins, **_CUT),
    "clean end before content": Fault(always(sse()), **_CUT, **_STREAMS),
    "role and then cut": Fault(lambda way: begins(way, way.role, then="close"), **_CUT, **_STREAMS),
    "error first": Fault(
        error_first(
            {"type": "server_error", "message": "Not now."},
            {"type": "overloaded_error", "message": "Not now."},
        ),
        **_WORDS,
        **_REPEATED,
        **_STREAMS,
    ),
    "error first, by number": Fault(
        error_first({"code": 502, "message": "Not now."}, {"code": "502", "message": "Not now."}),
        **_WORDS,
        **_REPEATED,
        **_STREAMS,
    ),
    "a page": Fault(_PAGE, "upstream_malformed", 502, **_STREAMS),
    "a page for JSON": Fault(_PAGE, **_WORDS, **_JSON),
    "garbage": Fault(always(garbage), "upstream_malformed", 502),
    "no first token": Fault(
        lambda way: begins(way, way.role + b": ping\n\n", then="silence"),
        "upstream_timeout_first_token",
        504,
        [20],
        **_STREAMS,
    ),
    "[DONE] and no more": Fault(always(sse(b"data: [DONE]\n\n")), **_WORDS, ways=STREAMED[:2]),
    "truncated JSON": Fault(lambda way: begins(way, PLAIN[:30], then="close"), **_CUT, **_JSON),
    "JSON that is none": Fault(_TORN, **_WORDS, **_JSON),
    "stalled JSON": Fault(
        lambda way: begins(way, PLAIN[:30], then="silence"), "upstream_stalled", 504, [25], **_JSON
    ),
}


async def faulty(
    stack: AsyncExitStack, name: str, way: Way, dead_port: int
) -> tuple[str, list[Request]]:
    """Start what has that fault; return its URL, and its requests."""
    fault = FAULTS[name]
    if fault.script is not None:
        server = await stack.enter_async_context(Upstream(fault.script(way)))
        return server.url, server.requests
    if name == "connection refused":
        return f"http://127.0.0.1:{dead_port}", []
    if name == "unknown name":
        return "http://api.invalid:8000", []
    no_tls = {"garbage": b"HTTP/1.1 400 No\r\n\r\n"}
    how = {"silent": True} if name == "silent after accept" else no_tls
    listener = await stack.enter_async_context(HttpProxy(**how))
    return f"https://127.0.0.1:{listener.port}", []
