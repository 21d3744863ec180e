"""What the containers would run, run without containers: the servers' settings, the migration, a worker, its check."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from mqworker import MessageQueue
from mqworker.devserver import DevServers, PostgresServer
from mqworker.devserver.find import find_redis
from mqworker.devserver.server import free_port
from mqworker.settings import load_settings
from mqworker.testing.waiting import eventually, wait_until
from tests.acceptance.gateway import Gateway
from tests.conftest import execute, with_database
from tests.containers import VALUES, compose, filled_in, image_environment, services, the


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[int]:
    """The bundled Valkey under the file that Compose would give it, on a port and in a folder of this test."""
    port = free_port()
    file = tmp_path / "valkey.conf"
    file.write_text(filled_in(compose()["configs"]["valkey"]["content"]) + f"bind 127.0.0.1\nport {port}\n")
    program = find_redis("bundled")[0].program
    with (tmp_path / "valkey.log").open("wb") as log:
        process = subprocess.Popen(
            [program, file], cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
    yield port
    process.terminate()
    process.wait(10)


def test_valkey_takes_its_file_and_asks_for_the_password(valkey: int) -> None:
    with redis.Redis(port=valkey, password=VALUES["REDIS_PASSWORD"], decode_responses=True) as client:

        def answers() -> bool:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

        wait_until(answers, "Valkey answers")
        expected = {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory": str(512 * 1024**2),
            "maxmemory-policy": "noeviction",
            "stream-node-max-bytes": "256",
        }
        found: Any = client.config_get()
        assert {name: found[name] for name in expected} == expected
    with redis.Redis(port=valkey) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


def test_postgresql_starts_with_its_settings(own_servers: DevServers, own_postgres: PostgresServer) -> None:
    program, *words = services()["postgres"]["command"]
    assert program == "postgres"
    options = dict(word.removeprefix("-c").split("=", 1) for word in words)
    for name, value in options.items():
        execute(own_servers.database_url, f"ALTER SYSTEM SET {name} = '{value}'")
    own_postgres.stop()
    own_postgres.start()
    with psycopg.connect(own_servers.database_url) as connection:
        rows = connection.execute(
            "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY(%s)", [list(options)]
        )
        assert dict(rows.fetchall()) == options


@pytest.fixture
def empty(servers: DevServers) -> Iterator[str]:
    """A database without tables."""
    name = f"mqworker_containers_{os.getpid()}"
    execute(servers.database_url, f'CREATE DATABASE "{name}"')
    yield with_database(servers.database_url, name)
    execute(servers.database_url, f'DROP DATABASE "{name}" WITH (FORCE)')


def process(service: str, given: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """The command and the environment of one of our services; ``given`` is where this test has what it names."""
    program = the("ENTRYPOINT").command[0]
    own = {name: value for name, value in image_environment().items() if name.startswith("MQWORKER_")}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MQWORKER_")}
    environment = {name: filled_in(value) for name, value in services()[service]["environment"].items()}
    return [sys.executable, "-m", program, *services()[service]["command"]], inherited | own | environment | given


async def test_its_commands_migrate_deliver_and_find_the_worker_well(
    empty: str, redis_url: str, gateway: Gateway, tmp_path: Path
) -> None:
    given = {
        "MQWORKER_DATABASE_URL": empty,
        "MQWORKER_REDIS_URL": redis_url,
        "MQWORKER_WEBHOOK_URL": gateway.url,
        "MQWORKER_PROBE_HOST": "127.0.0.1",
        "MQWORKER_PROBE_PORT": str(free_port()),
    }
    command, environment = process("migrate", given)
    subprocess.run(command, env=environment, cwd=tmp_path, check=True, timeout=60)
    command, environment = process("worker", given)
    _, *check = services()["worker"]["healthcheck"]["test"]

    def is_healthy() -> bool:
        asked = subprocess.run(
            [sys.executable, "-m", *check], env=environment, cwd=tmp_path, capture_output=True, timeout=20
        )
        return asked.returncode == 0

    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        worker = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT)
    try:
        assert not is_healthy(), "it has only just been started"
        await eventually(is_healthy, "it is healthy", timeout_seconds=30)
        async with MessageQueue(load_settings(_env_file=None, database_url=empty, redis_url=redis_url)) as queue:
            await queue.enqueue("shop", 7, "chat", {"text": "hi"})
            await eventually(lambda: len(gateway.delivered) == 1, "it is delivered", timeout_seconds=20)
        worker.terminate()
        await eventually(lambda: worker.poll() is not None, "it ends", timeout_seconds=20)
        assert worker.returncode == 0, log.read_text()
        assert not is_healthy()
    finally:
        worker.kill()
        worker.wait()
    assert all(line.startswith("{") for line in log.read_text().splitlines()), "the image logs JSON"
