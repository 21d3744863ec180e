"""The sandbox: the real queue and worker on servers in memory, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any

import httpx
import pytest

from mqworker import (
    ConfigError,
    Conflict,
    ExecutorRegistry,
    InvalidMessage,
    Message,
    MessageQueue,
    NotFound,
    PermanentError,
    QueueClosed,
    QueueStats,
    RetryAfter,
    StorageUnavailable,
    testing,
)
from mqworker.testing import Sandbox, fail, hang, lost, ok, retry_after

CHAT = "5511999999999@c.us"


async def put(mq: Sandbox, text: str = "hi", chat_id: str = CHAT, **fields: Any) -> Any:
    return (await mq.queue.enqueue("shop", 7, chat_id, {"text": text}, **fields)).id


def texts(mq: Sandbox) -> list[str]:
    return [message.payload["text"] for message in mq.gateway.sent]


async def status(mq: Sandbox, message_id: Any) -> tuple[str, int]:
    stored = await mq.queue.get(message_id)
    return stored.status, stored.retry_count


# what a drain does


async def test_a_chats_messages_go_in_order_with_gaps_between_them(mq: Sandbox) -> None:
    for text in ("one", "two", "three"):
        await put(mq, text)
    await put(mq, "first", priority=5)
    await mq.drain()
    assert texts(mq) == ["first", "one", "two", "three"]
    times = [request.at for request in mq.gateway.requests]
    gaps = [later - sooner for sooner, later in pairwise(times)]
    assert all(timedelta(seconds=0.5) <= gap <= timedelta(seconds=2.1) for gap in gaps)
    assert await mq.queue.get_stats("shop") == QueueStats(completed=4)


async def test_chats_do_not_wait_for_each_other(mq: Sandbox) -> None:
    mq.gateway.script("slow", ok(after_seconds=30))
    await put(mq, "late", "slow")
    for _ in range(3):
        await put(mq, "soon", "quick")
    await mq.drain()
    assert texts(mq) == ["soon", "soon", "soon", "late"]


async def test_a_failure_is_tried_again_after_its_backoff_until_no_attempt_is_left(mq: Sandbox) -> None:
    mq.gateway.script(CHAT, fail(), fail(503), ok("p-1"), fail(), fail())
    sent, failed = await put(mq), await put(mq, max_retries=2)
    await mq.drain()
    assert await status(mq, sent) == ("COMPLETED", 2)
    assert (await mq.queue.get(sent)).provider_id == "p-1"
    assert await status(mq, failed) == ("FAILED", 2)
    assert (await mq.queue.error_summary("shop"))[0].error == "ExecutorError: webhook: HTTP 500 Internal Server Error"


async def test_a_refusal_is_final(mq: Sandbox) -> None:
    mq.gateway.script(CHAT, fail(400))
    message = await put(mq)
    await mq.drain()
    assert await status(mq, message) == ("FAILED", 1)
    assert (len(mq.gateway.requests), mq.gateway.sent) == (1, [])


async def test_a_wait_that_the_gateway_names_counts_no_attempt(mq: Sandbox) -> None:
    mq.gateway.script(CHAT, retry_after(600))
    message = await put(mq)
    await mq.drain()
    first, second = mq.gateway.requests
    assert timedelta(seconds=600) <= second.at - first.at < timedelta(seconds=602)
    assert await status(mq, message) == ("COMPLETED", 0)


async def test_what_never_answers_times_out(mq: Sandbox) -> None:
    mq.gateway.script(CHAT, hang())
    message = await put(mq, max_retries=1)
    before = mq.clock.now
    await mq.drain()
    assert mq.clock.now - before >= timedelta(seconds=mq.settings.executor_timeout_seconds)
    assert await status(mq, message) == ("FAILED", 1)
    assert (await mq.queue.get(message)).error == "TimeoutError: no answer within 60 s"


async def test_a_lost_answer_sends_again_under_the_same_id(mq: Sandbox) -> None:
    mq.gateway.script(CHAT, lost())
    message = await put(mq)
    await mq.drain()
    assert [sent.id for sent in mq.gateway.sent] == [message, message]
    keys = {request.http.headers["Idempotency-Key"] for request in mq.gateway.requests}
    assert keys == {str(message)}


async def test_what_is_scheduled_for_later_is_left_until_its_time(mq: Sandbox) -> None:
    due = mq.clock.now + timedelta(days=2)
    message = await put(mq, scheduled_at=due)
    await mq.drain()
    assert await status(mq, message) == ("PENDING", 0)
    await mq.clock.advance(2 * 86_400)
    await mq.drain()
    assert [request.at >= due for request in mq.gateway.requests] == [True]


async def test_a_drain_may_last_a_fixed_time_and_leave_the_rest(mq: Sandbox) -> None:
    for _ in range(20):
        await put(mq)
    before = mq.clock.now
    await mq.drain(for_seconds=5)
    assert mq.clock.now - before >= timedelta(seconds=5)
    assert 3 <= len(mq.gateway.sent) <= 11
    await mq.drain()
    assert len(mq.gateway.sent) == 20


async def test_the_test_itself_may_act_while_a_drain_runs(mq: Sandbox) -> None:
    mq.gateway.script(CHAT, ok(after_seconds=10))
    flying, waiting = await put(mq, "flying"), await put(mq, "waiting")
    async with asyncio.TaskGroup() as group:
        group.create_task(mq.drain())
        await asyncio.sleep(5)
        assert await status(mq, flying) == ("PROCESSING", 0)
        assert await mq.queue.cancel(flying) == "too_late"
        assert await mq.queue.cancel(waiting) == "cancelled"
    assert texts(mq) == ["flying"]


async def test_without_messages_a_drain_ends_at_once(mq: Sandbox) -> None:
    before = mq.clock.now
    await mq.drain()
    assert mq.clock.now - before < timedelta(seconds=1)


async def test_nothing_is_left_running_after_a_drain(mq: Sandbox) -> None:
    mq.gateway.script(CHAT, fail(), hang())
    await put(mq)
    await mq.drain()
    assert asyncio.all_tasks() == {asyncio.current_task()}


# executors


async def test_an_executors_own_client_sends_to_the_gateway(mq: Sandbox) -> None:
    client = httpx.AsyncClient(transport=mq.gateway, base_url="https://gateway.example")

    async def send(message: Message) -> str:
        answer = await client.post("/messages", json={"to": message.chat_id, "body": message.payload["text"]})
        if answer.status_code == 404:
            raise PermanentError("no such number")
        return str(answer.raise_for_status().json()["id"])

    mq.registry.register("default", send)
    mq.gateway.script("nobody", fail(404))
    good, bad = await put(mq, "hi"), await put(mq, "hi", "nobody")
    await mq.drain()
    request = next(request for request in mq.gateway.requests if request.message.id == good)
    assert (request.http.url.path, request.http.content) == ("/messages", b'{"to":"%s","body":"hi"}' % CHAT.encode())
    assert await status(mq, good) == ("COMPLETED", 0)
    assert (await mq.queue.get(bad)).error == "PermanentError: no such number"


async def test_a_registry_of_ones_own_takes_the_place_of_the_sandboxs(mq: Sandbox) -> None:
    registry, heard = ExecutorRegistry(), list[Message]()

    @registry.executor("default")
    async def send(message: Message) -> None:
        heard.append(message)
        if message.attempt == 1:
            raise RetryAfter(5, scope="instance")

    mq.registry = registry
    await put(mq)
    await mq.drain(for_seconds=30)
    assert 3 <= len(heard) <= 6
    assert {message.attempt for message in heard} == {1}, "a wait counts no attempt"


async def test_the_gateway_is_for_executors_alone(mq: Sandbox) -> None:
    async with httpx.AsyncClient(transport=mq.gateway) as client:
        with pytest.raises(RuntimeError, match="for executors"):
            await client.get("http://gateway.example")


async def test_an_executor_may_work_in_a_thread(mq: Sandbox) -> None:
    async def send(message: Message) -> str:
        return await asyncio.to_thread(lambda: "from a thread")

    mq.registry.register("default", send)
    message = await put(mq)
    await mq.drain()
    assert (await mq.queue.get(message)).provider_id == "from a thread"


# drains that cannot end


async def _no_executor(mq: Sandbox) -> None:
    await put(mq, executor="other")


async def _long_wait(mq: Sandbox) -> None:
    mq.gateway.script(CHAT, retry_after(3600))
    await put(mq)


async def _redis_away(mq: Sandbox) -> None:
    with mq.redis.away():
        await put(mq)
        await mq.drain(at_most_seconds=60)


async def _slow(mq: Sandbox) -> None:
    async def send(message: Message) -> None:
        await asyncio.sleep(50)

    mq.registry.register("default", send)
    await put(mq)
    await mq.drain(at_most_seconds=40)


async def _stubborn(mq: Sandbox) -> None:
    freed = asyncio.Event()

    async def send(message: Message) -> None:
        while not freed.is_set():
            try:
                await freed.wait()
            except asyncio.CancelledError:
                continue

    mq.registry.register("default", send)
    await put(mq)
    try:
        await mq.drain(at_most_seconds=100)
    finally:
        freed.set()


@pytest.mark.parametrize(
    ("begin", "reason"),
    [
        (_no_executor, "no executor of this name is registered"),
        (_long_wait, "it waits until"),
        (_redis_away, "no worker has taken it"),
        (_slow, "its executor has not returned yet"),
        (_stubborn, "its executor ignores its cancellation"),
    ],
)
async def test_a_drain_that_cannot_end_says_what_waits_for_what(
    mq: Sandbox, begin: Callable[[Sandbox], Any], reason: str
) -> None:
    with pytest.raises(AssertionError, match=rf"not drained(.|\n)*\(1\):\n  .*{reason}"):
        await _begin_and_drain(mq, begin)


async def _begin_and_drain(mq: Sandbox, begin: Callable[[Sandbox], Any]) -> None:
    await begin(mq)
    await mq.drain(at_most_seconds=60)


# the queue


async def test_the_queue_is_the_real_one(mq: Sandbox) -> None:
    queue = mq.queue
    first = await queue.enqueue("shop", 7, CHAT, {"n": 1}, message_id="0b0c6a5e-8d3c-4f43-9a0e-5f3a3b6d7c11")
    again = await queue.enqueue("shop", 7, CHAT, {"n": 1}, message_id=first.id)
    assert (again.seq, again.deduplicated) == (first.seq, True)
    with pytest.raises(Conflict):
        await queue.enqueue("shop", 7, CHAT, {"n": 2}, message_id=first.id)
    with pytest.raises(InvalidMessage):
        await queue.enqueue("shop", 7, CHAT, {"n": {1, 2}})
    batch = await queue.enqueue_many(
        [{"instance": "shop", "client_id": 8, "chat_id": name, "payload": {}} for name in "ab"]
    )
    assert await queue.payload(first.id) == {"n": 1}
    assert [message.id for message in await queue.list("shop")] == [batch[1].id, batch[0].id, first.id]
    assert [message.id for message in await queue.list("shop", chat_id=CHAT, status="PENDING")] == [first.id]
    assert await queue.get_stats("shop", 8) == QueueStats(pending=2)
    assert (await queue.clear_queue("shop", CHAT)).cancelled == 1
    assert await queue.cancel_pending("shop") == 2
    assert (await queue.initialize("shop", 7)).stats == QueueStats(cancelled=3)
    with pytest.raises(Conflict):
        await queue.initialize("shop", 8)
    await mq.clock.advance(8 * 86_400)
    assert await queue.clean_old_messages("shop") == 3
    with pytest.raises(NotFound):
        await queue.get(first.id)


CALLS: dict[str, Callable[[MessageQueue, Any], Awaitable[object]]] = {
    "enqueue": lambda queue, known: queue.enqueue("shop", 7, CHAT, {}),
    "enqueue_many": lambda queue, known: queue.enqueue_many([]),
    "initialize": lambda queue, known: queue.initialize("shop", 7),
    "get_stats": lambda queue, known: queue.get_stats("shop"),
    "get": lambda queue, known: queue.get(known),
    "payload": lambda queue, known: queue.payload(known),
    "list": lambda queue, known: queue.list(oldest_first=True),
    "error_summary": lambda queue, known: queue.error_summary(),
    "cancel": lambda queue, known: queue.cancel(known),
    "clear_queue": lambda queue, known: queue.clear_queue("shop", CHAT),
    "cancel_pending": lambda queue, known: queue.cancel_pending("shop", chat_id=CHAT),
    "clean_old_messages": lambda queue, known: queue.clean_old_messages(None),
    "schedule_cleanup": lambda queue, known: queue.schedule_cleanup("shop"),
    "client": lambda queue, known: queue.client("shop", 7).send_message(to=CHAT, text="hi"),
    "aclose": lambda queue, known: queue.aclose(),
}


@pytest.mark.parametrize("name", [name for name in vars(MessageQueue) if not name.startswith("_")])
async def test_every_method_of_the_queue_works_in_memory(mq: Sandbox, name: str) -> None:
    await CALLS[name](mq.queue, await put(mq))


async def test_old_messages_are_cleaned_by_the_worker_as_each_account_asks(mq: Sandbox) -> None:
    await mq.queue.schedule_cleanup("shop", every_hours=1, retention_days=0.5)
    kept = await mq.queue.enqueue("bank", 7, CHAT, {})
    gone = await put(mq)
    await mq.drain()
    await mq.clock.advance(86_400)
    await mq.drain(for_seconds=120)
    assert (await mq.queue.get(kept.id)).status == "COMPLETED"
    with pytest.raises(NotFound):
        await mq.queue.get(gone)


async def test_code_that_closes_its_queue_leaves_the_messages_to_be_looked_at(mq: Sandbox) -> None:
    async with mq.queue as queue:
        stored = await queue.enqueue("shop", 7, CHAT, {"text": "hi"})
    with pytest.raises(QueueClosed):
        await queue.get(stored.id)
    assert (await mq.queue.get(stored.id)).status == "PENDING"


async def test_a_session_is_refused(mq: Sandbox) -> None:
    session: Any = object()
    with pytest.raises(InvalidMessage, match="in memory"):
        await put(mq, session=session)


# servers that are away


async def test_with_postgresql_away_nothing_is_stored(mq: Sandbox) -> None:
    with mq.postgres.away(), pytest.raises(StorageUnavailable):
        await put(mq)
    assert await mq.queue.get_stats("shop") == QueueStats()


async def test_with_redis_away_messages_are_stored_and_go_out_when_it_returns(mq: Sandbox) -> None:
    with mq.redis.away():
        message = await put(mq)
        await mq.drain(for_seconds=20)
        assert await status(mq, message) == ("PENDING", 0)
    await mq.drain()
    assert await status(mq, message) == ("COMPLETED", 0)


async def test_a_send_in_flight_is_settled_when_postgresql_returns(mq: Sandbox) -> None:
    mq.gateway.script(CHAT, ok(after_seconds=5))
    message = await put(mq)
    async with asyncio.TaskGroup() as group:
        group.create_task(mq.drain())
        await asyncio.sleep(2)
        with mq.postgres.away():
            await asyncio.sleep(10)
    assert await status(mq, message) == ("COMPLETED", 0)
    assert len(mq.gateway.sent) == 1


# loops, seeds, settings


def test_it_needs_no_async_plugin() -> None:
    mq = Sandbox()

    async def story() -> None:
        await put(mq)
        await mq.drain()

    asyncio.run(story())
    asyncio.run(story())
    assert texts(mq) == ["hi", "hi"]


def test_a_seed_gives_the_same_times_in_every_run() -> None:
    def times(seed: int) -> list[float]:
        mq = Sandbox(seed=seed)
        began = mq.clock.now
        mq.gateway.script("a", fail(), ok(after_seconds=3))

        async def story() -> None:
            for chat_id in ("a", "b", "a", "b"):
                await put(mq, chat_id=chat_id)
            await mq.drain()

        asyncio.run(story())
        return [(request.at - began).total_seconds() for request in mq.gateway.requests]

    assert times(1) == times(1) != times(2)


async def test_settings_are_the_defaults_but_for_those_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQWORKER_MAX_RETRIES", "9")
    mq = Sandbox(delay_min_seconds=60, delay_max_seconds=60)
    assert (mq.settings.max_retries, mq.settings.lease_seconds) == (3, 30)
    for _ in range(2):
        await put(mq)
    await mq.drain()
    first, second = mq.gateway.requests
    assert timedelta(seconds=60) <= second.at - first.at < timedelta(seconds=61)
    with pytest.raises(ConfigError, match="renew_seconds"):
        Sandbox(renew_seconds=100)


def test_all_that_is_named_is_there() -> None:
    assert testing.__all__ == sorted(testing.__all__)
    for name in testing.__all__:
        assert getattr(testing, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = testing.nothing
