"""Claimers that meet: what a claim's snapshot could not know is caught on the newest version of the rows."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import pytest

from mqworker.errors import StatementFailed
from mqworker.lifecycle import Settlement
from mqworker.message import ChatKey
from mqworker.settings import Settings, load_settings
from mqworker.store import Claim, NotNow, Store
from tests.integration.gate import Gate, gate, gated_store
from tests.integration.rows import DEFAULT, NO_GAP, chat, claim, end_gap, new_message, put, refused, row, settle, sql

T = TypeVar("T")

GAP = Settlement.completed(60.0, None)


@pytest.fixture
async def the_gate(settings: Settings) -> AsyncIterator[Gate]:
    async with gate(settings) as opened:
        yield opened


@pytest.fixture
async def slow(settings: Settings, the_gate: Gate) -> AsyncIterator[Store]:
    """A worker whose statements stop at the gate, after their snapshot."""
    store = gated_store(settings, "slow")
    # With a time to compare, the gate stands in the choice of the heads, before anything is locked.
    await sql(store, "INSERT INTO message_queue_instances (instance, next_at) VALUES ('shop', 'epoch') RETURNING 1")
    await store.claims.claim([chat("warm")], DEFAULT)
    yield store
    await store.aclose()


async def known(store: Store) -> None:
    """Make the chat one that was sent to before, its gap long over."""
    await put(store)
    await settle(store, await claim(store))
    await end_gap(store)


@pytest.mark.parametrize("is_known", [True, False], ids=["known chat", "new chat"])
async def test_a_gap_that_began_after_the_snapshot_is_kept(
    store: Store, slow: Store, the_gate: Gate, is_known: bool
) -> None:
    if is_known:
        await known(store)
    await put(store)
    second = await put(store)
    stale = await the_gate.stop(slow.claims.claim([chat()], DEFAULT))
    await settle(store, await claim(store), GAP)
    await the_gate.open()
    (answer,) = await stale
    assert answer == NotNow("contended", 0.05)
    assert (await row(store, second)).status == "PENDING"
    assert (await refused(slow)).reason == "waits"


@pytest.mark.parametrize("is_known", [True, False], ids=["known chat", "new chat"])
async def test_a_gap_of_a_message_that_the_snapshot_had_not_seen_is_kept(
    store: Store, slow: Store, the_gate: Gate, is_known: bool
) -> None:
    if is_known:
        await known(store)
    first = await put(store)
    stale = await the_gate.stop(slow.claims.claim([chat()], DEFAULT))
    await put(store, priority=1)
    await settle(store, await claim(store), GAP)
    await the_gate.open()
    (answer,) = await stale
    assert isinstance(answer, NotNow)
    assert (await row(store, first)).status == "PENDING"


async def test_a_gap_after_a_reclaim_is_kept(store: Store, slow: Store, the_gate: Gate) -> None:
    await known(store)
    await put(store)
    stale = await the_gate.stop(slow.claims.claim([chat()], DEFAULT))
    held = await claim(store)
    await sql(store, "UPDATE message_queue_items SET lease_expires_at = 'epoch' WHERE claim_id IS NOT NULL RETURNING 1")
    fast = Store(store.database, _no_grace(), worker="w2")
    (reclaimed,) = await fast.claims.reclaim(gap_min_seconds=60, gap_max_seconds=60)
    assert reclaimed.id == held.message.id
    await the_gate.open()
    assert await stale == [NotNow("contended", 0.05)]


def _no_grace() -> Settings:
    return load_settings(_env_file=None).model_copy(update={"lease_seconds": 0.0})


@pytest.mark.parametrize("is_known", [True, False], ids=["known chat", "new chat"])
async def test_of_two_claimers_of_one_head_one_gets_it(
    store: Store, slow: Store, the_gate: Gate, is_known: bool
) -> None:
    if is_known:
        await known(store)
    await put(store)
    await put(store)
    stale = await the_gate.stop(slow.claims.claim([chat()], DEFAULT))
    held = await claim(store)
    await the_gate.open()
    assert await stale == [NotNow("contended", 0.05)]
    stored = await row(store, held.message.id)
    assert (stored.claim_id, stored.worker) == (held.claim_id, "w1")


async def test_a_second_message_in_flight_is_refused_and_the_other_chats_of_the_batch_are_claimed(
    store: Store, slow: Store, the_gate: Gate
) -> None:
    """Only the unique index can see this one: the head of the snapshot waits still, another one flies by now."""
    await known(store)
    await put(store)
    others = [f"z{n}" for n in range(7)]
    ids = [await put(store, name) for name in others]
    stale = await the_gate.stop(slow.claims.claim([chat(), *map(chat, others)], DEFAULT))
    await put(store, priority=1)
    held = await claim(store)
    await the_gate.open()
    first, *rest = await stale
    assert isinstance(first, NotNow)
    assert first.reason == "in_flight"
    assert [answer.message.id for answer in rest if isinstance(answer, Claim)] == ids
    assert await settle(store, held) == "COMPLETED"


async def test_a_head_that_was_cancelled_meanwhile_is_not_claimed_nor_stepped_over(
    store: Store, slow: Store, the_gate: Gate
) -> None:
    await known(store)
    first, second = await put(store), await put(store)
    stale = await the_gate.stop(slow.claims.claim([chat()], DEFAULT))
    assert (await store.admin.cancel(first))[0] == "cancelled"
    await the_gate.open()
    assert await stale == [NotNow("contended", 0.05)]
    assert [(await row(store, one)).status for one in (first, second)] == ["CANCELLED", "PENDING"]
    assert (await claim(store)).message.id == second


async def test_a_locked_head_passes_its_chat_over_and_holds_nobody_up(store: Store) -> None:
    await known(store)
    first = await put(store)
    await put(store)
    await put(store, "b")
    async with store.database.connections.use() as connection, connection.transaction():
        await connection.execute("SELECT 1 FROM message_queue_items WHERE id = %s FOR UPDATE", (first,))
        a, b = await store.claims.claim([chat("a"), chat("b")], DEFAULT)
        assert a == NotNow("contended", 0.05)
        assert isinstance(b, Claim)
    assert (await claim(store)).message.id == first


async def test_a_renewal_after_the_snapshot_of_a_reclaim_keeps_the_claim(
    store: Store, slow: Store, the_gate: Gate
) -> None:
    await put(store)
    held = await claim(store)
    await sql(store, "UPDATE message_queue_items SET lease_expires_at = 'epoch' RETURNING 1")
    impatient = Store(slow.database, _no_grace(), worker="slow")
    sweep = await the_gate.stop(impatient.claims.reclaim(gap_min_seconds=0, gap_max_seconds=0))
    assert await store.claims.renew([held]) == {held.claim_id}
    await the_gate.open()
    assert await sweep == []
    assert await settle(store, held) == "COMPLETED"


async def test_a_cancel_and_a_settle_that_meet_agree_on_the_end(store: Store, new_store: Callable[..., Store]) -> None:
    other = new_store("w2")
    for n in range(10):
        name = f"c{n}"
        message_id = await put(store, name)
        held = await claim(store, name)
        (result, _), status = await asyncio.gather(
            other.admin.cancel(message_id), settle(store, held, Settlement.retry(0.0, 0.0, "it failed"))
        )
        expected = {"too_late": "CANCELLED", "cancelled": "CANCELLED"}[result]
        assert (await row(store, message_id)).status == expected
        assert status == ("CANCELLED" if result == "too_late" else "PENDING")


async def test_three_claimers_of_the_same_chats_neither_overlap_nor_deadlock(
    store: Store, new_store: Callable[..., Store]
) -> None:
    chats = [chat(f"c{n}") for n in range(250)]
    for _ in range(4):
        await store.enqueues.insert([new_message(key.chat_id) for key in chats])
    workers = [new_store(f"w{n}") for n in range(3)]
    states: list[str] = []
    for worker in workers:
        worker.database.rows = noting_failures(worker.database.rows, states)  # type: ignore[method-assign]
    in_flight: set[ChatKey] = set()
    sent: dict[ChatKey, list[int]] = defaultdict(list)

    async def work(worker: Store) -> None:
        waiting = list(chats)
        while waiting:
            random.shuffle(waiting)
            answers = await worker.claims.claim(waiting, DEFAULT)
            held = [answer for answer in answers if isinstance(answer, Claim)]
            for one in held:
                assert one.chat not in in_flight, "never two of a chat in flight"
                in_flight.add(one.chat)
                sent[one.chat].append(one.seq)
            empty = [k for k, a in zip(waiting, answers, strict=True) if isinstance(a, NotNow) and a.reason == "empty"]
            random.shuffle(held)
            in_flight.difference_update(one.chat for one in held)
            assert {s.status for s in await worker.claims.settle([(one, NO_GAP) for one in held])} <= {"COMPLETED"}
            waiting = [key for key in waiting if key not in set(empty)]

    async with asyncio.timeout(60):
        await asyncio.gather(*(work(worker) for worker in workers))
    assert {len(seqs) for seqs in sent.values()} == {4}, "each message went once"
    assert all(seqs == sorted(seqs) for seqs in sent.values()), "each chat in its order"
    assert set(states) <= {"23505"}, "no deadlock: at most two met at one chat"


def noting_failures(
    run: Callable[..., Coroutine[Any, Any, T]], states: list[str]
) -> Callable[..., Coroutine[Any, Any, T]]:
    async def rows(*statement: Any, **parameters: Any) -> T:
        try:
            return await run(*statement, **parameters)
        except StatementFailed as error:
            states.append(error.sqlstate)
            raise

    return rows
