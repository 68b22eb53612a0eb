"""No secret is in any output: what the relays of a test know as secrets, and who looks for them.

    every Secret that is made ─────────────────────┐
    relaying, serving ─▶ plant(settings) ──────────┴─▶ the secrets of this test
    every byte that a server in this process sends ─┐
    every line that a relay's process writes ───────┼─▶ look ─▶ the test fails, in conftest
    all that the test printed, the log with it ─────┘

Secrets are callers' and upstreams' keys, headers of the settings, user and password of proxies and
of the store, private keys. A secret that is a word of everyday is none: shorter than SHORTEST.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from aiohttp.web_protocol import RequestHandler

from service.core.secret import Secret
from service.settings import Settings

SHORTEST = 5
_LINE = 64
"""Characters of a line of a PEM file, which are enough to know it by."""

known: set[str] = set()
"""The secrets of the test that runs."""
shown: list[str] = []
"""Where one of them was seen."""


def forget() -> None:
    """Begin with the next test."""
    known.clear()
    shown.clear()


def add(*secrets: str) -> None:
    """Look for these from now on."""
    known.update(secret for secret in secrets if len(secret) >= SHORTEST)


def plant(settings: Settings) -> None:
    """Look for these settings' secrets from now on."""
    add(*secrets(settings))


def secrets(settings: Settings) -> Iterator[str]:
    """Yield each secret of these settings."""
    yield from (key.key.reveal() for key in settings.server.keys)
    for upstream in settings.upstream:
        yield upstream.key.reveal()
        yield from upstream.headers.values()
        yield from _lines(upstream.client_key)
        for proxy in settings.ways(upstream):
            for hop in proxy.hops:
                yield hop.username
                yield hop.password.reveal()
    yield from _lines(settings.server.tls_key)
    store = urlsplit(settings.store.url)
    yield from (unquote(part or "") for part in (store.username, store.password))


def _lines(file: str) -> Iterator[str]:
    """Yield the lines of a private key that nobody could take for anything else."""
    if file and Path(file).is_file():
        lines = Path(file).read_text().split()
        yield from (line for line in lines if len(line) == _LINE)


def look(where: str, data: bytes | str, old: int = 0) -> None:
    """Note it if one of the secrets is in there; the first `old` characters were looked at."""
    text = data if isinstance(data, str) else bytes(data).decode("latin-1")
    shown.extend(f"{where} shows the secret {each!r}" for each in known if _is_in(each, text, old))


def _is_in(secret: str, text: str, old: int) -> bool:
    """Tell whether a text has a secret in it, and not as a part of a longer word."""
    whole = rf"(?<![\w-]){re.escape(secret)}(?![\w-])"
    return secret in text and any(found.end() > old for found in re.finditer(whole, text))


class Watched:
    """A transport that looks at what is sent by it; for a secret in two writes, at the seam too."""

    def __init__(self, transport: Any, where: str) -> None:
        self._transport = transport
        self._where = where
        self._last = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Look, and send."""
        self._look(data)
        self._transport.write(data)

    def writelines(self, pieces: list[bytes]) -> None:
        """Look, and send."""
        self._look(b"".join(pieces))
        self._transport.writelines(pieces)

    def _look(self, data: bytes) -> None:
        if known:
            seam = self._last + data
            look(self._where, seam, len(self._last))
            self._last = seam[-max(map(len, known)) :]


def watch(patch: pytest.MonkeyPatch) -> None:
    """Look at what every server of aiohttp in this process sends, and what a test reads of its own.

    They are all ours.
    """
    begin, make = RequestHandler.connection_made, Secret.__init__
    read = pytest.CaptureFixture.readouterr

    def connection_made(handler: RequestHandler, transport: Any) -> None:
        begin(handler, Watched(transport, "a response"))

    def made(secret: Secret, text: str = "") -> None:
        make(secret, text)
        add(text)

    def readouterr(capture: pytest.CaptureFixture[str]) -> Any:
        found = read(capture)
        look("the output", f"{found.out}\n{found.err}")
        return found

    patch.setattr(RequestHandler, "connection_made", connection_made)
    patch.setattr(Secret, "__init__", made)
    patch.setattr(pytest.CaptureFixture, "readouterr", readouterr)
