"""Hours in minutes: a steady load, a retention of a minute and a half, and nothing that may grow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from statistics import fmean

from mqworker.tasks import end_tasks
from tests.bench.figures import Figure, at_most, figure, rate, ratio
from tests.bench.filling import trickle
from tests.bench.room import MB, Room
from tests.bench.worker import Worker, one_worker

LOAD_RATE = 500.0
SEND_SECONDS = 1.9
"""With the rate above it, nearly a thousand chats in flight: a little room is left, or a backlog would grow."""
CHATS = 5_000
LOOK_SECONDS = 5.0
SHORT_RETENTION = {"retention_days": 0.001, "clean_every_hours": 1 / 120, "backoff_cap_seconds": 60}


@dataclass(frozen=True)
class Sample:
    """One look: the worker's memory, rows that vacuum has not taken yet, the tables with their indexes, Redis."""

    worker_bytes: int
    dead_rows: int
    table_bytes: int
    redis_bytes: int


async def soak(room: Room, minutes: float) -> list[Figure]:
    """a steady load for --soak minutes: memory, dead rows and tables must stay flat"""
    await room.empty()
    async with one_worker(room, settings=SHORT_RETENTION) as worker, room.queue() as queue:
        load = asyncio.create_task(trickle(queue, LOAD_RATE, 60 * minutes, CHATS, seconds=SEND_SECONDS))
        try:
            samples = await _watch(room, worker, 60 * minutes)
        finally:
            await end_tasks([load])
    return _figures(samples, minutes)


async def _watch(room: Room, worker: Worker, seconds: float) -> list[Sample]:
    samples = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        await asyncio.sleep(LOOK_SECONDS)
        ((dead_rows, table_bytes),) = await room.sql(
            """
            SELECT sum(n_dead_tup)::bigint, sum(pg_total_relation_size(relid))::bigint FROM pg_stat_user_tables
            WHERE relname IN ('message_queue_items', 'message_queue_chats')
            """
        )
        samples.append(Sample(worker.resident_bytes, dead_rows, table_bytes, await room.redis_bytes()))
    return samples


def _figures(samples: Sequence[Sample], minutes: float) -> list[Figure]:
    """The last quarter beside the second: in the first the retention has not come round yet."""
    quarter = len(samples) // 4
    early, late = _mean(samples[quarter : 2 * quarter]), _mean(samples[-quarter:])
    return [
        rate(f"soak of {minutes:g} minutes", LOAD_RATE),
        figure("soak, the worker at its largest", max(s.worker_bytes for s in samples) / MB, "MB", at_most(150)),
        figure("soak, dead rows at most", max(s.dead_rows for s in samples), "rows"),
        figure("soak, tables and indexes at most", max(s.table_bytes for s in samples) / MB, "MB"),
        ratio("soak, worker's memory: end / begin", late[0] / early[0], at_most(1.1)),
        ratio("soak, dead rows: end / begin", late[1] / max(early[1], 1.0), at_most(1.5)),
        ratio("soak, table size: end / begin", late[2] / early[2], at_most(1.1)),
        ratio("soak, Redis' memory: end / begin", late[3] / early[3], at_most(1.1)),
    ]


def _mean(samples: Sequence[Sample]) -> tuple[float, ...]:
    return tuple(fmean(column) for column in zip(*map(astuple, samples), strict=True))
