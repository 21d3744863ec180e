"""What the integration tests share: the rooms on this test's own database and an empty Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from mqworker import MessageQueue
from mqworker.broker import Broker, Keys
from mqworker.settings import Settings
from mqworker.store import Store


@pytest.fixture
async def new_store(settings: Settings) -> AsyncIterator[Callable[..., Store]]:
    """Makes stores with an engine of their own, as separate workers have."""
    stores: list[Store] = []

    def make(worker: str = "w1", **changes: object) -> Store:
        stores.append(Store.open(settings.model_copy(update=changes), worker=worker))
        return stores[-1]

    yield make
    for store in stores:
        await store.aclose()


@pytest.fixture
def store(new_store: Callable[..., Store]) -> Store:
    return new_store()


@pytest.fixture
async def new_broker(redis_url: str) -> AsyncIterator[Callable[..., Broker]]:
    """Makes brokers with connections of their own."""
    brokers: list[Broker] = []

    def make(owner: str = "w1") -> Broker:
        brokers.append(Broker(redis_url, Keys(), owner=owner))
        return brokers[-1]

    yield make
    for broker in brokers:
        await broker.aclose()


@pytest.fixture
def broker(new_broker: Callable[..., Broker]) -> Broker:
    return new_broker()


@pytest.fixture
async def queue(settings: Settings) -> AsyncIterator[MessageQueue]:
    async with MessageQueue(settings) as opened:
        yield opened
