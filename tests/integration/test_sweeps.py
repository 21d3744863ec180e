"""Rebuild and reconcile: what Redis does not know is told to it, and nothing that it knows is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mqworker import sweeps as module
from mqworker.broker import Broker, Entry, Keys
from mqworker.lifecycle import Settlement
from mqworker.settings import Settings
from mqworker.store import Store
from mqworker.sweeps import Sweeps
from mqworker.testing.waiting import eventually
from tests.integration.lanes import depth, known
from tests.integration.rows import INSTANCE, change, chat, claim, new_message, put, row, settle, sql

LONG_AGO = "created_at = now() - interval '2 hours', updated_at = now() - interval '2 hours'"


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 10)


class Meddling(Broker):
    """Does something after each announce."""

    def __init__(self, settings: Settings, meddle: Callable[[Broker, int], Any]) -> None:
        super().__init__(settings.redis_url.get_secret_value(), Keys(settings.key_prefix), owner="w1")
        self._meddle = meddle
        self._announces = 0

    async def announce(self, entries: Sequence[Entry], *, wake: bool = True) -> int:
        added = await super().announce(entries, wake=wake)
        self._announces += 1
        await self._meddle(self, self._announces)
        return added


# rebuild


@pytest.mark.usefixtures("small_pages")
async def test_a_rebuild_makes_everything_known_that_waits_and_nothing_else(
    sweeps: Sweeps, store: Store, broker: Broker
) -> None:
    for n in range(35):
        await put(store, f"c{n}", instance=f"i{n % 2}", priority=n % 3)
    await put(store, "later", scheduled_at=datetime.now(UTC) + timedelta(hours=1))
    for name, end in (("sent", Settlement.completed(0, None)), ("failed", Settlement.failed(0, "no"))):
        await put(store, name)
        await settle(store, await claim(store, name), end)
    await put(store, "flying")
    await claim(store, "flying")
    assert await sweeps.rebuild() == 36
    assert await known(broker, "i0") | await known(broker, "i1") == {f"c{n}" for n in range(35)}
    assert await known(broker) == set()
    assert await broker.redis.zcard(broker.keys.of(INSTANCE).scheduled) == 1
    assert await broker.remembers()
    assert not await broker.is_rebuilding()


async def test_a_rebuild_of_nothing_declares_the_memory_whole(sweeps: Sweeps, broker: Broker) -> None:
    assert not await sweeps.memory_is_whole()
    assert await sweeps.rebuild() == 0
    assert await sweeps.memory_is_whole()


@pytest.mark.usefixtures("small_pages")
async def test_a_rebuild_loses_no_live_announce(store: Store, broker: Broker, settings: Settings) -> None:
    await store.enqueues.insert([new_message(f"c{n}") for n in range(50)])

    async def enqueue_live(announcing: Broker, number: int) -> None:
        # In the middle of the rebuild, and older than where it stands: it will not meet this one.
        live = await put(store, f"live{number}")
        await change(store, live, LONG_AGO)
        await broker.announce([Entry(chat(f"live{number}"), (await row(store, live)).seq, live)])

    meddling = Meddling(settings, enqueue_live)
    assert await Sweeps(store, meddling, settings).rebuild() == 50
    await meddling.aclose()
    assert {f"live{n}" for n in range(1, 7)} | {f"c{n}" for n in range(50)} == await known(broker)


@pytest.mark.usefixtures("small_pages")
async def test_a_rebuild_whose_redis_is_emptied_meanwhile_begins_again(
    store: Store, broker: Broker, settings: Settings
) -> None:
    await store.enqueues.insert([new_message(f"c{n}") for n in range(30)])

    async def flush_once(announcing: Broker, number: int) -> None:
        if number == 2:
            await announcing.redis.flushall()

    meddling = Meddling(settings, flush_once)
    assert await Sweeps(store, meddling, settings).rebuild() == 30
    await meddling.aclose()
    assert await known(broker) == {f"c{n}" for n in range(30)}
    assert await broker.remembers()


async def test_a_rebuild_gives_up_where_redis_never_keeps_anything(
    store: Store, broker: Broker, settings: Settings
) -> None:
    async def flush(announcing: Broker, number: int) -> None:
        await announcing.redis.flushall()

    meddling = Meddling(settings, flush)
    assert await Sweeps(store, meddling, settings).rebuild() is None
    await meddling.aclose()
    assert not await broker.remembers()


@pytest.mark.usefixtures("small_pages")
async def test_one_account_is_rebuilt_alone_and_known_afterwards(sweeps: Sweeps, store: Store, broker: Broker) -> None:
    await store.enqueues.insert([new_message(f"c{n % 3}") for n in range(30)])
    await store.enqueues.insert([new_message("x", instance="other")])
    assert await sweeps.rebuild_instance(INSTANCE) == 30
    assert await known(broker) == {"c0", "c1", "c2"}
    assert [len(await depth(broker, f"c{n}")) for n in range(3)] == [10, 10, 10]
    assert await known(broker, "other") == set()
    (leased,) = await broker.lease([INSTANCE], max_chats=1, lock_seconds=1.0)
    assert leased.known


async def test_a_finished_message_that_a_rebuild_brings_back_is_gone_after_one_look(
    store: Store, broker: Broker
) -> None:
    message_id = await put(store)
    await settle(store, await claim(store))
    await broker.announce([Entry(chat(), 1, message_id)])
    (leased,) = await broker.lease([INSTANCE], max_chats=1, lock_seconds=1.0)
    await broker.let_go(empty=leased.leases, waiting=[])
    assert await depth(broker) == []
    assert await known(broker) == set()


# reconcile


async def walk_is_over(store: Store) -> None:
    """Have the walk through the old messages stand at their end: what is found then, the look at recent ones finds."""
    rows = await sql(
        store,
        """
        INSERT INTO message_queue_duties AS duty (name, progress)
        VALUES ('reconcile', '{"walk": {"created_at": "2999-01-01T00:00:00+00:00", "seq": 0}}')
        ON CONFLICT (name) DO UPDATE SET progress = duty.progress || EXCLUDED.progress
        RETURNING 1
        """,
    )
    assert rows


async def test_a_lost_announce_is_found_once(sweeps: Sweeps, store: Store, broker: Broker) -> None:
    await walk_is_over(store)
    await put(store)
    await put(store, "later", scheduled_at=datetime.now(UTC) + timedelta(hours=1))
    assert await sweeps.reconcile() == 2
    assert await known(broker) == {"a"}
    assert await broker.redis.zscore(broker.keys.instances, INSTANCE) is not None
    assert await sweeps.reconcile() == 0


async def test_old_messages_are_found_by_the_walk(sweeps: Sweeps, store: Store, broker: Broker) -> None:
    await change(store, await put(store), LONG_AGO)
    await walk_is_over(store)
    assert await sweeps.reconcile() == 0
    assert await sweeps.reconcile() == 1, "the walk begins again"
    assert await known(broker) == {"a"}


@pytest.mark.usefixtures("small_pages")
async def test_the_walk_goes_on_where_it_left_off_whoever_walks(
    store: Store, broker: Broker, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WALK_SHARE", 0.0)
    await store.enqueues.insert([new_message(f"c{n}") for n in range(35)])
    await sql(store, f"UPDATE message_queue_items SET {LONG_AGO} RETURNING 1")
    await store.duties.take("reconcile", every_seconds=0, hold_seconds=30)
    found = [await Sweeps(store, broker, settings).reconcile() for _ in range(5)]
    assert found == [10, 10, 10, 5, 0]


async def test_a_message_of_a_long_transaction_is_found_once_that_has_committed(
    store: Store, settings: Settings, broker: Broker
) -> None:
    """Its row carries the time of its insert, far before the window by now, and appears only at the commit."""
    sweeps = Sweeps(store, broker, settings.model_copy(update={"reconcile_every_seconds": 0.1}))
    await walk_is_over(store)
    async with store.database.rows_of_one(in_transaction=True) as rows:
        (answer,) = await store.enqueues.insert_in(rows, [new_message()])
        await eventually(lambda: _is_older(store, seconds=0.5), "its window has passed")
        assert await sweeps.reconcile() == 0
    await walk_is_over(store)
    assert (await row(store, answer.id)).status == "PENDING"
    assert await sweeps.reconcile() == 1


async def _is_older(store: Store, *, seconds: float) -> bool:
    (found,) = await sql(
        store,
        """
        SELECT min(xact_start) < clock_timestamp() - make_interval(secs => %(seconds)s) AS older
        FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'
        """,
        seconds=seconds,
    )
    return bool(found.older)


async def test_a_long_transaction_that_only_reads_widens_no_look(
    store: Store, settings: Settings, broker: Broker
) -> None:
    await put(store)
    async with store.database.connections.use() as connection, connection.transaction():
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        await connection.execute("SELECT 1 FROM message_queue_items")
        await eventually(lambda: _is_older(store, seconds=0.3), "it has been open for a while")
        (before,) = await sql(store, "SELECT clock_timestamp() - interval '0.1 seconds' AS time")
        start = await store.pages.window_start(window_seconds=0.0)
    assert start.created_at > before.time


async def test_accounts_in_which_nothing_waits_are_removed(sweeps: Sweeps, broker: Broker) -> None:
    await broker.redis.zadd(broker.keys.instances, {"idle": "inf", INSTANCE: 1})
    await sweeps.reconcile()
    assert await broker.redis.zrange(broker.keys.instances, 0, -1) == [INSTANCE]


async def test_two_of_every_sweep_at_once_do_no_harm(
    store: Store, broker: Broker, settings: Settings, new_store: Callable[..., Store], new_broker: Callable[..., Broker]
) -> None:
    await store.enqueues.insert([new_message(f"c{n}") for n in range(100)])
    both = [Sweeps(store, broker, settings), Sweeps(new_store("w2"), new_broker("w2"), settings)]
    await asyncio.gather(*(sweep() for one in both for sweep in (one.rebuild, one.reconcile, one.reclaim, one.clean)))
    assert await known(broker) == {f"c{n}" for n in range(100)}
    assert [len(await depth(broker, f"c{n}")) for n in range(100)] == [1] * 100
