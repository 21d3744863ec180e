"""What a producer waits for, beside what the servers alone take for it. No worker runs."""

from __future__ import annotations

import asyncio
from time import perf_counter

from mqworker import MessageQueue
from tests.bench import floor
from tests.bench.figures import Figure, at_least, at_most, figure, percentile, rate, ratio
from tests.bench.filling import ENQUEUE_BATCH, INSTANCE, TEXT, fill
from tests.bench.room import Room

CHATS = 1_000
PRODUCERS = 100


async def enqueue(room: Room) -> list[Figure]:
    """one producer, a hundred producers, enqueue_many; beside bare INSERT and EVALSHA"""
    alone = room.scaled(3_000)
    await room.empty()
    bare = await asyncio.to_thread(floor.bare_enqueue, room.database_url, room.redis_url, alone)
    await room.empty()
    async with room.queue() as queue:
        await fill(queue, 1_000, CHATS)  # warm
        seconds = await _one_after_the_other(queue, alone)
    p50_ms = 1000 * percentile(seconds, 50)
    return [
        figure("bare INSERT and commit, p50", bare.insert_ms, "ms"),
        figure("bare EVALSHA, p50", bare.script_ms, "ms"),
        figure("bare INSERT + EVALSHA, p50", bare.both_ms, "ms"),
        figure("enqueue, one producer, p50", p50_ms, "ms"),
        ratio("enqueue p50 / bare INSERT + EVALSHA", p50_ms / bare.both_ms, at_most(1.5, quick=6.0)),
        rate("enqueue, one producer", alone / sum(seconds)),
        *await _together(room, alone / sum(seconds)),
        *await _many(room),
    ]


async def _one_after_the_other(queue: MessageQueue, messages: int) -> list[float]:
    seconds = []
    for number in range(messages):
        began = perf_counter()
        await queue.enqueue(INSTANCE, 7, f"chat-{number % CHATS}", TEXT)
        seconds.append(perf_counter() - began)
    return seconds


async def _together(room: Room, one: float) -> list[Figure]:
    each = room.scaled(200)
    await room.empty()
    async with room.queue() as queue:
        await fill(queue, 1_000, CHATS)  # warm
        began = perf_counter()
        await asyncio.gather(*(_one_after_the_other(queue, each) for _ in range(PRODUCERS)))
        per_second = PRODUCERS * each / (perf_counter() - began)
    return [
        rate(f"enqueue, {PRODUCERS} producers", per_second),
        ratio(f"enqueue, {PRODUCERS} producers / one", per_second / one, at_least(5.0, quick=1.5)),
    ]


async def _many(room: Room) -> list[Figure]:
    messages = room.scaled(20_000)
    await room.empty()
    bare = await asyncio.to_thread(floor.inserts_per_second, room.database_url, messages, ENQUEUE_BATCH)
    await room.empty()
    async with room.queue() as queue:
        await fill(queue, 1_000, CHATS)  # warm
        began = perf_counter()
        await fill(queue, messages, CHATS)
        per_second = messages / (perf_counter() - began)
    return [
        rate(f"bare INSERT, {ENQUEUE_BATCH:,} a batch", bare),
        rate(f"enqueue_many, {ENQUEUE_BATCH:,} a call", per_second),
        ratio("enqueue_many / bare INSERT", per_second / bare, at_least(0.7, quick=0.2)),
    ]
