"""An HTTP proxy: CONNECT and absolute-form."""

import asyncio
from base64 import b64encode
from http import HTTPStatus
from ssl import SSLContext
from typing import Any
from urllib.parse import urlsplit

from fakes.http import Request, read_request
from fakes.server import Connection
from fakes.tunnel import Proxy, Stream, copy, end

HTTP_PORT = 80


class HttpProxy(Proxy):
    """An HTTP proxy; the options are those of Proxy, `refuse` is an HTTP status (407, 403, 502).

    requests   every CONNECT and every absolute-form request, with its headers
    targets    HOST:PORT of each of them, as the client wrote it
    connects   how many CONNECTs came
    """

    def __init__(self, *, ssl: SSLContext | None = None, **options: Any) -> None:
        super().__init__(ssl=ssl, **options)
        self.scheme = "https" if ssl else "http"
        self.requests: list[Request] = []
        self.targets: list[str] = []
        self.connects = 0

    async def speak(self, connection: Connection) -> None:
        """Serve requests until one is a CONNECT, or refused, or the client leaves."""
        forward = _Forward(self, connection)
        try:
            while (request := await read_request(connection.reader)) is not None:
                self._note(request)
                status = self.refuse or self._unwanted(request)
                if status:
                    return await self._refuse(connection, status)
                if request.method == "CONNECT":
                    return await self._connect(connection, request.target)
                if not await forward.send(request):
                    return await self._refuse(connection, HTTPStatus.BAD_GATEWAY)
        finally:
            await forward.close()

    def _note(self, request: Request) -> None:
        connect = request.method == "CONNECT"
        self.connects += connect
        self.requests.append(request)
        self.targets.append(request.target if connect else urlsplit(request.target).netloc)
        self.notify()

    def _unwanted(self, request: Request) -> HTTPStatus | None:
        if self.auth is not None:
            secret = b64encode(":".join(self.auth).encode()).decode()
            if request.get("proxy-authorization") != f"Basic {secret}":
                return HTTPStatus.PROXY_AUTHENTICATION_REQUIRED
        if request.method != "CONNECT" and not request.target.startswith("http://"):
            return HTTPStatus.BAD_REQUEST
        return None

    async def _refuse(self, connection: Connection, status: int) -> None:
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "Content-Length: 0"]
        if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            lines.append('Proxy-Authenticate: Basic realm="fake"')
        await self.answer(connection, "\r\n".join([*lines, "Connection: close", "", ""]).encode())

    async def _connect(self, connection: Connection, target: str) -> None:
        host, _, port = target.rpartition(":")
        try:
            stream = await self.dial(host.strip("[]"), int(port))
        except OSError:
            return await self._refuse(connection, HTTPStatus.BAD_GATEWAY)
        words = b"HTTP/1.1 200 Connection established\r\n\r\n"
        return await self.grant(connection, stream, words)


class _Forward:
    """The way of one client's absolute-form requests; a connection to a target is kept for more."""

    def __init__(self, proxy: HttpProxy, connection: Connection) -> None:
        self._proxy = proxy
        self._connection = connection
        self._to: tuple[str, int] | None = None
        self._stream: Stream | None = None
        self._back: asyncio.Task[None] | None = None

    async def send(self, request: Request) -> bool:
        """Send it on; False when the target cannot be reached."""
        url = urlsplit(request.target)
        try:
            writer = await self._open(url.hostname or "", url.port or HTTP_PORT)
        except OSError:
            return False
        data = _origin_form(request, url._replace(scheme="", netloc="").geturl() or "/")
        self._proxy.up += data
        writer.write(data)
        await writer.drain()
        return True

    async def close(self) -> None:
        """Close the connection to the target."""
        if self._stream is not None and self._back is not None:
            self._back.remove_done_callback(self._hang_up)
            await end(self._stream[1], self._back)
        self._stream = None

    async def _open(self, host: str, port: int) -> asyncio.StreamWriter:
        if self._stream is None or self._to != (host, port):
            await self.close()
            self._stream = await self._proxy.dial(host, port)
            self._to = host, port
            back = copy(self._stream[0], self._connection.writer, self._proxy.down)
            self._back = asyncio.create_task(back)
            self._back.add_done_callback(self._hang_up)
        return self._stream[1]

    def _hang_up(self, _task: asyncio.Task[None]) -> None:
        self._connection.close()


def _origin_form(request: Request, path: str) -> bytes:
    kept = [
        f"{name}: {value}"
        for name, value in request.headers
        if not name.lower().startswith("proxy-") and name.lower() != "transfer-encoding"
    ]
    if "transfer-encoding" in request.names():
        kept.append(f"Content-Length: {len(request.body)}")
    lines = [f"{request.method} {path} HTTP/1.1", *kept, "", ""]
    return "\r\n".join(lines).encode("latin-1") + request.body
