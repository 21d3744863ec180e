"""The claim: which message of a chat may go now, and what is said where none may."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mqworker.lifecycle import Settlement
from mqworker.message import ChatKey
from mqworker.store import Claim, NotNow, Store
from mqworker.testing.waiting import eventually
from tests.integration.rows import (
    DEFAULT,
    INSTANCE,
    ask,
    change,
    chat,
    claim,
    end_gap,
    gap_seconds,
    put,
    refused,
    row,
    settle,
    sql,
)


async def test_the_head_is_the_highest_priority_then_the_earliest_seq(store: Store) -> None:
    low = await put(store, priority=-1)
    first, second = await put(store), await put(store)
    high = await put(store, priority=100)
    order = []
    for _ in range(4):
        held = await claim(store)
        order.append(held.message.id)
        await settle(store, held)
    assert order == [high, first, second, low]


async def test_a_claim_carries_the_message_and_marks_its_row(store: Store) -> None:
    message_id = await put(
        store, payload={"text": "ünï", "n": [1, None]}, is_group=True, priority=3, max_retries=9, executor="other"
    )
    held = await claim(store, executors=["default", "other"])
    message, stored = held.message, await row(store, message_id)
    assert (message.id, message.instance, message.chat_id, message.client_id) == (message_id, INSTANCE, "a", 7)
    assert message.payload == {"text": "ünï", "n": [1, None]}
    assert (message.is_group, message.priority, message.max_retries, message.executor) == (True, 3, 9, "other")
    assert (message.attempt, held.seq, held.undecodable) == (1, stored.seq, None)
    assert (stored.status, stored.claim_id, stored.worker) == ("PROCESSING", held.claim_id, "w1")
    assert 0 < stored.lease <= 2.0, "the lease is lease_seconds"
    assert stored.processing_started_at is not None


async def test_one_message_of_a_chat_is_in_flight_and_the_refusal_says_until_when(store: Store) -> None:
    await put(store)
    await put(store, priority=50)
    held = await claim(store)
    answer = await refused(store)
    assert answer.reason == "in_flight"
    assert 0.5 <= answer.wait_seconds <= 2.0
    assert await settle(store, held) == "COMPLETED"
    assert isinstance(await ask(store), Claim)


async def test_an_expired_claim_that_nobody_took_back_still_holds_its_chat(store: Store) -> None:
    await put(store)
    await put(store)
    held = await claim(store)
    await change(store, held.message.id, "lease_expires_at = clock_timestamp() - interval '1 hour'")
    assert (await refused(store)).reason == "in_flight"


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


async def test_the_gap_is_waited_for_and_its_rest_is_told(store: Store) -> None:
    held = await _claimed(store)
    await put(store, priority=100)
    await settle(store, held, Settlement.completed(20.0, None))
    answer = await refused(store)
    assert answer.reason == "waits"
    assert 15 < answer.wait_seconds <= 20
    await end_gap(store)
    assert isinstance(await ask(store), Claim)


async def test_the_gap_outlives_an_empty_queue(store: Store) -> None:
    await settle(store, await _claimed(store), Settlement.completed(20.0, None))
    assert (await refused(store)).reason == "waits" or (await refused(store)).reason == "empty"
    await put(store)
    assert (await refused(store)).reason == "waits"


async def test_a_gap_ends_by_itself(store: Store) -> None:
    held = await _claimed(store)
    await put(store)
    await settle(store, held, Settlement.completed(0.3, None))
    assert (await refused(store)).reason == "waits"

    async def claimed() -> bool:
        return isinstance(await ask(store), Claim)

    await eventually(claimed, "the gap has passed")


async def test_a_shorter_gap_never_replaces_a_longer_one(store: Store) -> None:
    held = await _claimed(store)
    await sql(store, "UPDATE message_queue_chats SET next_at = clock_timestamp() + interval '1 hour' RETURNING 1")
    await settle(store, held, Settlement.completed(1.0, None))
    seconds = await gap_seconds(store)
    assert seconds is not None
    assert seconds > 3000


async def test_a_backoff_holds_its_own_priority_and_lower_while_a_higher_one_passes(store: Store) -> None:
    failed = await put(store, priority=5)
    same, lower = await put(store, priority=5), await put(store, priority=0)
    await settle(store, await claim(store), Settlement.retry(0.0, 60.0, "it failed"))
    answer = await refused(store)
    assert answer.reason == "waits"
    assert 50 < answer.wait_seconds <= 60
    higher = await put(store, priority=6)
    held = await claim(store)
    assert held.message.id == higher
    await settle(store, held)
    assert (await refused(store)).reason == "waits", "what stands behind the backoff still waits"
    await change(store, failed, "available_at = clock_timestamp()")
    order = []
    for _ in range(3):
        held = await claim(store)
        order.append(held.message.id)
        await settle(store, held)
    assert order == [failed, same, lower], "a retried message keeps its place"


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


async def test_retry_after_for_an_instance_holds_all_of_its_chats_and_no_others(store: Store) -> None:
    held = await _claimed(store)
    await put(store, "b")
    await put(store, "a", instance="other")
    assert await settle(store, held, Settlement.deferred(0.0, 30.0, "slow down")) == "PENDING"
    for name in ("a", "b"):
        answer = await refused(store, name)
        assert answer.reason == "waits"
        assert 25 < answer.wait_seconds <= 30
    (other,) = await store.claims.claim([ChatKey("other", "a")], DEFAULT)
    assert isinstance(other, Claim)


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


async def test_a_wait_is_told_as_one_day_at_most(store: Store) -> None:
    held = await _claimed(store)
    await settle(store, held, Settlement.deferred(7 * 86_400.0, 0.0, "next week"))
    assert 86_000 < (await refused(store)).wait_seconds <= 86_400


async def test_a_message_for_another_executor_waits_and_holds_its_chat(store: Store) -> None:
    other = await put(store, executor="other")
    await put(store)
    assert await refused(store) == NotNow("executor", 1.0)
    assert (await claim(store, executors=["other"])).message.id == other


async def test_a_scheduled_message_stands_outside_until_it_is_due_then_enters_by_priority(store: Store) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    scheduled = await put(store, priority=50, scheduled_at=later)
    first, second = await put(store), await put(store, priority=60)
    held = await claim(store)
    assert held.message.id == second
    await settle(store, held)
    await change(store, scheduled, "scheduled_at = clock_timestamp() - interval '1 second'")
    order = []
    for _ in range(2):
        held = await claim(store)
        order.append(held.message.id)
        await settle(store, held)
    assert order == [scheduled, first], "now it is the highest priority that waits"


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
    order = []
    for _ in range(3):
        held = await claim(store)
        order.append(held.message.id)
        await settle(store, held)
    assert order == [first, second, third]


async def test_a_message_that_is_due_in_a_moment_is_named(store: Store) -> None:
    """Redis' clock may run ahead a little: told 'empty', it would forget the message."""
    message_id = await put(store, scheduled_at=datetime.now(UTC) + timedelta(seconds=20))
    answer = await refused(store)
    assert answer.reason == "waits"
    assert answer.scheduled is not None
    assert answer.scheduled.id == message_id
    assert 0 < answer.scheduled.due_seconds <= 20


async def test_a_message_scheduled_for_much_later_leaves_its_chat_empty(store: Store) -> None:
    await put(store, scheduled_at=datetime.now(UTC) + timedelta(hours=2))
    assert await refused(store) == NotNow("empty", 0.0)


async def test_answers_stand_in_the_order_of_the_question(store: Store) -> None:
    ids = {name: await put(store, name) for name in "dbac"}
    await put(store, "e", executor="other")
    held = await claim(store, "b")
    asked = ["c", "nothing", "b", "e", "a", "d"]
    answers = await store.claims.claim([chat(name) for name in asked], DEFAULT)
    told = [a.message.id if isinstance(a, Claim) else a.reason for a in answers]
    assert told == [ids["c"], "empty", "in_flight", "executor", ids["a"], ids["d"]]
    assert held.message.id == ids["b"]


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
            VALUES (:instance, :chat_id, 7, '{}') RETURNING 1
            """,
            **key._asdict(),
        )
    answers = await store.claims.claim(chats, DEFAULT)
    assert [a.chat for a in answers if isinstance(a, Claim)] == chats
