"""TLS in front of the upstream, and a SOCKS5 proxy: what a relay's way out may lead through.

    python -m benchmarks.tunnel tls PORT CERTIFICATE    TLS, then 127.0.0.1:PORT
    python -m benchmarks.tunnel socks                   SOCKS5 without a password (RFC 1928)

Each listens on a free port of 127.0.0.1, prints it, and runs until SIGTERM. They are processes of
their own: what they cost is not the relay's.
"""

import asyncio
import ssl
import sys
from asyncio import StreamReader, StreamWriter

import uvloop

_PIECE = 65536
_NO_PASSWORD = b"\x05\x00"
_CONNECTED = b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"


async def _copy(reader: StreamReader, writer: StreamWriter) -> None:
    try:
        while data := await reader.read(_PIECE):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def _join(reader: StreamReader, writer: StreamWriter, host: str, port: int) -> None:
    """Copy both ways until both are at their end."""
    there, back = await asyncio.open_connection(host, port)
    await asyncio.gather(_copy(reader, back), _copy(there, writer))


async def _destination(reader: StreamReader, writer: StreamWriter) -> tuple[str, int]:
    """Return whereto a SOCKS5 client wants to go."""
    _, methods = await reader.readexactly(2)
    await reader.readexactly(methods)
    writer.write(_NO_PASSWORD)
    kind = (await reader.readexactly(4))[3]
    if kind == 1:
        host = ".".join(map(str, await reader.readexactly(4)))
    else:
        host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
    return host, int.from_bytes(await reader.readexactly(2), "big")


async def _serve_socks(reader: StreamReader, writer: StreamWriter) -> None:
    host, port = await _destination(reader, writer)
    writer.write(_CONNECTED)
    await _join(reader, writer, host, port)


async def _main(kind: str, *rest: str) -> None:
    context = None
    serve = _serve_socks
    if kind == "tls":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(rest[1])

        async def serve(reader: StreamReader, writer: StreamWriter) -> None:
            await _join(reader, writer, "127.0.0.1", int(rest[0]))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_main(*sys.argv[1:]))
