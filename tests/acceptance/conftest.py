"""What the acceptance tests share: a gateway, workers that are ended after each test, servers of a test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from mqworker import MessageQueue
from mqworker.settings import Settings
from tests.acceptance.gateway import Gateway
from tests.acceptance.processes import WorkerProcess
from tests.conftest import process_environment

_numbers = count(1)


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with Gateway() as started:
        yield started


@dataclass
class Fleet:
    """The worker processes of one test."""

    folder: Path
    gateway: Gateway
    settings: Settings
    changes: Mapping[str, object]
    workers: list[WorkerProcess] = field(default_factory=list)

    def launch(self, **changes: object) -> WorkerProcess:
        """Start a worker and do not wait for it."""
        environment = process_environment(
            self.settings.database_url.get_secret_value(),
            self.settings.redis_url.get_secret_value(),
            **{**self.changes, **changes, "webhook_url": self.gateway.url},
        )
        worker = WorkerProcess(environment, self.folder / f"worker-{next(_numbers)}.log")
        self.workers.append(worker)
        return worker

    async def start(self, number: int = 1, **changes: object) -> list[WorkerProcess]:
        """Start workers and wait until they work."""
        launched = [self.launch(**changes) for _ in range(number)]
        return [await worker.started() for worker in launched]

    def end(self) -> None:
        for worker in self.workers:
            worker.kill()


@pytest.fixture
def new_fleet(tmp_path: Path, gateway: Gateway) -> Iterator[Callable[..., Fleet]]:
    """Makes fleets; their processes end with the test."""
    fleets: list[Fleet] = []

    def make(settings: Settings, **changes: object) -> Fleet:
        fleets.append(Fleet(tmp_path, gateway, settings, changes))
        return fleets[-1]

    yield make
    for fleet in fleets:
        fleet.end()


@pytest.fixture
def fleet(new_fleet: Callable[..., Fleet], settings: Settings) -> Fleet:
    """Workers on the session's servers."""
    return new_fleet(settings)


@pytest.fixture
def own_fleet(new_fleet: Callable[..., Fleet], own_settings: Settings) -> Fleet:
    """Workers on servers that this test may kill."""
    return new_fleet(own_settings)


@pytest.fixture
async def own_queue(own_settings: Settings) -> AsyncIterator[MessageQueue]:
    async with MessageQueue(own_settings) as opened:
        yield opened
