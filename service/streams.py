"""The streams that are under way, in all and of each caller."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator

from service.adapters.clock import Clock, Deadline
from service.errors import Failure
from service.relay import Stream


class Streams:
    """The streams that are under way."""

    def __init__(self) -> None:
        self._streams: dict[str, Stream] = {}
        self._callers: Counter[str] = Counter()

    def add(self, stream: Stream) -> Stream:
        """Keep a stream until its task is done."""
        self._streams[stream.name] = stream
        self._callers[stream.caller] += 1
        stream.task.add_done_callback(lambda _: self._drop(stream))
        return stream

    def _drop(self, stream: Stream) -> None:
        del self._streams[stream.name]
        self._callers[stream.caller] -= 1
        if not self._callers[stream.caller]:
            del self._callers[stream.caller]

    def __len__(self) -> int:
        return len(self._streams)

    def get(self, name: str) -> Stream | None:
        """Return the stream of that name, if it is under way."""
        return self._streams.get(name)

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._streams.values())

    def of(self, caller: str) -> int:
        """Return how many streams of this caller are under way."""
        return self._callers[caller]

    async def ended(self, clock: Clock, seconds: float) -> None:
        """Wait until no stream is under way, but not longer than that."""
        with contextlib.suppress(TimeoutError):
            async with Deadline(clock, seconds):
                while seconds and self._streams:
                    await asyncio.wait(
                        [stream.task for stream in self._streams.values()],
                        return_when=asyncio.FIRST_COMPLETED,
                    )

    async def close(self, failure: Failure) -> None:
        """End every stream; return when nothing of them is left."""
        streams = list(self._streams.values())
        for stream in streams:
            stream.end(failure)
        if streams:
            await asyncio.wait([stream.task for stream in streams])
