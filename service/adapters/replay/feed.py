"""What comes from Redis: the entries for all mirrors and this instance's messages, in one XREAD."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from service.adapters.replay.shared import Entries, Mirror, inbox_key, stream_key

PAGE: Final = 16
"""Entries of a stream to be read at once; one has about 16 KiB at most."""


class Feed:
    """Fills the mirrors that are watched; `hear` is called with what, stream, instance."""

    def __init__(
        self, redis: Any, instance: str, block: float, hear: Callable[[str, str, str], None]
    ) -> None:
        self.mirrors: set[Mirror] = set()
        self._redis = redis
        self._inbox = inbox_key(instance)
        self._heard = "0-0"
        self._block = round(block * 1000)
        self._hear = hear

    def mirror(self, name: str) -> Mirror | None:
        """Return a mirror of this stream that is watched."""
        return next((one for one in self.mirrors if one.log.name == name), None)

    async def read(self) -> None:
        """Wait for what comes, but not for long, and hand it on; raises Redis' errors."""
        keys = {self._inbox: self._heard}
        for mirror in self.mirrors:
            key = stream_key(mirror.log.name)
            keys[key] = min(keys.get(key, mirror.seen), mirror.seen, key=_order)
        for key, entries in await self._redis.xread(keys, count=PAGE, block=self._block):
            if key.decode() == self._inbox:
                self._read_messages(entries)
            else:
                self._fill(key.decode(), entries)

    def _fill(self, key: str, entries: Entries) -> None:
        for mirror in [one for one in self.mirrors if stream_key(one.log.name) == key]:
            mirror.feed(entries)
            if mirror.log.ending is not None:
                self.mirrors.discard(mirror)

    def _read_messages(self, entries: list[tuple[bytes, Mapping[bytes, bytes]]]) -> None:
        for entry_id, fields in entries:
            self._heard = entry_id.decode()
            what, name, instance = (
                fields.get(part, b"").decode(errors="replace") for part in (b"do", b"of", b"by")
            )
            self._hear(what, name, instance)


def _order(entry_id: str) -> tuple[int, ...]:
    return tuple(int(part) for part in entry_id.split("-"))
