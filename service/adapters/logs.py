"""One line a request; text on a terminal, one JSON object a line elsewhere."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final


@contextmanager
def _absent(name: str) -> Iterator[None]:
    """Let nobody import that meanwhile ("The module cache" in Python's language reference)."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


with _absent("rich"):  # a tenth of a start, for tracebacks that show variables: prompts
    import structlog

log: Any = structlog.get_logger()
_encode: Final = json.JSONEncoder(default=repr).encode  # json.dumps would make one for each line


def configure(level: str) -> None:
    """Send all log lines, those of the libraries too, to standard error from this level on."""
    terminal = sys.stderr.isatty()
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if terminal else "iso", utc=not terminal),
    ]
    plain = structlog.dev.plain_traceback  # rich's, if another import has it, would show variables
    render: list[Any] = (
        [_legible, structlog.dev.ConsoleRenderer(exception_formatter=plain)]
        if terminal
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_encoded)]
    )
    printer = structlog.PrintLogger(sys.stderr)
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: printer,
    )
    handler = logging.StreamHandler()
    handler.addFilter(_unquoted)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _encoded(entry: dict[str, Any], **_: Any) -> str:
    return _encode(entry)


def _legible(_logger: Any, _method: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Keep out of a terminal what it would obey: escapes in a path or an upstream's words."""
    own = {"event", "exception", "stack"}
    return {
        name: _escaped(value) if isinstance(value, str) and name not in own else value
        for name, value in entry.items()
    }


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _unquoted(record: logging.LogRecord) -> bool:
    """Leave out what aiohttp quotes of a request that is no HTTP: it may be a query or a key."""
    if record.name == "aiohttp.server" and record.exc_info:
        record.msg = f"{record.getMessage()}: {type(record.exc_info[1]).__name__}"
        record.args = record.exc_info = None
    return True
