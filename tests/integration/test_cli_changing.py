"""`cancel`, `cancel-pending`, `clear`, `clean` and `rebuild`: what they do, what they answer, and that they ask."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from mqworker import MessageQueue
from mqworker.broker import Broker
from mqworker.cli import rebuild as module
from mqworker.cli.exits import Exit
from mqworker.store import Store
from tests.conftest import NewStore
from tests.integration.commands import Mqworker
from tests.integration.lanes import known, lease
from tests.integration.rows import INSTANCE, change, claim, put, row, settle, sql
from tests.integration.working import told


async def statuses(store: Store) -> list[str]:
    """By seq."""
    return [one.status for one in await sql(store, "SELECT status FROM message_queue_items ORDER BY seq")]


class TestCancel:
    async def test_each_answer(self, mqworker: Mqworker, store: Store) -> None:
        waiting, flying, ended = [str(await put(store, name)) for name in "abc"]
        unknown = str(uuid4())
        await claim(store, "b")
        await settle(store, await claim(store, "c"))
        ran = await mqworker("cancel", waiting, flying, ended, unknown, "--json", code=Exit.FAILED)
        expected = ["cancelled", "too_late", "finished", "not_found"]
        assert [(one["id"], one["result"]) for one in ran.data] == list(
            zip([waiting, flying, ended, unknown], expected, strict=True)
        )
        assert await statuses(store) == ["CANCELLED", "PROCESSING", "COMPLETED"]

    async def test_done_where_all_were_cancelled(self, mqworker: Mqworker, queue: MessageQueue, broker: Broker) -> None:
        ids = [str((await queue.enqueue(INSTANCE, 7, name, {})).id) for name in "ab"]
        await told(queue)
        ran = await mqworker("cancel", *ids)
        assert ran.out.splitlines() == [f"{one} cancelled" for one in ids]
        assert await lease(broker) == [], "Redis offers them no more"
        assert (await mqworker("cancel", ids[0], code=Exit.FAILED)).out == f"{ids[0]} finished before\n"

    async def test_an_id_that_is_none_stops_all_of_them(self, mqworker: Mqworker, store: Store) -> None:
        waiting = str(await put(store))
        ran = await mqworker("cancel", waiting, "17", code=Exit.USAGE)
        assert (ran.out, "must be a UUID" in ran.err) == ("", True)
        assert await statuses(store) == ["PENDING"]


class TestCancelPending:
    async def test_an_account_a_chat_an_age(self, mqworker: Mqworker, store: Store) -> None:
        for name in "aab":
            await put(store, name)
        await put(store, instance="other")
        old = await put(store, "c")
        await change(store, old, "created_at = now() - interval '3 hours'")
        shop = ["cancel-pending", "--instance", INSTANCE, "--yes"]
        assert (await mqworker(*shop, "--older-than", "2h")).out == "1 cancelled\n"
        assert (await mqworker(*shop, "--chat", "a", "--json")).one == {"cancelled": 2}
        assert (await mqworker(*shop)).out == "1 cancelled\n"
        assert await statuses(store) == ["CANCELLED", "CANCELLED", "CANCELLED", "PENDING", "CANCELLED"]


class TestClear:
    async def test_a_chat(self, mqworker: Mqworker, store: Store) -> None:
        for name in "aaab":
            await put(store, name)
        held = await claim(store, "a")
        clear = ["clear", "--instance", INSTANCE, "--chat", "a", "--yes"]
        assert (await mqworker(*clear)).out == "2 cancelled, 1 in flight\n"
        assert (await mqworker(*clear, "--json")).one == {"cancelled": 0, "in_flight": 1}
        assert (await row(store, held.message.id)).cancel_requested_at is not None
        assert await statuses(store) == ["PROCESSING", "CANCELLED", "CANCELLED", "PENDING"]


class TestClean:
    @pytest.fixture
    async def ended(self, store: Store) -> None:
        """Messages that ended 2, 8 and 30 days ago, and one of another account."""
        for days, instance in ((2, INSTANCE), (8, INSTANCE), (30, INSTANCE), (8, "other")):
            ago = f"now() - interval '{days} days'"
            message = await put(store, instance=instance)
            await change(store, message, f"status = 'COMPLETED', created_at = {ago}, processed_at = {ago}")

    @pytest.mark.parametrize(
        ("options", "removed"),
        [
            ([], 3),
            (["--older-than", "10d"], 1),
            (["--older-than", "36h"], 4),
            (["--instance", "other"], 1),
            (["--instance", INSTANCE, "--older-than", "1.5d"], 3),
        ],
    )
    @pytest.mark.usefixtures("ended")
    async def test_by_age_and_account(self, mqworker: Mqworker, store: Store, options: list[str], removed: int) -> None:
        assert (await mqworker("clean", *options, "--yes", "--json")).one == {"removed": removed}
        assert len(await statuses(store)) == 4 - removed
        assert (await mqworker("clean", *options, "--yes")).out == "0 removed\n"


@pytest.mark.parametrize(
    "command",
    [
        ["cancel-pending", "--instance", INSTANCE],
        ["clear", "--instance", INSTANCE, "--chat", "a"],
        ["clean", "--older-than", "1s"],
    ],
)
async def test_where_nobody_can_be_asked_nothing_is_done_without_yes(
    mqworker: Mqworker, store: Store, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(store)
    await change(
        store, await put(store, "b"), "status = 'FAILED', created_at = '2026-01-01Z', processed_at = '2026-01-01Z'"
    )
    assert "--yes" in (await mqworker(*command, code=Exit.USAGE)).err
    assert await statuses(store) == ["PENDING", "FAILED"]
    monkeypatch.setenv(f"MQWORKER_{command[0].upper().replace('-', '_')}_YES", "1")
    assert (await mqworker(*command)).out.startswith("1 ")


@pytest.mark.parametrize("age", ["", "7", "d", "7 d", "-7d", "7w", "0s"])
async def test_what_is_no_age(mqworker: Mqworker, age: str) -> None:
    ran = await mqworker("cancel-pending", "--instance", "a", "--older-than", age, "--yes", code=Exit.USAGE)
    assert "older_than" in ran.err or "--older-than" in ran.err


class TestRebuild:
    async def test_all_and_one_account(self, mqworker: Mqworker, store: Store, broker: Broker) -> None:
        await put(store)
        await put(store, instance="other")
        assert (await mqworker("rebuild", "--instance", INSTANCE)).out == "waiting messages told to Redis: 1\n"
        assert await known(broker) == {"a"}
        assert await known(broker, "other") == set()
        assert (await mqworker("rebuild", "--json")).one == {"messages": 2}
        assert await known(broker, "other") == {"a"}
        assert await broker.remembers()

    async def test_it_waits_for_a_worker_that_is_at_it(
        self, mqworker: Mqworker, new_store: NewStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "LOOK_PAUSE_SECONDS", 0.05)
        waits = asyncio.Event()
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(module, "say", lambda _: loop.call_soon_threadsafe(waits.set))
        worker = new_store("w1")
        assert await worker.duties.take("rebuild", every_seconds=0, hold_seconds=30)
        rebuilding = asyncio.create_task(mqworker("rebuild", "--json"))
        await asyncio.wait_for(waits.wait(), 10)
        await worker.duties.done("rebuild")
        assert (await rebuilding).one == {"messages": 0}

    async def test_redis_away(self, mqworker: Mqworker, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MQWORKER_REDIS_URL", "redis://127.0.0.1:1/0")
        ran = await mqworker("rebuild", code=Exit.AWAY)
        assert (ran.out, ran.err.count("\n")) == ("", 1)
        assert ran.err.startswith("error: Redis cannot be used: ")
