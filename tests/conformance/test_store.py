"""What the worker asks of the store, on PostgreSQL and in memory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from mqworker.errors import Conflict, NotFound
from mqworker.lifecycle import Settlement
from mqworker.message import ChatKey, Enqueued
from mqworker.store import Claim, NotNow, Store
from mqworker.testing.waiting import eventually
from tests.conftest import NewStore
from tests.integration.rows import INSTANCE, NO_GAP, ask, chat, claim, new_message, put, refused, sent_in_turn, settle

HOUR = 3600.0
DAY = 24 * HOUR


async def due_in(store: Store, seconds: float, chat_id: str = "a", **fields: object) -> UUID:
    return await put(store, chat_id, scheduled_at=datetime.now(UTC) + timedelta(seconds=seconds), **fields)


async def status(store: Store, message_id: UUID) -> tuple[str, int]:
    stored = await store.stats.get(message_id)
    return stored.status, stored.retry_count


# the claim


async def test_the_head_is_the_highest_priority_then_the_earliest_seq(store: Store) -> None:
    low = await put(store, priority=-1)
    first, second = await put(store), await put(store)
    high = await put(store, priority=100)
    assert await sent_in_turn(store, 4) == [high, first, second, low]
    assert await refused(store) == NotNow("empty", 0.0)


async def test_a_claim_carries_the_message(store: Store) -> None:
    given = {"payload": {"text": 'ü "\\ {,}', "n": [1, None]}, "is_group": True, "priority": 3, "max_retries": 9}
    message_id = await put(store, 'c,"{}\\', executor="other", **given)
    held = await claim(store, 'c,"{}\\', ["default", "other"])
    message = held.message
    assert (message.id, message.instance, message.chat_id, message.client_id) == (message_id, INSTANCE, 'c,"{}\\', 7)
    assert (message.payload, message.is_group, message.priority, message.max_retries) == tuple(given.values())
    assert (message.executor, message.attempt, held.undecodable) == ("other", 1, None)
    assert abs((datetime.now(UTC) - message.created_at).total_seconds()) < 5
    stored = await store.stats.get(message_id)
    assert (stored.status, stored.worker, stored.seq) == ("PROCESSING", "w1", held.seq)


async def test_one_message_of_a_chat_is_in_flight_and_the_refusal_says_until_when(store: Store) -> None:
    await put(store)
    await put(store, priority=50)
    await claim(store)
    answer = await refused(store)
    assert answer.reason == "in_flight"
    assert 0.5 <= answer.wait_seconds <= 2.0


async def test_an_expired_claim_that_nobody_took_back_still_holds_its_chat(new_store: NewStore) -> None:
    store = new_store(lease_seconds=0.0)
    await put(store)
    await put(store)
    await claim(store)
    assert await refused(store) == NotNow("in_flight", 0.5)


async def test_the_gap_is_waited_for_its_rest_is_told_and_it_ends(store: Store) -> None:
    await put(store)
    await settle(store, await claim(store), Settlement.completed(HOUR, None))
    assert (await refused(store)).reason == "empty"
    await put(store, priority=100)
    answer = await refused(store)
    assert (answer.reason, round(answer.wait_seconds / 60)) == ("waits", 60)
    for _ in range(2):
        await put(store, "b")
    await settle(store, await claim(store, "b"), Settlement.completed(0.1, None))
    assert (await refused(store, "b")).reason == "waits"

    async def free() -> bool:
        return isinstance(await ask(store, "b"), Claim)

    await eventually(free, "the gap has passed")


async def test_a_backoff_holds_its_own_priority_and_lower_while_a_higher_one_passes(store: Store) -> None:
    first = await put(store)
    await put(store)
    await put(store, priority=-1)
    await settle(store, await claim(store), Settlement.retry(0.0, HOUR, "no"))
    assert (await refused(store)).reason == "waits"
    high = await put(store, priority=1)
    held = await claim(store)
    assert held.message.id == high
    await settle(store, held)
    assert (await refused(store)).reason == "waits"
    await store.admin.cancel(first)
    assert isinstance(await ask(store), Claim)


async def test_a_wait_of_the_account_holds_all_of_its_chats_and_no_others(store: Store) -> None:
    for name in ("a", "b"):
        await put(store, name)
    await put(store, "a", instance="other")
    await settle(store, await claim(store), Settlement.deferred(0.0, HOUR, "wait"))
    for name in ("a", "b"):
        answer = await refused(store, name)
        assert (answer.reason, round(answer.wait_seconds / 60)) == ("waits", 60)
    (other,) = await store.claims.claim([ChatKey("other", "a")], ["default"])
    assert isinstance(other, Claim)


@pytest.mark.parametrize(
    "settlement",
    [Settlement.retry(0.0, 7 * DAY, "no"), Settlement.deferred(7 * DAY, 0.0, "wait")],
    ids=["backoff", "gap"],
)
async def test_a_wait_is_told_as_one_day_at_most(store: Store, settlement: Settlement) -> None:
    await put(store)
    await settle(store, await claim(store), settlement)
    assert DAY - 400 < (await refused(store)).wait_seconds <= DAY


async def test_a_message_for_another_executor_waits_and_holds_its_chat(store: Store) -> None:
    other = await put(store, executor="other")
    await put(store)
    assert await refused(store) == NotNow("executor", 1.0)
    assert (await claim(store, executors=["other"])).message.id == other


async def test_a_scheduled_message_stands_outside_until_it_is_due_then_enters_by_priority(store: Store) -> None:
    await due_in(store, 2 * HOUR, priority=9)
    assert await refused(store) == NotNow("empty", 0.0)
    plain = await put(store)
    past = await due_in(store, -HOUR, priority=1)
    assert await sent_in_turn(store, 2) == [past, plain]


async def test_a_message_that_is_due_in_a_moment_is_named(store: Store) -> None:
    """Redis' clock may run ahead a little: told 'empty', it would forget the message."""
    message_id = await due_in(store, 30)
    answer = await refused(store)
    assert answer.reason == "waits"
    assert answer.scheduled is not None
    assert (answer.scheduled.id, answer.scheduled.chat) == (message_id, chat("a"))
    assert 0 < answer.scheduled.due_seconds <= 30


