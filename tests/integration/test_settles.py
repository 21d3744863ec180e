"""Settle and renew: only the holder of a message's current claim changes it."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest

from mqworker.lifecycle import Settlement
from mqworker.store import Claim, Store
from tests.integration.rows import DEFAULT, NO_GAP, chat, claim, gap_seconds, put, row, settle, sql

FAILED = Settlement.failed(0.0, "no")
RETRY = Settlement.retry(0.0, 5.0, "not yet")
DEFERRED = Settlement.deferred(0.0, 0.0, "slow down")


async def claimed(store: Store, chat_id: str = "a", **fields: object) -> Claim:
    await put(store, chat_id, **fields)
    return await claim(store, chat_id)


async def test_a_completed_message_keeps_who_sent_it_and_its_provider_id(store: Store) -> None:
    held = await claimed(store)
    assert await settle(store, held, Settlement.completed(3.0, "p-1")) == "COMPLETED"
    stored = await row(store, held.message.id)
    assert (stored.status, stored.provider_id, stored.error, stored.retry_count) == ("COMPLETED", "p-1", None, 0)
    assert (stored.lease_expires_at, stored.available_at, stored.worker) == (None, None, "w1")
    assert stored.processed_at >= stored.processing_started_at
    seconds = await gap_seconds(store)
    assert seconds is not None
    assert 2 < seconds <= 3, "the gap runs from the settle"


async def test_a_failed_attempt_is_counted_and_backs_off_in_its_place(store: Store) -> None:
    held = await claimed(store)
    (settled,) = await store.claims.settle([(held, RETRY)])
    assert (settled.status, settled.wait_seconds) == ("PENDING", 5.0)
    stored = await row(store, held.message.id)
    assert (stored.status, stored.retry_count, stored.error) == ("PENDING", 1, "not yet")
    assert 4 < stored.backoff <= 5
    assert (stored.processed_at, stored.lease_expires_at) == (None, None)


async def test_the_next_attempt_clears_the_last_ones_error(store: Store) -> None:
    await settle(store, await claimed(store), replace(RETRY, backoff_seconds=0.0))
    held = await claim(store)
    await settle(store, held)
    assert (await row(store, held.message.id)).error is None


async def test_a_final_failure_is_counted_and_processed(store: Store) -> None:
    held = await claimed(store)
    assert await settle(store, held, FAILED) == "FAILED"
    stored = await row(store, held.message.id)
    assert (stored.retry_count, stored.error, stored.available_at) == (1, "no", None)
    assert stored.processed_at is not None


async def test_a_release_counts_nothing_and_writes_no_gap(store: Store) -> None:
    held = await claimed(store)
    before = await gap_seconds(store)
    assert await settle(store, held, Settlement.released()) == "PENDING"
    stored = await row(store, held.message.id)
    assert (stored.status, stored.retry_count, stored.error, stored.available_at) == ("PENDING", 0, None, None)
    after = await gap_seconds(store)
    assert before is not None
    assert after is not None
    assert after < 0, "the chat may go at once"
    assert (await claim(store)).message.attempt == 1


@pytest.mark.parametrize("settlement", [NO_GAP, FAILED, RETRY, DEFERRED, Settlement.released()])
async def test_a_settle_under_another_claim_changes_nothing(store: Store, settlement: Settlement) -> None:
    held = await claimed(store)
    before = await row(store, held.message.id)
    gap = await sql(store, "SELECT chat_id, next_at::text FROM message_queue_chats")
    assert await settle(store, replace(held, claim_id=uuid4()), settlement) is None
    after = await row(store, held.message.id)
    assert after[: len(after) - 2] == before[: len(before) - 2]
    assert await sql(store, "SELECT chat_id, next_at::text FROM message_queue_chats") == gap


@pytest.mark.parametrize("settlement", [NO_GAP, FAILED, RETRY])
async def test_a_repeat_after_a_broken_connection_tells_the_same_and_changes_nothing(
    store: Store, settlement: Settlement
) -> None:
    held = await claimed(store)
    first = await settle(store, held, settlement)
    stored, gap = (
        await row(store, held.message.id),
        await sql(store, "SELECT chat_id, next_at::text FROM message_queue_chats"),
    )
    assert await settle(store, held, settlement) == first == settlement.status
    again = await row(store, held.message.id)
    assert again[: len(again) - 2] == stored[: len(stored) - 2]
    assert await sql(store, "SELECT chat_id, next_at::text FROM message_queue_chats") == gap, "no second gap is drawn"


async def test_the_first_settle_of_a_claim_counts(store: Store) -> None:
    held = await claimed(store)
    await settle(store, held)
    assert await settle(store, held, FAILED) == "COMPLETED"
    assert (await row(store, held.message.id)).retry_count == 0


@pytest.mark.parametrize("settlement", [FAILED, RETRY, DEFERRED, Settlement.released()])
async def test_a_cancel_in_flight_wins_over_every_end_but_sent(store: Store, settlement: Settlement) -> None:
    held = await claimed(store)
    assert (await store.admin.cancel(held.message.id))[0] == "too_late"
    assert await settle(store, held, settlement) == "CANCELLED"
    stored = await row(store, held.message.id)
    assert (stored.status, stored.retry_count) == ("CANCELLED", int(settlement.counts_attempt))
    assert stored.processed_at is not None
    assert await settle(store, held, settlement) == "CANCELLED", "a repeat says so, too"


async def test_a_batch_tells_each_settlements_own_end_in_its_order(store: Store) -> None:
    for name in "abcd":
        await put(store, name)
    answers = await store.claims.claim([chat(name) for name in "abcd"], DEFAULT)
    a, b, c, d = (one for one in answers if isinstance(one, Claim))
    told = await store.claims.settle([(d, FAILED), (replace(b, claim_id=uuid4()), NO_GAP), (a, RETRY), (c, NO_GAP)])
    assert [(s.status, s.wait_seconds) for s in told] == [
        ("FAILED", 0.0), (None, 0.0), ("PENDING", 5.0), ("COMPLETED", 0.0)
    ]  # fmt: skip
    assert (await row(store, b.message.id)).status == "PROCESSING"


async def test_nothing_to_settle_is_no_statement(store: Store) -> None:
    assert await store.claims.settle([]) == []


async def test_renew_lengthens_our_leases_and_tells_which_are_lost(store: Store) -> None:
    kept, lost, settled = await claimed(store), await claimed(store, "b"), await claimed(store, "c")
    await sql(store, "UPDATE message_queue_items SET lease_expires_at = clock_timestamp() RETURNING 1")
    await sql(store, "UPDATE message_queue_items SET claim_id = gen_random_uuid() WHERE chat_id = 'b' RETURNING 1")
    await settle(store, settled)
    assert await store.claims.renew([kept, lost, settled]) == {kept.claim_id}
    assert 1.5 < (await row(store, kept.message.id)).lease <= 2, "an expired lease that nobody took is renewed"
    assert (await row(store, lost.message.id)).lease <= 0
    assert (await row(store, settled.message.id)).lease_expires_at is None
    assert await store.claims.renew([]) == set()


async def test_no_renewal_reaches_beyond_stale_after(store: Store) -> None:
    held = await claimed(store)
    await sql(
        store,
        """
        UPDATE message_queue_items SET processing_started_at = clock_timestamp() - interval '3599 seconds' RETURNING 1
        """,
    )
    await store.claims.renew([held])
    assert (await row(store, held.message.id)).lease <= 1.0
