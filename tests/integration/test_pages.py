"""Pages of waiting messages: complete, in order, and back to the oldest open transaction."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from mqworker.message import Enqueued
from mqworker.store import Place, Store, Waiting
from tests.integration.rows import INSTANCE, change, claim, new_message, put


async def all_pages(store: Store, *, limit: int, start: Place | None = None) -> list[Waiting]:
    found: list[Waiting] = []
    place = start
    while True:
        page = await store.pages.oldest_first(place, limit=limit)
        found += page.messages
        if page.end is None:
            return found
        place = page.end


async def test_pages_are_complete_and_in_order(store: Store) -> None:
    answers = await store.enqueues.insert([new_message(f"c{n % 5}") for n in range(50)])
    await claim(store, "c0")
    found = await all_pages(store, limit=7)
    seqs = [answer.seq for answer in answers if isinstance(answer, Enqueued)]
    assert [m.seq for m in found] == seqs[1:], "the one in flight does not wait"
    assert found == await all_pages(store, limit=49), "also where a page ends with the last row"


async def test_rows_of_one_moment_are_told_apart(store: Store) -> None:
    messages = [await put(store) for _ in range(9)]
    for message in messages:
        await change(store, message, "created_at = '2026-01-01Z'")
    assert [m.id for m in await all_pages(store, limit=4)] == messages


async def test_one_accounts_pages(store: Store) -> None:
    mine = {await put(store, f"c{n % 3}") for n in range(10)}
    await put(store, instance="other")
    found: list[Waiting] = []
    after: tuple[str, int] | None = None
    while page := await store.pages.of_instance(INSTANCE, after, limit=4):
        found += page
        after = (page[-1].chat.chat_id, page[-1].seq)
    assert {m.id for m in found} == mine
    assert len(found) == 10


async def test_what_is_left_until_a_schedule_is_told(store: Store) -> None:
    await put(store, scheduled_at=datetime.now(UTC) + timedelta(hours=1))
    await put(store, scheduled_at=datetime.now(UTC) - timedelta(hours=1))
    due = [m.due_seconds for m in await all_pages(store, limit=9)]
    assert 3590 < due[0] <= 3600
    assert due[1] == 0


async def test_the_window_begins_before_the_oldest_open_transaction(store: Store) -> None:
    async with store.database.rows_of_one(in_transaction=True) as rows:
        await store.enqueues.insert_in(rows, [new_message("late")])
        start = await store.pages.window_start(window_seconds=0)
        await put(store, "soon")
        assert [m.chat.chat_id for m in await all_pages(store, limit=9, start=start)] == ["soon"]
        start = await store.pages.window_start(window_seconds=0)
    found = await all_pages(store, limit=9, start=start)
    assert [m.chat.chat_id for m in found] == ["late", "soon"]
