"""Duties: one worker at a time, due by the database's clock, taken over when their holder is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mqworker.store import Store
from tests.integration.rows import sql


async def take(store: Store, *, every: float = 60, hold: float = 30, now: bool = False) -> bool:
    return await store.duties.take("sweep", every_seconds=every, hold_seconds=hold, now=now)


async def test_one_of_many_takes_it(new_store: Callable[..., Store]) -> None:
    stores = [new_store(f"w{n}") for n in range(8)]
    assert sum(await asyncio.gather(*(take(store) for store in stores))) == 1


async def test_done_is_due_again_after_its_period_only(new_store: Callable[..., Store]) -> None:
    first, second = new_store("w1"), new_store("w2")
    assert await take(first)
    await first.duties.done("sweep")
    assert not await take(second)
    assert await take(second, now=True), "asked for at once"
    await second.duties.done("sweep")
    await sql(first, "UPDATE message_queue_duties SET last_done_at = last_done_at - interval '1 minute' RETURNING 1")
    assert await take(first)


async def test_given_up_stays_due(new_store: Callable[..., Store]) -> None:
    first, second = new_store("w1"), new_store("w2")
    assert await take(first)
    await first.duties.give_up("sweep")
    assert await take(second)


async def test_a_dead_holders_duty_is_taken_over_and_its_late_words_change_nothing(
    new_store: Callable[..., Store],
) -> None:
    first, second = new_store("w1"), new_store("w2")
    assert await take(first)
    assert not await take(second, now=True), "somebody is at it"
    await sql(first, "UPDATE message_queue_duties SET until = now() - interval '1 second' RETURNING 1")
    assert not await first.duties.hold("sweep", hold_seconds=30), "too late to hold"
    assert await take(second)
    await first.duties.done("sweep")
    assert not await take(first, now=True), "the second still has it"


async def test_progress_is_kept_for_whoever_goes_on(new_store: Callable[..., Store]) -> None:
    first, second = new_store("w1"), new_store("w2")
    assert await first.duties.progress("sweep") is None
    assert await take(first)
    await first.duties.note_progress("sweep", {"seq": 5})
    await first.duties.done("sweep")
    assert await second.duties.progress("sweep") == {"seq": 5}
