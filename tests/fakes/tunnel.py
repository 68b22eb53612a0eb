"""What both kinds of proxy do: dial, copy bytes both ways, fail as told."""

import asyncio
from contextlib import suppress
from ssl import SSLContext
from urllib.parse import quote

from fakes.server import Connection, Server

LOOPBACK = ("127.0.0.1", "::1", "localhost")

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Proxy(Server):
    """A proxy on 127.0.0.1. Its attributes may be set at any time, for the connections after that.

    auth       (user, password) that it asks for; None lets all in
    resolve    names that only this proxy knows: {"api.test": ("127.0.0.1", 4711)}. A name that is
               neither here nor loopback cannot be reached: nothing leaves this machine
    silent     reads, and never answers
    garbage    answers the first byte with these bytes and closes; b"" closes without a byte
    pieces     sends its own answers so many bytes at a time
    refuse     refuses every target, with this status or code

    up, down   the bytes that went through it, to the targets and to the clients
    """

    def __init__(  # noqa: PLR0913  each is a way to behave
        self,
        *,
        auth: tuple[str, str] | None = None,
        resolve: dict[str, tuple[str, int]] | None = None,
        silent: bool = False,
        garbage: bytes | None = None,
        pieces: int | None = None,
        refuse: int | None = None,
        ssl: SSLContext | None = None,
    ) -> None:
        super().__init__(ssl=ssl)
        self.auth = auth
        self.resolve = resolve or {}
        self.silent = silent
        self.garbage = garbage
        self.pieces = pieces
        self.refuse = refuse
        self.up = bytearray()
        self.down = bytearray()

    def url_as(self, scheme: str) -> str:
        """Return the URL with that scheme, and with the user and password if it asks for them."""
        who = ":".join(quote(part, safe="") for part in self.auth) + "@" if self.auth else ""
        return f"{scheme}://{who}127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """SCHEME://[USER:PASSWORD@]127.0.0.1:PORT."""
        return self.url_as(self.scheme)

    async def serve(self, connection: Connection) -> None:
        """Fail as told, or else speak the protocol."""
        if self.silent:
            await connection.gone.wait()
        elif self.garbage is not None:
            await connection.reader.read(1)
            await connection.send(self.garbage)
        else:
            await self.speak(connection)

    async def speak(self, connection: Connection) -> None:
        """Speak the protocol with one client."""
        raise NotImplementedError

    async def answer(self, connection: Connection, data: bytes) -> None:
        """Send bytes of the proxy's own."""
        await connection.send(data, self.pieces)

    async def dial(self, host: str, port: int) -> Stream:
        """Connect to a target; OSError when it cannot be reached."""
        host, port = self.resolve.get(host, (host, port))
        if host not in LOOPBACK:
            raise OSError(f"{host} is not on this machine")
        return await asyncio.open_connection(host, port)

    async def grant(self, connection: Connection, target: Stream, words: bytes) -> None:
        """Say so in these words, and tunnel; the client may have left during the dial."""
        try:
            await self.answer(connection, words)
            await self.tunnel(connection, target)
        finally:
            target[1].close()

    async def tunnel(self, connection: Connection, target: Stream) -> None:
        """Copy both ways until one side ends; then close the other."""
        client = connection.reader, connection.writer
        copies = [
            asyncio.create_task(copy(client[0], target[1], self.up)),
            asyncio.create_task(copy(target[0], client[1], self.down)),
        ]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(target[1], *copies)


async def copy(
    source: asyncio.StreamReader, target: asyncio.StreamWriter, record: bytearray
) -> None:
    """Copy until the source ends or either side breaks."""
    with suppress(OSError):
        while (data := await source.read(1 << 16)) and not target.is_closing():
            record += data
            target.write(data)
            await target.drain()


async def end(writer: asyncio.StreamWriter, *tasks: asyncio.Task[None]) -> None:
    """Stop the tasks, close the connection."""
    writer.close()  # before any await: this may be cancelled
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    with suppress(OSError):
        await writer.wait_closed()
