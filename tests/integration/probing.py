"""The probes of a worker inside the test, and what they answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from mqworker.observe import Observer
from mqworker.outage import Outage
from mqworker.runtime import Runtime, redis_outage

Labels = frozenset[tuple[str, str]]


@dataclass
class Asking:
    """Asks one worker's probes, wherever it runs."""

    client: httpx.AsyncClient

    async def ready(self) -> tuple[int, str, dict[str, str]]:
        """The HTTP status of ``/readyz``, its word for it, the failing checks."""
        answer = await self.client.get("/readyz")
        found: dict[str, Any] = answer.json()
        return answer.status_code, found["status"], found["failing"]

    async def failing(self) -> list[str]:
        """The names of the failing checks."""
        return sorted((await self.ready())[2])

    async def metrics(self) -> str:
        answer = await self.client.get("/metrics")
        assert answer.status_code == 200
        return answer.text

    async def samples(self) -> Samples:
        return Samples(await self.metrics())


class Samples:
    """What stands in an exposition."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self._values: dict[tuple[str, Labels], float] = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float | None:
        """One sample's value; ``None`` where there is none with exactly these labels."""
        return self._values.get((f"mqworker_{name}", frozenset(labels.items())))

    def by(self, name: str, label: str) -> dict[str, float]:
        """The samples of one name that are not 0, by one of their labels, added up."""
        found: dict[str, float] = {}
        for (sample, labels), value in self._values.items():
            if sample == f"mqworker_{name}" and value:
                key = dict(labels)[label]
                found[key] = found.get(key, 0.0) + value
        return found


@asynccontextmanager
async def asking(url: str) -> AsyncIterator[Asking]:
    async with httpx.AsyncClient(base_url=url, timeout=10) as client:
        yield Asking(client)


@asynccontextmanager
async def observed(runtime: Runtime, redis: Outage | None = None) -> AsyncIterator[Asking]:
    """The probes of a worker of this process, on a free port."""
    observer = await Observer.open(runtime, redis or redis_outage(), host="127.0.0.1", port=0)
    try:
        async with asking(observer.url) as probes:
            yield probes
    finally:
        await observer.aclose()
