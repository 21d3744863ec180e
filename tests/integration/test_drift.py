"""Where PostgreSQL and Redis disagree: found in both directions, nothing found where they agree, and mended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from mqworker import MessageQueue
from mqworker import drift as module
from mqworker.broker import Broker, Entry, Finish, Inspection, Keys
from mqworker.drift import Drift, Found
from mqworker.store import Store, Waiting
from tests.conftest import NewBroker
from tests.integration.lanes import depth, entry, everything, ids, lease
from tests.integration.rows import INSTANCE, change, chat, claim, put, row, settle
from tests.integration.working import told

AGREE = Found([], 0, all_seen=True)
SOON = timedelta(hours=1)


@pytest.fixture
def drift(store: Store, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Drift:
    monkeypatch.setattr(module, "UNDER_WAY_SECONDS", 0.0)
    return Drift(store, broker)


async def enqueue(queue: MessageQueue, chat_id: str = "a", **fields: object) -> UUID:
    answer = await queue.enqueue(INSTANCE, 7, chat_id, {}, **fields)  # type: ignore[arg-type]
    await told(queue)
    return answer.id


def found(result: Found) -> tuple[set[UUID], int, bool]:
    return {one.id for one in result.entries}, result.looked_at, result.all_seen


class TestAgreement:
    async def test_an_empty_queue(self, drift: Drift) -> None:
        assert await drift.missing(limit=9) == AGREE
        assert await drift.surplus(limit=9) == AGREE

    async def test_messages_wherever_redis_may_have_them(
        self, drift: Drift, queue: MessageQueue, store: Store, broker: Broker
    ) -> None:
        for name in ("waits its turn", "backs off", "in flight: {1}"):
            await enqueue(queue, name)
        held = {one.chat.chat_id: one for one in await lease(broker)}
        await claim(store, "in flight: {1}")
        backing_off = held["backs off"]
        await broker.finish([Finish(backing_off.chat, backing_off.token, wait_seconds=300.0)])
        await enqueue(queue, "urgent", priority=5)
        await enqueue(queue, "later", scheduled_at=datetime.now(UTC) + SOON)
        await enqueue(queue, "in flight: {1}")
        assert found(await drift.missing(limit=100)) == (set(), 5, True)
        assert found(await drift.surplus(limit=100)) == (set(), 6, True)

    async def test_a_schedule_that_has_come_due_and_is_not_promoted_yet(
        self, drift: Drift, queue: MessageQueue, store: Store
    ) -> None:
        await change(store, await enqueue(queue, scheduled_at=datetime.now(UTC) + SOON), "scheduled_at = now()")
        assert (await drift.missing(limit=9)).entries == []

    async def test_looking_changes_nothing(self, drift: Drift, queue: MessageQueue, broker: Broker) -> None:
        await enqueue(queue)
        before = await everything(broker)
        await drift.missing(limit=9)
        await drift.surplus(limit=9)
        assert await everything(broker) == before


class TestMissing:
    async def test_what_was_never_announced_is_found_and_announced(
        self, drift: Drift, queue: MessageQueue, store: Store, broker: Broker
    ) -> None:
        await enqueue(queue)
        lost = {await put(store, "a"), await put(store, "b"), await put(store, "c", priority=3)}
        lost.add(await put(store, "d", scheduled_at=datetime.now(UTC) + SOON))
        lost.add(await put(store, instance="other"))
        missing = await drift.missing(limit=100)
        assert found(missing) == (lost, 6, True)
        await drift.announce(missing.entries)
        assert (await drift.missing(limit=100)).entries == []
        assert await broker.redis.zcard(broker.keys.of(INSTANCE).scheduled) == 1

    async def test_an_entry_in_a_chat_that_nobody_looks_at(
        self, drift: Drift, queue: MessageQueue, broker: Broker
    ) -> None:
        message = await enqueue(queue)
        await broker.redis.zrem(broker.keys.of(INSTANCE).ready, "a")
        assert (await drift.missing(limit=9)).entries[0].id == message

    @pytest.mark.parametrize("gone", [True, False])
    async def test_an_account_that_nobody_takes(
        self, gone: bool, drift: Drift, queue: MessageQueue, broker: Broker
    ) -> None:
        message = await enqueue(queue)
        if gone:
            await broker.redis.zrem(broker.keys.instances, INSTANCE)
        else:
            await broker.redis.zadd(broker.keys.instances, {INSTANCE: float("inf")})
        missing = await drift.missing(limit=9)
        assert [one.id for one in missing.entries] == [message]
        await drift.announce(missing.entries)
        assert (await broker.take()).instances == [INSTANCE]

    async def test_no_more_is_looked_at_than_told_the_oldest_first(
        self, drift: Drift, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "PAGE", 2)
        messages = [await put(store, f"c{n}") for n in range(6)]
        assert found(await drift.missing(limit=3)) == (set(messages[:3]), 3, False)
        assert found(await drift.missing(limit=100)) == (set(messages), 6, True)

    async def test_what_gets_there_a_moment_later_is_no_drift(
        self, drift: Drift, store: Store, broker: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        announced, _, lost = await put(store, "a"), await put(store, "b"), await put(store, "c")
        look_again = store.pages.of_ids

        async def meanwhile(messages: Iterable[UUID]) -> list[Waiting]:
            await broker.announce([Entry(chat("a"), (await row(store, announced)).seq, announced)])
            await settle(store, await claim(store, "b"))
            return await look_again(messages)

        monkeypatch.setattr(store.pages, "of_ids", meanwhile)
        assert [one.id for one in (await drift.missing(limit=9)).entries] == [lost]


class TestSurplus:
    async def test_what_has_ended_or_never_was_is_found_and_dropped(
        self, drift: Drift, queue: MessageQueue, store: Store, broker: Broker
    ) -> None:
        ended = await enqueue(queue), await enqueue(queue, "b", priority=7)
        later = await enqueue(queue, "c", scheduled_at=datetime.now(UTC) + SOON)
        kept = await enqueue(queue)
        for message in (*ended, later):
            await change(store, message, "status = 'CANCELLED'")
        await broker.announce([entry(900, "never: {was}")])
        surplus = await drift.surplus(limit=100)
        assert found(surplus) == ({*ended, later, UUID(int=900)}, 5, True)
        await drift.drop(surplus.entries)
        assert found(await drift.surplus(limit=100)) == (set(), 1, True)
        assert await depth(broker) == [str(kept)]
        assert (await drift.missing(limit=9)).entries == []

    async def test_no_more_is_looked_at_than_told(self, drift: Drift, broker: Broker) -> None:
        for number in range(1, 300):
            await broker.announce([entry(number, f"c{number}")])
        surplus = await drift.surplus(limit=100)
        assert (surplus.all_seen, len(surplus.entries)) == (False, 100)
        assert len((await drift.surplus(limit=1000)).entries) == 299

    async def test_what_ends_a_moment_later_in_redis_too_is_no_drift(
        self, drift: Drift, queue: MessageQueue, store: Store, broker: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        message = await enqueue(queue)
        (held,) = await lease(broker)
        await settle(store, await claim(store))
        look_again = broker.unknown
        done = Entry(held.chat, (await row(store, message)).seq, message)

        async def meanwhile(entries: Sequence[Entry]) -> list[Entry]:
            await broker.finish([Finish(held.chat, held.token, wait_seconds=1.0, done=done)])
            return await look_again(entries)

        monkeypatch.setattr(broker, "unknown", meanwhile)
        assert (await drift.surplus(limit=9)).entries == []


class TestBroker:
    async def test_the_entries_of_long_lanes_are_read_from_their_heads(self, broker: Broker) -> None:
        await broker.announce([entry(number) for number in range(1, 151)])
        pages = [page async for page in Inspection(broker).entries()]
        assert [[str(one.id) for one in page] for page in pages] == [ids(*range(1, 101))]

    async def test_entries_come_back_as_they_were_announced(self, broker: Broker) -> None:
        announced = [entry(1, "a: {b}"), entry(2, "a: {b}", priority=-3), entry(3, "c", due_seconds=60, priority=9)]
        await broker.announce(announced)
        read = [one async for page in Inspection(broker).entries() for one in page]
        assert {(one.chat, one.seq, one.id, one.priority) for one in read} == {
            (one.chat, one.seq, one.id, one.priority) for one in announced
        }

    async def test_how_redis_is_set_up(self, broker: Broker) -> None:
        facts = await Inspection(broker).facts()
        assert facts is not None
        assert (facts.is_lone_replica, facts.eviction_policy, facts.appendonly) == (False, "noeviction", False)
        assert facts.stream_node_bytes == 256
        assert facts.version[0].isdigit()

    async def test_on_a_cluster(self, new_cluster_broker: NewBroker) -> None:
        broker = new_cluster_broker()
        announced = [
            entry(number, priority=number % 2, due_seconds=60 * (number % 3), instance=f"i{number}")
            for number in range(1, 31)
        ]
        await broker.announce(announced)
        read = [one async for page in Inspection(broker).entries() for one in page]
        assert sorted(one.seq for one in read) == list(range(1, 31))
        assert await broker.unknown([*announced, entry(99)]) == [entry(99)]
        facts = await Inspection(broker).facts()
        assert facts is not None
        assert not facts.is_lone_replica

    @pytest.mark.parametrize("denied", ["info", "config|get"])
    async def test_what_our_user_may_not_ask_is_not_known(self, denied: str, broker: Broker, redis_url: str) -> None:
        await broker.redis.acl_setuser(
            "curious", enabled=True, nopass=True, keys=["*"], commands=["+@all", f"-{denied}"]
        )
        curious = Broker(redis_url.replace("redis://", "redis://curious:any@"), Keys(), owner="curious")
        facts = await Inspection(curious).facts()
        await curious.aclose()
        await broker.redis.acl_deluser("curious")
        assert facts is None if denied == "info" else facts is not None and facts.stream_node_bytes is None
