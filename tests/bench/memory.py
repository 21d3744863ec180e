"""What a chat and a message take of Redis, and what a worker takes with a thousand sends in flight."""

from __future__ import annotations

from mqworker.testing.waiting import eventually
from tests.bench.figures import Figure, at_most, figure
from tests.bench.filling import fill, fill_by_sql, rebuild, until_completed
from tests.bench.room import MB, Room
from tests.bench.worker import one_worker

WAITING_CHATS = 10_000
DEEP_CHATS, DEEP_MESSAGES = 1_000, 100
HELD_CHATS = 2_000
HELD_SECONDS = 10.0
SEND_SECONDS = 3.0
IN_FLIGHT = 1_000
GONE_SECONDS = 20.0


async def redis_memory(room: Room) -> list[Figure]:
    """bytes of Redis: a waiting chat, a chat in flight, a message of a deep chat, an idle chat"""
    waiting = await _waiting(room, room.scaled(WAITING_CHATS), 1)
    chats = room.scaled(DEEP_CHATS)
    deep = await _waiting(room, chats, DEEP_MESSAGES)
    held, idle, left = await _held(room, room.scaled(HELD_CHATS))
    return [
        figure("a chat with one message waiting", waiting, "bytes", at_most(900)),
        figure("a chat with one message in flight", held, "bytes", at_most(1_200)),
        figure(f"a message, {DEEP_MESSAGES} a chat", deep / DEEP_MESSAGES, "bytes", at_most(150)),
        figure("an idle chat", idle, "bytes"),
        figure("keys of idle chats", left, "keys", at_most(0)),
    ]


async def _waiting(room: Room, chats: int, each: int) -> float:
    """Bytes a chat in which so many messages wait."""
    await room.empty()
    async with room.queue() as queue:
        await fill(queue, 1, 1)  # warm: the scripts stay, the chat counts for nothing
        before = await room.redis_bytes()
        await fill(queue, chats * each, chats)
        return (await room.redis_bytes() - before) / chats


async def _held(room: Room, chats: int) -> tuple[float, float, int]:
    """Bytes a chat whose only message is being sent, and after it; and the keys of chats that are left then."""
    await room.empty()
    async with one_worker(room, settings={"max_chats": chats}) as worker, room.queue() as queue:
        before = await room.redis_bytes()
        worker.pause()
        await fill(queue, chats, chats, {"seconds": HELD_SECONDS})
        worker.go_on()
        await _in_flight(room, chats)
        held = (await room.redis_bytes() - before) / chats
        await until_completed(room, chats)
        left = await _keys_left(room)
        return held, (await room.redis_bytes() - before) / chats, left


async def _in_flight(room: Room, number: int) -> None:
    async def all_are() -> bool:
        query = "SELECT count(*) FROM message_queue_items WHERE status = 'PROCESSING'"
        return int(await room.scalar(query)) >= number

    await eventually(all_are, f"{number} messages are in flight", timeout_seconds=30)


async def _keys_left(room: Room) -> int:
    """The keys of chats, once the worker has told Redis of its last settles."""
    left: list[str] = []

    async def none() -> bool:
        nonlocal left
        left = [key async for key in room.redis.scan_iter("mq:*", count=1000) if ":chat:" in key]
        return not left

    try:
        await eventually(none, "Redis holds nothing of an idle chat", timeout_seconds=GONE_SECONDS)
    except AssertionError:
        return len(left)
    return 0


async def worker_memory(room: Room) -> list[Figure]:
    """what a worker takes with 1,000 chats in flight"""
    await room.empty()
    chats = room.scaled(IN_FLIGHT)
    await fill_by_sql(room, 4 * chats, 2 * chats, {"seconds": SEND_SECONDS})
    await rebuild(room)
    async with one_worker(room, warm=False, settings={"max_chats": chats}) as worker:
        await _in_flight(room, chats)
        seen = worker.resident_bytes
        for sent in (chats, 2 * chats, 3 * chats):
            await until_completed(room, sent)
            seen = max(seen, worker.resident_bytes)
    return [figure(f"a worker, {chats:,} chats in flight", seen / MB, "MB", at_most(150))]
