"""What makes a worker ready, looked at every second; whoever asks is told at once what was found last."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

from mqworker.broker import BrokerUnavailable
from mqworker.errors import MqWorkerError
from mqworker.outage import Outage
from mqworker.runtime import Runtime

LOOK_SECONDS = 1.0
PATIENCE_SECONDS = 2.0

Status = Literal["ready", "degraded", "unready"]
CHECKS = ("postgres", "redis", "worker")
DEGRADING = frozenset({"redis"})
"""Without Redis a worker leases nothing new, but what is in flight goes on: to replace the worker mends nothing."""


class Checks:
    """Three checks by name: ``postgres`` takes writes, ``redis`` answers, ``worker`` has started and is not ending."""

    def __init__(self, runtime: Runtime, redis: Outage) -> None:
        self._runtime = runtime
        self._redis_outage = redis
        self._postgres = _Check(runtime.store.monitor.check)
        self._redis = _Check(runtime.broker.ping)

    @property
    def loops(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """What runs until it is cancelled."""
        return {"check postgres": self._postgres.run, "check redis": self._redis.run}

    @property
    def failing(self) -> dict[str, str]:
        """The checks that fail, each with what is wrong."""
        redis = self._redis.failing
        if redis is None and self._redis_outage.away:
            # It answers, and yet refuses what the worker does: it is full, say, or a replica.
            redis = "Redis answers but refuses commands"
        found = {"postgres": self._postgres.failing, "redis": redis, "worker": self._runtime.not_ready}
        return {name: reason for name, reason in found.items() if reason is not None}

    @property
    def status(self) -> Status:
        failing = self.failing.keys()
        if not failing:
            return "ready"
        return "degraded" if failing <= DEGRADING else "unready"


class _Check:
    """One question, asked again and again; never twice at a time, however long its answer takes."""

    def __init__(self, ask: Callable[[], Awaitable[None]]) -> None:
        self._ask = ask
        self._found: str | None = "not looked at yet"
        self._asked_at: float | None = None

    @property
    def failing(self) -> str | None:
        if self._asked_at is not None and _now() - self._asked_at > PATIENCE_SECONDS:
            return f"no answer for {_now() - self._asked_at:.0f} s"
        return self._found

    async def run(self) -> None:
        while True:
            self._asked_at = _now()
            self._found = await self._answer()
            self._asked_at = None
            await asyncio.sleep(LOOK_SECONDS)

    async def _answer(self) -> str | None:
        try:
            await self._ask()
        except (MqWorkerError, BrokerUnavailable) as error:
            return str(error)
        return None


def _now() -> float:
    return asyncio.get_running_loop().time()
