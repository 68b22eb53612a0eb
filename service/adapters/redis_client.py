"""Connections to Redis for what several instances share; redis-py is an extra."""

from typing import Any, Final
from urllib.parse import urlsplit

NO_EXTRA: Final = "redis:// needs the redis extra: pip install 'teleprinter[redis]'"


def place(url: str) -> str:
    """Return host:port of a Redis URL, for the log; raises ValueError."""
    try:
        parts = urlsplit(url)
        if parts.scheme in {"redis", "rediss"} and parts.hostname:
            parts.hostname.encode("idna")  # what the resolver will do
            return f"{parts.hostname}:{parts.port or 6379}"
    except ValueError:
        pass
    raise ValueError("expected memory or a URL such as redis://127.0.0.1:6379/0")


def errors() -> tuple[type[Exception], ...]:
    """Return what redis-py raises when Redis does not answer as it should."""
    from redis.exceptions import RedisError  # noqa: PLC0415  an extra

    return (RedisError, OSError)


def client(url: str, connections: int, within: float) -> Any:
    """Return a client that tries nothing twice; no connection of it is open yet.

    What was sent twice would be refused as another writer's.
    """
    pool = connections_of(url, connections, within, tries=0, protocol=2)
    from redis.asyncio import Redis  # noqa: PLC0415  an extra, which is there

    return Redis(connection_pool=pool)


def connections_of(url: str, number: int, within: float, *, tries: int, **options: Any) -> Any:
    """Return connections to Redis, none of them open yet; `within`: seconds that it may take.

    `tries`: how often a command is sent again over a connection that was gone. Raises ValueError,
    without the URL, if the extra is not installed or redis-py does not know the URL's options.
    """
    try:
        from redis.asyncio import BlockingConnectionPool  # noqa: PLC0415  an extra
        from redis.asyncio.retry import Retry  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.exceptions import ConnectionError as Lost  # noqa: PLC0415
    except ImportError:
        raise ValueError(NO_EXTRA) from None
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=number,
            timeout=within,
            socket_timeout=within,
            socket_connect_timeout=within,
            retry=Retry(NoBackoff(), tries, supported_errors=(Lost,)),
            **options,
        )
        pool.make_connection()  # type: ignore[no-untyped-call]  # checks the URL's options
    except (ValueError, TypeError):
        text = "expected a URL such as redis://127.0.0.1:6379/0, with options that redis-py knows"
        raise ValueError(text) from None
    return pool
