"""Counts for who looks on: right, by account or by chat, and never more of the table than a look may read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mqworker.lifecycle import Settlement
from mqworker.overview import Line, Overview
from mqworker.store import Census, Moving, Queued, Store
from tests.integration.rows import INSTANCE, change, claim, put, settle


def numbers(queued: dict[str, Queued]) -> dict[str, tuple[int, int]]:
    """What is due now, and what later, by name."""
    return {name: (one.due, one.later) for name, one in queued.items()}


async def test_what_waits_is_counted_by_account_or_by_chat(store: Store) -> None:
    for chat, instance in (("a", "shop"), ("a", "shop"), ("b", "shop"), ("a", "other")):
        await put(store, chat, instance=instance)
    assert numbers((await store.census().queued(None, limit=9)).queued) == {"shop": (3, 0), "other": (1, 0)}
    assert numbers((await store.census("shop").queued(None, limit=9)).queued) == {"a": (2, 0), "b": (1, 0)}
    assert (await store.census("nobody").queued(None, limit=9)).queued == {}


async def test_what_a_schedule_or_a_backoff_holds_is_not_due(store: Store) -> None:
    await put(store, "a", scheduled_at=datetime.now(UTC) + timedelta(hours=1))
    held_back, old = await put(store, "b"), await put(store, "c")
    await change(store, held_back, "available_at = now() + interval '1 hour'")
    await change(store, old, "created_at = now() - interval '1 hour', available_at = now() - interval '1 minute'")
    queued = (await store.census().queued(None, limit=9)).queued[INSTANCE]
    assert (queued.due, queued.later) == (1, 2)
    assert queued.oldest_due_seconds == pytest.approx(60, abs=10), "since its backoff ended"


async def test_slices_go_through_all_that_waits_once(store: Store) -> None:
    messages = [await put(store, f"c{n % 3}", instance=f"i{n % 2}") for n in range(10)]
    for message in messages[:4]:
        await change(store, message, "created_at = '2026-01-01Z'")
    sums: dict[str, int] = {}
    place, slices = None, 0
    while slices == 0 or place is not None:
        found = await store.census().queued(place, limit=3)
        for name, one in found.queued.items():
            sums[name] = sums.get(name, 0) + one.due
        place, slices = found.end, slices + 1
    assert (sums, slices) == ({"i0": 5, "i1": 5}, 4)


async def test_a_slice_with_nothing_of_the_account_goes_on_all_the_same(store: Store) -> None:
    for _ in range(3):
        await put(store, instance="other")
    await put(store)
    census = store.census(INSTANCE)
    first = await census.queued(None, limit=3)
    assert first.queued == {}
    assert numbers((await census.queued(first.end, limit=3)).queued) == {"a": (1, 0)}


async def test_what_is_in_flight_and_what_failed_of_late(store: Store) -> None:
    for chat in ("a", "b", "c"):
        await put(store, chat)
    await claim(store, "a")
    await settle(store, await claim(store, "b"), Settlement.failed(0.0, "no"))
    await settle(store, await claim(store, "c"), Settlement.failed(0.0, "no"))
    assert await store.census().moving() == {INSTANCE: Moving(in_flight=1, failed=2)}
    assert await store.census(INSTANCE).moving() == {"a": Moving(1, 0), "b": Moving(0, 1), "c": Moving(0, 1)}
    failed = (await store.stats.list(status="FAILED", limit=1))[0]
    await change(store, failed.id, "processed_at = now() - interval '2 hours'")
    assert (await store.census().moving())[INSTANCE].failed == 1


class Counted(Census):
    """Counts the rows that it may have read."""

    rows = 0

    async def queued(self, *arguments: object, limit: int) -> object:  # type: ignore[override]
        self.rows += limit
        return await super().queued(*arguments, limit=limit)  # type: ignore[arg-type]


async def test_an_overview_shows_the_most_due_first(store: Store) -> None:
    for instance in ("one", "two", "two", "later"):
        due_at = datetime.now(UTC) + timedelta(hours=1) if instance == "later" else None
        await put(store, instance=instance, scheduled_at=due_at)
    await put(store, "b", instance="two")
    view = await Overview(store.census()).look()
    assert [(line.name, line.due, line.later) for line in view.lines] == [
        ("two", 3, 0),
        ("one", 1, 0),
        ("later", 0, 1),
    ]
    assert view.counted_seconds_ago == pytest.approx(0, abs=5)


async def test_a_look_reads_no_more_than_it_may_and_the_next_one_goes_on(store: Store) -> None:
    for number in range(10):
        await put(store, f"c{number}")
    census = Counted(store.database)
    overview = Overview(census, rows_a_look=4)
    first = await overview.look()
    assert (first.lines[0].pending, first.counted_seconds_ago, census.rows) == (4, None, 4), "still counting"
    assert (await overview.look()).lines[0].pending == 8
    third = await overview.look()
    assert third.lines[0].pending == 10
    assert third.counted_seconds_ago is not None
    await put(store, "new")
    fourth = await overview.look()
    assert fourth.lines[0].pending == 10, "the last whole count is shown until the next is whole"
    assert census.rows == 16


async def test_a_look_at_all_ends_with_a_whole_count(store: Store) -> None:
    for number in range(5):
        await put(store, f"c{number}")
    await claim(store, "c0")
    view = await Overview(store.census(), rows_a_look=2).look_at_all()
    (line,) = view.lines
    assert (line.pending, line.in_flight) == (4, 1)
    assert line.oldest_due_seconds > 0
    assert (await Overview(store.census("nobody")).look_at_all()).lines == []


async def test_a_name_with_nothing_waiting_has_a_line_while_it_sends(store: Store) -> None:
    await put(store)
    await claim(store)
    assert (await Overview(store.census()).look()).lines == [Line(INSTANCE, in_flight=1)]