async def test_answers_stand_in_the_order_of_the_question(store: Store) -> None:
    ids = {name: await put(store, name) for name in "dbac"}
    await put(store, "e", executor="other")
    assert (await claim(store, "b")).message.id == ids["b"]
    asked = ["c", "nothing", "b", "e", "a", "d"]
    answers = await store.claims.claim([chat(name) for name in asked], ["default"])
    told = [a.message.id if isinstance(a, Claim) else a.reason for a in answers]
    assert told == [ids["c"], "empty", "in_flight", "executor", ids["a"], ids["d"]]


# settle, renew, reclaim


@pytest.mark.parametrize(
    ("settlement", "expected"),
    [
        (Settlement.completed(0.0, "p-1"), ("COMPLETED", 0)),
        (Settlement.failed(0.0, "no"), ("FAILED", 1)),
        (Settlement.retry(0.0, 0.0, "no"), ("PENDING", 1)),
        (Settlement.deferred(0.0, 0.0, "wait"), ("PENDING", 0)),
        (Settlement.released(), ("PENDING", 0)),
    ],
    ids=["completed", "failed", "retry", "deferred", "released"],
)
async def test_a_settle_writes_its_end_and_a_repeat_after_a_lost_reply_tells_the_same(
    store: Store, settlement: Settlement, expected: tuple[str, int]
) -> None:
    message_id = await put(store)
    held = await claim(store)
    for _ in range(2):
        assert await settle(store, held, settlement) == expected[0]
        assert await status(store, message_id) == expected
    stored = await store.stats.get(message_id)
    assert (stored.error, stored.provider_id) == (settlement.error, settlement.provider_id)
    assert (stored.processed_at is None) == (expected[0] == "PENDING")


async def test_a_settle_that_comes_late_changes_nothing(new_store: NewStore) -> None:
    slow, other = new_store("slow", lease_seconds=0.0), new_store("other")
    message_id = await put(slow)
    lost = await claim(slow)
    assert await settle(slow, Claim(uuid4(), lost.seq, lost.message)) is None
    assert len(await slow.claims.reclaim(gap_min_seconds=0, gap_max_seconds=0)) == 1
    assert await settle(slow, lost) is None
    held = await claim(other)
    assert await settle(slow, lost) is None
    assert await status(slow, message_id) == ("PROCESSING", 1)
    assert held.message.attempt == 2
    assert await settle(other, held) == "COMPLETED"
    assert await settle(slow, lost, Settlement.failed(0.0, "no")) is None
    assert await status(slow, message_id) == ("COMPLETED", 1)


async def test_a_cancel_in_flight_wins_over_every_end_but_sent(store: Store) -> None:
    for settlement, end in ((Settlement.retry(0.0, 0.0, "no"), "CANCELLED"), (NO_GAP, "COMPLETED")):
        message_id = await put(store)
        held = await claim(store)
        assert (await store.admin.cancel(message_id))[0] == "too_late"
        assert await settle(store, held, settlement) == end
        assert (await store.admin.cancel(message_id))[0] == "finished"


