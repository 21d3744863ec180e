"""What the integration tests share: the rooms on this test's own database and an empty Redis."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqworker.broker import Broker
from mqworker.settings import Settings
from mqworker.store import Store
from mqworker.sweeps import Sweeps
from tests.conftest import NewBroker, NewStore
from tests.integration.commands import Mqworker, runner


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


@pytest.fixture
def mqworker(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Mqworker:
    """Runs a command on this test's servers, in a folder without .env."""
    for name in environment:
        if name.startswith("MQWORKER_"):
            monkeypatch.setenv(name, environment[name])
    monkeypatch.chdir(tmp_path)
    return runner(capsys)
