"""The JavaScript clients, each run by Node against the relay."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from client_cases import Cases, Client
from client_scene import KEY, MESSAGES
from node import node


@dataclass(frozen=True)
class NodeClient(Client):
    """A script of tests/clients, the flags that Node needs for it, and what its job always says."""

    script: str = ""
    flags: tuple[str, ...] = ()
    job: Mapping[str, Any] = field(default_factory=dict)

    def run(self, url: str, question: str = "Hi", **job: Any):
        """Ask the relay at this URL."""
        return node(self.script, {**self._asks(url, question), **self.job, **job}, *self.flags)

    def _asks(self, url: str, question: str) -> dict[str, Any]:
        messages = [{"role": "user", "content": question}]
        return {"url": url, "key": KEY, "body": {"model": "m", "messages": messages}}


class EventSource(NodeClient):
    """A client of GET /chat."""

    def _asks(self, url: str, question: str) -> dict[str, Any]:
        return {"url": f"{url}/chat?{urlencode({'question': question, 'keep': 0})}"}


class Poster(NodeClient):
    """A client of POST /chat."""

    def _asks(self, url: str, question: str) -> dict[str, Any]:
        return {"url": f"{url}/chat", "body": {"question": question, "keep": 0}}


OPENAI = NodeClient("node-openai", script="openai.mjs", attempts=3)
ANTHROPIC = NodeClient("node-anthropic", MESSAGES, script="anthropic.mjs", attempts=3)
VERCEL = NodeClient("vercel-ai", script="vercel.mjs", attempts=3)
GONE = ({"lost": "connecting"}, {"lost": "closed"})
BARRED = ({"lost": "closed"},)
EVENTSOURCE = EventSource(
    "npm-eventsource",
    chat=True,
    script="eventsource.mjs",
    lost=GONE,
    sees_status=False,
    refused=BARRED,
)
NODE_EVENTSOURCE = EventSource(
    "node-eventsource",
    chat=True,
    script="eventsource.mjs",
    flags=("--experimental-eventsource",),
    job={"own": True},
    lost=GONE,
    sees_status=False,
    refused=BARRED,
)
PARSER = Poster(
    "eventsource-parser", chat=True, script="fetch.mjs", lost=({"lost": "TypeError"},)
)
FETCH_EVENT_SOURCE = Poster(
    "fetch-event-source",
    chat=True,
    script="fetch-event-source.mjs",
    lost=({"lost": "TypeError"}, {"error": {"status": 204}}),
)


class TestNode(Cases):
    """Every case with every client."""

    CLIENTS = (
        OPENAI,
        ANTHROPIC,
        VERCEL,
        EVENTSOURCE,
        NODE_EVENTSOURCE,
        PARSER,
        FETCH_EVENT_SOURCE,
    )
