"""`doctor`: all is well where a worker is at work; each trouble is told, with what to do, and --fix mends it."""

from __future__ import annotations

from functools import partial
from unittest.mock import AsyncMock

import pytest

from mqworker import MessageQueue, drift
from mqworker.broker import Broker, BrokerUnavailable
from mqworker.cli.exits import Exit
from mqworker.clockwork import Clockwork
from mqworker.settings import Settings
from mqworker.store import Store
from mqworker.sweeps import Sweeps
from mqworker.tally import Tally
from mqworker.testing.waiting import eventually
from tests.cluster import RedisNodes
from tests.conftest import NewStore, execute
from tests.integration.commands import Mqworker, Ran
from tests.integration.lanes import depth, entry, known
from tests.integration.rows import INSTANCE, change, claim, put, row, sql
from tests.integration.working import told as queue_told

# The tests' own server has fsync off, and is warned of for it.
WELL = {
    "links": "ok",
    "postgresql": "warn",
    "schema": "ok",
    "redis": "ok",
    "sweeps": "ok",
    "claims": "ok",
    "memory": "ok",
    "missing": "ok",
    "surplus": "ok",
}
AWAY = {
    "postgresql": ("MQWORKER_DATABASE_URL", "postgresql://postgres@127.0.0.1:1/away"),
    "redis": ("MQWORKER_REDIS_URL", "redis://127.0.0.1:1/0"),
}


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "UNDER_WAY_SECONDS", 0.0)


@pytest.fixture(autouse=True)
async def _a_worker_was_here(store: Store, broker: Broker, settings: Settings) -> None:
    clockwork = Clockwork(store, Sweeps(store, broker, settings), Tally(), settings)
    assert await clockwork.rebuild_at_start()
    for name in clockwork.duties:
        assert await clockwork.run_due(name)


def states(ran: Ran) -> dict[str, str]:
    """Check by check; of two with one name the second."""
    return {one["check"]: one["state"] for one in ran.data}


def told(ran: Ran, check: str) -> tuple[str, str]:
    """What was found, and what to do."""
    (one,) = [one for one in ran.data if one["check"] == check]
    return one["found"], one["todo"]


async def test_all_is_well(mqworker: Mqworker, queue: MessageQueue) -> None:
    for name in "ab":
        await queue.enqueue(INSTANCE, 7, name, {})
    await queue_told(queue)
    ran = await mqworker("doctor", "--json")
    assert states(ran) == WELL
    assert told(ran, "missing") == ("Redis knows all 2 waiting messages", "")
    assert states(await mqworker("doctor", "--json", "--fix")) == WELL


async def test_for_people(mqworker: Mqworker) -> None:
    ran = await mqworker("doctor")
    assert "ok     schema      at 0001, as this code needs it" in ran.out.splitlines()
    assert ran.err == "0 failed, 2 to think about\n"


class TestDrift:
    async def test_what_redis_lacks(self, mqworker: Mqworker, store: Store, broker: Broker) -> None:
        for name in "abc":
            await put(store, name)
        ran = await mqworker("doctor", "--json", code=Exit.FAILED)
        assert states(ran) == WELL | {"missing": "fail"}
        assert told(ran, "missing") == (
            "Redis does not know 3 of all 3 waiting messages",
            "doctor --fix announces them",
        )
        some = await mqworker("doctor", "--json", "--limit", "2", code=Exit.FAILED)
        assert told(some, "missing")[0] == "Redis does not know 2 of the oldest 2 waiting messages"
        mended = await mqworker("doctor", "--json", "--fix")
        assert states(mended) == WELL | {"missing": "fixed"}
        assert told(mended, "missing")[0].endswith(": 3 messages announced")
        assert await known(broker) == {"a", "b", "c"}
        assert states(await mqworker("doctor", "--json")) == WELL

    async def test_what_redis_has_too_much(self, mqworker: Mqworker, queue: MessageQueue, broker: Broker) -> None:
        kept = await queue.enqueue(INSTANCE, 7, "a", {})
        await queue_told(queue)
        await broker.announce([entry(900), entry(901, "b")])
        ran = await mqworker("doctor", "--json")
        assert states(ran) == WELL | {"surplus": "warn"}
        assert told(ran, "surplus")[0].startswith("2 of all 3 messages in Redis have ended")
        assert states(await mqworker("doctor", "--json", "--fix")) == WELL | {"surplus": "fixed"}
        assert await depth(broker) == [str(kept.id)]

    async def test_an_emptied_redis_is_filled_first(self, mqworker: Mqworker, store: Store, broker: Broker) -> None:
        await put(store)
        await broker.redis.flushall()
        assert states(await mqworker("doctor", "--json", code=Exit.FAILED)) == WELL | {
            "memory": "warn",
            "missing": "fail",
        }
        assert states(await mqworker("doctor", "--json", "--fix")) == WELL | {"memory": "fixed"}
        assert await known(broker) == {"a"}

    async def test_a_redis_that_is_being_filled(self, mqworker: Mqworker, broker: Broker) -> None:
        await broker.begin_rebuild(hold_seconds=30)
        assert told(await mqworker("doctor", "--json"), "memory")[0] == "Redis is being filled now"


