"""One Redis server: what runs on it, and which run of it answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from mqworker.broker.connection import Address, ConnectionCount, connect
from mqworker.broker.scripts import Call, Plain, raised, replies_of


class Server:
    """The queue's one Redis, or a node of its cluster."""

    def __init__(self, redis: Redis, connections: ConnectionCount) -> None:
        self.redis = redis
        self._connections = connections
        self._connections_seen = 0
        self._run_id = ""

    @classmethod
    def open(cls, redis_url: str, at: Address | None = None) -> Self:
        """The server that the URL names, or with its parameters another one; it connects when first used."""
        connections = ConnectionCount()
        return cls(connect(redis_url, connections, at), connections)

    async def run(self, calls: Sequence[Call | Plain], then: Sequence[Call | Plain] = ()) -> list[Any]:
        """Run commands in one round trip and in order; answer in their order. Raises the first error of any."""
        return raised(await replies_of(self.redis, [*calls, *then]))

    async def run_id(self, _key: str) -> str:
        """The run of the server that holds a key: another one may have lost what that one was told.

        Called after what is judged by it: that may have come over a new connection, from another server.
        """
        if self._connections_seen != self._connections.made or not self._run_id:
            seen = self._connections.made
            info = await self.redis.info("server")
            self._run_id, self._connections_seen = info["run_id"], max(seen, 1)
        return self._run_id

    async def ping(self) -> None:
        """Raise unless it answers."""
        await self.redis.ping()

    def pubsub(self) -> PubSub:
        """To hear a channel with."""
        return self.redis.pubsub(ignore_subscribe_messages=True)

    async def aclose(self) -> None:
        await self.redis.aclose()
