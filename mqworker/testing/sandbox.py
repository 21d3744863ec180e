"""All of mqworker in one process, without servers, in virtual time: what users test their own code in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from random import Random
from typing import Any

from mqworker.broker import Keys
from mqworker.executors import Executor, ExecutorRegistry
from mqworker.queue import MessageQueue
from mqworker.runtime import Runtime, redis_outage
from mqworker.settings import Settings, load_settings
from mqworker.testing.clock import Clock
from mqworker.testing.memory.broker import MemoryBroker, RedisServer
from mqworker.testing.memory.line import Direct
from mqworker.testing.memory.queue import MemoryQueue
from mqworker.testing.memory.store import open_memory_store
from mqworker.testing.memory.tables import Row, Tables, timestamp
from mqworker.testing.scripted import ScriptedGateway

SHOWN = 5
"""Messages that a drain which did not end tells of."""


class Sandbox:
    """A queue, its workers, the servers, a gateway and a clock.

    ::

        async def test_it(mq: Sandbox) -> None:
            await mq.queue.enqueue("shop", 7, "5511999999999@c.us", {"text": "Hello"})
            await mq.drain()
            assert [message.payload["text"] for message in mq.gateway.sent] == ["Hello"]

    ``clock`` is the time, which :meth:`drain` lets pass; ``registry`` holds the executors (without any, the gateway
    gets all messages as the executor ``webhook`` posts them); ``gateway`` is what executors send to. ``postgres`` and
    ``redis`` can be away: ``with mq.redis.away(): ...``.

    ``seed`` fixes what workers draw: gaps, backoffs. Settings are the defaults, whatever the environment says, but
    for those given by name; raises :class:`ConfigError` where they cannot work.
    """

    def __init__(self, *, seed: int = 0, **settings: Any) -> None:
        self.settings = _settings(settings)
        self.clock = Clock(seed)
        self.registry = ExecutorRegistry()
        self.gateway = ScriptedGateway(lambda: self.clock.now)
        self.postgres = Direct("PostgreSQL")
        self.redis = Direct("Redis")
        self._tables = Tables(self.clock.time, Random(seed), self._note)
        self._server = RedisServer(self.clock.time)
        # As after a rebuild: nothing waits yet, and Redis knows it.
        self._server.memory.set(Keys().epoch, self._server.run_id)
        self._queue: MemoryQueue | None = None
        self._workers = 0
        self._watchers: list[asyncio.Event] = []

    @property
    def queue(self) -> MessageQueue:
        """The queue, open in the event loop that runs; closed, it is opened anew."""
        if self._queue is None or not self._queue.is_open_here:
            store = open_memory_store(self._tables, self.postgres, self.settings, worker="producer")
            broker = MemoryBroker(self._server, self.redis, owner="producer")
            self._queue = MemoryQueue(self.settings, store, broker, lambda: self.clock.now)
        return self._queue

    async def drain(self, *, for_seconds: float | None = None, at_most_seconds: float = 3600.0) -> None:
        """Run a worker until every message has ended that is not scheduled for later, then stop it.

        Gaps, backoffs, timeouts and waits pass in virtual time. With ``for_seconds`` the worker runs for so long,
        whatever is left. Raises AssertionError, saying what waits for what, where ``at_most_seconds`` are not enough.
        """
        with self.clock.passing():
            async with self._worker() as worker:
                if for_seconds is None:
                    await self._until_ended(worker, at_most_seconds)
                else:
                    await asyncio.sleep(for_seconds)

    @contextlib.asynccontextmanager
    async def _worker(self) -> AsyncIterator[Runtime]:
        self._workers += 1
        name = f"worker-{self._workers}"
        worker = Runtime(
            self.settings,
            {name: self.gateway.watched(executor) for name, executor in self._executors.items()},
            name=name,
            store=open_memory_store(self._tables, self.postgres, self.settings, worker=name),
            broker=MemoryBroker(self._server, self.redis, owner=name),
            redis=redis_outage(),
        )
        worker.start()
        try:
            yield worker
            await worker.drain()
        finally:
            await worker.aclose()

    @property
    def _executors(self) -> dict[str, Executor]:
        return self.registry.executors or {"default": self.gateway.send}

    async def _until_ended(self, worker: Runtime, at_most_seconds: float) -> None:
        changed = asyncio.Event()
        self._watchers.append(changed)
        try:
            async with asyncio.timeout(at_most_seconds):
                while self._unfinished():
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            raise AssertionError(self._complaint(worker, at_most_seconds)) from None
        finally:
            self._watchers.remove(changed)

    def _note(self, *_: object) -> None:
        for changed in self._watchers:
            changed.set()

    def _unfinished(self) -> list[Row]:
        now = self._tables.now
        return [
            row
            for row in self._tables.items.values()
            if row.status == "PROCESSING" or (row.status == "PENDING" and (row.scheduled_at or 0.0) <= now)
        ]

    def _complaint(self, worker: Runtime, seconds: float) -> str:
        rows = self._unfinished()
        told = [f"  {row.id} ({row.chat.instance}, {row.executor}): {self._reason(row, worker)}" for row in rows]
        more = ["  ..."] if len(told) > SHOWN else []
        return "\n".join([f"not drained within {seconds:g} s; what has not ended ({len(rows)}):", *told[:SHOWN], *more])

    def _reason(self, row: Row, worker: Runtime) -> str:
        if row.status == "PROCESSING":
            ignores = worker.must_be_replaced.is_set()
            return "its executor ignores its cancellation" if ignores else "its executor has not returned yet"
        if row.executor not in self._executors:
            return "no executor of this name is registered"
        free_at = max(
            row.available_at or 0.0,
            self._tables.chats.get(row.chat, 0.0),
            self._tables.account(row.chat.instance).next_at,
        )
        if free_at > self._tables.now:
            return f"it waits until {timestamp(free_at)}, failed attempts: {row.retry_count}"
        return "no worker has taken it"


def _settings(given: dict[str, Any]) -> Settings:
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    urls = {"database_url": "postgresql://memory/memory", "redis_url": "redis://memory"}
    return load_settings(_env_file=None, **{**defaults, **urls, **given})
