"""What people ask of the store, on PostgreSQL and in memory."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from mqworker.errors import Conflict, NotFound
from mqworker.lifecycle import Settlement
from mqworker.message import QueueStats
from mqworker.store import Store
from mqworker.store.admin import CleanPlan
from tests.integration.rows import INSTANCE, claim, put, settle

NO_DAYS = 1e-10
"""A retention that has passed by the next statement."""


async def one_of_each(store: Store) -> None:
    """A PENDING, a PROCESSING, a COMPLETED, a FAILED and a CANCELLED message, each in a chat of its own."""
    await put(store, "waits")
    await put(store, "flies", client_id=8)
    await claim(store, "flies")
    await put(store, "sent")
    await settle(store, await claim(store, "sent"))
    await put(store, "failed")
    await settle(store, await claim(store, "failed"), Settlement.failed(0.0, "no\nsecond line"))
    await store.admin.cancel(await put(store, "cancelled"))


async def test_counts_are_of_an_account_or_of_a_client_in_it(store: Store) -> None:
    await one_of_each(store)
    await put(store, instance="other")
    assert await store.stats.counts(INSTANCE, None) == QueueStats(1, 1, 1, 1, 1)
    assert await store.stats.counts(INSTANCE, 8) == QueueStats(processing=1)
    assert await store.stats.counts("nobody", None) == QueueStats()


async def test_a_payload_is_what_was_given(store: Store) -> None:
    payload = {"text": 'ü "\\ {,}', "n": [1, None]}
    assert json.loads(await store.stats.payload(await put(store, payload=payload))) == payload
    with pytest.raises(NotFound):
        await store.stats.payload(uuid4())


@pytest.mark.parametrize("oldest_first", [True, False])
async def test_lists_go_on_where_the_last_one_ended(store: Store, oldest_first: bool) -> None:
    ids = [await put(store, f"c{n % 2}", instance="other" if n == 4 else INSTANCE) for n in range(9)]
    wanted = {None: ids, INSTANCE: [*ids[:4], *ids[5:]], "other": ids[4:5]}
    for instance, expected in wanted.items():
        found, after = [], None
        while page := await store.stats.list(instance, after=after, oldest_first=oldest_first, limit=2):
            found += [message.id for message in page]
            after = page[-1]
        assert found == (expected if oldest_first else expected[::-1])


async def test_lists_keep_to_a_chat_and_to_a_state(store: Store) -> None:
    await one_of_each(store)
    (waiting,) = await store.stats.list(INSTANCE, status="PENDING", limit=9)
    (in_chat,) = await store.stats.list(INSTANCE, chat_id="waits", limit=9)
    assert waiting == in_chat
    assert waiting.chat_id == "waits"
    assert await store.stats.list(INSTANCE, chat_id="waits", status="FAILED", limit=9) == []
    assert len(await store.stats.list(limit=9)) == 5


async def test_errors_are_counted_by_their_first_line(store: Store) -> None:
    for n, error in enumerate(["no\n1", "no\n2", "other", "no\n3"]):
        await put(store, f"c{n}", instance="other" if n == 3 else INSTANCE)
        held = await claim(store, f"c{n}") if n < 3 else None
        if held is not None:
            await settle(store, held, Settlement.failed(0.0, error))
    of_all = await store.stats.errors(limit=9)
    assert [(one.error, one.count) for one in of_all] == [("no", 2), ("other", 1)]
    assert [one.error for one in await store.stats.errors(INSTANCE, limit=1)] == ["no"]
    assert await store.stats.errors("other", limit=9) == []
    assert abs(of_all[0].last_seen_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert [one.count for one in await store.stats.errors(limit=9, look_at=1)] == [1]


async def test_cancel_pending_takes_the_oldest_first_up_to_a_moment(store: Store) -> None:
    ids = [await put(store, name) for name in "aab"]
    await claim(store, "b")
    moment = await store.admin.time_ago(0)
    late = await put(store, "a")
    assert await store.admin.cancel_pending(INSTANCE, created_before=await store.admin.time_ago(3600)) == []
    assert await store.admin.cancel_pending(INSTANCE, chat_id="b", created_before=moment) == []
    dropped = await store.admin.cancel_pending(INSTANCE, created_before=moment)
    assert sorted(one.id for one in dropped) == sorted(ids[:2])
    assert (await store.stats.get(late)).status == "PENDING"
    assert await store.stats.counts(INSTANCE, None) == QueueStats(pending=1, processing=1, cancelled=2)


async def test_an_account_belongs_to_one_client(store: Store) -> None:
    for _ in range(2):
        await store.admin.initialize(INSTANCE, 7)
    with pytest.raises(Conflict):
        await store.admin.initialize(INSTANCE, 8)
    await store.admin.initialize("other", 8)


async def test_what_ended_before_its_retention_is_deleted(store: Store) -> None:
    await one_of_each(store)
    assert await store.admin.clean(None, retention_days=1) == 0
    assert await store.admin.clean(INSTANCE, retention_days=1) == 0
    assert await store.admin.clean("other", retention_days=NO_DAYS) == 0
    assert await store.admin.clean(INSTANCE, retention_days=NO_DAYS) == 3
    assert await store.stats.counts(INSTANCE, None) == QueueStats(pending=1, processing=1)


async def test_an_account_with_a_cleanup_of_its_own_is_due_by_itself_and_left_out_elsewhere(store: Store) -> None:
    await one_of_each(store)
    assert await store.admin.due_cleans() == []
    await store.admin.schedule_clean(INSTANCE, every_hours=1, retention_days=2)
    assert await store.admin.due_cleans() == [CleanPlan(INSTANCE, 2)]
    assert await store.admin.due_cleans() == []
    assert await store.admin.clean(None, retention_days=NO_DAYS) == 0
    await store.admin.schedule_clean(INSTANCE, every_hours=1e-9, retention_days=2)
    assert await store.admin.due_cleans() == [CleanPlan(INSTANCE, 2)], "a billionth of an hour has passed"
