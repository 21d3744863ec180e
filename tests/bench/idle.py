"""What a worker without work asks of the machine and of the servers."""

from __future__ import annotations

import asyncio

from tests.bench.figures import Figure, at_most, figure
from tests.bench.room import Room
from tests.bench.worker import one_worker

IDLE_SECONDS = 30.0
SETTLING_SECONDS = 12.0
"""PostgreSQL counts what a backend did up to ten seconds after it has become idle."""


async def idle(room: Room) -> list[Figure]:
    """a worker without work: its share of a core, its commands and statements"""
    seconds = max(IDLE_SECONDS * room.scale, SETTLING_SECONDS)
    await room.empty()
    async with one_worker(room) as worker:
        await asyncio.sleep(SETTLING_SECONDS)
        before = (worker.cpu_seconds, await _commands(room), await _statements(room))
        await asyncio.sleep(seconds)
        after = (worker.cpu_seconds, await _commands(room), await _statements(room))
    cpu, commands, statements = ((late - early) / seconds for early, late in zip(before, after, strict=True))
    return [
        figure("idle worker, of a core", 100 * cpu, "%", at_most(1)),
        figure("idle worker, Redis commands, those in scripts too", commands, "a second", at_most(10)),
        figure("idle worker, SQL statements", statements, "a second", at_most(1)),
    ]


async def _commands(room: Room) -> int:
    """What Redis was asked so far, without our own INFO."""
    stats = await room.redis.info("commandstats")
    return sum(int(command["calls"]) for name, command in stats.items() if not name.startswith("cmdstat_info"))


async def _statements(room: Room) -> int:
    """How many transactions the server has seen: each of a worker's statements is one. Ours are too few to matter."""
    query = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
    return int(await room.scalar(query))
