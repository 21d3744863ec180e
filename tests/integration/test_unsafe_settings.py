"""What a worker says, or refuses, when its servers are set up so that messages may be lost or read on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from mqworker import ConfigError
from mqworker.devserver import DevServers
from mqworker.patient_redis import PatientRedis, eviction_policy
from mqworker.runtime import redis_outage
from mqworker.settings import Settings, load_settings, open_links
from mqworker.store import Store
from mqworker.testing.waiting import eventually
from tests.conftest import SHORT, execute
from tests.integration.working import Gateway, working


@pytest.fixture
async def new_store() -> AsyncIterator[Callable[[str], Store]]:
    stores: list[Store] = []

    def make(database_url: str) -> Store:
        settings = load_settings(_env_file=None, database_url=database_url, redis_url="redis://localhost")
        stores.append(Store.open(settings, worker="test"))
        return stores[-1]

    yield make
    for store in stores:
        await store.aclose()


@pytest.fixture
def durable_servers() -> Iterator[DevServers]:
    with DevServers() as started:
        yield started


async def test_a_durable_server_gives_no_warning(
    durable_servers: DevServers, new_store: Callable[[str], Store]
) -> None:
    assert await new_store(durable_servers.database_url).database.check() == []


async def test_a_server_that_may_lose_its_data_is_warned_of(
    own_servers: DevServers, new_store: Callable[[str], Store]
) -> None:
    fsync, full_page_writes = await new_store(own_servers.database_url).database.check()
    assert "fsync off" in fsync
    assert "full_page_writes off" in full_page_writes


async def test_commits_that_are_not_waited_for_are_refused(
    own_servers: DevServers, new_store: Callable[[str], Store]
) -> None:
    execute(own_servers.database_url, "ALTER ROLE postgres SET synchronous_commit = off")
    with pytest.raises(ConfigError, match="synchronous_commit is off"):
        await new_store(own_servers.database_url).database.check()


async def test_a_worker_says_it_at_its_start(
    own_servers: DevServers, own_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with working(own_settings, Gateway()):
        assert "fsync off" in caplog.text


def evictions(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "may evict keys" in record.getMessage()]


async def set_policy(servers: DevServers, policy: str) -> None:
    client = PatientRedis(servers.redis_url, redis_outage(), queue_name="mq:arq")
    await client.config_set("maxmemory-policy", policy)
    await client.aclose(close_connection_pool=True)


async def test_a_redis_that_evicts_is_warned_of_once(
    own_servers: DevServers, new_client: Callable[[str], PatientRedis], caplog: pytest.LogCaptureFixture
) -> None:
    await set_policy(own_servers, "allkeys-lru")
    client = new_client(own_servers.redis_url)
    await asyncio.gather(*(client.ping() for _ in range(5)))
    (warning,) = evictions(caplog)
    assert "allkeys-lru" in warning
    assert "noeviction" in warning


async def test_a_redis_that_comes_later_is_looked_at_then(
    own_servers: DevServers, new_client: Callable[[str], PatientRedis], caplog: pytest.LogCaptureFixture
) -> None:
    redis = own_servers.redis
    assert redis is not None
    client = new_client(own_servers.redis_url)
    await client.ping()
    assert evictions(caplog) == []
    await set_policy(own_servers, "volatile-ttl")
    await asyncio.gather(*(client.ping() for _ in range(5)))
    assert len(evictions(caplog)) == 1, "a new connection may lead to another server"
    redis.kill()
    waiting = asyncio.ensure_future(client.ping())
    await eventually(lambda: "Redis is away" in caplog.text, "the outage is noticed")
    await asyncio.to_thread(redis.start)
    assert await waiting
    assert len(evictions(caplog)) == 1


async def test_a_redis_that_denies_info_is_used_all_the_same(
    own_servers: DevServers, new_client: Callable[[str], PatientRedis], caplog: pytest.LogCaptureFixture
) -> None:
    admin = new_client(own_servers.redis_url)
    await admin.acl_setuser("quiet", enabled=True, nopass=True, commands=["+@all", "-info"])
    client = new_client(own_servers.redis_url.replace("redis://", "redis://quiet:any@"))
    assert await client.ping()
    assert evictions(caplog) == []


@pytest.mark.parametrize(
    ("info", "policy"),
    [
        (b"# Memory\r\nmaxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\nallocator:x\r\n", "allkeys-lru"),
        ("maxmemory_policy:noeviction\r\n", "noeviction"),
        (b"used_memory:1\r\n", "noeviction"),
        (b"", "noeviction"),
    ],
)
def test_the_policy_that_info_tells(info: bytes | str, policy: str) -> None:
    assert eviction_policy(info) == policy


def links(database_url: str, redis_url: str) -> str:
    return " ".join(open_links(load_settings(_env_file=None, database_url=database_url, redis_url=redis_url)))


NEAR = ("postgresql://localhost/x", "redis://localhost")


class TestOpenLinks:
    @pytest.fixture(autouse=True)
    def _no_defaults_of_the_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("PGHOST", "PGSSLMODE"):
            monkeypatch.delenv(name, raising=False)

    @pytest.mark.parametrize(
        "database_url",
        [
            "postgresql://localhost/x",
            "postgresql://127.0.0.1/x",
            "postgresql://127.8.8.8/x",
            "postgresql://[::1]/x",
            "postgresql:///x",
            "postgresql:///x?host=/run/postgresql",
            "postgresql://db.example/x?sslmode=verify-full",
            "postgresql://db.example/x?sslmode=verify-ca",
        ],
    )
    def test_postgresql_nearby_or_checked(self, database_url: str) -> None:
        assert links(database_url, NEAR[1]) == ""

    @pytest.mark.parametrize(
        "database_url",
        [
            "postgresql://db.example/x",
            "postgresql://10.1.2.3/x",
            "postgresql://db.example/x?sslmode=disable",
            "postgresql://db.example/x?sslmode=require",
            "postgresql:///x?host=/run/postgresql,db.example",
        ],
    )
    def test_postgresql_in_the_open(self, database_url: str) -> None:
        assert "sslmode=verify-full" in links(database_url, NEAR[1])

    def test_postgresql_by_the_variables_of_its_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PGHOST", "db.example")
        assert "sslmode=prefer" in links("postgresql:///x", NEAR[1])
        monkeypatch.setenv("PGSSLMODE", "verify-full")
        assert links("postgresql:///x", NEAR[1]) == ""

    @pytest.mark.parametrize(
        "redis_url",
        ["redis://localhost:1/0", "redis://:x@127.0.0.1", "redis://[::1]:1", "unix:///r.sock", "rediss://r.example"],
    )
    def test_redis_nearby_or_checked(self, redis_url: str) -> None:
        assert links(NEAR[0], redis_url) == ""

    @pytest.mark.parametrize("redis_url", ["redis://redis:6379/0", "redis://:x@10.1.2.3", "redis://localhost.example"])
    def test_redis_in_the_open(self, redis_url: str) -> None:
        warning = links(NEAR[0], redis_url)
        assert "use rediss://" in warning
        assert ":x@" not in warning

    def test_the_redis_of_arq_in_the_open(self) -> None:
        urls = {
            "database_url": NEAR[0],
            "redis_url": "rediss://node.example/0",
            "arq_redis_url": "redis://clock.example",
        }
        assert "use rediss://" in " ".join(open_links(load_settings(_env_file=None, **urls, redis_cluster=True)))

    async def test_a_worker_says_it_and_starts(self, database_url: str, caplog: pytest.LogCaptureFixture) -> None:
        far = load_settings(_env_file=None, database_url=database_url, redis_url="redis://redis.invalid/0", **SHORT)
        async with working(far, Gateway()):
            assert "Redis is reached over a network without TLS" in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "rediss://r.example/0?ssl_cert_reqs=none",
        "rediss://r.example/0?ssl_cert_reqs=optional",
        "rediss://r.example/0?ssl_check_hostname=False",
        "rediss://r.example/0?ssl_check_hostname=no",
        "rediss://r.example/0?ssl_cert_reqs=none&ssl_cert_reqs=required",
        "redis://r.example/0?ssl_ca_certs=/etc/ca.pem",
    ],
)
def test_tls_that_checks_nothing_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"MQWORKER_REDIS_URL: (must not turn off|has ssl_ parameters)"):
        load_settings(_env_file=None, redis_url=url)
