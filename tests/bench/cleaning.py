"""A million finished rows are deleted beside a live load: who claims must not notice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from mqworker.store.database import Database
from mqworker.tasks import end_tasks
from tests.bench.figures import Figure, at_most, figure, percentile, ratio
from tests.bench.filling import CLIENT, trickle
from tests.bench.room import Room
from tests.bench.worker import one_worker

ROWS = 1_000_000
LOAD_RATE = 500.0
CALM_SECONDS = 15.0
LONGEST_SECONDS = 600.0
RETENTION_DAYS = 7


async def clean(room: Room) -> list[Figure]:
    """how claims fare while old rows are deleted, and how long a statement holds its locks"""
    await room.empty()
    await _fill_finished(room, room.scaled(ROWS))
    # The worker must not clean by itself, in the calm before.
    async with (
        one_worker(room, warm=False, notes=True, settings={"retention_days": 365}) as worker,
        room.queue() as queue,
    ):
        load = asyncio.create_task(trickle(queue, LOAD_RATE, LONGEST_SECONDS, 1_000))
        try:
            await asyncio.sleep(CALM_SECONDS / 3)  # plans, scripts, connections
            marks = [time.monotonic_ns()]
            await asyncio.sleep(CALM_SECONDS)
            marks.append(time.monotonic_ns())
            removed, taken_ms = await _clean(room)
            marks.append(time.monotonic_ns())
        finally:
            await end_tasks([load])
    claims = worker.notes().claims
    calm, busy = (percentile([took for at, took in claims if start <= at < end], 99) for start, end in pairwise(marks))
    return [
        figure("rows cleaned", removed, "rows"),
        figure("clean", (marks[2] - marks[1]) / 1e9, "s"),
        figure("claim p99 before the clean", calm, "ms"),
        figure("claim p99 during the clean", busy, "ms"),
        ratio("claim p99 during the clean / before", busy / calm, at_most(2.0)),
        figure("statements of the clean, p99", percentile(taken_ms, 99), "ms"),
        figure("longest statement of the clean", max(taken_ms), "ms", at_most(100)),
    ]


async def _fill_finished(room: Room, rows: int) -> None:
    await room.sql(
        """
        INSERT INTO message_queue_items (instance, chat_id, client_id, payload, status, created_at, processed_at)
        SELECT 'past', 'chat-' || number %% 100000, %s::int, '{"text": "hello"}', 'COMPLETED',
               clock_timestamp() - interval '11 days', clock_timestamp() - interval '10 days'
        FROM generate_series(1, %s::bigint) AS number
        """,
        CLIENT,
        rows,
    )
    await room.tidy()


async def _clean(room: Room) -> tuple[int, list[float]]:
    """Rows removed, and how long each statement took: no lock of the clean is held longer than the longest."""
    async with room.sweeps(retention_days=RETENTION_DAYS) as (sweeps, store, _):
        taken_ms = _timed(store.database)
        removed = await sweeps.clean()
    return removed, taken_ms


def _timed(database: Database) -> list[float]:
    """How many milliseconds each of its statements will take, its commit with it: they commit by themselves."""
    taken_ms: list[float] = []
    run = database.rows

    async def rows(statement: str, **parameters: Any) -> Sequence[Any]:
        began = time.perf_counter()
        answer = await run(statement, **parameters)
        taken_ms.append(1000 * (time.perf_counter() - began))
        return answer

    database.rows = rows  # type: ignore[method-assign]
    return taken_ms
