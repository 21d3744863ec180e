"""One worker, put together from its rooms: started, watched, drained."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Self
from uuid import uuid4

from mqworker.broker import Broker, BrokerUnavailable, Keys, Wake
from mqworker.clockwork import Clockwork
from mqworker.digest import Digest
from mqworker.dispatcher import Dispatcher
from mqworker.errors import StorageUnavailable
from mqworker.executors import Executor
from mqworker.flights import Flight, Flights, LeaseKeeper, Onward
from mqworker.lifecycle import Policy
from mqworker.migrate import check_schema
from mqworker.outage import Outage
from mqworker.pacing import PacingPolicy
from mqworker.processor import Processor
from mqworker.retry import RetryPolicy
from mqworker.settings import CANCEL_GRACE_SECONDS, Settings, open_links
from mqworker.settler import Settler
from mqworker.store import Store, translated_errors
from mqworker.sweeps import Sweeps
from mqworker.tally import Tally
from mqworker.tasks import end_tasks, for_ever

log = logging.getLogger(__name__)

LOCK_MARGIN = 1.2
"""Redis' lock outlives the row's lease a little: it must not invite others to a claim that still stands."""
LOOK_PAUSE_SECONDS = 0.5


def redis_outage() -> Outage:
    """What a worker says when Redis is away."""
    return Outage("Redis", "no new messages are leased until it returns")


def worker_name() -> str:
    """A name that tells people where a worker runs, and differs from every other worker's."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:6]}"


