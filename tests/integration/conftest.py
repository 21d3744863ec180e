"""What the integration tests share: the rooms on this test's own database and an empty Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from mqworker import MessageQueue
from mqworker.broker import Broker, Keys
from mqworker.devserver import DevServers
from mqworker.migrate import upgrade
from mqworker.settings import Settings, load_settings
from mqworker.store import Store
from tests.conftest import SHORT


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


@pytest.fixture
def own_servers() -> Iterator[DevServers]:
    """Servers that this test may kill."""
    with DevServers(durable=False) as started:
        yield started


@pytest.fixture
def own_settings(own_servers: DevServers) -> Settings:
    """Settings for servers that this test may kill."""
    settings = load_settings(
        _env_file=None, database_url=own_servers.database_url, redis_url=own_servers.redis_url, **SHORT
    )
    upgrade(settings.database_url.get_secret_value())
    return settings
