"""A worker inside the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any
from uuid import UUID

from mqworker import Message, MessageQueue, QueueStats
from mqworker.runtime import Runtime
from mqworker.settings import Settings
from mqworker.testing.waiting import eventually
from tests.integration.rows import INSTANCE

Executor = Callable[[Message], Awaitable[object]]
CANARY = "canary-5511999999999"


@asynccontextmanager
async def working(
    settings: Settings, send: Executor | Mapping[str, Executor], **changes: object
) -> AsyncIterator[Runtime]:
    """A worker that drains and closes at the end."""
    executors = send if isinstance(send, Mapping) else {"default": send}
    runtime = Runtime.open(settings.model_copy(update=changes), executors)
    await runtime.check()
    runtime.start()
    try:
        yield runtime
    finally:
        await runtime.drain()
        await runtime.aclose()


async def enqueue(queue: MessageQueue, chat_id: str = "a", **fields: Any) -> UUID:
    payload = fields.pop("payload", {"text": CANARY})
    return (await queue.enqueue(INSTANCE, 7, chat_id, payload, **fields)).id


async def told(queue: MessageQueue) -> None:
    """Return when Redis was told of all that was put in: that happens behind the producer's back."""
    if (flush := queue._announcer._flush) is not None:
        await asyncio.wait([flush])


async def finished(queue: MessageQueue, **counts: int) -> None:
    """Wait until the counts are these."""
    expected = QueueStats(**counts)

    async def reached() -> bool:
        return await queue.get_stats(INSTANCE) == expected

    await eventually(reached, f"{expected}", timeout_seconds=20)


class Gateway:
    """An executor that notes every attempt and does what it was told for it, then sends."""

    def __init__(self, *deeds: BaseException) -> None:
        self.attempts: list[tuple[UUID, int]] = []
        self.times: list[float] = []
        self._deeds = list(deeds)

    async def __call__(self, message: Message) -> str:
        self.attempts.append((message.id, message.attempt))
        self.times.append(monotonic())
        if self._deeds:
            raise self._deeds.pop(0)
        return f"p-{message.attempt}"