class Runtime:
    """Everything of one worker but arq."""

    def __init__(
        self,
        settings: Settings,
        executors: Mapping[str, Executor],
        *,
        name: str,
        store: Store,
        broker: Broker,
        redis: Outage,
    ) -> None:
        self.name = name
        self.settings = settings
        self.store = store
        self.broker = broker
        self.flights = Flights(settings.max_chats)
        self.tally = Tally()
        self._postgres = Outage("PostgreSQL", "nothing is claimed until it returns, what is in flight is settled then")
        self.keeper = LeaseKeeper(
            self.flights,
            self.store,
            self.broker,
            self._postgres,
            renew_seconds=settings.renew_seconds,
            lock_seconds=settings.lease_seconds * LOCK_MARGIN,
        )
        self._wake = Wake(self.broker.servers, self.broker.keys.wake)
        onward = Onward()
        self.settler = Settler(self.flights, onward, self.store, self.broker, self._wake, self.tally, self._postgres)
        self.clockwork = Clockwork(self.store, Sweeps(self.store, self.broker, settings), self.tally, settings)
        self.digest = Digest(self.tally, self.flights)
        self._executors = executors
        self.dispatcher = Dispatcher(
            flights=self.flights,
            onward=onward,
            store=self.store,
            broker=self.broker,
            wake=self._wake,
            processor=Processor(executors, _policy(settings), timeout_seconds=settings.executor_timeout_seconds),
            settler=self.settler,
            tally=self.tally,
            postgres=self._postgres,
            redis=redis,
            # Later, the lease could end before the first renewal comes round.
            claim_seconds=settings.lease_seconds - settings.renew_seconds,
            on_memory_lost=self.clockwork.memory_lost,
            on_unknown_instance=self.clockwork.unknown_instance,
            on_return=self.clockwork.redis_returned,
        )
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._draining = False
        self.must_be_replaced = asyncio.Event()

    @classmethod
    def open(cls, settings: Settings, executors: Mapping[str, Executor], redis: Outage | None = None) -> Self:
        """A worker on the servers that ``settings`` name; it connects when first used."""
        settings.require_servers()
        name = worker_name()
        store = Store.open(settings, worker=name)
        redis_url, keys = settings.redis_url.get_secret_value(), Keys(settings.key_prefix)
        broker = Broker(redis_url, keys, owner=name, cluster=settings.redis_cluster)
        return cls(settings, executors, name=name, store=store, broker=broker, redis=redis or redis_outage())

    async def check(self) -> None:
        """Wait for PostgreSQL, then see that its settings and its schema are what this code needs.

        Redis' kind is looked at if it answers. Raises :class:`ConfigError` or :class:`SchemaBehind`.
        """
        while True:
            try:
                with translated_errors():
                    risks = [*await self.store.database.check(), *open_links(self.settings)]
                    await check_schema(self.store.database)
            except StorageUnavailable as error:
                self._postgres.noticed(error)
                await asyncio.sleep(LOOK_PAUSE_SECONDS)
            else:
                for risk in risks:
                    log.warning(risk)
                break
        # If it is away now, it is away with a reason when it comes.
        with contextlib.suppress(BrokerUnavailable):
            await self.broker.check()

    def start(self) -> None:
        """Start to work. Call :meth:`check` first."""
        log.info(
            "worker started",
            extra={"worker": self.name, "executors": ", ".join(self._executors), "max_chats": self.settings.max_chats},
        )
        work: dict[str, Callable[[], Awaitable[None]]] = {
            "settler": self.settler.run,
            "keeper": self.keeper.run,
            "keeper of locks": self.keeper.keep_locks,
            "listener": self._wake.listen,
            "dispatcher": self.dispatcher.run,
            "onward": self.dispatcher.go_on,
            "watch": self._watch,
            "digest": self.digest.run,
            **self.clockwork.loops,
        }
        for name, run in work.items():
            self._tasks[name] = asyncio.create_task(for_ever(name, run), name=name)

    @property
    def not_ready(self) -> str | None:
        """Why this worker itself leases nothing, however its servers are; ``None`` where it does."""
        if self.must_be_replaced.is_set():
            return "an executor ignores its cancellation: the process will be replaced"
        if self._draining:
            return "it was told to stop and lets its sends in flight end"
        return None if self._tasks else "it has not started yet"

    async def drain(self) -> None:
        """Lease nothing more, let the sends in flight end and settle, at most ``drain_seconds``."""
        self._draining = True
        log.info("draining", extra={"worker": self.name, "in_flight": len(self.flights)})
        self.dispatcher.stop()
        await self._end("listener", *self.clockwork.loops)
        try:
            async with asyncio.timeout(self.settings.drain_seconds):
                await self._tasks["dispatcher"]
                await self._tasks["onward"]
                await self._until_landed()
        except TimeoutError:
            log.warning("drain ended with sends in flight", extra={"in_flight": len(self.flights)})

    async def _until_landed(self) -> None:
        """Return when all has landed that will: a send that ignores its cancellation is not waited for."""
        while set(self.flights.all()) - set(self._stuck()):
            await self.flights.wait_a_while(LOOK_PAUSE_SECONDS)

    async def aclose(self) -> None:
        """Stop all tasks, close all connections."""
        await self._end(*self._tasks)
        for flight in self.flights.all():
            if flight.task is not None:
                flight.task.cancel()
        await self.broker.aclose()
        await self.store.aclose()
        self.digest.tell()
        log.info("worker stopped", extra={"worker": self.name})

    async def _end(self, *names: str) -> None:
        await end_tasks([self._tasks[name] for name in names if name in self._tasks])

    async def _watch(self) -> None:
        """Find sends that ignore their cancellation: only the end of this process ends them."""
        while not (stuck := self._stuck()):  # noqa: ASYNC110 - time alone makes a send stuck, nothing could ring
            await asyncio.sleep(LOOK_PAUSE_SECONDS)
        for flight in stuck:
            log.error("an executor ignores its cancellation: this worker will be replaced", extra=flight.facts)
        self.must_be_replaced.set()

    def _stuck(self) -> list[Flight]:
        limit = self.settings.executor_timeout_seconds + CANCEL_GRACE_SECONDS
        return self.keeper.stuck(longer_than_seconds=limit)


def _policy(settings: Settings) -> Policy:
    return Policy(
        RetryPolicy(settings.backoff_base_seconds, settings.backoff_cap_seconds),
        PacingPolicy(settings.delay_min_seconds, settings.delay_max_seconds),
    )