async def test_renew_tells_which_claims_are_still_ours(new_store: NewStore) -> None:
    store = new_store()
    for name in ("a", "b", "c"):
        await put(store, name)
    kept, settled = await claim(store, "a"), await claim(store, "b")
    await settle(store, settled)
    strange = Claim(uuid4(), 1, (await claim(store, "c")).message)
    assert await store.claims.renew([kept, settled, strange]) == {kept.claim_id}


async def test_claims_that_a_worker_never_heard_of_are_given_back_uncounted(new_store: NewStore) -> None:
    store, other = new_store(worker="w1"), new_store(worker="w2")
    ids = [await put(store, name) for name in ("held", "stray", "cancelled", "strange")]
    held = await claim(store, "held")
    for name in ("stray", "cancelled"):
        await claim(store, name)
    await claim(other, "strange")
    await store.admin.cancel(ids[2])
    assert await store.claims.release_strays([held]) == 2
    assert [await status(store, one) for one in ids] == [
        ("PROCESSING", 0),
        ("PENDING", 0),
        ("CANCELLED", 0),
        ("PROCESSING", 0),
    ]
    assert (await claim(other, "stray")).message.id == ids[1], "no gap: nothing was sent"


async def test_no_renewal_reaches_beyond_stale_after(new_store: NewStore) -> None:
    store = new_store(lease_seconds=0.0, stale_after_seconds=0.0)
    await put(store)
    held = await claim(store)
    assert await new_store("w2", stale_after_seconds=0.0).claims.renew([held]) == {held.claim_id}
    assert len(await store.claims.reclaim(gap_min_seconds=0, gap_max_seconds=0)) == 1


async def test_reclaim_counts_an_attempt_and_the_last_one_fails(new_store: NewStore) -> None:
    store = new_store(lease_seconds=0.0)
    message_id = await put(store, max_retries=2)
    ends = []
    for is_last in (False, True):
        assert (await claim(store)).message.last_attempt == is_last
        (taken,) = await store.claims.reclaim(gap_min_seconds=0, gap_max_seconds=0)
        ends.append((taken.id, taken.chat, taken.status))
    assert ends == [(message_id, chat(), "PENDING"), (message_id, chat(), "FAILED")]
    stored = await store.stats.get(message_id)
    assert (stored.status, stored.retry_count) == ("FAILED", 2)
    assert stored.processed_at is not None
    assert (stored.error or "").startswith("LeaseExpired: w1")


async def test_reclaim_holds_the_chat_for_a_gap_ends_a_cancelled_message_and_keeps_to_its_limit(
    new_store: NewStore,
) -> None:
    store = new_store(lease_seconds=0.0)
    for name in ("a", "b", "c"):
        await put(store, name)
        await claim(store, name)
    await store.admin.clear_chat(chat("a"))
    taken = await store.claims.reclaim(gap_min_seconds=HOUR, gap_max_seconds=HOUR, limit=2)
    taken += await store.claims.reclaim(gap_min_seconds=HOUR, gap_max_seconds=HOUR, limit=2)
    assert {(one.chat.chat_id, one.status) for one in taken} == {("a", "CANCELLED"), ("b", "PENDING"), ("c", "PENDING")}
    assert {one.wait_seconds for one in taken} == {HOUR}
    assert (await refused(store, "b")).reason == "waits"


async def test_a_claim_within_its_lease_is_left_alone(store: Store) -> None:
    await put(store)
    await claim(store)
    assert await store.claims.reclaim(gap_min_seconds=0, gap_max_seconds=0) == []


# enqueue, cancel


async def test_a_repeat_returns_what_is_there_and_other_content_is_a_conflict(store: Store) -> None:
    message = new_message(message_id=uuid4())
    (first,) = await store.enqueues.insert([message])
    again = new_message(message_id=message.id, priority=5)
    forged = new_message(message_id=message.id, payload={"text": "other"})
    fresh = new_message()
    (conflict,) = await store.enqueues.insert([forged])
    repeated, last = await store.enqueues.insert([again, fresh])
    assert isinstance(first, Enqueued)
    assert isinstance(conflict, Conflict)
    assert repeated == Enqueued(message.id, first.seq, "PENDING", deduplicated=True)
    assert isinstance(last, Enqueued)
    assert last.seq == first.seq + 3, "what is refused has drawn its seq"
    with pytest.raises(Conflict):
        await store.enqueues.insert_all([new_message(), forged])
    assert len((await store.pages.oldest_first(None, limit=10)).messages) == 2, "all or nothing"


