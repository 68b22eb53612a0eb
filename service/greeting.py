"""What the process says of itself: where it listens, which way it takes, what to try next.

on a terminal   sentences, and commands to try
elsewhere       log lines, one JSON object each, and no commands: nobody is there to try them
"""

import sys
from collections.abc import Container, Iterable, Iterator

from service.adapters.logs import log
from service.settings import Settings


def greet(settings: Settings, addresses: Iterable[object], admin: Container[object]) -> None:
    """Say where one may ask, and how the answers come; `admin`: of the addresses, server.admin."""
    listening = [(str(each[0]), int(each[1])) for each in addresses if isinstance(each, tuple)]
    for text in [*_places(settings, listening, admin), *_ways(settings)]:
        say(text)
    if sys.stderr.isatty():
        for text in next_steps(settings, listening):
            say(text)


def _places(
    settings: Settings, listening: list[tuple[str, int]], admin: Container[object]
) -> Iterator[str]:
    scheme = "https" if settings.server.tls_cert else "http"
    for host, port in listening:
        here = "/metrics, /status.json" if (host, port) in admin else "/ (the page), /chat and /v1"
        yield f"listening on {scheme}://{_bracketed(host)}:{port}{here}"


def _ways(settings: Settings) -> Iterator[str]:
    for upstream in settings.upstream:
        ways = ", ".join(str(way) for way in settings.ways(upstream))
        yield f"upstream {upstream.name}: {upstream.url} through {ways}"


def next_steps(settings: Settings, addresses: Iterable[object]) -> Iterator[str]:
    """Yield commands that show a first answer, and why none comes; none for socket files.

    Where all addresses are listened at, it is loopback that is asked.
    """
    found = next(((str(each[0]), each[1]) for each in addresses if isinstance(each, tuple)), None)
    if found is None:
        return
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(found[0], found[0])  # noqa: S104  asked only
    server = settings.server
    key = " -H 'Authorization: Bearer YOUR-KEY'" if server.keys else ""
    prefix = next((upstream.prefix for upstream in settings.upstream), "")
    scheme = "https" if server.tls_cert else "http"
    raw = "g" if ":" in host else ""  # brackets are curl's own otherwise
    place = f"{scheme}://{_bracketed(host)}:{found[1]}{prefix}"
    yield f"try: curl -{raw}N{key} '{place}/chat?question=Why+is+the+sky+blue%3F'"
    if any(upstream.name != "demo" for upstream in settings.upstream):
        yield f"if no answer comes: {_program()} doctor"


def _program() -> str:
    """Return how it was called, where that was by its name: it may not be on the PATH."""
    return sys.argv[0] if sys.argv[0].endswith("/teleprinter") else "teleprinter"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def say(text: str) -> None:
    """Tell the person who started the process, or the log."""
    if sys.stderr.isatty():
        _write(text)
    else:
        log.info(text)


def complain(text: str) -> None:
    """Tell them what ends the process."""
    if sys.stderr.isatty():
        _write(text)
    else:
        log.error(text)


def _write(text: str) -> None:
    sys.stderr.write(f"teleprinter: {text}\n")
    sys.stderr.flush()
