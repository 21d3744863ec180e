"""What the integration tests share: the rooms on this test's own database and an empty Redis."""

from __future__ import annotations

import pytest

from mqworker.broker import Broker
from mqworker.settings import Settings
from mqworker.store import Store
from mqworker.sweeps import Sweeps
from tests.conftest import NewBroker, NewStore


@pytest.fixture
def new_store(new_real_store: NewStore) -> NewStore:
    return new_real_store


@pytest.fixture
def store(new_store: NewStore) -> Store:
    return new_store()


@pytest.fixture
def new_broker(new_real_broker: NewBroker) -> NewBroker:
    return new_real_broker


@pytest.fixture
def broker(new_broker: NewBroker) -> Broker:
    return new_broker()


@pytest.fixture
def sweeps(store: Store, broker: Broker, settings: Settings) -> Sweeps:
    return Sweeps(store, broker, settings)
