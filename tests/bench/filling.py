"""Messages for the bench: put in through the queue, at an even rate or by plain SQL; and when they were settled."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from mqworker import MessageQueue
from tests.bench.room import Room

INSTANCE = "bench"
CLIENT = 7
TEXT: dict[str, Any] = {"text": "hello"}
ENQUEUE_BATCH = 1000
SETTLED_SECONDS = 600.0
LOOK_SECONDS = 0.2
LOOK_SECONDS_A_ROW = 20e-6


def message(chat: int, payload: dict[str, Any] = TEXT, instance: str = INSTANCE) -> dict[str, Any]:
    return {"instance": instance, "client_id": CLIENT, "chat_id": f"chat-{chat}", "payload": payload}


async def fill(queue: MessageQueue, messages: int, chats: int, payload: dict[str, Any] = TEXT) -> None:
    """Enqueue many, a thousand a call, one after the other to each chat."""
    for start in range(0, messages, ENQUEUE_BATCH):
        numbers = range(start, min(start + ENQUEUE_BATCH, messages))
        await queue.enqueue_many([message(number % chats, payload) for number in numbers])


async def trickle(queue: MessageQueue, per_second: float, for_seconds: float, chats: int, **payload: Any) -> None:
    """Enqueue at an even rate, however long each call takes; each message carries when its call began."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.TaskGroup() as group:
        for number in range(round(per_second * for_seconds)):
            await asyncio.sleep(began + number / per_second - loop.time())
            stamped = {"at": time.monotonic_ns(), **payload}
            group.create_task(queue.enqueue(INSTANCE, CLIENT, f"chat-{number % chats}", stamped))


async def fill_by_sql(room: Room, messages: int, chats: int, payload: dict[str, Any] = TEXT) -> None:
    """A backlog as old rows leave it; Redis knows nothing of it. Too old for reconcile to take it for new."""
    await room.sql(
        """
        INSERT INTO message_queue_items (instance, chat_id, client_id, payload, created_at, updated_at)
        SELECT %s::text, 'chat-' || number %% %s::bigint, %s::int, %s::jsonb, clock_timestamp() - interval '1 hour',
               clock_timestamp() - interval '1 hour'
        FROM generate_series(0, %s::bigint - 1) AS number
        """,
        INSTANCE,
        chats,
        CLIENT,
        json.dumps(payload),
        messages,
    )
    await room.tidy()


async def rebuild(room: Room) -> None:
    """Fill Redis from the rows, in this process, and have it noted: a worker that starts now need not do it again."""
    async with room.sweeps() as (_, _, clockwork):
        assert await clockwork.rebuild_at_start(), "somebody else has the duty of the rebuild"


async def until_completed(room: Room, messages: int) -> None:
    """Return when so many are sent.

    Asked rarely, the more seldom the more there is to count: to count 20,000 rows every 10 ms would cost a core.
    """
    deadline = time.monotonic() + SETTLED_SECONDS
    while (completed := await _completed(room, messages)) < messages:
        if time.monotonic() > deadline:
            raise AssertionError(f"{completed} of {messages} messages were sent within {SETTLED_SECONDS:g} s")
        await asyncio.sleep(max(LOOK_SECONDS, messages * LOOK_SECONDS_A_ROW))


async def _completed(room: Room, most: int) -> int:
    return int(
        await room.scalar(
            "SELECT count(*) FROM (SELECT FROM message_queue_items WHERE status = 'COMPLETED' LIMIT %s) AS found", most
        )
    )


async def rate_since(room: Room, began: float, messages: int) -> float:
    """Messages a second from then (on PostgreSQL's clock) to the last settle.

    The end is taken from the rows: to look all the time would slow down what is measured.
    """
    await until_completed(room, messages)
    ended = await room.scalar("SELECT EXTRACT(EPOCH FROM max(processed_at)) FROM message_queue_items")
    return messages / (float(ended) - began)


async def rate_after(room: Room, skipped: int, messages: int) -> float:
    """Messages a second between the settle of one message and that of another, so many later."""
    ((number, seconds),) = await room.sql(
        """
        WITH settled AS MATERIALIZED (
            SELECT processed_at AS at FROM message_queue_items WHERE status = 'COMPLETED'
            ORDER BY processed_at OFFSET %s LIMIT %s
        )
        SELECT count(*), EXTRACT(EPOCH FROM max(at) - min(at)) FROM settled
        """,
        skipped,
        messages + 1,
    )
    return (int(number) - 1) / float(seconds)