async def server_is_older_than(store: Store, seconds: float) -> bool:
    (found,) = await sql(
        store, "SELECT pg_postmaster_start_time() < now() - make_interval(secs => %(seconds)s) AS old", seconds=seconds
    )
    return bool(found.old)


class TestSweeps:
    async def test_one_that_nobody_can_take(self, mqworker: Mqworker, new_store: NewStore) -> None:
        dead = new_store("the dead")
        assert await dead.duties.take("rebuild", every_seconds=0, hold_seconds=7200, now=True)
        ran = await mqworker("doctor", "--json", code=Exit.FAILED)
        assert states(ran) == WELL | {"sweeps": "fail"}
        assert "rebuild is taken for 119m by the dead" in told(ran, "sweeps")[0]
        assert states(await mqworker("doctor", "--json", "--fix")) == WELL | {"sweeps": "fixed"}
        assert await new_store("w2").duties.take("rebuild", every_seconds=0, hold_seconds=30)

    async def test_those_that_nobody_does(self, mqworker: Mqworker, store: Store) -> None:
        await sql(store, "UPDATE message_queue_duties SET last_done_at = now() - interval '1 hour' RETURNING 1")
        await sql(store, "DELETE FROM message_queue_duties WHERE name = 'reconcile' RETURNING 1")
        found, todo = told(await mqworker("doctor", "--json"), "sweeps")
        assert found == "not done in time: reclaim (60m ago), reconcile (never), clean-instances (60m ago)"
        assert "worker" in todo

    async def test_claims_that_nobody_takes_back(self, mqworker: Mqworker, store: Store, settings: Settings) -> None:
        message = await put(store)
        await claim(store)
        await change(store, message, "lease_expires_at = now() - interval '1 hour'")
        ran = await mqworker("doctor", "--json", code=Exit.FAILED)
        assert states(ran)["claims"] == "fail"
        assert told(ran, "claims")[0].startswith("1 messages in flight")
        await eventually(partial(server_is_older_than, store, settings.lease_seconds), "reclaim waits no more")
        assert states(await mqworker("doctor", "--json", "--fix"))["claims"] == "fixed"
        assert (await row(store, message)).status == "PENDING"

    async def test_a_repair_that_did_nothing_is_none(
        self, mqworker: Mqworker, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await put(store)
        await change(store, (await claim(store)).message.id, "lease_expires_at = now() - interval '1 hour'")
        monkeypatch.setattr(Sweeps, "reclaim", AsyncMock(return_value=0))
        ran = await mqworker("doctor", "--json", "--fix", code=Exit.FAILED)
        assert told(ran, "claims")[1].startswith("not repaired: none taken back")


class TestServers:
    @pytest.mark.parametrize("server", AWAY)
    async def test_one_that_is_away(self, server: str, mqworker: Mqworker, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(*AWAY[server])
        ran = await mqworker("doctor", "--json", "--fix", code=Exit.AWAY)
        left = {"postgresql": ["links", "postgresql", "redis", "memory"], "redis": list(WELL)[:6]}[server]
        assert list(states(ran)) == left, "what can be looked at without it"
        assert states(ran)[server] == "away"
        assert AWAY[server][0] in told(ran, server)[1]

    async def test_settings_that_break_a_promise(self, mqworker: Mqworker, database_url: str) -> None:
        name = database_url.rsplit("/", 1)[1]
        execute(database_url, f'ALTER DATABASE "{name}" SET synchronous_commit = off')
        ran = await mqworker("doctor", "--json", code=Exit.FAILED)
        assert states(ran) == WELL | {"postgresql": "fail"}
        assert "synchronous_commit is off" in told(ran, "postgresql")[0]

    async def test_a_database_that_takes_no_writes(self, mqworker: Mqworker, database_url: str, store: Store) -> None:
        await put(store)
        name = database_url.rsplit("/", 1)[1]
        execute(database_url, f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        ran = await mqworker("doctor", "--json", code=Exit.FAILED)
        assert told(ran, "postgresql")[0] == "PostgreSQL accepts no writes at the moment (it is read-only)"

    async def test_a_schema_that_is_behind(self, mqworker: Mqworker, store: Store) -> None:
        await sql(store, "UPDATE message_queue_version SET version_num = '0000' RETURNING 1")
        ran = await mqworker("doctor", "--json", "--fix", code=Exit.FAILED)
        assert states(ran) == {name: WELL[name] for name in ("links", "postgresql", "redis", "memory")} | {
            "schema": "fail"
        }
        assert told(ran, "schema") == (
            "the database schema is at 0000, which this code does not know: upgrade mqworker",
            "",
        )

    async def test_a_redis_that_evicts_and_one_that_wastes_memory(self, mqworker: Mqworker, broker: Broker) -> None:
        risky = {"maxmemory-policy": "allkeys-lru", "stream-node-max-bytes": "4096"}
        before = {name: await broker.redis.config_get(name) for name in risky}
        for name, value in risky.items():
            await broker.redis.config_set(name, value)
        try:
            ran = await mqworker("doctor", "--json")
        finally:
            for name, answer in before.items():
                await broker.redis.config_set(name, answer[name])
        assert states(ran) == WELL | {"redis": "warn"}
        evicts, wastes = [one for one in ran.data if one["check"] == "redis"]
        assert "allkeys-lru" in evicts["found"]
        assert "noeviction" in evicts["todo"]
        assert "4096 bytes" in wastes["found"]

    async def test_a_cluster_that_is_not_said_to_be_one(
        self, mqworker: Mqworker, redis_nodes: RedisNodes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MQWORKER_REDIS_URL", redis_nodes.url)
        ran = await mqworker("doctor", "--json", code=Exit.FAILED)
        assert list(states(ran)) == list(WELL)[:6], "nothing more is asked of it"
        assert states(ran)["redis"] == "fail"
        assert "MQWORKER_REDIS_CLUSTER" in told(ran, "redis")[0]
        monkeypatch.setenv("MQWORKER_REDIS_CLUSTER", "1")
        assert states(await mqworker("doctor", "--json", "--fix")) == WELL | {"memory": "fixed"}

    async def test_a_replica(self, mqworker: Mqworker, broker: Broker) -> None:
        await broker.redis.replicaof("127.0.0.1", 1)
        try:
            ran = await mqworker("doctor", "--json", code=Exit.FAILED)
        finally:
            await broker.redis.replicaof("NO", "ONE")
        assert "is a replica" in told(ran, "redis")[0]


async def test_what_cannot_be_repaired_is_told(
    mqworker: Mqworker, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(store)

    monkeypatch.setattr(drift.Drift, "announce", AsyncMock(side_effect=BrokerUnavailable("OutOfMemoryError")))
    ran = await mqworker("doctor", "--json", "--fix", code=Exit.FAILED)
    assert told(ran, "missing")[1] == "not repaired: OutOfMemoryError"
