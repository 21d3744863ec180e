"""Stores and brokers of both kinds. A test that asks for one runs on each."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from random import Random

import pytest
from redis.asyncio import Redis

from mqworker.broker import Broker
from mqworker.broker.server import Server
from mqworker.settings import Settings, load_settings
from mqworker.store import Store
from mqworker.testing.memory.broker import MemoryBroker, RedisServer
from mqworker.testing.memory.line import Direct
from mqworker.testing.memory.store import open_memory_store
from mqworker.testing.memory.tables import Tables
from tests.conftest import SHORT, NewBroker, NewStore


@dataclass(slots=True)
class MemoryServers:
    """Both servers in memory, on this machine's clock."""

    tables: Tables = field(default_factory=lambda: Tables(time.time, Random(1), lambda *_: None))
    redis: RedisServer = field(default_factory=lambda: RedisServer(time.time))
    settings: Settings = field(default_factory=lambda: load_settings(_env_file=None, **SHORT))

    def store(self, worker: str = "w1", **changes: object) -> Store:
        return open_memory_store(
            self.tables, Direct("PostgreSQL"), self.settings.model_copy(update=changes), worker=worker
        )

    def broker(self, owner: str = "w1") -> Broker:
        return MemoryBroker(self.redis, Direct("Redis"), owner=owner)


@pytest.fixture
def memory() -> MemoryServers:
    return MemoryServers()


@pytest.fixture(params=["postgresql", "memory"])
def new_store(request: pytest.FixtureRequest, memory: MemoryServers) -> NewStore:
    """Makes stores that share their rows."""
    if request.param == "memory":
        return memory.store
    make: NewStore = request.getfixturevalue("new_real_store")
    return make


@pytest.fixture
def store(new_store: NewStore) -> Store:
    return new_store()


@pytest.fixture(params=["redis", "cluster", "memory"])
def new_broker(request: pytest.FixtureRequest, memory: MemoryServers) -> NewBroker:
    """Makes brokers that share their keys."""
    if request.param == "memory":
        return memory.broker
    make: NewBroker = request.getfixturevalue("new_real_broker" if request.param == "redis" else "new_cluster_broker")
    return make


def servers_of(broker: Broker) -> list[Redis]:
    """The client of each server that holds a part of what the broker told."""
    servers = broker.servers
    return [servers.redis] if isinstance(servers, Server) else [node.redis for node in servers._nodes.values()]


@pytest.fixture
def broker(new_broker: NewBroker) -> Broker:
    return new_broker()
