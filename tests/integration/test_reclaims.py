"""Reclaim: expired claims are taken back, by their lease's end and never by their age."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from mqworker.store import Claim, Reclaimed, Store
from tests.integration.rows import DEFAULT, chat, claim, gap_seconds, put, row, sql

EXPIRED = "lease_expires_at = clock_timestamp() - interval '1 second'"
HAND_MADE = "status = 'PROCESSING', claim_id = NULL, lease_expires_at = NULL"


@pytest.fixture
def sweeper(new_store: Callable[..., Store]) -> Store:
    """A worker for which PostgreSQL has been up long enough."""
    return new_store("sweeper", lease_seconds=0.0)


async def reclaim(store: Store, *, gap: float = 0.0, limit: int = 500) -> list[Reclaimed]:
    return await store.claims.reclaim(gap_min_seconds=gap, gap_max_seconds=gap, limit=limit)


async def expired(store: Store, chat_id: str = "a", **fields: object) -> Claim:
    """A claim whose worker stopped renewing it."""
    await put(store, chat_id, **fields)
    held = await claim(store, chat_id)
    await sql(store, f"UPDATE message_queue_items SET {EXPIRED} WHERE chat_id = %(chat)s RETURNING 1", chat=chat_id)
    return held


async def by_hand(store: Store, assignments: str) -> None:
    await put(store)
    await sql(store, f"UPDATE message_queue_items SET {HAND_MADE}, {assignments} RETURNING 1")


async def test_an_expired_claim_waits_again_with_one_attempt_counted_one_gap_and_no_backoff(
    store: Store, sweeper: Store
) -> None:
    held = await expired(store, priority=4)
    (back,) = await reclaim(sweeper, gap=30.0)
    assert back == Reclaimed(held.message.id, held.seq, held.chat, "PENDING", 4, 1, 30.0)
    stored = await row(store, held.message.id)
    assert (stored.status, stored.retry_count, stored.claim_id, stored.lease_expires_at) == ("PENDING", 1, None, None)
    assert stored.available_at is None
    assert stored.error == "LeaseExpired: w1 stopped renewing its claim"
    seconds = await gap_seconds(store)
    assert seconds is not None
    assert 25 < seconds <= 30


async def test_the_gap_is_drawn_for_each_chat(store: Store, sweeper: Store) -> None:
    for n in range(20):
        await expired(store, f"c{n}")
    back = await sweeper.claims.reclaim(gap_min_seconds=10, gap_max_seconds=20)
    gaps = {one.wait_seconds for one in back}
    assert len(gaps) == 20
    assert all(10 <= gap <= 20 for gap in gaps)


async def test_a_claim_within_its_lease_is_left_alone_however_old_it_is(store: Store, sweeper: Store) -> None:
    await put(store)
    held = await claim(store)
    await sql(
        store,
        """
        UPDATE message_queue_items
        SET processing_started_at = clock_timestamp() - interval '3 days', updated_at = processing_started_at
        RETURNING 1
        """,
    )
    assert await reclaim(sweeper) == []
    assert (await row(store, held.message.id)).claim_id == held.claim_id


@pytest.mark.parametrize("status", ["PENDING", "COMPLETED", "FAILED", "CANCELLED"])
async def test_nothing_but_a_claim_is_taken_back(store: Store, sweeper: Store, status: str) -> None:
    held = await expired(store)
    await sql(store, f"UPDATE message_queue_items SET status = '{status}' RETURNING 1")
    assert await reclaim(sweeper) == []
    assert (await row(store, held.message.id)).retry_count == 0


async def test_a_row_put_in_as_processing_two_hours_ago_is_taken_back(store: Store, sweeper: Store) -> None:
    await by_hand(store, "processing_started_at = clock_timestamp() - interval '2 hours'")
    (back,) = await reclaim(sweeper)
    assert back.status == "PENDING"
    stored = await row(store, back.id)
    assert (stored.retry_count, stored.error) == (1, "LeaseExpired: a worker stopped renewing its claim")
    assert (await claim(store)).message.id == back.id


async def test_a_row_put_in_as_processing_just_now_is_left_until_it_is_stale(store: Store, sweeper: Store) -> None:
    await by_hand(store, "processing_started_at = clock_timestamp() - interval '59 minutes'")
    assert await reclaim(sweeper) == []


async def test_a_row_without_any_time_of_its_start_goes_by_its_last_change(store: Store, sweeper: Store) -> None:
    await by_hand(store, "processing_started_at = NULL")
    assert await reclaim(sweeper) == []
    await sql(
        store, "UPDATE message_queue_items SET updated_at = clock_timestamp() - interval '61 minutes' RETURNING 1"
    )
    assert len(await reclaim(sweeper)) == 1


async def test_a_message_whose_cancel_was_asked_for_ends_cancelled(store: Store, sweeper: Store) -> None:
    held = await expired(store)
    await store.admin.cancel(held.message.id)
    assert [one.status for one in await reclaim(sweeper)] == ["CANCELLED"]
    assert (await row(store, held.message.id)).processed_at is not None


async def test_after_a_restart_of_postgresql_workers_that_live_on_may_renew_first(
    store: Store, new_store: Callable[..., Store]
) -> None:
    held = await expired(store)
    # The server of the tests is younger than that.
    patient = new_store("patient", lease_seconds=86_400.0)
    assert await reclaim(patient) == []
    assert await store.claims.renew([held]) == {held.claim_id}


async def test_a_pass_takes_no_more_than_its_limit(store: Store, sweeper: Store) -> None:
    for n in range(5):
        await expired(store, f"c{n}")
    assert [len(await reclaim(sweeper, limit=2)) for _ in range(4)] == [2, 2, 1, 0]


async def test_what_is_being_settled_at_this_moment_is_passed_over(store: Store, sweeper: Store) -> None:
    held, other = await expired(store), await expired(store, "b")
    async with store.database.connections.use() as connection, connection.transaction():
        await connection.execute("SELECT 1 FROM message_queue_items WHERE id = %s FOR UPDATE", (held.message.id,))
        assert [one.id for one in await reclaim(sweeper)] == [other.message.id]


async def test_several_sweepers_at_once_take_each_claim_back_once(
    store: Store, new_store: Callable[..., Store]
) -> None:
    for n in range(40):
        await put(store, f"c{n}")
    await store.claims.claim([chat(f"c{n}") for n in range(40)], DEFAULT)
    await sql(store, f"UPDATE message_queue_items SET {EXPIRED} RETURNING 1")

    sweepers = [new_store(f"s{n}", lease_seconds=0.0) for n in range(3)]
    batches = await asyncio.gather(*(reclaim(one) for one in sweepers))
    ids = [one.id for batch in batches for one in batch]
    assert len(ids) == len(set(ids)) == 40
    counts = await sql(store, "SELECT DISTINCT retry_count FROM message_queue_items")
    assert [one.retry_count for one in counts] == [1]
