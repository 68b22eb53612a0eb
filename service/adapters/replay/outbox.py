"""What is on its way to Redis: uplinks that have something new, and single commands.

All that has come up by the time that Redis answers goes in the next pipeline, so that a slow Redis
gets fewer and larger entries.
"""

import asyncio
from typing import Any, Final

from service.adapters.replay.shared import Command, Uplink, lost

_REFUSED: Final = "specified in XADD is equal or smaller"


async def pipeline(redis: Any, commands: list[Command]) -> list[Any]:
    """Send commands together; return their answers, exceptions among them."""
    line = redis.pipeline(transaction=False)
    for command in commands:
        line.execute_command(*command)
    answers: list[Any] = await line.execute(raise_on_error=False)
    return answers


class Outbox:
    """Sends to Redis.

    `live_for`, `hold`: seconds that a stream stays without a sign of its writer, and after its end.
    """

    live_for: float
    hold: float

    def __init__(self, redis: Any) -> None:
        self.uplinks: dict[str, Uplink] = {}
        """Streams that are under way, by name."""
        self.idle = asyncio.Event()
        """Redis has answered all."""
        self.idle.set()
        self.woken = asyncio.Event()
        """There is something to send."""
        self._redis = redis
        self._due: dict[Uplink, None] = {}
        self._commands: list[Command] = []

    def post(self, *commands: Command) -> None:
        """Send commands, in this order, before what uplinks have."""
        self._commands += commands
        self._wake()

    def due(self, uplink: Uplink) -> None:
        """Send what an uplink has."""
        self._due[uplink] = None
        self._wake()

    def remove(self, uplink: Uplink) -> bool:
        """Send no more of an uplink; return whether there was one."""
        self._due.pop(uplink, None)
        return self.uplinks.pop(uplink.log.name, None) is not None

    def clear(self) -> None:
        """Send nothing of what is left."""
        self._commands.clear()
        self._due.clear()

    async def send(self) -> None:
        """Send until nothing is left; raises Redis' errors."""
        try:
            while self._commands or self._due:
                await self._flush()
        finally:
            self.woken.clear()
            self.idle.set()

    def _wake(self) -> None:
        self.idle.clear()
        self.woken.set()

    async def _flush(self) -> None:
        sent: list[tuple[Uplink | None, Command]] = [(None, each) for each in self._commands]
        due = [uplink for uplink in self._due if uplink.due]
        self.clear()
        for uplink in due:
            sent += [(uplink, each) for each in uplink.commands(self.live_for, self.hold)]
        answers = await pipeline(self._redis, [command for _, command in sent])
        for (owner, command), answer in zip(sent, answers, strict=True):
            _check(owner, command, answer)
        for uplink in due:
            uplink.announced.set()
            if uplink.ended:
                self.remove(uplink)
            elif uplink.due:
                self._due[uplink] = None


def _check(uplink: Uplink | None, command: Command, answer: Any) -> None:
    """See that an entry is there; a stream whose entry is not is kept no longer."""
    if isinstance(answer, Exception):
        if _REFUSED not in str(answer):
            raise answer
        why = "another instance took this one for dead and ended it"
    elif command[0] == "XADD" and answer is None:
        why = "Redis has forgotten it"
    else:
        return
    if uplink is not None:
        uplink.close()
        uplink.log.release(lost(why))