async def test_cancel_and_clear_end_what_waits_and_mark_what_is_in_flight(store: Store) -> None:
    flying = await put(store)
    await claim(store)
    waiting, later = await put(store), await due_in(store, HOUR)
    other = await put(store, "b")
    cleared, dropped = await store.admin.clear_chat(chat())
    assert (cleared.cancelled, cleared.in_flight) == (2, 1)
    assert {one.id for one in dropped} == {waiting, later}
    assert await status(store, flying) == ("PROCESSING", 0)
    assert await status(store, waiting) == ("CANCELLED", 0)
    result, (one,) = await store.admin.cancel(other)
    assert (result, one.id, one.chat, one.priority) == ("cancelled", other, chat("b"), 0)
    with pytest.raises(NotFound):
        await store.admin.cancel(uuid4())


# duties


async def test_a_duty_is_one_workers_and_due_again_after_its_period(new_store: NewStore) -> None:
    first, second = new_store("w1").duties, new_store("w2").duties
    assert await first.take("sweep", every_seconds=HOUR, hold_seconds=HOUR)
    assert not await second.take("sweep", every_seconds=HOUR, hold_seconds=HOUR, now=True)
    assert await first.hold("sweep", hold_seconds=HOUR)
    assert not await second.hold("sweep", hold_seconds=HOUR)
    await second.done("sweep")
    assert await first.hold("sweep", hold_seconds=HOUR), "another's word changes nothing"
    await first.give_up("sweep")
    assert await second.take("sweep", every_seconds=HOUR, hold_seconds=HOUR), "given up it stays due"
    await second.done("sweep")
    assert not await first.take("sweep", every_seconds=HOUR, hold_seconds=HOUR)
    assert await first.take("sweep", every_seconds=HOUR, hold_seconds=0.0, now=True)
    assert not await first.hold("sweep", hold_seconds=HOUR), "too late to hold"
    assert not await second.take("sweep", every_seconds=HOUR, hold_seconds=HOUR), "taken for no time it is done"
    assert await second.take("brief", every_seconds=HOUR, hold_seconds=0.0)
    assert not await first.take("brief", every_seconds=HOUR, hold_seconds=0.0)
    assert await second.take("sweep", every_seconds=HOUR, hold_seconds=HOUR, now=True), "but not too late to take over"


async def test_progress_is_kept_for_whoever_goes_on(new_store: NewStore) -> None:
    first, second = new_store("w1").duties, new_store("w2").duties
    assert await first.progress("sweep") is None
    await first.take("sweep", every_seconds=HOUR, hold_seconds=HOUR)
    await first.note_progress("sweep", {"seq": 5, "walk": None})
    assert await second.progress("sweep") == {"seq": 5, "walk": None}


# pages


async def test_pages_are_complete_and_in_order(store: Store) -> None:
    answers = await store.enqueues.insert([new_message(f"c{n % 5}", priority=n % 2) for n in range(20)])
    await claim(store, "c0")
    found, place = [], None
    while True:
        page = await store.pages.oldest_first(place, limit=7)
        found += page.messages
        if page.end is None:
            break
        place = page.end
    seqs = [answer.seq for answer in answers if isinstance(answer, Enqueued)]
    missing = set(seqs).difference(m.seq for m in found)
    assert [m.seq for m in found] == [seq for seq in seqs if seq not in missing]
    assert len(missing) == 1, "the one in flight does not wait"


async def test_one_accounts_pages_and_what_is_left_until_a_schedule(store: Store) -> None:
    for n in range(10):
        await put(store, f"c{n % 3}")
    await put(store, instance="other")
    later = await due_in(store, HOUR, "c1")
    found, after = [], None
    while page := await store.pages.of_instance(INSTANCE, after, limit=4):
        found += page
        after = (page[-1].chat.chat_id, page[-1].seq)
    assert [(m.chat.chat_id, m.seq) for m in found] == sorted((m.chat.chat_id, m.seq) for m in found)
    assert len(found) == 11
    assert [m.id for m in found if m.due_seconds > 0] == [later]


async def test_the_window_begins_before_the_oldest_open_transaction(store: Store) -> None:
    before = datetime.now(UTC)
    async with store.database.rows_of_one(in_transaction=True) as rows:
        await store.enqueues.insert_in(rows, [new_message("late")])
        between = datetime.now(UTC)
        await put(store, "soon")
        start = await store.pages.window_start(window_seconds=0)
        assert [m.chat.chat_id for m in (await store.pages.oldest_first(None, limit=9)).messages] == ["soon"]
    assert before - timedelta(seconds=1) <= start.created_at <= between
    assert len((await store.pages.oldest_first(start, limit=9)).messages) == 2
    assert (await store.pages.window_start(window_seconds=0)).created_at >= between
