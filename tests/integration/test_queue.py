"""The facade: what users call, against real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from mqworker import (
    Conflict,
    Enqueued,
    InvalidMessage,
    MessageQueue,
    NotFound,
    QueueClosed,
    QueueStats,
)
from mqworker.broker import Broker, Entry, Finish
from mqworker.devserver import RedisServer
from mqworker.lifecycle import Settlement
from mqworker.settings import Settings
from mqworker.store import Dropped, Store, StoredMessage, admin
from mqworker.testing.waiting import eventually
from tests.integration.rows import INSTANCE, change, claim, settle, sql
from tests.integration.working import told

HI = {"text": "hi"}


async def enqueue(queue: MessageQueue, chat_id: str = "a", **fields: object) -> UUID:
    return (await queue.enqueue(INSTANCE, 7, chat_id, HI, **fields)).id  # type: ignore[arg-type]


async def announced(queue: MessageQueue, broker: Broker) -> set[str]:
    """The chats that Redis offers."""
    await told(queue)
    leased = await broker.lease([INSTANCE], max_chats=100, lock_seconds=1.0)
    return {lease.chat.chat_id for one in leased for lease in one.leases}


# putting in


async def test_an_enqueued_message_is_stored_and_announced(queue: MessageQueue, broker: Broker) -> None:
    answer = await queue.enqueue(INSTANCE, 7, "a", HI, priority=2, max_retries=9, is_group=True, executor="e")
    stored = await queue.get(answer.id)
    assert answer == Enqueued(stored.id, stored.seq, "PENDING")
    assert (stored.instance, stored.client_id, stored.chat_id, stored.priority) == (INSTANCE, 7, "a", 2)
    assert (stored.max_retries, stored.is_group, stored.executor) == (9, True, "e")
    assert await announced(queue, broker) == {"a"}


async def test_a_payload_may_be_changed_after_it_was_handed_over(queue: MessageQueue, store: Store) -> None:
    payload = {"text": "before"}
    waiting = asyncio.create_task(queue.enqueue(INSTANCE, 7, "a", payload))
    await asyncio.sleep(0)
    payload["text"] = "after"
    await waiting
    assert (await claim(store)).message.payload == {"text": "before"}


async def test_a_repeated_id_is_one_message_and_other_content_a_conflict(queue: MessageQueue) -> None:
    message_id = uuid4()
    first = await queue.enqueue(INSTANCE, 7, "a", HI, message_id=message_id)
    again = await queue.enqueue(INSTANCE, 7, "a", HI, message_id=str(message_id), priority=9)
    assert (first.deduplicated, again.deduplicated, again.seq) == (False, True, first.seq)
    with pytest.raises(Conflict):
        await queue.enqueue(INSTANCE, 7, "b", HI, message_id=message_id)
    assert await queue.get_stats(INSTANCE) == QueueStats(pending=1)


async def test_twenty_callers_of_the_same_id_store_one_message(queue: MessageQueue) -> None:
    message_id = uuid4()
    answers = await asyncio.gather(*(queue.enqueue(INSTANCE, 7, "a", HI, message_id=message_id) for _ in range(20)))
    assert len({answer.seq for answer in answers}) == 1
    assert sum(not answer.deduplicated for answer in answers) == 1
    assert await queue.get_stats(INSTANCE) == QueueStats(pending=1)


async def test_concurrent_callers_keep_their_order(queue: MessageQueue) -> None:
    answers = await asyncio.gather(*(queue.enqueue(INSTANCE, 7, "a", {"n": n}) for n in range(200)))
    seqs = [answer.seq for answer in answers]
    assert seqs == sorted(set(seqs))


async def test_a_cancelled_caller_hurts_no_other(queue: MessageQueue) -> None:
    tasks = [asyncio.create_task(queue.enqueue(INSTANCE, 7, "a", {"n": n})) for n in range(100)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(answer, Enqueued) for answer in answers[1::2])
    seqs = [answer.seq for answer in answers if isinstance(answer, Enqueued)]
    assert seqs == sorted(seqs)


async def test_bad_input_is_refused_before_anything_is_stored(queue: MessageQueue) -> None:
    with pytest.raises(InvalidMessage, match="payload"):
        await queue.enqueue(INSTANCE, 7, "a", {"n": float("nan")})
    with pytest.raises(InvalidMessage, match="message 1: chat_id"):
        await queue.enqueue_many([_mapping("a"), _mapping("")])
    assert await queue.get_stats(INSTANCE) == QueueStats()


def _mapping(chat_id: str, **fields: object) -> dict[str, object]:
    return {"instance": INSTANCE, "client_id": 7, "chat_id": chat_id, "payload": HI, **fields}


async def test_many_are_stored_in_order_all_or_none(queue: MessageQueue, broker: Broker) -> None:
    taken = await enqueue(queue, "taken", message_id=uuid4())
    with pytest.raises(Conflict, match="message 1"):
        await queue.enqueue_many([_mapping("x"), _mapping("other", message_id=taken), _mapping("y")])
    assert await queue.get_stats(INSTANCE) == QueueStats(pending=1)
    answers = await queue.enqueue_many(_mapping(f"c{n % 4}") for n in range(40))
    assert [answer.seq for answer in answers] == sorted(answer.seq for answer in answers)
    assert await announced(queue, broker) == {"taken", "c0", "c1", "c2", "c3"}
    assert await queue.enqueue_many([]) == []


async def test_a_scheduled_message_is_not_offered_before_its_time(queue: MessageQueue, broker: Broker) -> None:
    await enqueue(queue, scheduled_at=datetime.now(UTC) + timedelta(hours=1))
    await enqueue(queue, "b", scheduled_at=datetime.now(UTC) - timedelta(hours=1))
    assert await announced(queue, broker) == {"b"}


async def test_a_client_sends_and_knows_a_group(queue: MessageQueue, store: Store) -> None:
    client = queue.client(INSTANCE, 7)
    person = await client.send_message(to="5511@c.us", text="Hello", mediaUrl="x")
    group = await client.send_message(to="123@g.us", text="Hello", priority=4)
    assert (await claim(store, "5511@c.us")).message.payload == {"to": "5511@c.us", "text": "Hello", "mediaUrl": "x"}
    assert [(await queue.get(one.id)).is_group for one in (person, group)] == [False, True]
    assert (await queue.get(group.id)).priority == 4
    with pytest.raises(InvalidMessage, match="to: must be str"):
        await client.send_message(to=5511, text="Hello")  # type: ignore[arg-type]


# looking after


async def test_initialize_takes_back_what_was_stuck_and_tells_redis_what_waits(
    queue: MessageQueue, store: Store, broker: Broker
) -> None:
    stuck, waiting = await enqueue(queue), await enqueue(queue, "b")
    await enqueue(queue, "c", scheduled_at=datetime.now(UTC) + timedelta(hours=1))
    await change(store, stuck, "status = 'PROCESSING', processing_started_at = now() - interval '2 hours'")
    await eventually(lambda: _server_is_old_enough(store), "PostgreSQL is up for longer than a lease")
    await broker.redis.flushall()
    found = await queue.initialize(INSTANCE, 7)
    assert (found.reclaimed, found.waiting) == (1, 3)
    assert found.stats == QueueStats(pending=3)
    assert {"b"} <= await announced(queue, broker) <= {"a", "b"}
    assert (await queue.get(waiting)).status == "PENDING"
    assert (await queue.initialize(INSTANCE, 7)).reclaimed == 0


async def _server_is_old_enough(store: Store) -> bool:
    (found,) = await sql(store, "SELECT pg_postmaster_start_time() < now() - interval '3 seconds' AS old")
    return bool(found.old)


async def test_an_account_of_another_client_is_a_conflict(queue: MessageQueue) -> None:
    await queue.initialize(INSTANCE, 7)
    with pytest.raises(Conflict, match="another client"):
        await queue.initialize(INSTANCE, 8)
    await queue.initialize("other", 8)


async def test_stats_are_always_all_five_and_may_be_one_clients(queue: MessageQueue, store: Store) -> None:
    assert await queue.get_stats(INSTANCE) == QueueStats(0, 0, 0, 0, 0)
    for name in "abcde":
        await enqueue(queue, name)
    await queue.enqueue(INSTANCE, 8, "f", HI)
    await settle(store, await claim(store, "a"))
    await settle(store, await claim(store, "b"), Settlement.failed(0.0, "no"))
    await claim(store, "c")
    await queue.clear_queue(INSTANCE, "d")
    assert await queue.get_stats(INSTANCE) == QueueStats(2, 1, 1, 1, 1)
    assert await queue.get_stats(INSTANCE, 8) == QueueStats(pending=1)
    assert await queue.get_stats("other") == QueueStats()


async def test_a_list_goes_backwards_page_by_page(queue: MessageQueue, store: Store) -> None:
    ids = [await enqueue(queue, f"c{n % 2}") for n in range(10)]
    seen: list[UUID] = []
    last: StoredMessage | None = None
    while page := await queue.list(INSTANCE, after=last, limit=3):
        seen += [one.id for one in page]
        last = page[-1]
    assert seen == ids[::-1]
    held = await claim(store, "c1")
    assert [one.id for one in await queue.list(INSTANCE, status="PROCESSING")] == [held.message.id]
    assert len(await queue.list(INSTANCE, chat_id="c0")) == 5
    with pytest.raises(InvalidMessage, match="limit"):
        await queue.list(INSTANCE, limit=1001)
    with pytest.raises(NotFound):
        await queue.get(uuid4())


async def test_errors_are_counted_by_their_first_line(queue: MessageQueue, store: Store) -> None:
    for name, error in (("a", "Busy\nat 1"), ("b", "Busy\nat 2"), ("c", "Broken")):
        await enqueue(queue, name)
        await settle(store, await claim(store, name), Settlement.failed(0.0, error))
    assert [(one.error, one.count) for one in await queue.error_summary(INSTANCE)] == [("Busy", 2), ("Broken", 1)]
    assert len(await queue.error_summary(INSTANCE, limit=1)) == 1


# taking back


async def test_a_cancelled_message_is_never_offered_again(queue: MessageQueue, store: Store, broker: Broker) -> None:
    message_id = await enqueue(queue)
    assert await queue.cancel(message_id) == "cancelled"
    assert await queue.cancel(str(message_id)) == "finished"
    assert await announced(queue, broker) == set()
    assert (await queue.get(message_id)).processed_at is not None
    with pytest.raises(NotFound):
        await queue.cancel(uuid4())


async def test_a_cancel_in_flight_is_too_late_but_ends_the_retries(queue: MessageQueue, store: Store) -> None:
    await enqueue(queue)
    held = await claim(store)
    assert await queue.cancel(held.message.id) == "too_late"
    assert await settle(store, held, Settlement.retry(0.0, 0.0, "it failed")) == "CANCELLED"


async def test_cancelling_a_message_that_backs_off_lets_the_next_one_go(
    queue: MessageQueue, store: Store, broker: Broker
) -> None:
    first, second = await enqueue(queue), await enqueue(queue)
    await told(queue)
    ((lease,),) = [one.leases for one in await broker.lease([INSTANCE], max_chats=1, lock_seconds=9.0)]
    held = await claim(store)
    await settle(store, held, Settlement.retry(0.0, 300.0, "it failed"))
    await broker.finish([Finish(lease.chat, lease.token, 300.0, kept=Entry(lease.chat, held.seq, first))])
    assert await announced(queue, broker) == set()
    assert await queue.cancel(first) == "cancelled"
    assert await announced(queue, broker) == {"a"}
    assert (await claim(store)).message.id == second


async def test_clear_cancels_what_waits_and_tells_what_flies(queue: MessageQueue, store: Store) -> None:
    for _ in range(3):
        await enqueue(queue)
    await enqueue(queue, scheduled_at=datetime.now(UTC) + timedelta(hours=1))
    other = await enqueue(queue, "b")
    held = await claim(store)
    cleared = await queue.clear_queue(INSTANCE, "a")
    assert (cleared.cancelled, cleared.in_flight) == (3, 1)
    assert await settle(store, held, Settlement.retry(0.0, 0.0, "it failed")) == "CANCELLED"
    assert (await queue.get(other)).status == "PENDING"


async def test_cancel_pending_goes_by_age_and_account(queue: MessageQueue, store: Store) -> None:
    old, young = await enqueue(queue), await enqueue(queue)
    foreign = (await queue.enqueue("other", 7, "a", HI)).id
    for one in (old, foreign):
        await change(store, one, "created_at = now() - interval '2 hours'")
    assert await queue.cancel_pending(INSTANCE, older_than=timedelta(hours=1)) == 1
    assert [(await queue.get(one)).status for one in (old, young, foreign)] == ["CANCELLED", "PENDING", "PENDING"]


async def test_cancel_pending_without_an_age_takes_all_that_waits(
    queue: MessageQueue, store: Store, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "BATCH", 2)
    for name in "aaab":
        await enqueue(queue, name)
    await queue.enqueue(INSTANCE, 7, "c", HI, scheduled_at=datetime.now(UTC) + timedelta(hours=1))
    held = await claim(store, "b")
    assert await queue.cancel_pending(INSTANCE, chat_id="a") == 3
    assert await announced(queue, broker) == {"b"}
    assert await queue.cancel_pending(INSTANCE) == 1
    assert (await queue.get(held.message.id)).status == "PROCESSING"


async def test_cancel_pending_keeps_to_one_moment(queue: MessageQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "BATCH", 1)
    for name in "ab":
        await enqueue(queue, name)
    drop = queue._drop

    async def meanwhile(dropped: Sequence[Dropped]) -> None:
        await enqueue(queue, "new")
        await drop(dropped)

    monkeypatch.setattr(queue, "_drop", meanwhile)
    async with asyncio.timeout(10):
        assert await queue.cancel_pending(INSTANCE) == 2
    assert (await queue.get_stats(INSTANCE)).pending == 2


async def test_a_payload_is_told_when_asked_for(queue: MessageQueue) -> None:
    assert await queue.payload(await enqueue(queue)) == HI
    with pytest.raises(NotFound):
        await queue.payload(uuid4())


async def test_cleaning_deletes_what_ended_long_ago(queue: MessageQueue, store: Store) -> None:
    for name in "abc":
        await enqueue(queue, name)
        await settle(store, await claim(store, name))
    waiting = await enqueue(queue, "d")
    await sql(store, "UPDATE message_queue_items SET created_at = now() - interval '8 days' RETURNING 1")
    await sql(store, "UPDATE message_queue_items SET processed_at = created_at WHERE chat_id IN ('a', 'b') RETURNING 1")
    assert await queue.clean_old_messages(INSTANCE, 9) == 0
    assert await queue.clean_old_messages("other") == 0
    assert await queue.clean_old_messages(INSTANCE) == 2
    assert (await queue.get(waiting)).status == "PENDING", "what waits is never cleaned"


async def test_cleaning_all_accounts_leaves_those_with_a_retention_of_their_own(
    queue: MessageQueue, store: Store
) -> None:
    await queue.schedule_cleanup("own", 6, 30)
    for account in (INSTANCE, "other", "own"):
        await queue.enqueue(account, 7, "a", HI)
    ago = "now() - interval '8 days'"
    ended = f"UPDATE message_queue_items SET status = 'FAILED', created_at = {ago}, processed_at = {ago} RETURNING 1"
    await sql(store, ended)
    assert await queue.clean_old_messages(None) == 2
    assert (await queue.get_stats("own")).failed == 1


async def test_a_scheduled_cleanup_is_kept_in_the_database(queue: MessageQueue, store: Store) -> None:
    await queue.initialize(INSTANCE, 7)
    await queue.schedule_cleanup(INSTANCE, every_hours=2, retention_days=0.5)
    await queue.schedule_cleanup("other")
    rows = await sql(
        store,
        "SELECT instance, client_id, clean_every_hours, retention_days FROM message_queue_instances ORDER BY instance",
    )
    assert [tuple(one) for one in rows] == [("other", None, 6, 7), (INSTANCE, 7, 2, 0.5)]


# open and closed


async def test_a_queue_that_is_not_open_says_so(settings: Settings) -> None:
    queue = MessageQueue(settings)
    with pytest.raises(QueueClosed):
        await enqueue(queue)
    async with queue:
        await enqueue(queue)
    with pytest.raises(QueueClosed):
        await queue.get_stats(INSTANCE)
    await queue.aclose()


async def test_a_queue_of_another_event_loop_says_so(queue: MessageQueue) -> None:
    with pytest.raises(QueueClosed, match="another event loop"):
        await asyncio.to_thread(asyncio.run, queue.get_stats(INSTANCE))


async def test_closing_finishes_what_was_under_way(settings: Settings, broker: Broker) -> None:
    async with MessageQueue(settings) as queue:
        tasks = [asyncio.create_task(enqueue(queue, f"c{n}")) for n in range(50)]
        await asyncio.sleep(0)
    answers = await asyncio.gather(*tasks)
    assert len(set(answers)) == 50
    assert len(await announced(queue, broker)) == 50


# Redis away


@pytest.mark.parametrize(("fault", "repair"), [("kill", "start"), ("pause", "resume")])
async def test_with_redis_away_nobody_waits_and_what_was_not_told_is_told_on_its_return(
    own_redis: RedisServer, own_settings: Settings, fault: str, repair: str
) -> None:
    async with MessageQueue(own_settings) as queue:
        await enqueue(queue, "before")
        getattr(own_redis, fault)()
        async with asyncio.timeout(20):  # 200 ms for each would take twice as long
            for n in range(200):
                await enqueue(queue, f"c{n}")
        assert (await queue.get_stats(INSTANCE)).pending == 201
        assert await queue.cancel(await enqueue(queue, "cancelled")) == "cancelled"
        getattr(own_redis, repair)()
        broker = queue._broker

        async def all_known() -> bool:
            # What Redis had before it was killed, nobody but a rebuild can tell it.
            number: int = await broker.redis.zcard(broker.keys.of(INSTANCE).ready)
            return number >= 200

        await eventually(all_known, "what was kept is told without another enqueue", timeout_seconds=20)
