"""One message on an idle worker, one chat as fast as it goes, many chats at the pace of people."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import psycopg

from tests.bench import floor
from tests.bench.figures import Figure, at_least, at_most, figure, percentile, rate, ratio
from tests.bench.filling import fill, fill_by_sql, rate_since, rebuild, trickle, until_completed
from tests.bench.room import Room
from tests.bench.worker import one_worker

COMMITS = 500
IDLE_RATE = 100.0
LATENCY_MESSAGES = 2_000
HOT_MESSAGES = 3_000
PACED_CHATS = 4_000
DEFAULT_GAPS = {"delay_min_seconds": 0.5, "delay_max_seconds": 2.0}
MEAN_GAP_SECONDS = 1.25
SETTLING_SECONDS = 10.0
PACED_SECONDS = 20.0
PACED_EACH = 45
"""More than a chat can send in the time: the gaps must be all that holds it up."""


async def latency(room: Room) -> list[Figure]:
    """from the call of enqueue to the executor, at 100 messages a second"""
    messages = room.scaled(LATENCY_MESSAGES)
    bare = await _bare(room, pause_seconds=1 / IDLE_RATE)
    async with room.queue() as queue, one_worker(room, notes=True) as worker:
        await trickle(queue, IDLE_RATE, messages / IDLE_RATE, 1_000)
        await until_completed(room, messages)
    noted = worker.notes().latencies_ms
    # On its way a message waits for two commits (the insert's and the claim's) and for three calls of Redis.
    way_ms = 2 * bare.insert_ms + 3 * bare.script_ms
    return [
        figure("two bare commits, three bare EVALSHA, at that pace", way_ms, "ms"),
        figure("enqueue to executor, p50", percentile(noted, 50), "ms", at_most(3.0)),
        figure("enqueue to executor, p99", percentile(noted, 99), "ms", at_most(12.0)),
        ratio("enqueue to executor, p50 / bare", percentile(noted, 50) / way_ms),
    ]


async def _bare(room: Room, *, pause_seconds: float = 0.0) -> floor.BareEnqueue:
    """What one commit and one script take here, of which each message needs some."""
    await room.empty()
    measure = partial(floor.bare_enqueue, room.database_url, room.redis_url, COMMITS, pause_seconds=pause_seconds)
    bare = await asyncio.to_thread(measure)
    await room.empty()
    return bare


async def hot(room: Room) -> list[Figure]:
    """a single chat without gaps; the same beside a transaction that stands open"""
    commit_ms = (await _bare(room)).insert_ms
    free = await _hot_rate(room)
    async with _open_snapshot(room):
        held = await _hot_rate(room)
    return [
        figure("bare INSERT and commit, p50", commit_ms, "ms"),
        rate("one hot chat", free, at_least(600)),
        rate("one hot chat, a snapshot open", held),
        ratio("one hot chat, a snapshot open / none", held / free, at_least(0.5, quick=0.2)),
    ]


async def _hot_rate(room: Room) -> float:
    messages = room.scaled(HOT_MESSAGES)
    async with one_worker(room) as worker, room.queue() as queue:
        worker.pause()
        await fill(queue, messages, 1)
        began = await room.clock()
        worker.go_on()
        per_second = await rate_since(room, began, messages)
    await room.forget()
    return per_second


@asynccontextmanager
async def _open_snapshot(room: Room) -> AsyncIterator[None]:
    """A transaction that still sees all that is deleted or changed meanwhile, so that nothing can be tidied up."""
    connection = await psycopg.AsyncConnection.connect(room.database_url)
    try:
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        # The first statement takes the snapshot. None of our tables: its lock would keep the bench from emptying it.
        await connection.execute("SELECT count(*) FROM pg_class")
        yield
    finally:
        await connection.close()


async def paced(room: Room) -> list[Figure]:
    """default gaps, 4,000 chats that always have something to send"""
    chats = room.scaled(PACED_CHATS)
    await room.empty()
    await fill_by_sql(room, chats * PACED_EACH, chats)
    await rebuild(room)
    async with one_worker(room, warm=False, settings=DEFAULT_GAPS):
        # At first every chat is due at once; after some gaps they have spread.
        await until_completed(room, chats)
        began = await room.clock() + SETTLING_SECONDS
        await asyncio.sleep(SETTLING_SECONDS + PACED_SECONDS)
    sent = await room.scalar(
        "SELECT count(*) FROM message_queue_items WHERE processed_at BETWEEN to_timestamp(%s) AND to_timestamp(%s)",
        began,
        began + PACED_SECONDS,
    )
    allowed = chats / MEAN_GAP_SECONDS
    return [
        rate(f"{chats:,} paced chats", sent / PACED_SECONDS),
        ratio("sent / what the gaps allow", sent / PACED_SECONDS / allowed, at_least(0.95, quick=0.7)),
    ]
