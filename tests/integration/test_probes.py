"""``/readyz`` and ``/livez`` of a worker whose servers come and go."""

from __future__ import annotations

import asyncio

import pytest

from mqworker import Message, MessageQueue
from mqworker.devserver import PostgresServer, RedisServer
from mqworker.observe import checks
from mqworker.runtime import Runtime, redis_outage
from mqworker.settings import Settings
from mqworker.testing.waiting import eventually
from tests.conftest import execute
from tests.integration.probing import Asking, observed
from tests.integration.working import enqueue, finished, working


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(checks, "PATIENCE_SECONDS", 0.5)


async def send(message: Message) -> None: ...


async def until(probes: Asking, status: str, *failing: str) -> dict[str, str]:
    """Wait for an answer; return what its checks say. ``/livez`` answers meanwhile, whatever it is."""
    code = 503 if status == "unready" else 200

    async def reached() -> tuple[int, str, dict[str, str]] | None:
        assert (await probes.client.get("/livez")).text == "alive\n"
        found = await probes.ready()
        return found if (*found[:2], sorted(found[2])) == (code, status, sorted(failing)) else None

    return (await eventually(reached, f"{status}: {failing}"))[2]


async def test_a_worker_is_ready_from_its_start_to_its_drain(settings: Settings) -> None:
    runtime = Runtime.open(settings, {"default": send})
    async with observed(runtime) as probes:
        assert await until(probes, "unready", "worker") == {"worker": "it has not started yet"}
        runtime.start()
        await until(probes, "ready")
        await runtime.drain()
        found = await until(probes, "unready", "worker")
        assert found == {"worker": "it was told to stop and lets its sends in flight end"}
    await runtime.aclose()


async def test_postgresql_away_is_unready_and_redis_away_is_degraded(
    own_settings: Settings, own_postgres: PostgresServer, own_redis: RedisServer
) -> None:
    async with working(own_settings, send) as runtime, observed(runtime) as probes:
        await until(probes, "ready")
        await asyncio.to_thread(own_redis.kill)
        found = await until(probes, "degraded", "redis")
        assert "Connect call failed" in found["redis"] or "ConnectionError" in found["redis"]
        await asyncio.to_thread(own_postgres.kill)
        found = await until(probes, "unready", "postgres", "redis")
        assert found["postgres"].startswith("PostgreSQL cannot be reached (")
        samples = await probes.samples()
        assert samples.by("check_failing", "check") == {"postgres": 1, "redis": 1}
        await asyncio.to_thread(own_postgres.start)
        await until(probes, "degraded", "redis")
        await asyncio.to_thread(own_redis.start)
        await until(probes, "ready")


async def test_servers_that_say_nothing_are_named_without_being_waited_for(
    own_settings: Settings, own_postgres: PostgresServer, own_redis: RedisServer
) -> None:
    async with working(own_settings, send) as runtime, observed(runtime) as probes:
        await until(probes, "ready")
        own_redis.pause()
        found = await until(probes, "degraded", "redis")
        assert found["redis"].startswith("no answer for ")
        own_redis.resume()
        await until(probes, "ready")
        own_postgres.pause()
        try:
            found = await until(probes, "unready", "postgres")
        finally:
            own_postgres.resume()
        assert found["postgres"].startswith("no answer for ")
        await until(probes, "ready")


async def test_a_database_that_takes_no_writes_is_unready(own_settings: Settings) -> None:
    url = own_settings.database_url.get_secret_value().replace("+psycopg", "")
    async with working(own_settings, send) as runtime, observed(runtime) as probes:
        await until(probes, "ready")
        execute(url, "ALTER SYSTEM SET default_transaction_read_only = on")
        execute(url, "SELECT pg_reload_conf()")
        found = await until(probes, "unready", "postgres")
        assert found["postgres"] == "PostgreSQL accepts no writes at the moment (it is read-only)"
        execute(url, "ALTER SYSTEM RESET default_transaction_read_only")
        execute(url, "SELECT pg_reload_conf()")
        await until(probes, "ready")


async def test_a_database_without_our_tables_is_unready(own_settings: Settings) -> None:
    url = own_settings.database_url.get_secret_value().replace("+psycopg", "")
    runtime = Runtime.open(own_settings, {"default": send})
    execute(url, "ALTER TABLE message_queue_duties RENAME TO hidden")
    async with observed(runtime) as probes:

        async def is_named() -> bool:
            return "run `mqworker migrate`" in (await probes.ready())[2].get("postgres", "")

        await eventually(is_named, "it says what to do")
    await runtime.aclose()


async def test_a_redis_that_answers_and_refuses_everything_is_degraded(settings: Settings, queue: MessageQueue) -> None:
    redis = redis_outage()
    async with working(settings, send) as runtime, observed(runtime, redis) as probes:
        await until(probes, "ready")
        redis.noticed(OSError("OOM command not allowed"))
        assert await until(probes, "degraded", "redis") == {"redis": "Redis answers but refuses commands"}
        redis.over()
        await until(probes, "ready")
        await enqueue(queue)
        await finished(queue, completed=1)


async def test_a_worker_whose_executor_never_ends_is_unready(
    settings: Settings, queue: MessageQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mqworker.runtime.CANCEL_GRACE_SECONDS", 0.1)
    released = asyncio.Event()

    async def stubborn(message: Message) -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    await enqueue(queue)
    async with (
        working(settings, stubborn, executor_timeout_seconds=0.1) as runtime,
        observed(runtime) as probes,
    ):
        found = await until(probes, "unready", "worker")
        assert found["worker"].startswith("an executor ignores its cancellation")
        released.set()
