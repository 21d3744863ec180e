"""A million messages that wait: Redis filled from nothing, and what the sweeps cost meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mqworker.broker import Keys
from mqworker.broker.broker import REBUILDING
from tests.bench.figures import Figure, at_least, at_most, figure, rate
from tests.bench.filling import fill_by_sql, rebuild
from tests.bench.room import MB, Room
from tests.bench.worker import Worker, cpu_seconds, one_worker

MESSAGES, CHATS = 1_000_000, 100_000
SEND_SECONDS = 1.0
"""How long a send takes while Redis is filled: as a provider's does. With the fastest there would be less to fill."""
LOOK_SECONDS = 0.05
REBUILD_PATIENCE_SECONDS = 600.0
RECONCILES, RECLAIMS = 8, 24


@dataclass
class Watched:
    """What was seen of a rebuild."""

    began: float = 0.0
    ended: float = 0.0
    redis_bytes: int = 0
    worker_bytes: int = 0


async def rebuilding(room: Room) -> list[Figure]:
    """a worker fills an empty Redis with a million rows, and sends meanwhile"""
    await room.empty()
    async with one_worker(room) as worker:
        idle_bytes = worker.resident_bytes
    await room.empty()
    await fill_by_sql(room, room.scaled(MESSAGES), room.scaled(CHATS), {"seconds": SEND_SECONDS})
    empty_bytes = await room.redis_bytes()
    async with one_worker(room, warm=False) as worker:
        watched = await _watch(room, worker)
    sent = await room.scalar(
        "SELECT count(*) FROM message_queue_items WHERE processed_at BETWEEN to_timestamp(%s) AND to_timestamp(%s)",
        watched.began,
        watched.ended,
    )
    seconds = watched.ended - watched.began
    return [
        figure("rebuild", seconds, "s", at_most(60)),
        figure("rebuild, Redis", (watched.redis_bytes - empty_bytes) / MB, "MB", at_most(300)),
        figure("rebuild, the worker more than idle", (watched.worker_bytes - idle_bytes) / MB, "MB", at_most(100)),
        rate("sent during the rebuild (1 s each)", sent / seconds, at_least(1)),
    ]


async def _watch(room: Room, worker: Worker) -> Watched:
    """Look until Redis is whole; the most of everything that was seen."""
    watched = Watched()
    deadline = time.monotonic() + REBUILD_PATIENCE_SECONDS
    while not watched.ended:
        assert time.monotonic() < deadline, f"Redis was not filled within {REBUILD_PATIENCE_SECONDS:g} s"
        epoch = await room.redis.get(Keys().epoch) or ""
        if epoch.startswith(REBUILDING):
            watched.began = watched.began or await room.clock()
        elif epoch:
            watched.ended = await room.clock()
        watched.redis_bytes = max(watched.redis_bytes, await room.redis_bytes())
        watched.worker_bytes = max(watched.worker_bytes, worker.resident_bytes)
        await asyncio.sleep(LOOK_SECONDS)
    # Where it was over before we looked there is nothing to divide by: say when it ended only.
    watched.began = watched.began or watched.ended - LOOK_SECONDS
    return watched


async def sweeps(room: Room) -> list[Figure]:
    """what reconcile and reclaim take of PostgreSQL with a million messages waiting"""
    await room.empty()
    await fill_by_sql(room, room.scaled(MESSAGES), room.scaled(CHATS))
    await rebuild(room)
    # Where the walk goes on is kept in the duty's row, which a worker would have made.
    await room.sql("INSERT INTO message_queue_duties (name) VALUES ('reconcile')")
    settings = room.settings()
    async with room.sweeps() as (passes, store, _):
        backend = await store.database.scalar("SELECT pg_backend_pid()")
        reconcile = await _share(backend, passes.reconcile, RECONCILES, settings.reconcile_every_seconds)
        reclaim = await _share(backend, passes.reclaim, RECLAIMS, settings.reclaim_every_seconds)
    return [
        figure("reconcile, of a backend", 100 * reconcile, "%"),
        figure("reclaim, of a backend", 100 * reclaim, "%"),
        figure("reconcile and reclaim, of a backend", 100 * (reconcile + reclaim), "%", at_most(5)),
    ]


async def _share(backend: int, sweep: Callable[[], Awaitable[object]], times: int, every_seconds: float) -> float:
    """The part of one core that a backend needs for a sweep that comes round so often."""
    before = cpu_seconds(backend)
    for _ in range(times):
        await sweep()
    return (cpu_seconds(backend) - before) / (times * every_seconds)
