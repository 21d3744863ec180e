"""Where a benchmark works: the servers of the run, emptied before it, and the worker processes that it starts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, LiteralString, Self

import psycopg
from redis.asyncio import Redis

from mqworker import MessageQueue, Settings, load_settings
from mqworker.broker import Broker, Keys
from mqworker.clockwork import Clockwork
from mqworker.devserver import DevServers
from mqworker.migrate import upgrade
from mqworker.store import Store
from mqworker.sweeps import Sweeps
from mqworker.tally import Tally
from tests.bench import floor

NO_GAPS = {"delay_min_seconds": 0.0, "delay_max_seconds": 0.0}
MB = 1_000_000


class Room:
    """The servers, and how large the benchmarks are: ``scale`` 1 is what the targets speak of."""

    def __init__(self, servers: DevServers, folder: Path, *, scale: float) -> None:
        self.database_url = servers.database_url
        self.redis_url = servers.redis_url
        self.folder = folder
        self.scale = scale

    async def open(self) -> Self:
        """Bring up the schema; connect."""
        await asyncio.to_thread(upgrade, self.settings().database_url.get_secret_value())
        self._connection = await psycopg.AsyncConnection.connect(self.database_url, autocommit=True)
        self.redis: Redis = Redis.from_url(self.redis_url, decode_responses=True)
        # What we recommend; our own development server has it already.
        await self.redis.config_set("stream-node-max-bytes", "256")
        return self

    async def aclose(self) -> None:
        await self._connection.close()
        await self.redis.aclose()

    def scaled(self, number: int, *, least: int = 1) -> int:
        return max(round(number * self.scale), least)

    def settings(self, **changes: object) -> Settings:
        """Settings for these servers, without gaps unless told otherwise."""
        urls = {"database_url": self.database_url, "redis_url": self.redis_url}
        return load_settings(_env_file=None, **{**urls, **NO_GAPS, **changes})

    def queue(self) -> MessageQueue:
        return MessageQueue(self.settings())

    @asynccontextmanager
    async def sweeps(self, **changes: object) -> AsyncIterator[tuple[Sweeps, Store, Clockwork]]:
        """A worker's sweeps in this process, on one connection, so that what the server does for them can be seen."""
        settings = self.settings(**changes)
        store = Store.open(settings, worker="bench", pool_size=1)
        broker = Broker(self.redis_url, Keys(settings.key_prefix), owner="bench")
        sweeps = Sweeps(store, broker, settings)
        try:
            yield sweeps, store, Clockwork(store, sweeps, Tally(), settings)
        finally:
            await broker.aclose()
            await store.aclose()

    # The servers

    async def sql(self, statement: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
        """Run a statement; its rows, if it has any."""
        cursor = await self._connection.execute(statement, parameters or None)
        return await cursor.fetchall() if cursor.description else []

    async def scalar(self, statement: LiteralString, *parameters: object) -> Any:
        return (await self.sql(statement, *parameters))[0][0]

    async def clock(self) -> float:
        """PostgreSQL's, which also writes when a message was settled."""
        return float(await self.scalar("SELECT EXTRACT(EPOCH FROM clock_timestamp())"))

    async def empty(self) -> None:
        """Empty tables and an empty Redis; only while no worker runs."""
        await self.forget()
        await self.sql("TRUNCATE message_queue_duties, message_queue_instances")
        await self.redis.flushall()
        await self.sql("CHECKPOINT")

    async def forget(self) -> None:
        """Empty the tables of a worker that has nothing to do."""
        await self.sql("TRUNCATE message_queue_items, message_queue_chats")

    async def tidy(self) -> None:
        """What autovacuum and the checkpointer would have done by the time that so many rows have come together."""
        await self.sql("VACUUM (ANALYZE) message_queue_items")
        await self.sql("CHECKPOINT")

    async def redis_bytes(self) -> int:
        return int((await self.redis.info("memory"))["used_memory"])

    async def bare_life(self, messages: int) -> float:
        """The floor: messages a second through insert, claim and settle in bare SQL."""
        await self.empty()
        try:
            return await asyncio.to_thread(floor.life_per_second, self.database_url, messages)
        finally:
            await self.empty()
