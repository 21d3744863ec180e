"""The Redis client that arq gets: it waits out outages, where stock arq ends its worker.

arq is our clock and process runner, nothing more: while Redis is away its loop stands still in here, and the sends
and their settles go on beside it. While the worker stops nothing waits any more: commands answer ``None``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from arq.connections import ArqRedis
from arq.constants import health_check_key_suffix
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import Connection, ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import (
    ExecAbortError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
    WatchError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from mqworker.broker import connection_options
from mqworker.lifecycle import describe_error
from mqworker.outage import Outage

log = logging.getLogger(__name__)

AWAY = (RedisConnectionError, RedisTimeoutError, OSError)
# It is there and refuses for now: out of memory, a replica, a failover under way. Either would end stock arq.
REFUSING = (OutOfMemoryError, ExecAbortError, ReadOnlyError, MasterDownError, TryAgainError)
REFUSING_CODES = ("MISCONF", "BUSY", "NOREPLICAS", "CLUSTERDOWN")  # redis-py has no class for these
PAUSE_SECONDS = 0.3
SAFE_POLICY = "noeviction"

T = TypeVar("T")


class Patience:
    """Repeats a command until Redis answers, or the worker stops."""

    def __init__(self, outage: Outage) -> None:
        self._outage = outage
        self.stopping = False

    async def until_answered(self, command: Callable[[], Awaitable[T]], *, when_stopping: T) -> T:
        """What ``command`` returns; ``when_stopping`` where it fails while the worker stops."""
        while True:
            try:
                answer = await command()
            except (RedisError, OSError) as error:
                if not will_pass(error):
                    raise
                if not self.stopping:
                    self._outage.noticed(error)
            else:
                self._outage.over()
                return answer
            if self.stopping:
                _pass_on_cancellation()
                return when_stopping
            await asyncio.sleep(PAUSE_SECONDS)


def _pass_on_cancellation() -> None:
    """Before Python 3.12 asyncio.wait_for, which redis-py sends with, can turn a cancellation into a timeout.

    arq's loop must end by it all the same: it would fail over an answer that is None.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def will_pass(error: Exception) -> bool:
    """Whether the same command may succeed later: Redis is away, full, read-only or busy."""
    return isinstance(error, AWAY + REFUSING) or str(error).partition(" ")[0] in REFUSING_CODES


class EvictionWatch:
    """Warns of a Redis that evicts keys, at a connection and not at the start: Redis may be away then."""

    def __init__(self) -> None:
        self._policy = SAFE_POLICY

    async def connected(self, connection: Connection) -> None:
        """Make the connection ready; warn once of each policy found."""
        await connection.on_connect()
        # Not CONFIG GET: an ACL that is worth its name denies it.
        await connection.send_command("INFO", "memory")
        try:
            answer: Any = await connection.read_response()
        except ResponseError as error:
            log.debug("cannot see whether Redis evicts keys", extra={"reason": str(error)})
            return
        policy = eviction_policy(answer)
        if policy not in (SAFE_POLICY, self._policy):
            log.warning(
                "Redis may evict keys (maxmemory-policy %s): chats would then wait for the next reconcile; "
                "set its maxmemory-policy to noeviction",
                policy,
            )
        self._policy = policy


def eviction_policy(info: bytes | str) -> str:
    """The ``maxmemory-policy`` that INFO tells; a server that does not say is taken for a safe one."""
    text = info.decode(errors="replace") if isinstance(info, bytes) else info
    found = re.search(r"^maxmemory_policy:([\w-]+)", text, re.MULTILINE)
    return found[1] if found else SAFE_POLICY


class PatientPipeline(Pipeline):
    """A pipeline that keeps its commands over a broken connection; arq's may all be repeated."""

    patience: Patience

    async def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        watching = self.watching

        async def command() -> Any:
            try:
                return await super(PatientPipeline, self).immediate_execute_command(*args, **options)  # type: ignore[no-untyped-call]  # redis-py
            except WatchError as error:
                # The connection that watched is gone. What arq guards by it is only a cron job starting twice.
                self.watching = watching
                raise RedisConnectionError("the watching connection broke") from error

        return await self.patience.until_answered(command, when_stopping=None)

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        commands, explicit = list(self.command_stack), self.explicit_transaction

        async def command() -> list[Any]:
            self.command_stack, self.explicit_transaction = list(commands), explicit
            return list(await super(PatientPipeline, self).execute(raise_on_error))

        return await self.patience.until_answered(command, when_stopping=[None] * len(commands))


class PatientRedis(ArqRedis):
    """arq's client, patient, and with JSON in place of pickle: who can write to Redis must not run code in workers."""

    def __init__(self, redis_url: str, outage: Outage, *, queue_name: str) -> None:
        watch = EvictionWatch()
        pool = ConnectionPool.from_url(redis_url, redis_connect_func=watch.connected, **connection_options(redis_url))
        self._our_pool = pool
        super().__init__(
            pool,
            job_serializer=to_json,
            job_deserializer=from_json,
            default_queue_name=queue_name,
        )
        self.patience = Patience(outage)
        self._health_key = queue_name + health_check_key_suffix

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        async def command() -> Any:
            return await super(PatientRedis, self).execute_command(*args, **options)  # type: ignore[no-untyped-call]  # redis-py

        if args == ("DEL", self._health_key):
            # arq's last word, the health key of a worker that ends; it may come before anything told us to stop.
            self.patience.stopping = True
        return await self.patience.until_answered(command, when_stopping=None)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> PatientPipeline:
        pipeline = PatientPipeline(self._our_pool, self.response_callbacks, transaction, shard_hint)
        pipeline.patience = self.patience
        return pipeline


def to_json(job: dict[str, Any]) -> bytes:
    """A job or its result as JSON; an exception as its redacted text."""
    return json.dumps(job, allow_nan=False, default=_plain).encode()


def _plain(value: object) -> str:
    if isinstance(value, BaseException):
        return describe_error(value)
    raise TypeError(f"arq jobs take and return JSON values, not {type(value).__name__}")


def from_json(data: bytes) -> dict[str, Any]:
    """What :func:`to_json` wrote. Raises ValueError for anything else, a planted pickle for one."""
    job = json.loads(data)
    shape = {"f": str, "a": list, "k": dict}
    if isinstance(job, dict) and all(isinstance(job.get(key), kind) for key, kind in shape.items()):
        return job
    raise ValueError("not a job of ours")
