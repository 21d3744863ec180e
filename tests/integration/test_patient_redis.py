"""arq's client: it outlives outages, speaks JSON, and what it plants or finds cannot run code."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from arq.jobs import DeserializationError, deserialize_job, serialize_job
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from mqworker.devserver import RedisServer
from mqworker.patient_redis import PAUSE_SECONDS, Patience, PatientRedis, from_json, to_json, will_pass
from mqworker.runtime import redis_outage
from mqworker.testing.waiting import eventually


async def test_jobs_go_round_as_json(redis_url: str, new_client: Callable[[str], PatientRedis]) -> None:
    client = new_client(redis_url)
    job = await client.enqueue_job("sweep", "reclaim", _job_id="one")
    assert job is not None
    assert await client.enqueue_job("sweep", "reclaim", _job_id="one") is None, "the id is taken"
    stored = await client.get("arq:job:one")
    assert stored.startswith(b"{")
    assert (await job.info()).function == "sweep"  # type: ignore[union-attr]


def test_a_planted_pickle_is_refused_and_does_nothing(tmp_path: Path) -> None:
    target = tmp_path / "owned"

    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (Path.touch, (target,))  # type: ignore[return-value]

    with pytest.raises(DeserializationError):
        deserialize_job(pickle.dumps(Evil()), deserializer=from_json)
    assert not target.exists()


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"f": 1, "a": [], "k": {}}', b'{"f": "x", "a": {}, "k": {}}'])
def test_what_is_no_job_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        from_json(data)


def test_an_exception_is_stored_as_redacted_text() -> None:
    data = to_json({"f": "x", "a": [], "k": {}, "r": ValueError("password=hunter22")})
    assert b"ValueError" in data
    assert b"hunter22" not in data
    assert serialize_job("x", (1,), {}, None, 0, serializer=to_json)


async def test_commands_and_pipelines_wait_out_an_outage(
    own_redis: RedisServer, new_client: Callable[[str], PatientRedis]
) -> None:
    client = new_client(own_redis.url)
    await client.set("key", "1")
    own_redis.kill()
    command = asyncio.ensure_future(client.set("other", "2"))
    job = asyncio.ensure_future(client.enqueue_job("sweep", _job_id="two"))
    done, _ = await asyncio.wait([command, job], timeout=0.5)
    assert not done
    await asyncio.to_thread(own_redis.start)
    assert await asyncio.wait_for(command, 10)
    await asyncio.wait_for(job, 10)
    await eventually(lambda: client.exists("arq:job:two"), "the job is there once")


async def test_nothing_waits_while_the_worker_stops(
    own_redis: RedisServer, new_client: Callable[[str], PatientRedis]
) -> None:
    client = new_client(own_redis.url)
    own_redis.kill()
    # arq's last word is the DEL of its health key, and it may come before anything told us to stop.
    assert await asyncio.wait_for(client.delete("mq:arq:health-check"), 10) is None
    async with client.pipeline() as pipeline:
        pipeline.get("a")
        pipeline.get("b")
        assert await asyncio.wait_for(pipeline.execute(), 10) == [None, None]


async def test_a_full_redis_is_waited_out(redis_url: str, new_client: Callable[[str], PatientRedis]) -> None:
    client = new_client(redis_url)
    await client.config_set("maxmemory", "1")
    try:
        waiting = asyncio.create_task(client.enqueue_job("sweep", "reclaim", _job_id="one"))
        await asyncio.sleep(2 * PAUSE_SECONDS)
        assert not waiting.done(), "it neither failed nor was it stored"
    finally:
        await client.config_set("maxmemory", "0")
    assert await waiting is not None
    assert await client.exists("arq:job:one")


@pytest.mark.parametrize(
    ("text", "passes"),
    [("MISCONF Redis is configured to save", True), ("BUSY Redis is busy", True), ("ERR unknown command", False)],
)
def test_what_passes_is_told_from_what_does_not(text: str, passes: bool) -> None:
    assert will_pass(ResponseError(text)) is passes


async def test_a_cancellation_that_became_a_timeout_is_passed_on() -> None:
    patience = Patience(redis_outage())
    begun = asyncio.Event()

    async def command() -> bytes | None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise RedisTimeoutError from None
        return b""

    waiting = asyncio.create_task(patience.until_answered(command, when_stopping=None))
    await begun.wait()
    patience.stopping = True
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
