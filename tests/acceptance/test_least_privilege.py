"""The files of docs/security as they are: enough for all that producers and workers do, and for nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import psycopg
import pytest
import redis
from psycopg.errors import InsufficientPrivilege, ReadOnlySqlTransaction
from redis.exceptions import AuthenticationError, NoPermissionError

from mqworker import MessageQueue, QueueStats
from mqworker.devserver import PostgresServer, RedisServer
from mqworker.devserver.account import Account
from mqworker.devserver.find import find_postgres, find_redis, server_choice
from mqworker.devserver.folders import StateFolder
from mqworker.devserver.launch import Place
from mqworker.devserver.server import free_port
from mqworker.devserver.servers import _usable
from mqworker.settings import Settings, load_settings
from mqworker.testing.waiting import eventually
from tests.acceptance.conftest import Fleet
from tests.acceptance.gateway import Gateway
from tests.acceptance.processes import ROOT
from tests.acceptance.test_promises import INSTANCE, all_done, breaches, fill, message
from tests.conftest import SHORT, process_environment

SECURITY = ROOT / "docs" / "security"
PASSWORDS = {name: f"{name}-f00d" for name in ("owner", "app", "readonly", "worker", "producer", "admin")}


class GuardedRedis(RedisServer):
    """A Redis that has had the ACL file, and a user for the test's own eyes, from its start on."""

    def _command(self, port: int) -> list[str]:
        text = (SECURITY / "redis-users.acl").read_text()
        for name in ("worker", "producer"):
            text = text.replace(f"SHA256-OF-THE-{name.upper()}S-PASSWORD", _sha256(PASSWORDS[name]))
        users = self._place.folder.path / "users.acl"
        users.write_text(f"{text}user admin on #{_sha256(PASSWORDS['admin'])} ~* &* +@all\n")
        users.chmod(0o644)
        return [*super()._command(port), "--aclfile", str(users)]

    def _is_ready(self, pid: int, port: int) -> bool:
        with _client("admin", port) as client:
            try:
                info = client.info("server")
            except redis.ConnectionError:
                return False
        assert isinstance(info, dict)
        return bool(info["process_id"] == pid)

    def url_of(self, user: str, name: str) -> str:
        return self.url.replace("redis://", f"redis://{user}:{PASSWORDS[name]}@")

    def client(self, name: str) -> redis.Redis:
        return _client(name, self.port)


