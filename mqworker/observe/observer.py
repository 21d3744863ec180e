"""The probes of one worker, put together: what they look at, what they answer, where they listen."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Self

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, ProcessCollector, generate_latest

from mqworker.observe.checks import Checks
from mqworker.observe.metrics import WorkerCollector
from mqworker.observe.server import Answer, ProbeServer
from mqworker.observe.survey import Survey
from mqworker.outage import Outage
from mqworker.runtime import Runtime
from mqworker.tasks import end_tasks, for_ever

log = logging.getLogger(__name__)

METRICS_KEPT_SECONDS = 1.0
"""To write out thousands of numbers takes milliseconds of the event loop: however often it is asked, once a second."""


class Observer:
    """Serves one worker's probes from its own event loop, until it is closed."""

    def __init__(self, runtime: Runtime, redis: Outage) -> None:
        self.checks = Checks(runtime, redis)
        self.survey = Survey(runtime.store)
        # A registry of this worker's own: the library's global one belongs to the user's application.
        self.registry = CollectorRegistry()
        self.registry.register(WorkerCollector(runtime, self.checks, self.survey))
        ProcessCollector(registry=self.registry)
        self._metrics = Answer(200, CONTENT_TYPE_PLAIN_0_0_4, b"")
        self._metrics_until = float("-inf")
        self._tasks: list[asyncio.Task[None]] = []
        self._server = ProbeServer({"/livez": self._livez, "/readyz": self._readyz, "/metrics": self._get_metrics})

    @classmethod
    async def open(cls, runtime: Runtime, redis: Outage, *, host: str, port: int) -> Self:
        """Answer on this address from now on. Raises :class:`ConfigError` where it cannot be had."""
        observer = cls(runtime, redis)
        await observer._server.listen(host, port)
        log.info("probes answer", extra={"url": observer.url})
        for name, run in {**observer.checks.loops, "survey": observer.survey.run}.items():
            observer._tasks.append(asyncio.create_task(for_ever(name, run), name=name))
        return observer

    @property
    def url(self) -> str:
        """``http://host:port``, with the port that was really taken."""
        return self._server.url

    async def aclose(self) -> None:
        """Answer no more. Call it before the worker's connections are closed."""
        await end_tasks(self._tasks)
        await self.survey.aclose()
        await self._server.aclose()

    def _livez(self) -> Answer:
        return Answer(200, "text/plain; charset=utf-8", b"alive\n")

    def _readyz(self) -> Answer:
        status = self.checks.status
        body = json.dumps({"status": status, "failing": self.checks.failing})
        return Answer(503 if status == "unready" else 200, "application/json", body.encode() + b"\n")

    def _get_metrics(self) -> Answer:
        now = asyncio.get_running_loop().time()
        if now >= self._metrics_until:
            self._metrics = Answer(200, CONTENT_TYPE_PLAIN_0_0_4, generate_latest(self.registry))
            self._metrics_until = now + METRICS_KEPT_SECONDS
        return self._metrics
