"""Reclaim and clean: what is stuck is taken back, what is old goes."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from mqworker import sweeps as module
from mqworker.broker import Broker, Entry, Keys
from mqworker.settings import Settings
from mqworker.store import Store
from mqworker.sweeps import Sweeps
from mqworker.testing.waiting import eventually
from tests.integration.lanes import depth
from tests.integration.rows import INSTANCE, change, chat, claim, put, row, settle, sql

# reclaim


@pytest.fixture
def reclaimer(new_store: Callable[..., Store], broker: Broker, settings: Settings) -> Sweeps:
    """A worker for which PostgreSQL has been up long enough."""
    return Sweeps(new_store("sweeper", lease_seconds=0.0), broker, settings)


async def test_a_reclaimed_chat_loses_its_lock_and_may_go_after_its_gap(
    reclaimer: Sweeps, store: Store, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    message_id = await put(store)
    await broker.announce([Entry(chat(), 1, message_id)])
    await broker.lease([INSTANCE], max_chats=1, lock_seconds=600.0)
    await claim(store)
    assert await reclaimer.reclaim() == 0
    await change(store, message_id, "lease_expires_at = now() - interval '1 second'")
    assert await reclaimer.reclaim() == 1
    assert "1 stuck messages reset" in caplog.text

    async def leased() -> bool:
        (found,) = await broker.lease([INSTANCE], max_chats=1, lock_seconds=600.0)
        return bool(found.leases)

    await eventually(leased, "the chat may go again, long before its lock would have ended")
    assert (await claim(store)).message.id == message_id


async def test_what_ends_failed_leaves_redis(reclaimer: Sweeps, store: Store, broker: Broker) -> None:
    message_id = await put(store, max_retries=1)
    await broker.announce([Entry(chat(), 1, message_id)])
    await claim(store)
    await change(store, message_id, "lease_expires_at = now() - interval '1 second'")
    assert await reclaimer.reclaim() == 1
    assert (await row(store, message_id)).status == "FAILED"
    assert await depth(broker) == []


async def test_reclaim_takes_batch_after_batch(
    reclaimer: Sweeps, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RECLAIM_BATCH", 2)
    for n in range(5):
        await put(store, f"c{n}")
        await claim(store, f"c{n}")
    await sql(store, "UPDATE message_queue_items SET lease_expires_at = now() - interval '1 second' RETURNING 1")
    assert await reclaimer.reclaim() == 5


async def test_reclaim_does_its_work_while_redis_is_away(
    new_store: Callable[..., Store], store: Store, settings: Settings
) -> None:
    away = Broker("redis://127.0.0.1:9/0", Keys(), owner="w1")
    message_id = await put(store)
    await claim(store)
    await change(store, message_id, "lease_expires_at = now() - interval '1 second'")
    assert await Sweeps(new_store("sweeper", lease_seconds=0.0), away, settings).reclaim() == 1
    assert (await row(store, message_id)).status == "PENDING"
    await away.aclose()


# clean


async def test_clean_keeps_to_each_accounts_retention(
    sweeps: Sweeps, store: Store, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for instance in ("shop", "own"):
        for days in (1, 3, 8):
            await put(store, f"{days}d", instance=instance)
    await put(store, "waits since long ago")
    await sql(
        store,
        """
        UPDATE message_queue_items
        SET status = 'COMPLETED', created_at = now() - make_interval(days => left(chat_id, 1)::int),
            processed_at = now() - make_interval(days => left(chat_id, 1)::int)
        WHERE chat_id LIKE '_d' RETURNING 1
        """,
    )
    await sql(store, "UPDATE message_queue_items SET created_at = 'epoch' WHERE status = 'PENDING' RETURNING 1")
    await store.admin.schedule_clean("own", every_hours=1, retention_days=2)
    assert await sweeps.clean() == 1
    assert "1 old messages removed" in caplog.text
    assert await sweeps.clean_instances() == 2
    assert await sweeps.clean_instances() == 0, "not due again"
    rows = await sql(store, "SELECT instance, chat_id FROM message_queue_items ORDER BY seq")
    assert [tuple(one) for one in rows] == [
        ("shop", "1d"),
        ("shop", "3d"),
        ("own", "1d"),
        ("shop", "waits since long ago"),
    ]


async def test_clean_forgets_chats_that_were_idle_for_a_day(sweeps: Sweeps, store: Store) -> None:
    for name in ("old", "new", "never"):
        await put(store, name)
        await settle(store, await claim(store, name))
    await sql(
        store, "UPDATE message_queue_chats SET next_at = now() - interval '25 hours' WHERE chat_id = 'old' RETURNING 1"
    )
    await sql(store, "UPDATE message_queue_chats SET next_at = '-infinity' WHERE chat_id = 'never' RETURNING 1")
    await sweeps.clean()
    assert [one.chat_id for one in await sql(store, "SELECT chat_id FROM message_queue_chats")] == ["new"]
