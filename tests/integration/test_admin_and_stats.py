"""What people ask for: cancel, clear, clean, look."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest

from mqworker.errors import Conflict, NotFound
from mqworker.lifecycle import Settlement
from mqworker.message import QueueStats
from mqworker.store import Cleared, Store
from tests.integration.rows import INSTANCE, NO_GAP, change, chat, claim, put, row, settle, sql


async def test_cancel_says_what_became_of_it(store: Store) -> None:
    waiting, held, done = await put(store, "a"), await put(store, "b"), await put(store, "c")
    await claim(store, "b")
    await settle(store, await claim(store, "c"), NO_GAP)
    assert [(await store.admin.cancel(m))[0] for m in (waiting, held, done)] == ["cancelled", "too_late", "finished"]
    assert [(await row(store, m)).status for m in (waiting, held, done)] == ["CANCELLED", "PROCESSING", "COMPLETED"]
    with pytest.raises(NotFound):
        await store.admin.cancel(uuid4())


async def test_a_second_cancel_is_finished(store: Store) -> None:
    message = await put(store)
    await store.admin.cancel(message)
    first = await row(store, message)
    assert (await store.admin.cancel(message))[0] == "finished"
    assert (await row(store, message)).processed_at == first.processed_at


async def test_clear_takes_all_that_waits_and_marks_the_one_in_flight(store: Store) -> None:
    held = await put(store)
    await claim(store)
    for _ in range(3):
        await put(store)
    await put(store, "b")
    cleared, dropped = await store.admin.clear_chat(chat("a"))
    assert cleared == Cleared(cancelled=3, in_flight=1)
    assert len(dropped) == 3
    assert (await row(store, held)).cancel_requested_at is not None
    assert await store.stats.counts(INSTANCE, None) == QueueStats(pending=1, processing=1, cancelled=3)


async def test_cancel_pending_goes_by_age_and_account(store: Store) -> None:
    old, young, other = await put(store, "a"), await put(store, "b"), await put(store, "c", instance="other")
    for message in (old, other):
        await change(store, message, "created_at = created_at - interval '2 hours'")
    moment = await store.admin.time_ago(3600)
    dropped = await store.admin.cancel_pending(INSTANCE, created_before=moment)
    assert [d.id for d in dropped] == [old]
    assert (await row(store, young)).status == "PENDING"
    assert (await row(store, other)).status == "PENDING"
    assert await store.admin.cancel_pending(INSTANCE, created_before=moment) == []


async def test_cancel_pending_may_keep_to_one_chat(store: Store) -> None:
    mine, other = await put(store, "a"), await put(store, "b")
    now = await store.admin.time_ago(0)
    later = await put(store, "a")
    dropped = await store.admin.cancel_pending(INSTANCE, chat_id="a", created_before=now)
    assert [d.id for d in dropped] == [mine]
    assert [(await row(store, message)).status for message in (other, later)] == ["PENDING", "PENDING"]


async def finished(store: Store, status: str, *, days_ago: float, instance: str = INSTANCE) -> None:
    message = await put(store, instance=instance)
    ago = f"now() - interval '{days_ago} days'"
    await change(store, message, f"status = '{status}', created_at = {ago}, processed_at = {ago}")


async def test_clean_keeps_what_is_young_or_not_finished(store: Store) -> None:
    for status in ("COMPLETED", "FAILED", "CANCELLED", "PENDING", "PROCESSING"):
        await finished(store, status, days_ago=8)
    await finished(store, "COMPLETED", days_ago=6)
    assert await store.admin.clean(None, retention_days=7) == 3
    assert await store.admin.clean(None, retention_days=7) == 0
    left = await sql(store, "SELECT status FROM message_queue_items ORDER BY status")
    assert [r.status for r in left] == ["COMPLETED", "PENDING", "PROCESSING"]


async def test_an_old_message_that_ended_just_now_is_kept(store: Store) -> None:
    message = await put(store)
    assignments = "status = 'COMPLETED', created_at = now() - interval '30 days', processed_at = now()"
    await change(store, message, assignments)
    assert await store.admin.clean(None, retention_days=7) == 0


async def test_an_account_with_a_retention_of_its_own_is_cleaned_by_it_alone(store: Store) -> None:
    await store.admin.schedule_clean("own", every_hours=1, retention_days=30)
    await finished(store, "COMPLETED", days_ago=8, instance="own")
    await finished(store, "COMPLETED", days_ago=31, instance="own")
    assert await store.admin.clean(None, retention_days=7) == 0
    (plan,) = await store.admin.due_cleans()
    assert (plan.instance, plan.retention_days) == ("own", 30)
    assert await store.admin.due_cleans() == [], "done for this hour"
    assert await store.admin.clean("own", retention_days=30) == 1


async def test_rows_of_idle_chats_go_after_a_day(store: Store) -> None:
    await sql(
        store,
        """INSERT INTO message_queue_chats (instance, chat_id, next_at)
           VALUES ('shop', 'old', now() - interval '25 hours'), ('shop', 'new', now()) RETURNING 1""",
    )
    assert await store.admin.clean_chats() == 1
    assert [r.chat_id for r in await sql(store, "SELECT chat_id FROM message_queue_chats")] == ["new"]


async def test_an_account_belongs_to_one_client(store: Store) -> None:
    await store.admin.initialize("shop", 7)
    await store.admin.initialize("shop", 7)
    with pytest.raises(Conflict, match="another client"):
        await store.admin.initialize("shop", 8)


async def test_counts_are_always_all_five_and_by_client(store: Store) -> None:
    assert await store.stats.counts("nobody", None) == QueueStats()
    await put(store, "a", client_id=7)
    await put(store, "b", client_id=8)
    assert await store.stats.counts(INSTANCE, 7) == QueueStats(pending=1)
    assert (await store.stats.counts(INSTANCE, None)).total == 2


async def test_list_pages_newest_first_with_filters(store: Store) -> None:
    messages = [await put(store, f"c{n % 2}") for n in range(6)]
    await store.admin.cancel(messages[2])
    await settle(store, await claim(store, "c1"))
    first = await store.stats.list(INSTANCE, limit=4)
    rest = await store.stats.list(INSTANCE, after=first[-1], limit=4)
    assert [m.id for m in [*first, *rest]] == messages[::-1], "whatever their states"
    even = await store.stats.list(INSTANCE, chat_id="c0", status="PENDING", limit=9)
    assert [m.id for m in even] == [messages[4], messages[0]]
    assert not hasattr(first[0], "payload")


async def test_list_of_all_accounts_oldest_first(store: Store) -> None:
    messages = [await put(store, instance=name) for name in ("shop", "other", "shop")]
    first = await store.stats.list(oldest_first=True, limit=2)
    rest = await store.stats.list(oldest_first=True, after=first[-1], limit=2)
    assert [m.id for m in [*first, *rest]] == messages


async def test_rows_of_one_moment_are_listed_once(store: Store) -> None:
    messages = [await put(store) for _ in range(5)]
    for message in messages:
        await change(store, message, "created_at = '2026-01-01Z'")
    first = await store.stats.list(limit=3)
    assert [m.id for m in [*first, *await store.stats.list(after=first[-1], limit=3)]] == messages[::-1]


async def test_a_payload_is_told_when_asked_for(store: Store) -> None:
    message = await put(store, payload={"text": "Olá"})
    assert json.loads(await store.stats.payload(message)) == {"text": "Olá"}
    with pytest.raises(NotFound):
        await store.stats.payload(uuid4())


async def test_errors_are_counted_by_their_first_line(store: Store) -> None:
    for name, error in (("a", "Boom: x\nline 2"), ("b", "Boom: x\nline 3"), ("c", "Other")):
        await put(store, name)
        await settle(store, await claim(store, name), Settlement.failed(0.0, error))
    assert [(e.error, e.count) for e in await store.stats.errors(INSTANCE, limit=9)] == [("Boom: x", 2), ("Other", 1)]
    assert await store.stats.errors("nobody", limit=9) == []


async def test_errors_are_counted_among_the_newest_of_each_state(store: Store) -> None:
    for name in "abc":
        await put(store, name)
        await settle(store, await claim(store, name), Settlement.failed(0.0, name))
    await put(store, "d")
    await settle(store, await claim(store, "d"), Settlement.retry(0.0, 9.0, "d"))
    found = await store.stats.errors(limit=9, look_at=2)
    assert [e.error for e in found] == ["b", "c", "d"]


async def test_get_knows_a_message_or_says_not_found(store: Store) -> None:
    message = await put(store)
    assert (await store.stats.get(message)).status == "PENDING"
    with pytest.raises(NotFound):
        await store.stats.get(uuid4())