class GuardedPostgres(PostgresServer):
    """A PostgreSQL that asks all but its superuser for a password."""

    def _command(self, port: int) -> list[str]:
        rules = self._place.folder.path / "hba.conf"
        rules.write_text("host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
        rules.chmod(0o644)
        return [*super()._command(port), "-c", f"hba_file={rules}"]

    def url_of(self, name: str) -> str:
        return self.url.replace("postgres@", f"mq_{name}:{PASSWORDS[name]}@")

    def run_roles_file(self) -> None:
        """As its header says."""
        file = str(SECURITY / "postgres-roles.sql")
        command = [str(self.binaries / "psql"), "-X", "-q", "-d", self.url, "-v", "ON_ERROR_STOP=1", "-f", file]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        environment |= {f"MQ_{name.upper()}_PASSWORD": PASSWORDS[name] for name in ("owner", "app", "readonly")}
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert (run.returncode, run.stderr) == (0, "")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _client(name: str, port: int) -> redis.Redis:
    user = name if name == "admin" else f"mq_{name}"
    return redis.Redis(port=port, username=user, password=PASSWORDS[name], decode_responses=True)


@pytest.fixture
def place() -> Iterator[Place]:
    folder = StateFolder.open_throw_away()
    yield Place(folder, Account.choose(folder.path))
    folder.close()


@pytest.fixture
def guarded_redis(place: Place) -> Iterator[GuardedRedis]:
    binaries = _usable("Redis", find_redis(server_choice(os.environ)), place.account)
    server = GuardedRedis(place, binaries, appendonly=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def guarded_postgres(place: Place) -> Iterator[GuardedPostgres]:
    """Migrated by its owner, in the three steps of the file."""
    binaries = _usable("PostgreSQL", find_postgres(server_choice(os.environ)), place.account)
    server = GuardedPostgres(place, binaries, durable=False)
    server.start()
    server.run_roles_file()
    migrate = subprocess.run(
        [sys.executable, "-m", "mqworker", "migrate"],
        cwd=ROOT,
        env=process_environment(server.url_of("owner"), ""),
        capture_output=True,
        text=True,
        check=False,
    )
    assert migrate.returncode == 0, migrate.stderr
    server.run_roles_file()
    yield server
    server.stop()


def settings_of(database_url: str, redis_url: str) -> Settings:
    return load_settings(_env_file=None, database_url=database_url, redis_url=redis_url, **SHORT)


async def test_all_that_producers_and_workers_do_is_allowed(
    guarded_redis: GuardedRedis, guarded_postgres: GuardedPostgres, new_fleet: Callable[..., Fleet], gateway: Gateway
) -> None:
    app = guarded_postgres.url_of("app")
    fleet = new_fleet(settings_of(app, guarded_redis.url_of("mq_worker", "worker")), clean_every_hours=0.0005)
    producer = settings_of(app, guarded_redis.url_of("mq_producer", "producer"))
    admin = guarded_redis.client("admin")
    async with MessageQueue(producer) as queue:
        (worker,) = await fleet.start()
        await queue.initialize(INSTANCE, 7)
        ids = await fill(queue, chats=10, each=20, hold_seconds=0.01)
        later = await queue.enqueue(
            INSTANCE, 7, "chat-later", {"text": "hi"}, scheduled_at=datetime.now(UTC) + timedelta(hours=1)
        )
        assert await queue.cancel(later.id) == "cancelled"
        assert (await queue.clear_queue(INSTANCE, "chat-nobody")).cancelled == 0
        for done in (50, 120):
            await eventually(partial(gateway.has_delivered, done), f"{done} are delivered")
            admin.flushall()
        assert await all_done(queue) == QueueStats(completed=200, cancelled=1)
        assert breaches(gateway, ids) == []
        odd = await queue.enqueue_many(
            [message("odd", fail_times=1), message("odd", status=400), {**message("odd"), "priority": 5}]
        )
        soon = await queue.enqueue(
            INSTANCE, 7, "chat-soon", {"text": "hi"}, scheduled_at=datetime.now(UTC) + timedelta(seconds=0.5)
        )
        assert await all_done(queue) == QueueStats(completed=203, failed=1, cancelled=1)
        assert gateway.has_accepted(str(soon.id))
        assert (await queue.get(odd[1].id)).status == "FAILED"
        assert len(await queue.list(INSTANCE)) == 100
        assert len(await queue.error_summary(INSTANCE)) == 1
        with psycopg.connect(guarded_postgres.url, autocommit=True) as connection:
            connection.execute(
                "UPDATE message_queue_items SET processed_at = now() - interval '9 days',"
                " created_at = now() - interval '9 days' WHERE chat_id = 'chat-odd'"
            )
        await queue.schedule_cleanup("another", 6, 7)
        await eventually(lambda: "3 old messages removed" in worker.text, "the worker cleans")
        assert await queue.clean_old_messages(INSTANCE) == 0
        await eventually(lambda: admin.keys("arq:in-progress:mqworker:*"), "arq's cron runs")
        worker.send(signal.SIGTERM)
        assert await worker.exit_code() == 0, worker.text[-2000:]
    assert admin.acl_log() == [], "nothing that they tried was denied"
    assert "is away" not in worker.text
    assert "Traceback" not in worker.text


DENIED = (
    "FLUSHALL", "FLUSHDB", "KEYS *", "SCAN 0", "RANDOMKEY", "CONFIG GET *", "SCRIPT FLUSH", "ACL LIST", "CLIENT LIST",
    "CLIENT KILL ID 1", "MONITOR", "MODULE LIST", "REPLICAOF NO ONE", "SWAPDB 0 1", "SHUTDOWN NOSAVE",
    "SAVE", "LATENCY RESET", "FUNCTION LIST", "GET foreign", "SET foreign 1", "DEL foreign", "PUBLISH foreign 1",
    "SUBSCRIBE foreign", "EVAL return 0",
)  # fmt: skip
PRODUCERS_TOO = (
    "SET mq:epoch:{mq:instances} 1", "GET mq:epoch:{mq:instances}", "ZADD mq:arq 1 evil", "SET arq:job:evil 1", "INFO",
    "SUBSCRIBE mq:wake",
)  # fmt: skip
IN_SCRIPTS = ("FLUSHALL", "KEYS", "GET", "SET", "DEL", "ZADD", "PUBLISH")


@pytest.mark.parametrize(("name", "commands"), [("worker", DENIED), ("producer", (*DENIED, *PRODUCERS_TOO))])
def test_redis_denies_all_else(guarded_redis: GuardedRedis, name: str, commands: tuple[str, ...]) -> None:
    guarded_redis.client("admin").set("foreign", "kept")
    client = guarded_redis.client(name)
    for command in commands:
        with pytest.raises(NoPermissionError):
            client.execute_command(*command.split())  # type: ignore[no-untyped-call]  # redis-py
    for words in (command.split() for command in commands if command.split()[0] in IN_SCRIPTS):
        # What may not be called may not be called from Lua: by EVAL, or as a script that was loaded.
        code = f"return redis.call({', '.join(repr(word) for word in words)})"
        with pytest.raises(NoPermissionError):
            client.eval(code, 0)
        with pytest.raises(
            redis.ResponseError, match=r"(?i)acl failure|the user executing the script can't|permission"
        ):
            client.evalsha(str(client.script_load(code)), 0)
    assert guarded_redis.client("admin").get("foreign") == "kept"


def test_redis_lets_nobody_in_without_a_password(guarded_redis: GuardedRedis) -> None:
    with pytest.raises(AuthenticationError):
        redis.Redis(port=guarded_redis.port).ping()


APP_MAY_NOT = (
    "DROP TABLE message_queue_items",
    "TRUNCATE message_queue_items",
    "ALTER TABLE message_queue_items ADD COLUMN more text",
    "CREATE INDEX more ON message_queue_items (worker)",
    "CREATE TRIGGER more BEFORE INSERT ON message_queue_items EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE TABLE more (id int)",
    "CREATE TABLE public.more (id int)",
    "CREATE TEMPORARY TABLE message_queue_items (id int)",
    "CREATE FUNCTION more() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE SCHEMA more",
    "CREATE ROLE more",
    "SET ROLE mq_owner",
    "ALTER TABLE message_queue_items OWNER TO mq_app",
    "UPDATE message_queue_version SET version_num = '0'",
    "DELETE FROM message_queue_instances",
    "DELETE FROM message_queue_duties",
    "COPY message_queue_items TO PROGRAM 'cat'",
    "SELECT pg_read_file('postgresql.conf')",
    "ALTER SYSTEM SET fsync = off",
)
READER_MAY_NOT = (
    "SELECT payload FROM message_queue_items",
    "SELECT * FROM message_queue_items",
    "SELECT i FROM message_queue_items i",
    "SELECT count(*) FROM message_queue_items WHERE payload->>'text' = 'hi'",
    "COPY message_queue_items TO STDOUT",
    "INSERT INTO message_queue_items (instance, chat_id, client_id, payload) VALUES ('a', 'b', 1, '{}')",
    "UPDATE message_queue_items SET status = 'PENDING'",
    "DELETE FROM message_queue_items",
    "SELECT id FROM message_queue_items FOR UPDATE",
    "CREATE TEMPORARY TABLE more (id int)",
)


async def test_postgresql_denies_all_else(guarded_postgres: GuardedPostgres) -> None:
    async with MessageQueue(settings_of(guarded_postgres.url_of("app"), "redis://127.0.0.1:1/0")) as queue:
        await queue.enqueue(INSTANCE, 7, "chat", {"text": "hi"})
    with psycopg.connect(guarded_postgres.url_of("app"), autocommit=True) as app:
        for statement in APP_MAY_NOT:
            assert _denies(app, statement), statement
        limits = app.execute(
            "SELECT current_setting('search_path'), current_setting('statement_timeout'),"
            " current_setting('lock_timeout'), current_setting('idle_in_transaction_session_timeout')"
        )
        assert limits.fetchone() == ("public, pg_temp", "30s", "5s", "1min")
    with psycopg.connect(guarded_postgres.url_of("readonly"), autocommit=True) as reader:
        reader.execute("SET default_transaction_read_only = off")  # the rights must hold, not a setting
        for statement in READER_MAY_NOT:
            assert _denies(reader, statement), statement
        hidden = reader.execute("SELECT count(*) FROM pg_stats WHERE attname = 'payload'")
        assert hidden.fetchone() == (0,)
    with psycopg.connect(guarded_postgres.url_of("owner"), autocommit=True) as owner:
        for statement in ("CREATE ROLE more", "ALTER SYSTEM SET fsync = off", "SELECT pg_read_file('postgresql.conf')"):
            assert _denies(owner, statement), statement


def _denies(connection: psycopg.Connection[tuple[object, ...]], statement: str) -> bool:
    try:
        connection.execute(statement.encode())
    except InsufficientPrivilege:
        return True
    return False


async def test_a_reader_sees_all_but_the_payload(guarded_postgres: GuardedPostgres) -> None:
    nowhere = "redis://127.0.0.1:1/0"
    async with MessageQueue(settings_of(guarded_postgres.url_of("app"), nowhere)) as queue:
        sent = await queue.enqueue(INSTANCE, 7, "chat", {"text": "hi"})
    async with MessageQueue(settings_of(guarded_postgres.url_of("readonly"), nowhere)) as queue:
        assert await queue.get_stats(INSTANCE) == QueueStats(pending=1)
        assert (await queue.get(sent.id)).chat_id == "chat"
        assert [one.id for one in await queue.list(INSTANCE)] == [sent.id]
        assert list(await queue.error_summary(INSTANCE)) == []
    with psycopg.connect(guarded_postgres.url) as connection:
        every = {row[0] for row in connection.execute(_COLUMNS)}
    with psycopg.connect(guarded_postgres.url_of("readonly")) as reader:
        seen = {row[0] for row in reader.execute(_COLUMNS)}
        with pytest.raises(ReadOnlySqlTransaction):
            reader.execute("CREATE ROLE more")
    assert every - seen == {"payload"}, "a new column is either shown to readers or named here"


async def test_a_doctor_needs_no_more_than_a_worker(
    guarded_redis: GuardedRedis, guarded_postgres: GuardedPostgres
) -> None:
    app = guarded_postgres.url_of("app")
    async with MessageQueue(settings_of(app, "redis://127.0.0.1:1/0")) as queue:
        await queue.enqueue(INSTANCE, 7, "chat", {"text": "hi"})
    environment = process_environment(app, guarded_redis.url_of("mq_worker", "worker"))
    command = [sys.executable, "-m", "mqworker", "doctor", "--fix", "--json"]
    doctor = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (doctor.returncode, doctor.stderr) == (0, "")
    found = {one["check"]: one["state"] for one in map(json.loads, doctor.stdout.splitlines())}
    assert (found["redis"], found["memory"], found["missing"]) == ("ok", "fixed", "ok")
    assert guarded_redis.client("admin").exists(f"mq:{{{INSTANCE}}}:ready")


_COLUMNS = """
    SELECT attname FROM pg_attribute
    WHERE attrelid = 'message_queue_items'::regclass AND attnum > 0 AND NOT attisdropped
      AND has_column_privilege(attrelid, attnum, 'SELECT')
"""


def test_a_file_with_its_placeholders_is_refused(place: Place, tmp_path: Path) -> None:
    """Nobody gets passwords that everybody knows."""
    binaries = _usable("Redis", find_redis(server_choice(os.environ)), place.account)
    address = ["--bind", "127.0.0.1", "--port", str(free_port())]
    started = subprocess.run(
        [binaries.program, *address, "--aclfile", SECURITY / "redis-users.acl"],
        cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert started.returncode != 0
    assert "password hash must be exactly 64 characters" in started.stdout
