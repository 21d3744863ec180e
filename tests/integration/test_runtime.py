"""A whole worker inside the test: what becomes of a message by what its executor does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any
from uuid import UUID

import pytest
from redis.asyncio import Redis

from mqworker import Message, MessageQueue, PermanentError, RetryAfter
from mqworker.broker import Broker, BrokerUnavailable, Entry, Finish, Leased
from mqworker.message import ChatKey
from mqworker.settings import Settings
from mqworker.store import Store
from mqworker.testing.waiting import eventually
from tests.integration.lanes import depth
from tests.integration.rows import INSTANCE, change
from tests.integration.working import Gateway, enqueue, finished, told, working

# outcomes


async def test_messages_are_sent_in_order_one_at_a_time_at_their_pace(settings: Settings, queue: MessageQueue) -> None:
    flying: list[str] = []
    ends: dict[str, float] = {}
    sent: list[UUID] = []

    async def send(message: Message) -> None:
        assert message.chat_id not in flying
        assert monotonic() - ends.get(message.chat_id, 0.0) >= settings.delay_min_seconds
        flying.append(message.chat_id)
        await asyncio.sleep(0.005)
        flying.remove(message.chat_id)
        ends[message.chat_id] = monotonic()
        sent.append(message.id)

    ids = [await enqueue(queue, f"c{n % 3}") for n in range(15)]
    async with working(settings, send):
        await finished(queue, completed=15)
    for chat in range(3):
        assert [one for one in sent if one in ids[chat::3]] == ids[chat::3]


async def test_what_is_enqueued_while_the_worker_idles_is_sent(settings: Settings, queue: MessageQueue) -> None:
    gateway = Gateway()
    async with working(settings, gateway):
        for n in range(3):
            message_id = await enqueue(queue)
            await finished(queue, completed=n + 1)
            assert (await queue.get(message_id)).provider_id == "p-1"


async def test_a_failed_message_is_tried_again_before_what_stands_behind_it(
    settings: Settings, queue: MessageQueue
) -> None:
    first, second = await enqueue(queue), await enqueue(queue)
    gateway = Gateway(ValueError("no"), ConnectionError("no"))
    async with working(settings, gateway):
        await finished(queue, completed=2)
    assert gateway.attempts == [(first, 1), (first, 2), (first, 3), (second, 1)]
    assert ((await queue.get(first)).retry_count, (await queue.get(first)).error) == (2, None)


async def test_a_message_that_always_fails_ends_failed_and_the_next_goes(
    settings: Settings, queue: MessageQueue
) -> None:
    first, second = await enqueue(queue, max_retries=2), await enqueue(queue)
    gateway = Gateway(ValueError("one"), ValueError("two"))
    async with working(settings, gateway):
        await finished(queue, completed=1, failed=1)
    assert gateway.attempts == [(first, 1), (first, 2), (second, 1)]
    stored = await queue.get(first)
    assert (stored.status, stored.retry_count, stored.error) == ("FAILED", 2, "ValueError: two")


async def test_a_higher_priority_passes_while_a_message_backs_off(
    settings: Settings, queue: MessageQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mqworker.processor.random.random", lambda: 0.9)  # a backoff of 54 s
    first = await enqueue(queue)
    gateway = Gateway(ValueError("no"))
    async with working(settings, gateway, backoff_base_seconds=60.0, backoff_cap_seconds=60.0):
        await eventually(lambda: gateway.attempts, "the first attempt")
        await finished(queue, pending=1)
        behind, high = await enqueue(queue), await enqueue(queue, priority=1)
        await finished(queue, pending=2, completed=1)
        assert gateway.attempts == [(first, 1), (high, 1)]
        await queue.cancel(first)
        await finished(queue, completed=2, cancelled=1)
        assert gateway.attempts[2:] == [(behind, 1)], "what it held up goes when it is cancelled"


async def test_a_finish_that_redis_refused_is_told_again_although_redis_never_seemed_away(
    settings: Settings, queue: MessageQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, refused = Broker.finish, 0

    async def refuse_once(self: Broker, finishes: Sequence[Finish]) -> float | None:
        nonlocal refused
        refused += 1
        if refused == 1:
            raise BrokerUnavailable("ConnectionError")
        return await finish(self, finishes)

    monkeypatch.setattr(Broker, "finish", refuse_once)
    await enqueue(queue)
    await enqueue(queue)
    # Longer than the test: with the lock of the first message the second would wait for its end.
    async with working(settings, Gateway(), lease_seconds=60.0, reconcile_every_seconds=60.0):
        await finished(queue, completed=2)


# Without reconcile: what it announces of what is being sent right then is leased in vain.
GAPLESS = {"delay_min_seconds": 0.0, "delay_max_seconds": 0.0, "reconcile_every_seconds": 600.0}


@pytest.fixture
def leased(monkeypatch: pytest.MonkeyPatch) -> list[ChatKey]:
    """The chats that workers leased in Redis, one after the other."""
    lease, chats = Broker.lease, list[ChatKey]()

    async def noted(self: Broker, *instances: Sequence[str], **limits: Any) -> list[Leased]:
        answers = await lease(self, *instances, **limits)
        chats.extend(held.chat for answer in answers for held in answer.leases)
        return answers

    monkeypatch.setattr(Broker, "lease", noted)
    return chats


async def test_without_a_gap_a_chat_goes_on_under_one_lease_in_order_and_urgent_ones_first(
    settings: Settings, queue: MessageQueue, broker: Broker, leased: list[ChatKey]
) -> None:
    ids = [await enqueue(queue) for _ in range(9)]
    urgent = [await enqueue(queue, priority=1) for _ in range(3)]
    await told(queue)
    gateway = Gateway()
    async with working(settings, gateway, **GAPLESS):
        await finished(queue, completed=12)
    assert gateway.attempts == [(message_id, 1) for message_id in (*urgent, *ids)]
    # The worker has drained: Redis was told of all.
    assert leased == [ChatKey(INSTANCE, "a")]
    assert await depth(broker) == []


async def test_a_chat_does_not_go_on_in_the_place_of_one_that_waits(
    settings: Settings, queue: MessageQueue, leased: list[ChatKey]
) -> None:
    for _ in range(3):
        await enqueue(queue, "a")
        await enqueue(queue, "b")
    await told(queue)
    async with working(settings, Gateway(), max_chats=1, **GAPLESS):
        await finished(queue, completed=6)
    assert sorted(leased) == [ChatKey(INSTANCE, name) for name in "aaabbb"]


async def test_a_worker_that_ends_leaves_no_chat_locked_that_would_have_gone_on(
    settings: Settings, queue: MessageQueue
) -> None:
    for _ in range(50):
        await enqueue(queue)
    first, second = Gateway(), Gateway()
    async with working(settings, first, **GAPLESS):
        await eventually(lambda: len(first.attempts) > 5, "some were sent")
    assert len(first.attempts) < 50
    # Longer than the test: what the first left locked would wait for its end.
    async with working(settings, second, lease_seconds=60.0, **GAPLESS):
        await finished(queue, completed=50)


async def test_a_redis_that_hangs_lets_no_lease_end(settings: Settings, queue: MessageQueue, redis_url: str) -> None:
    attempts: list[int] = []

    async def send(message: Message) -> None:
        attempts.append(message.attempt)
        async with Redis.from_url(redis_url) as client:
            await client.client_pause(1500)
        await asyncio.sleep(1.6)

    message_id = await enqueue(queue)
    async with working(settings, send, lease_seconds=0.6, renew_seconds=0.2, reclaim_every_seconds=0.1):
        await finished(queue, completed=1)
    assert (attempts, (await queue.get(message_id)).retry_count) == ([1], 0)


async def test_permanent_errors_are_not_retried(settings: Settings, queue: MessageQueue) -> None:
    message_id = await enqueue(queue)
    gateway = Gateway(PermanentError("no such number"))
    async with working(settings, gateway):
        await finished(queue, failed=1)
    stored = await queue.get(message_id)
    assert (stored.error, stored.retry_count) == ("PermanentError: no such number", 1)
    assert len(gateway.attempts) == 1


async def test_retry_after_counts_no_attempt_and_is_waited_for(settings: Settings, queue: MessageQueue) -> None:
    message_id = await enqueue(queue, max_retries=1)
    gateway = Gateway(RetryAfter(0.3), RetryAfter(0.0))
    async with working(settings, gateway):
        await finished(queue, completed=1)
    assert gateway.attempts == [(message_id, 1)] * 3
    assert gateway.times[1] - gateway.times[0] >= 0.3
    assert (await queue.get(message_id)).retry_count == 0


async def test_retry_after_for_the_instance_holds_all_of_its_chats(settings: Settings, queue: MessageQueue) -> None:
    await enqueue(queue)
    gateway = Gateway(RetryAfter(0.5, scope="instance"))
    async with working(settings, gateway):
        await eventually(lambda: gateway.attempts, "the first attempt")
        await finished(queue, pending=1)
        await enqueue(queue, "b")
        await finished(queue, completed=2)
    assert min(gateway.times[1:]) - gateway.times[0] >= 0.5


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
        asyncio.CancelledError(),
        StopAsyncIteration(),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_no_exception_of_an_executor_ends_the_worker(
    settings: Settings, queue: MessageQueue, error: BaseException
) -> None:
    first = await enqueue(queue)
    gateway = Gateway(error)
    async with working(settings, gateway):
        await finished(queue, completed=1)
        await enqueue(queue)
        await finished(queue, completed=2)
    assert gateway.attempts[:2] == [(first, 1), (first, 2)]


async def test_an_executor_that_hangs_is_timed_out_and_retried(settings: Settings, queue: MessageQueue) -> None:
    message_id = await enqueue(queue, max_retries=2)

    async def hang(message: Message) -> None:
        await asyncio.Event().wait()

    async with working(settings, hang, executor_timeout_seconds=0.1):
        await finished(queue, failed=1)
    stored = await queue.get(message_id)
    assert (stored.error, stored.retry_count) == ("TimeoutError: no answer within 0.1 s", 2)


async def test_an_executor_that_sends_although_its_time_is_up_has_sent(settings: Settings, queue: MessageQueue) -> None:
    message_id = await enqueue(queue)

    async def stubborn(message: Message) -> str:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "sent after all"

    async with working(settings, stubborn, executor_timeout_seconds=0.1):
        await finished(queue, completed=1)
    assert (await queue.get(message_id)).provider_id == "sent after all"


class Unreadable:
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("returned", "kept"),
    [
        (None, None),
        (17, "17"),
        ("x\0y" * 200, ("xy" * 200)[:255]),
        (Unreadable(), "(Unreadable: ValueError)"),
        ("", None),
    ],
    ids=["none", "int", "nul", "unreadable", "empty"],
)
async def test_whatever_an_executor_returns_the_message_is_sent(
    settings: Settings, queue: MessageQueue, returned: object, kept: str | None
) -> None:
    message_id = await enqueue(queue)

    async def send(message: Message) -> object:
        return returned

    async with working(settings, send):
        await finished(queue, completed=1)
    assert (await queue.get(message_id)).provider_id == kept


# rows and executors


async def test_a_row_that_is_no_object_fails_alone_and_unseen(
    settings: Settings, queue: MessageQueue, store: Store
) -> None:
    bad = await enqueue(queue)
    await change(store, bad, "payload = '[1, 2]'")
    good = await enqueue(queue)
    gateway = Gateway()
    async with working(settings, gateway):
        await finished(queue, completed=1, failed=1)
    assert gateway.attempts == [(good, 1)]
    assert ((await queue.get(bad)).error or "").startswith("UNDECODABLE: ")


async def test_a_message_for_an_executor_that_is_not_here_waits_for_one_that_has_it(
    settings: Settings, queue: MessageQueue
) -> None:
    other = await enqueue(queue, executor="other")
    await enqueue(queue, "b")
    gateway = Gateway()
    async with working(settings, gateway):
        await finished(queue, pending=1, completed=1)
        async with working(settings, {"other": gateway}):
            await finished(queue, completed=2)
    assert (await queue.get(other)).retry_count == 0


async def test_a_scheduled_message_is_sent_when_it_is_due_and_not_before(
    settings: Settings, queue: MessageQueue
) -> None:
    due = datetime.now(UTC) + timedelta(seconds=0.5)
    message_id = await enqueue(queue, scheduled_at=due)
    times: list[datetime] = []

    async def send(message: Message) -> None:
        times.append(datetime.now(UTC))

    async with working(settings, send):
        await finished(queue, completed=1)
    assert times[0] >= due
    assert (await queue.get(message_id)).status == "COMPLETED"


async def test_a_message_that_redis_takes_for_due_too_early_holds_up_nobody(
    settings: Settings, queue: MessageQueue
) -> None:
    """Its clock runs ahead: the chat must not wait for the schedule, and the schedule must not be forgotten."""
    later = await enqueue(queue, scheduled_at=datetime.now(UTC) + timedelta(seconds=40))
    seq = (await queue.get(later)).seq
    await queue._broker.announce([Entry(ChatKey(INSTANCE, "a"), seq, later, 0)])
    keys, redis = queue._broker.keys.of(INSTANCE), queue._broker.redis
    gateway = Gateway()
    async with working(settings, gateway):

        async def is_put_back() -> bool:
            return [await redis.zcard(key) for key in (keys.scheduled, keys.ready)] == [1, 0]

        await eventually(is_put_back, "Redis knows when it is due, and the chat waits for nothing")
        enqueued_at = monotonic()
        first = await enqueue(queue)
        await finished(queue, pending=1, completed=1)
    assert gateway.attempts == [(first, 1)]
    assert gateway.times[0] - enqueued_at < 3, "it did not wait for the schedule"
