"""`GET /v1/models` where several upstreams serve a prefix: the union of what they list.

All are asked at once. Each entry stays as its upstream wrote it; one that the upstream's `models`
would not let through is left out, and of two with the same id the first upstream's stays. An
upstream that cannot say is passed over, unless none can.
"""

import asyncio
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple

import msgspec

from service.adapters.clock import Clock, Deadline
from service.adapters.logs import log
from service.adapters.upstream import Answer
from service.errors import Failure
from service.relay import Leg
from service.verdict import in_its_words, refused, succeeded

_LARGEST: Final = 8 * 1024 * 1024
"""Bytes of a list; the longest known, OpenRouter's, has 1 MB."""


class Source(NamedTuple):
    """An upstream to ask, and the globs of the models that it serves."""

    leg: Leg
    models: Sequence[str]


async def union(sources: Sequence[Source], clock: Clock) -> tuple[bytes, list[str]]:
    """Return the list as JSON, and who contributed; raises the first Failure if nobody did."""
    found = await asyncio.gather(*(_listed(source.leg, clock) for source in sources))
    failures = [answer for answer in found if isinstance(answer, Failure)]
    if len(failures) == len(sources):
        raise failures[0]
    entries: dict[str, Mapping[str, Any]] = {}
    told = []
    for (leg, globs), answer in zip(sources, found, strict=True):
        if isinstance(answer, Failure):
            log.warning("models of an upstream are missing", upstream=leg.upstream, why=str(answer))
            continue
        told.append(leg.upstream)
        for entry in answer:
            name = str(entry.get("id"))
            if any(fnmatchcase(name, glob) for glob in globs):
                entries.setdefault(name, entry)
    return msgspec.json.encode({"object": "list", "data": list(entries.values())}), told


async def _listed(leg: Leg, clock: Clock) -> list[dict[str, Any]] | Failure:
    leg.lane.begin()
    try:
        async with Deadline(clock, leg.terms.headers):
            return await _ask(leg)
    except TimeoutError:
        text = f"the upstream {leg.upstream} did not answer within {leg.terms.headers:g} s"
        return Failure("upstream_timeout_headers", text, stage="headers")
    except Failure as failure:
        return failure
    finally:
        leg.lane.end()


async def _ask(leg: Leg) -> list[dict[str, Any]]:
    order = leg.compose()
    async with await leg.lane.ask(order, lambda _, __: None, None) as answer:
        if not succeeded(answer):
            raise await in_its_words(refused(answer, order), answer)
        entries = _entries(await _whole(answer))
    if entries is None:
        text = f"the upstream {order.origin} did not answer with a list of models"
        raise Failure("upstream_malformed", text, stage="stream")
    return entries


async def _whole(answer: Answer) -> bytes:
    found = bytearray()
    while len(found) < _LARGEST and (data := await answer.read()):
        found += data
    return bytes(found)


def _entries(body: bytes) -> list[dict[str, Any]] | None:
    """Return the entries of a list in the form of OpenAI's or Anthropic's; None if it is none."""
    try:
        listed = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    data = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(data, list):
        return None
    return [entry for entry in data if isinstance(entry, dict) and "id" in entry]
