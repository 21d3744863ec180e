"""The connection to Redis, and one error for every way in which it can fail."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.connection import Connection
from redis.exceptions import RedisError

CONNECT_TIMEOUT_SECONDS = 2.0
ANSWER_TIMEOUT_SECONDS = 5.0


class BrokerUnavailable(Exception):
    """Redis did not do what was asked: away, full, loading, read-only. Nothing but latency depends on it."""


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Turn every failure of Redis into :class:`BrokerUnavailable`; the text names no key and no value."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        first_word = str(error).split(" ", 1)[0] if str(error)[:1].isupper() else ""
        raise BrokerUnavailable(f"{type(error).__name__} {first_word}".strip()) from None


class ConnectionCount:
    """Counts connections made: a new one may lead to another server, or to the same one restarted."""

    def __init__(self) -> None:
        self.made = 0

    async def connected(self, connection: Connection) -> None:
        await connection.on_connect()
        self.made += 1


def connection_options(redis_url: str) -> dict[str, Any]:
    """What every connection of ours has. redis-py checks no host name on TLS unless told to."""
    options: dict[str, Any] = {
        "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "socket_timeout": ANSWER_TIMEOUT_SECONDS,
        "socket_keepalive": True,
    }
    if urlsplit(redis_url).scheme == "rediss":
        options |= {"ssl_check_hostname": True, "ssl_cert_reqs": "required"}
    return options


def connect(redis_url: str, count: ConnectionCount) -> Redis:
    """A client that connects when first used. The URL's password and parameters are percent-decoded."""
    client: Redis = Redis.from_url(
        redis_url, decode_responses=True, redis_connect_func=count.connected, **connection_options(redis_url)
    )
    return client
