"""Settings: names, defaults, what is refused, and that no password gets out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from mqworker import Message
from mqworker.errors import ConfigError
from mqworker.settings import Settings, load_settings
from mqworker.worker import worker_settings

DEFAULTS: dict[str, object] = {
    "DATABASE_URL": "",
    "REDIS_URL": "",
    "REDIS_CLUSTER": False,
    "ARQ_REDIS_URL": "",
    "KEY_PREFIX": "mq",
    "APP": "",
    "WEBHOOK_URL": "",
    "MAX_CHATS": 1000,
    "DELAY_MIN_SECONDS": 0.5,
    "DELAY_MAX_SECONDS": 2.0,
    "MAX_RETRIES": 3,
    "BACKOFF_BASE_SECONDS": 2,
    "BACKOFF_CAP_SECONDS": 300,
    "EXECUTOR_TIMEOUT_SECONDS": 60,
    "LEASE_SECONDS": 30,
    "RENEW_SECONDS": 10,
    "RECLAIM_EVERY_SECONDS": 5,
    "RECONCILE_EVERY_SECONDS": 15,
    "STALE_AFTER_SECONDS": 3600,
    "CLEAN_EVERY_HOURS": 6,
    "RETENTION_DAYS": 7,
    "DRAIN_SECONDS": 70,
    "PROBE_PORT": None,
    "PROBE_HOST": "127.0.0.1",
    "LOG_LEVEL": "INFO",
    "LOG_JSON": False,
}
OTHERS: dict[str, object] = {
    "DATABASE_URL": "postgresql+psycopg://db/x",
    "REDIS_URL": "redis://cache:6379/0",
    "REDIS_CLUSTER": True,
    "ARQ_REDIS_URL": "redis://clock:6379/1",
    "KEY_PREFIX": "other",
    "APP": "bot:registry",
    "WEBHOOK_URL": "http://gateway/send",
    "MAX_CHATS": 5,
    "DELAY_MIN_SECONDS": 0.0,
    "DELAY_MAX_SECONDS": 0.1,
    "MAX_RETRIES": 9,
    "BACKOFF_BASE_SECONDS": 0.5,
    "BACKOFF_CAP_SECONDS": 60.5,
    "EXECUTOR_TIMEOUT_SECONDS": 0.5,
    "LEASE_SECONDS": 2.5,
    "RENEW_SECONDS": 0.1,
    "RECLAIM_EVERY_SECONDS": 0.2,
    "RECONCILE_EVERY_SECONDS": 0.3,
    "STALE_AFTER_SECONDS": 60.0,
    "CLEAN_EVERY_HOURS": 0.5,
    "RETENTION_DAYS": 0.5,
    "DRAIN_SECONDS": 6.0,
    "PROBE_PORT": 9464,
    "PROBE_HOST": "::1",
    "LOG_LEVEL": "DEBUG",
    "LOG_JSON": True,
}
PASSWORD = "pa55word"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in DEFAULTS:
        monkeypatch.delenv(f"MQWORKER_{name}", raising=False)
    monkeypatch.chdir(tmp_path)


def plain(settings: Settings, name: str) -> object:
    value = getattr(settings, name.lower())
    return value.get_secret_value() if hasattr(value, "get_secret_value") else value


class TestNames:
    def test_names_and_defaults_are_the_documented_ones(self) -> None:
        settings = load_settings()
        assert {name.upper(): plain(settings, name) for name in Settings.model_fields} == DEFAULTS

    def test_each_is_read_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert OTHERS.keys() == DEFAULTS.keys()
        for name, value in OTHERS.items():
            monkeypatch.setenv(f"MQWORKER_{name}", str(value))
        settings = load_settings()
        assert {name: plain(settings, name) for name in OTHERS} == OTHERS

    def test_a_file_is_read_and_the_environment_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path(".env").write_text("MQWORKER_MAX_CHATS=5\nMQWORKER_MAX_RETRIES=9\nOTHER=1\n", encoding="utf-8")
        monkeypatch.setenv("MQWORKER_MAX_CHATS", "6")
        settings = load_settings()
        assert (settings.max_chats, settings.max_retries) == (6, 9)

    def test_arguments_win_over_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MQWORKER_MAX_CHATS", "6")
        assert load_settings(max_chats=7).max_chats == 7

    def test_a_log_level_in_any_case(self) -> None:
        assert load_settings(log_level="debug").log_level == "DEBUG"

    def test_frozen(self) -> None:
        with pytest.raises(ValidationError):
            load_settings().max_chats = 5  # type: ignore[misc]


async def send(message: Message) -> None: ...


def refused(**values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(**values)
    assert PASSWORD not in str(caught.value)
    assert caught.value.__suppress_context__
    return str(caught.value)


class TestCombinations:
    @pytest.mark.parametrize(
        ("values", "reason"),
        [
            ({"delay_min_seconds": 3}, "delay_min_seconds <= delay_max_seconds must hold, but 3 > 2"),
            (
                {"backoff_base_seconds": 301},
                "backoff_base_seconds <= backoff_cap_seconds must hold, but 301 > 300",
            ),
            ({"renew_seconds": 16}, "2 * renew_seconds <= lease_seconds must hold, but 32 > 30"),
            ({"reclaim_every_seconds": 31}, "reclaim_every_seconds <= lease_seconds must hold, but 31 > 30"),
            (
                {"reconcile_every_seconds": 3601},
                "reconcile_every_seconds <= stale_after_seconds must hold, but 3601 > 3600",
            ),
            ({"drain_seconds": 64}, "executor_timeout_seconds + 5 <= drain_seconds must hold, but 65 > 64"),
            (
                {"executor_timeout_seconds": 3600, "drain_seconds": 4000},
                "executor_timeout_seconds + 5 <= stale_after_seconds must hold, but 3605 > 3600",
            ),
            (
                {"retention_days": 0.001},
                "backoff_cap_seconds <= retention_days * 86400 must hold, but 300 > 86.4",
            ),
        ],
    )
    def test_the_broken_inequality_is_named(self, values: dict[str, float], reason: str) -> None:
        assert refused(**values, database_url=f"postgresql://bot:{PASSWORD}@db/x") == reason

    def test_the_edges_hold(self) -> None:
        load_settings(delay_min_seconds=0, delay_max_seconds=0, renew_seconds=15, drain_seconds=65)
        load_settings(lease_seconds=0.2, renew_seconds=0.1, reclaim_every_seconds=0.1, reconcile_every_seconds=0.1)

    @pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e300", "soon", ""])
    @pytest.mark.parametrize("name", [name for name in DEFAULTS if name.endswith(("SECONDS", "HOURS", "DAYS"))])
    def test_what_is_no_duration(self, name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(f"MQWORKER_{name}", value)
        assert refused().startswith(f"MQWORKER_{name}: ")

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("max_chats", 0),
            ("max_chats", 100_001),
            ("max_chats", 1.5),
            ("max_retries", 0),
            ("max_retries", 101),
            ("backoff_base_seconds", 0),
            ("executor_timeout_seconds", 0),
            ("lease_seconds", 0.05),
            ("retention_days", 0),
            ("clean_every_hours", 0),
            ("key_prefix", ""),
            ("key_prefix", "a{b"),
            ("key_prefix", "mq\n"),
            ("probe_port", -1),
            ("probe_port", 65_536),
            ("probe_port", ""),
            ("probe_host", ""),
            ("probe_host", "a b"),
            ("probe_host", "http://a"),
        ],
    )
    def test_out_of_range(self, name: str, value: object) -> None:
        assert refused(**{name: value}).startswith(f"MQWORKER_{name.upper()}: ")

    def test_all_faults_are_named_at_once(self) -> None:
        text = refused(max_chats=0, max_retries=0)
        assert "MQWORKER_MAX_CHATS: " in text
        assert "; MQWORKER_MAX_RETRIES: " in text


class TestDatabaseUrl:
    @pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
    def test_the_driver_is_ours(self, scheme: str) -> None:
        settings = load_settings(database_url=f"{scheme}://bot:{PASSWORD}@db:5432/x?sslmode=require")
        assert settings.database_url.get_secret_value() == (
            f"postgresql+psycopg://bot:{PASSWORD}@db:5432/x?sslmode=require"
        )

    @pytest.mark.parametrize(
        "url", ["postgresql:///x?host=/run/postgresql", "postgresql://db/x", "postgresql://[::1]:5432/x"]
    )
    def test_other_good_ones(self, url: str) -> None:
        assert load_settings(database_url=url).database_url.get_secret_value().endswith(url.removeprefix("postgresql"))

    @pytest.mark.parametrize(
        ("url", "reason"),
        [
            (f"mysql://bot:{PASSWORD}@db/x", "must start with postgresql://"),
            (f"postgresql+asyncpg://bot:{PASSWORD}@db/x", "must start with postgresql://"),
            (f"bot:{PASSWORD}@db/x", "must start with postgresql://"),
            (f"postgresql://bot:{PASSWORD}@db", "must name a database"),
            (f"postgresql://bot:{PASSWORD}@db:5432/", "must name a database"),
            (f" postgresql://bot:{PASSWORD}@db/x", "has white space around it"),
            (f"postgresql://bot:{PASSWORD}@db/x\n", "has white space around it"),
            (f"postgresql://bot:{PASSWORD}@db:port/x", "cannot be read"),
            (f"postgresql://bot:{PASSWORD}@db:54 32/x", "cannot be read"),
        ],
    )
    def test_refused(self, url: str, reason: str) -> None:
        assert refused(database_url=url).startswith(f"MQWORKER_DATABASE_URL: {reason}")


class TestRedisUrl:
    @pytest.mark.parametrize(
        "url",
        [
            "redis://localhost",
            "redis://localhost/",
            "redis://localhost:6379/0",
            f"redis://:{PASSWORD}@cache/15",
            f"rediss://bot:{PASSWORD}%40@cache:6380/0?ssl_ca_certs=ca.pem",
            "redis://[::1]:6379/0",
            f"unix://:{PASSWORD}@/run/redis.sock?db=1",
        ],
    )
    def test_accepted_as_it_is(self, url: str) -> None:
        assert load_settings(redis_url=url).redis_url.get_secret_value() == url

    @pytest.mark.parametrize(
        ("url", "reason"),
        [
            (f"http://:{PASSWORD}@cache", "must start with redis://"),
            (f"cache:6379:{PASSWORD}", "must start with redis://"),
            (f"redis://:{PASSWORD}@a:1,b:2/0", "must name one server"),
            (f"redis://:{PASSWORD}@cache ", "has white space around it"),
            (f"redis://:{PASSWORD}@cache:port/0", "cannot be read"),
            (f"redis://:{PASSWORD}@cache:99999/0", "cannot be read"),
            (f"redis://:{PASSWORD}@[::1/0", "cannot be read"),
            (f"redis://:{PASSWORD}\u2100@cache/0", "cannot be read"),
            (f"redis://:{PASSWORD}@cache/first", "must end with the number of its database"),
            (f"redis://:{PASSWORD}@cache/0/1", "must end with the number of its database"),
        ],
    )
    def test_refused(self, url: str, reason: str) -> None:
        assert refused(redis_url=url).startswith(f"MQWORKER_REDIS_URL: {reason}")
        assert refused(arq_redis_url=url).startswith(f"MQWORKER_ARQ_REDIS_URL: {reason}")


class TestRedisCluster:
    @pytest.mark.parametrize("url", ["redis://node", "rediss://node:6379/", f"redis://bot:{PASSWORD}@node/0"])
    def test_any_node_may_be_named(self, url: str) -> None:
        assert load_settings(redis_url=url, redis_cluster=True).redis_cluster

    @pytest.mark.parametrize("url", [f"redis://:{PASSWORD}@node/1", f"unix://:{PASSWORD}@/run/redis.sock"])
    def test_what_a_cluster_does_not_have_is_refused(self, url: str) -> None:
        assert refused(redis_url=url, redis_cluster=True) == (
            "redis_url must name a host and no database but 0 with redis_cluster"
        )

    def test_arq_has_the_same_redis_unless_it_is_given_its_own(self) -> None:
        assert load_settings(redis_url="redis://cache").redis_url_of_arq() == "redis://cache"
        settings = load_settings(redis_url="redis://cache", arq_redis_url="redis://clock")
        assert settings.redis_url_of_arq() == "redis://clock"

    def test_a_worker_on_a_cluster_must_be_given_a_redis_for_arq(self) -> None:
        servers = {"database_url": "postgresql://db/x", "redis_url": "redis://node"}
        settings = load_settings(**servers, redis_cluster=True)
        with pytest.raises(ConfigError, match="MQWORKER_ARQ_REDIS_URL must be set with MQWORKER_REDIS_CLUSTER"):
            worker_settings({"default": send}, settings)
        own = settings.model_copy(update={"arq_redis_url": SecretStr("redis://clock")})
        assert worker_settings({"default": send}, own)


class TestSecrets:
    URLS: dict[str, Any] = {  # noqa: RUF012
        "database_url": f"postgresql://bot:{PASSWORD}@db/x",
        "redis_url": f"redis://:{PASSWORD}@cache/0",
        "webhook_url": f"https://gateway/send?key={PASSWORD}",
    }

    def test_not_in_a_repr(self) -> None:
        settings = load_settings(**self.URLS)
        shown = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
        assert PASSWORD not in shown
        assert "max_chats" in shown

    def test_not_in_pydantics_own_error(self) -> None:
        with pytest.raises(ValidationError) as caught:
            Settings(**self.URLS, lease_seconds=1)
        assert PASSWORD not in str(caught.value)


class TestRequiredServers:
    def test_both_there(self) -> None:
        settings = load_settings(database_url="postgresql://db/x", redis_url="redis://cache")
        assert settings.require_servers() is settings

    @pytest.mark.parametrize(
        ("values", "named"),
        [
            ({}, "MQWORKER_DATABASE_URL and MQWORKER_REDIS_URL must be set"),
            ({"redis_url": "redis://cache"}, "MQWORKER_DATABASE_URL must be set"),
            ({"database_url": "postgresql://db/x"}, "MQWORKER_REDIS_URL must be set"),
        ],
    )
    def test_missing_ones_are_named(self, values: dict[str, Any], named: str) -> None:
        with pytest.raises(ConfigError, match=named):
            load_settings(**values).require_servers()
