"""The claim: which message of a chat may go now, and what is said where none may."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mqworker.lifecycle import Settlement
from mqworker.message import ChatKey
from mqworker.store import Claim, NotNow, Store
from tests.integration.rows import (
    DEFAULT,
    INSTANCE,
    ask,
    change,
    chat,
    claim,
    gap_seconds,
    put,
    refused,
    row,
    sent_in_turn,
    settle,
    sql,
)


async def test_a_claim_marks_its_row(store: Store) -> None:
    held = await _claimed(store)
    stored = await row(store, held.message.id)
    assert (stored.status, stored.claim_id, stored.worker) == ("PROCESSING", held.claim_id, "w1")
    assert 0 < stored.lease <= 2.0, "the lease is lease_seconds"
    assert stored.processing_started_at is not None


async def test_a_claim_by_hand_without_a_lease_is_asked_for_again_soon(store: Store) -> None:
    message_id = await put(store)
    await change(store, message_id, "status = 'PROCESSING'")
    assert await refused(store) == NotNow("in_flight", 0.5)


async def test_a_chat_without_messages_is_empty(store: Store) -> None:
    await settle(store, await _claimed(store))
    assert await refused(store) == NotNow("empty", 0.0)
    assert await refused(store, "never seen") == NotNow("empty", 0.0)


async def _claimed(store: Store) -> Claim:
    await put(store)
    return await claim(store)


@pytest.mark.parametrize("status", ["COMPLETED", "FAILED", "CANCELLED"])
async def test_finished_messages_are_never_claimed(store: Store, status: str) -> None:
    await change(store, await put(store), f"status = '{status}'")
    assert (await refused(store)).reason == "empty"


async def test_a_shorter_gap_never_replaces_a_longer_one(store: Store) -> None:
    held = await _claimed(store)
    await sql(store, "UPDATE message_queue_chats SET next_at = clock_timestamp() + interval '1 hour' RETURNING 1")
    await settle(store, held, Settlement.completed(1.0, None))
    seconds = await gap_seconds(store)
    assert seconds is not None
    assert seconds > 3000


async def test_the_rest_of_a_backoff_is_told_and_a_retried_message_keeps_its_place(store: Store) -> None:
    failed = await put(store, priority=5)
    same, lower = await put(store, priority=5), await put(store, priority=0)
    await settle(store, await claim(store), Settlement.retry(0.0, 60.0, "it failed"))
    answer = await refused(store)
    assert answer.reason == "waits"
    assert 50 < answer.wait_seconds <= 60
    await change(store, failed, "available_at = clock_timestamp()")
    assert await sent_in_turn(store, 3) == [failed, same, lower]


async def test_a_claim_counts_the_attempts_before_it(store: Store) -> None:
    held = await _claimed(store)
    await settle(store, held, Settlement.retry(0.0, 0.0, "it failed"))
    again = await claim(store)
    assert (again.message.id, again.message.attempt, again.message.retry_count) == (held.message.id, 2, 1)
    assert again.claim_id != held.claim_id


async def test_retry_after_for_a_chat_holds_that_chat_alone(store: Store) -> None:
    held = await _claimed(store)
    await put(store, "b")
    assert await settle(store, held, Settlement.deferred(30.0, 0.0, "slow down")) == "PENDING"
    assert (await refused(store)).wait_seconds > 25
    assert isinstance(await ask(store, "b"), Claim)
    assert (await row(store, held.message.id)).retry_count == 0, "no attempt is counted"


async def test_a_longer_wait_of_an_instance_is_never_shortened(store: Store) -> None:
    held = await _claimed(store)
    await settle(store, held, Settlement.deferred(0.0, 3600.0, "slow down"))
    await put(store, "b")
    await sql(store, "UPDATE message_queue_instances SET client_id = 9 RETURNING 1")
    await change(store, await put(store, "c"), "status = 'PROCESSING', claim_id = gen_random_uuid()")
    (found,) = await sql(store, "SELECT id, claim_id FROM message_queue_items WHERE chat_id = 'c'")
    late = Claim(found.claim_id, 0, held.message.__class__(**{**_fields(held), "id": found.id, "chat_id": "c"}))
    assert await settle(store, late, Settlement.deferred(0.0, 1.0, "slow down")) == "PENDING"
    assert (await refused(store, "b")).wait_seconds > 3000
    (account,) = await sql(store, "SELECT client_id FROM message_queue_instances")
    assert account.client_id == 9, "who owns the account stays as it is"


def _fields(held: Claim) -> dict[str, object]:
    return {name: getattr(held.message, name) for name in held.message.__dataclass_fields__}


async def test_a_scheduled_message_stands_outside_until_it_is_due_then_enters_by_priority(store: Store) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    scheduled = await put(store, priority=50, scheduled_at=later)
    first, second = await put(store), await put(store, priority=60)
    held = await claim(store)
    assert held.message.id == second
    await settle(store, held)
    await change(store, scheduled, "scheduled_at = clock_timestamp() - interval '1 second'")
    assert await sent_in_turn(store, 2) == [scheduled, first], "now it is the highest priority that waits"


async def test_a_due_message_of_low_priority_waits_for_a_higher_one_that_came_later(store: Store) -> None:
    due = await put(store, scheduled_at=datetime.now(UTC) - timedelta(seconds=1))
    higher = await put(store, priority=1)
    held = await claim(store)
    assert held.message.id == higher
    await settle(store, held)
    assert (await claim(store)).message.id == due


async def test_due_messages_of_equal_priority_go_by_seq_and_not_by_their_schedule(store: Store) -> None:
    hour_ago, minute_ago = "interval '1 hour'", "interval '1 minute'"
    first = await put(store, scheduled_at=datetime.now(UTC))
    second, third = await put(store), await put(store, scheduled_at=datetime.now(UTC))
    await change(store, first, f"scheduled_at = clock_timestamp() - {minute_ago}")
    await change(store, third, f"scheduled_at = clock_timestamp() - {hour_ago}")
    assert await sent_in_turn(store, 3) == [first, second, third]


async def test_no_chats_is_no_question(store: Store) -> None:
    assert await store.claims.claim([], DEFAULT) == []


@pytest.mark.parametrize("payload", ["[1, 2]", '"text"', "null", "7"])
async def test_a_payload_that_is_no_object_is_claimed_and_told_as_undecodable(store: Store, payload: str) -> None:
    bad, good = await put(store, "bad"), await put(store, "good")
    await change(store, bad, f"payload = '{payload}'")
    answers = await store.claims.claim([chat("bad"), chat("good")], DEFAULT)
    first, second = answers
    assert isinstance(first, Claim)
    assert first.undecodable is not None
    assert first.message.payload == {}
    assert isinstance(second, Claim)
    assert (second.message.id, second.undecodable) == (good, None)


async def test_ids_with_any_text_are_chats_of_their_own(store: Store) -> None:
    names = ["a", "a ", "A", "{a}:%", "ünï", "a'b\"c", "123@g.us"]
    chats = [ChatKey(INSTANCE, name) for name in names]
    for key in chats:
        await sql(
            store,
            """
            INSERT INTO message_queue_items (instance, chat_id, client_id, payload)
            VALUES (%(instance)s, %(chat_id)s, 7, '{}') RETURNING 1
            """,
            **key._asdict(),
        )
    answers = await store.claims.claim(chats, DEFAULT)
    assert [a.chat for a in answers if isinstance(a, Claim)] == chats
