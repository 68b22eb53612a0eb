"""The JavaScript clients, each run by Node against the relay: every case with every client.

What a client does wrong by itself, and no relay can mend:

openai, @anthropic-ai/sdk   take a stream without its last event for a whole one, if its body ends
                            as bodies do. The relay's error frame is what tells them.
ai                          tells of a cut twice: the relay's error, then its own of the body.
EventSource                 cannot tell the status of a refusal (by its specification), and comes
                            back after 3 s whenever its page forgets to close it.
Node's own EventSource      waits for that moment without keeping the process alive:
                            https://github.com/nodejs/undici/pull/4247 (not in Node 20)
fetch-event-source          needs `window` and `document`; asks again after an error
                            every second without end unless `onerror` throws. Unmaintained:
                            https://github.com/Azure/fetch-event-source/issues/46
"""

from client_cases import Cases, ChatCases, LeftOpenCases
from node import (
    ANTHROPIC,
    EVENTSOURCE,
    FETCH_EVENT_SOURCE,
    NODE_EVENTSOURCE,
    OPENAI,
    PARSER,
    VERCEL,
)

ON_CHAT = (EVENTSOURCE, NODE_EVENTSOURCE, PARSER, FETCH_EVENT_SOURCE)


class TestNode(Cases):
    """All of them."""

    CLIENTS = (OPENAI, ANTHROPIC, VERCEL, *ON_CHAT)


class TestNodeChat(ChatCases):
    """The clients of /chat."""

    CLIENTS = ON_CHAT


class TestNodeLeftOpen(LeftOpenCases):
    """The two EventSources."""

    CLIENTS = (EVENTSOURCE, NODE_EVENTSOURCE)
