"""What the providers' APIs answer, field for field as their SDKs' types say.

    openai_chat        chat completions: plain, streamed, with tools; the errors of OpenAI's API
    openai_responses   the Responses API: plain and streamed, with tools and reasoning
    openai_media       embeddings, files, audio, images
    anthropic          messages: plain, streamed, with tools and thinking; their errors

Each gives JSON (a dict) for plain answers and frames (a list of bytes) for streams; `answers` and
`streams` make a script of the fake upstream of them, with the headers that such an API sends.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

from fakes import Request, Script, Wire, reply

Pairs = Iterable[tuple[str, str]]
_WITHIN = re.compile(rb"[^\x80-\xbf]+|[\x80-\xbf]")
"""UTF-8 in pieces, each byte that continues a character by itself."""


def answers(body: Any, status: int = 200, pairs: Pairs = ()) -> Script:
    """Return a script that answers every request with that JSON; bytes go as they are."""
    pairs = list(pairs)
    if not isinstance(body, bytes):
        body = json.dumps(body, ensure_ascii=False).encode()
        pairs.append(("Content-Type", "application/json"))
    return reply(status, body, *pairs)


def streams(frames: Iterable[bytes], pairs: Pairs = (), *, torn: bool = False) -> Script:
    """Return a script that streams the frames; `torn`: cut inside every character that can be."""
    chunks = list(frames)
    if torn:
        chunks = _WITHIN.findall(b"".join(chunks))

    async def script(_request: Request, wire: Wire) -> None:
        await wire.head(200, *pairs, content_type="text/event-stream; charset=utf-8")
        for chunk in chunks:
            await wire.chunk(chunk)
        await wire.end()

    return script
