"""Real servers for all tests: started once a session, a fresh database and an empty Redis for each test."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count

import hypothesis
import psycopg
import pytest
import redis
from sqlalchemy.engine import make_url

from mqworker import MessageQueue
from mqworker.broker import Broker, Keys
from mqworker.devserver import DevServers, PostgresServer, RedisServer
from mqworker.migrate import upgrade
from mqworker.patient_redis import PatientRedis
from mqworker.runtime import redis_outage
from mqworker.settings import Settings, load_settings
from mqworker.store import Store
from tests.cluster import RedisNodes

# Installed, pytest finds it by its entry point; a checkout may not be installed, or not anew.
pytest_plugins = ["mqworker.testing.plugin"]

NewStore = Callable[..., Store]
NewBroker = Callable[..., Broker]

TEMPLATE = "mqworker_template"

# Tests share their machine's cores with two servers: how long an example takes says nothing about the code.
hypothesis.settings.register_profile("noisy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("noisy")

# What the promises are measured in, made short: their proportions are those of the defaults.
SHORT = {
    "delay_min_seconds": 0.01,
    "delay_max_seconds": 0.03,
    "backoff_base_seconds": 0.1,
    "backoff_cap_seconds": 0.5,
    "executor_timeout_seconds": 5.0,
    "lease_seconds": 2.0,
    "renew_seconds": 0.5,
    "reclaim_every_seconds": 0.5,
    "reconcile_every_seconds": 1.0,
    "drain_seconds": 10.0,
}

_names = count(1)


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_can_be_sent() -> None:
    """A shell starts background jobs with SIGINT ignored, and the commands that tests start would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def servers() -> Iterator[DevServers]:
    """PostgreSQL and Redis for the whole session; what they hold may be lost."""
    with DevServers(durable=False) as started:
        yield started


def execute(database_url: str, statement: str) -> None:
    """Run one statement outside any transaction."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(statement.encode())


def with_database(url: str, name: str) -> str:
    """The URL of another database on the same server."""
    return make_url(url).set(database=name).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def template(servers: DevServers) -> Iterator[str]:
    """A migrated database: a copy of it takes some 80 ms, the migration some 300."""
    execute(servers.database_url, f'DROP DATABASE IF EXISTS "{TEMPLATE}"')
    execute(servers.database_url, f'CREATE DATABASE "{TEMPLATE}"')
    url = with_database(servers.database_url, TEMPLATE)
    upgrade(load_settings(_env_file=None, database_url=url).database_url.get_secret_value())
    yield TEMPLATE
    execute(servers.database_url, f'DROP DATABASE "{TEMPLATE}" WITH (FORCE)')


@pytest.fixture
def database_url(servers: DevServers, template: str) -> Iterator[str]:
    """A database of this test's own, at the newest revision and empty.

    Dropped at once: with hundreds of them each costs the server more, and to drop them all at the end took minutes.
    """
    name = f"mqworker_test_{os.getpid()}_{next(_names)}"
    execute(servers.database_url, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    yield with_database(servers.database_url, name)
    execute(servers.database_url, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def redis_url(servers: DevServers) -> str:
    """An empty Redis."""
    client = redis.Redis.from_url(servers.redis_url)
    client.flushall()
    client.close()
    return servers.redis_url


@pytest.fixture
def settings(database_url: str, redis_url: str) -> Settings:
    """Settings for this test's servers, with short times."""
    return load_settings(_env_file=None, database_url=database_url, redis_url=redis_url, **SHORT)


@pytest.fixture
async def new_real_store(settings: Settings) -> AsyncIterator[NewStore]:
    """Makes stores with an engine of their own, as separate workers have."""
    stores: list[Store] = []

    def make(worker: str = "w1", **changes: object) -> Store:
        stores.append(Store.open(settings.model_copy(update=changes), worker=worker))
        return stores[-1]

    yield make
    for store in stores:
        await store.aclose()


@pytest.fixture
async def new_real_broker(redis_url: str) -> AsyncIterator[NewBroker]:
    """Makes brokers with connections of their own."""
    brokers: list[Broker] = []

    def make(owner: str = "w1") -> Broker:
        brokers.append(Broker(redis_url, Keys(), owner=owner))
        return brokers[-1]

    yield make
    for broker in brokers:
        await broker.aclose()


@pytest.fixture(scope="session")
def session_redis_nodes() -> Iterator[RedisNodes]:
    """A Redis Cluster for the whole session."""
    with RedisNodes() as nodes:
        yield nodes


@pytest.fixture
def redis_nodes(session_redis_nodes: RedisNodes) -> RedisNodes:
    """An empty Redis Cluster; a test may kill its nodes and move their slots."""
    session_redis_nodes.reset()
    return session_redis_nodes


@pytest.fixture
async def new_cluster_broker(redis_nodes: RedisNodes) -> AsyncIterator[NewBroker]:
    """Makes brokers on the cluster."""
    brokers: list[Broker] = []

    def make(owner: str = "w1") -> Broker:
        brokers.append(Broker(redis_nodes.url, Keys(), owner=owner, cluster=True))
        return brokers[-1]

    yield make
    for broker in brokers:
        await broker.aclose()


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
def own_postgres(own_servers: DevServers) -> PostgresServer:
    assert own_servers.postgres is not None
    return own_servers.postgres


@pytest.fixture
def own_redis(own_servers: DevServers) -> RedisServer:
    assert own_servers.redis is not None
    return own_servers.redis


@pytest.fixture
def own_settings(own_servers: DevServers) -> Settings:
    """Settings for servers that this test may kill."""
    settings = load_settings(
        _env_file=None, database_url=own_servers.database_url, redis_url=own_servers.redis_url, **SHORT
    )
    upgrade(settings.database_url.get_secret_value())
    return settings


@pytest.fixture
async def new_client() -> AsyncIterator[Callable[[str], PatientRedis]]:
    """Makes clients as arq gets them; they stop waiting when the test ends."""
    clients: list[PatientRedis] = []

    def make(url: str) -> PatientRedis:
        clients.append(PatientRedis(url, redis_outage(), queue_name="mq:arq"))
        return clients[-1]

    yield make
    for client in clients:
        client.patience.stopping = True
        await client.aclose(close_connection_pool=True)


@pytest.fixture
def environment(database_url: str, redis_url: str) -> dict[str, str]:
    """The same for a process."""
    return process_environment(database_url, redis_url)


def process_environment(database_url: str, redis_url: str, **changes: object) -> dict[str, str]:
    """An environment for a process of ours: these servers, short times, nothing of the caller's settings."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MQWORKER_")}
    values = {**SHORT, **changes, "database_url": database_url, "redis_url": redis_url}
    return inherited | {f"MQWORKER_{key.upper()}": str(value) for key, value in values.items()}
