"""The connection to Redis, and one error for every way in which it can fail."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.connection import Connection
from redis.exceptions import NoPermissionError, RedisError

CONNECT_TIMEOUT_SECONDS = 2.0
ANSWER_TIMEOUT_SECONDS = 5.0

Address = tuple[str, int]
"""Host and port."""

NODE_OF_A_CLUSTER = (
    "MQWORKER_REDIS_URL names a node of a Redis Cluster: "
    "set MQWORKER_REDIS_CLUSTER=true, and MQWORKER_ARQ_REDIS_URL to a plain Redis"
)
NO_CLUSTER = "MQWORKER_REDIS_CLUSTER is set, but the Redis that MQWORKER_REDIS_URL names is not part of a cluster"


class BrokerUnavailable(Exception):
    """Redis did not do what was asked: away, full, loading, read-only. Nothing but latency depends on it."""


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Turn every failure of Redis into :class:`BrokerUnavailable`; the text names no key and no value."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise BrokerUnavailable(f"{type(error).__name__} {_reason(error)}".strip()) from None


def _reason(error: BaseException) -> str:
    """What an operator can mend, in the system's own words; else the server's error code."""
    if isinstance(error, NoPermissionError):
        return "(the ACL of our user denies a command, a key or a channel)"
    if str(error).startswith("MOVED "):
        return f"({NODE_OF_A_CLUSTER})"
    if "cluster support disabled" in str(error):
        return f"({NO_CLUSTER})"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"(its certificate is refused: {cause.verify_message})"
        if isinstance(cause, OSError) and cause.strerror:
            return f"({cause.strerror})"
        cause = cause.__cause__ or cause.__context__
    return str(error).split(" ", 1)[0] if str(error)[:1].isupper() else ""


class ConnectionCount:
    """Counts connections made: a new one may lead to another server, or to the same one restarted."""

    def __init__(self) -> None:
        self.made = 0

    async def connected(self, connection: Connection) -> None:
        await connection.on_connect()
        self.made += 1


def connection_options(redis_url: str) -> dict[str, Any]:
    """What every connection of ours has; the URL's own parameters win. redis-py checks no host name unless told to.

    A CA of your own comes in the URL: ``rediss://...?ssl_ca_certs=/etc/ssl/our-ca.pem``.
    """
    options: dict[str, Any] = {
        "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "socket_timeout": ANSWER_TIMEOUT_SECONDS,
        "socket_keepalive": True,
    }
    if urlsplit(redis_url).scheme == "rediss":
        options |= {"ssl_check_hostname": True, "ssl_cert_reqs": "required"}
    return options


def connect(redis_url: str, count: ConnectionCount, at: Address | None = None) -> Redis:
    """A client that connects when first used, to what the URL names or to another server ``at`` an address.

    The URL's password and parameters are percent-decoded.
    """
    client: Redis = Redis.from_url(
        redis_url, decode_responses=True, redis_connect_func=count.connected, **connection_options(redis_url)
    )
    if at is not None:
        host, port = at
        client.connection_pool.connection_kwargs |= {"host": host, "port": port}
    return client
