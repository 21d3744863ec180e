"""A whole worker inside the test: what it holds, how it ends, and what it logs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from mqworker import Message, MessageQueue, PermanentError, QueueStats
from mqworker.broker import Broker
from mqworker.broker.broker import Leased
from mqworker.message import ChatKey
from mqworker.runtime import Runtime
from mqworker.settings import Settings
from mqworker.store import Claim, NotNow, Store
from mqworker.store.claims import Claims
from mqworker.testing.waiting import eventually
from tests.integration.lanes import lease, lease_one
from tests.integration.rows import INSTANCE, change, sql
from tests.integration.working import CANARY, enqueue, finished, told, working

# leases and the end


async def hang(message: Message) -> None:
    await asyncio.Event().wait()


async def test_a_worker_whose_claim_was_taken_over_cancels_its_send_and_changes_nothing(
    settings: Settings, queue: MessageQueue, store: Store
) -> None:
    message_id = await enqueue(queue)
    cancelled, began = asyncio.Event(), asyncio.Event()

    async def hang(message: Message) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with working(settings, hang, renew_seconds=0.1, executor_timeout_seconds=60.0) as runtime:
        await eventually(began.is_set, "the send began")
        await change(store, message_id, "claim_id = gen_random_uuid(), lease_expires_at = now() + interval '1 hour'")
        await eventually(cancelled.is_set, "the send is cancelled")
        await eventually(lambda: len(runtime.flights) == 0, "the flight is over")
        stored = await queue.get(message_id)
    assert (stored.status, stored.retry_count, stored.error) == ("PROCESSING", 0, None)


async def test_what_a_claim_under_way_takes_is_no_stray(
    settings: Settings, queue: MessageQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, taken, go_on = Claims.claim, asyncio.Event(), asyncio.Event()

    async def claim_slowly(self: Claims, chats: Sequence[ChatKey], executors: Sequence[str]) -> list[Claim | NotNow]:
        answers = await claim(self, chats, executors)
        taken.set()
        await go_on.wait()
        return answers

    monkeypatch.setattr(Claims, "claim", claim_slowly)
    message_id = await enqueue(queue)
    runtime = Runtime.open(settings, {"default": hang})
    await told(queue)
    claiming = asyncio.create_task(runtime.dispatcher._claim([await lease_one(runtime.broker)]))
    await taken.wait()
    releasing = asyncio.create_task(runtime.dispatcher._release_strays())
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(claiming, releasing)
    assert (await queue.get(message_id)).status == "PROCESSING"
    await runtime.aclose()


async def test_a_worker_whose_room_was_taken_meanwhile_leases_nothing(
    settings: Settings, queue: MessageQueue, broker: Broker
) -> None:
    await enqueue(queue)
    await enqueue(queue, "b")
    await told(queue)
    runtime = Runtime.open(settings.model_copy(update={"max_chats": 1}), {"default": hang})
    await runtime.dispatcher._claim(await lease(broker))
    assert runtime.flights.room == -1, "chats that go on ask for no room"
    await enqueue(queue, "c")
    assert await runtime.dispatcher._lease([INSTANCE]) == [Leased(INSTANCE, known=True, wait_seconds=0.0, leases=[])]
    await runtime.aclose()


async def test_a_long_send_is_renewed_and_not_taken_back(settings: Settings, queue: MessageQueue) -> None:
    message_id = await enqueue(queue)
    go_on = asyncio.Event()

    async def send(message: Message) -> None:
        await go_on.wait()

    quick = {"lease_seconds": 0.6, "renew_seconds": 0.1, "reclaim_every_seconds": 0.1}
    async with working(settings, send, **quick), working(settings, send, **quick):

        async def outlived() -> bool:
            stored = await queue.get(message_id)
            started = stored.processing_started_at
            return started is not None and datetime.now(UTC) - started > timedelta(seconds=1.5)

        await eventually(outlived, "it flies for more than twice its lease")
        go_on.set()
        await finished(queue, completed=1)
    assert (await queue.get(message_id)).retry_count == 0


async def test_a_drain_lets_the_sends_in_flight_end_and_begins_no_others(
    settings: Settings, queue: MessageQueue
) -> None:
    go_on = asyncio.Event()
    attempts: list[UUID] = []

    async def send(message: Message) -> None:
        attempts.append(message.id)
        await go_on.wait()

    flying = [await enqueue(queue, f"c{n}") for n in range(5)]
    async with working(settings, send) as runtime:
        await eventually(lambda: len(attempts) == 5, "five sends are under way")
        behind = [await enqueue(queue, f"c{n}") for n in range(5)]
        drain = asyncio.create_task(runtime.drain())
        behind.append(await enqueue(queue, "new"))
        go_on.set()
        await drain
        assert await queue.get_stats(INSTANCE) == QueueStats(pending=6, completed=5)
    assert sorted(attempts) == sorted(flying)
    assert all([(await queue.get(one)).retry_count == 0 for one in behind])


async def test_a_drain_does_not_wait_for_ever(settings: Settings, queue: MessageQueue, store: Store) -> None:
    message_id = await enqueue(queue)
    began = asyncio.Event()

    async def hang(message: Message) -> None:
        began.set()
        await asyncio.Event().wait()

    async with working(settings, hang, drain_seconds=0.2):
        await eventually(began.is_set, "the send began")
    (stored,) = await sql(store, "SELECT status, retry_count FROM message_queue_items WHERE id = %(id)s", id=message_id)
    assert tuple(stored) == ("PROCESSING", 0), "its claim ends with its lease"


async def test_a_send_that_ignores_its_cancellation_has_its_worker_replaced(
    settings: Settings, queue: MessageQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mqworker.runtime.CANCEL_GRACE_SECONDS", 0.1)
    await enqueue(queue)
    released = asyncio.Event()

    async def stubborn(message: Message) -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    async with working(settings, stubborn, executor_timeout_seconds=0.1) as runtime:
        await eventually(runtime.must_be_replaced.is_set, "it is found")
        await runtime.drain()
        released.set()


# what is logged


async def test_no_log_line_holds_a_payload(
    settings: Settings, queue: MessageQueue, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await enqueue(queue, "sent")
    await enqueue(queue, "failed", max_retries=2)
    await change(store, await enqueue(queue, "bad"), f"""payload = '["{CANARY}"]'""")

    async def send(message: Message) -> None:
        assert message.payload["text"] == CANARY
        if message.chat_id == "failed":
            raise PermanentError if message.attempt == 2 else ValueError("no")

    async with working(settings, send):
        await finished(queue, completed=1, failed=2)
    lines = [str(vars(record)) + record.getMessage() for record in caplog.records]
    words = " ".join(record.getMessage() for record in caplog.records if record.name.startswith("mqworker"))
    for word in ("worker started", "processing", "processed", "retry", "failed", "draining", "worker stopped"):
        assert word in words
    assert not [line for line in lines if CANARY in line]
