"""What a doctor asks of PostgreSQL."""

from __future__ import annotations

from uuid import uuid4

import pytest

from mqworker.store import DutyState, Store
from tests.conftest import NewStore
from tests.integration.rows import change, claim, put, settle, sql


async def test_who_is_alive(store: Store) -> None:
    waiting, flying, ended = await put(store, "a"), await put(store, "b"), await put(store, "c")
    await claim(store, "b")
    await settle(store, await claim(store, "c"))
    asked = [waiting, flying, ended, uuid4()]
    assert await store.inspection.alive(asked) == {waiting, flying}
    assert [one.id for one in await store.pages.of_ids(asked)] == [waiting]


async def test_claims_that_outlived_their_worker(store: Store) -> None:
    for name in "abc":
        await put(store, name)
    _, dead, bare = [await claim(store, name) for name in "abc"]
    await change(store, dead.message.id, "lease_expires_at = now() - interval '1 minute'")
    await change(store, bare.message.id, "lease_expires_at = NULL, processing_started_at = now() - interval '1 hour'")

    async def expired(seconds: float, *, limit: int = 9) -> int:
        return await store.inspection.expired_claims(longer_than_seconds=seconds, stale_after_seconds=600, limit=limit)

    assert [await expired(seconds) for seconds in (30, 90, 4000)] == [2, 1, 0]
    assert await expired(30, limit=1) == 1


async def test_duties_as_they_stand(new_store: NewStore) -> None:
    store = new_store("w1")
    assert await store.inspection.duties() == []
    for name in ("done", "held", "left"):
        assert await store.duties.take(name, every_seconds=60, hold_seconds=30)
    await store.duties.done("done")
    await store.duties.give_up("left")
    done, held, left = await store.inspection.duties()
    assert (done.name, done.held_seconds, held.held_seconds > 20, left.held_seconds) == ("done", 0, True, 0)
    assert done.idle_seconds == pytest.approx(0, abs=5)
    assert (held.idle_seconds, left) == (None, DutyState("left", "w1", 0, None))


async def test_only_a_duty_that_is_held_too_long_is_freed(new_store: NewStore) -> None:
    store = new_store("w1")
    assert await store.duties.take("sweep", every_seconds=60, hold_seconds=3600)
    assert not await store.inspection.free_duty("sweep", held_longer_than_seconds=7200)
    assert not await store.inspection.free_duty("other", held_longer_than_seconds=60)
    assert await store.inspection.free_duty("sweep", held_longer_than_seconds=60)
    assert await new_store("w2").duties.take("sweep", every_seconds=60, hold_seconds=30)


async def test_freed_duties_stay_due(store: Store) -> None:
    assert await store.duties.take("sweep", every_seconds=60, hold_seconds=3600)
    await store.inspection.free_duty("sweep", held_longer_than_seconds=60)
    (found,) = await sql(store, "SELECT last_done_at FROM message_queue_duties")
    assert found.last_done_at is None
