"""Canaries: passwords, tokens and texts that must be nowhere but in PostgreSQL's payload; and planted pickles."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis
from arq.jobs import DeserializationError, Job
from redis.asyncio import Redis
from sqlalchemy.engine import make_url

from mqworker import EnqueueUncertain, Message, MessageQueue, QueueStats, StorageUnavailable
from mqworker.cli import main
from mqworker.devserver import DevServers
from mqworker.migrate import upgrade
from mqworker.patient_redis import PatientRedis
from mqworker.runtime import redis_outage
from mqworker.settings import Settings, load_settings
from mqworker.testing.waiting import eventually
from mqworker.worker import worker_settings
from tests.acceptance import leaky
from tests.acceptance.conftest import Fleet
from tests.acceptance.processes import ROOT, STARTED
from tests.acceptance.test_promises import INSTANCE, all_done, fill
from tests.canaries import found
from tests.conftest import SHORT, execute, process_environment

POSTGRES = "canaryPostgres7e55a0d3"
REDIS = "canaryRedis41b8f26c"
WEBHOOK = "canaryWebhook9ad0c35b"
TEXT = "canaryText62e1b7f4"
CANARIES = (POSTGRES, REDIS, WEBHOOK, TEXT, *leaky.TOKENS)
CASES = ("header", "scheme", "token", "url", "json", "wait", "exit", "chained", "unreadable")


@pytest.fixture
def secret_settings(own_servers: DevServers) -> Settings:
    """Servers behind passwords: PostgreSQL takes any here, Redis demands this one."""
    assert own_servers.redis is not None
    command(own_servers.redis.port, f"CONFIG SET requirepass {REDIS}")
    settings = load_settings(
        _env_file=None,
        database_url=with_password(own_servers.database_url),
        redis_url=own_servers.redis_url.replace("redis://", f"redis://:{REDIS}@"),
        webhook_url=f"https://bot:{WEBHOOK}@gateway.example/send?token={WEBHOOK}",
        **SHORT,
    )
    upgrade(settings.database_url.get_secret_value())
    return settings


def command(port: int, line: str) -> None:
    with redis.Redis(port=port) as client:
        client.execute_command(*line.split())


def with_password(database_url: str) -> str:
    return make_url(database_url).set(password=POSTGRES).render_as_string(hide_password=False)


@contextlib.asynccontextmanager
async def monitored(settings: Settings) -> AsyncIterator[bytearray]:
    """All that Redis is told meanwhile, also by scripts."""
    url = make_url(settings.redis_url.get_secret_value())
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(f"AUTH {REDIS}\r\nMONITOR\r\n".encode())
    heard = bytearray()

    async def listen() -> None:
        while data := await reader.read(65_536):
            heard.extend(data)

    listener = asyncio.create_task(listen())
    try:
        yield heard
    finally:
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)
        writer.close()
        await writer.wait_closed()


async def memory_of(client: Redis) -> str:
    """Every key of Redis with all that it holds, as text."""
    readers: dict[str, Callable[[str], Any]] = {
        "string": client.get,
        "hash": client.hgetall,
        "zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        "stream": client.xrange,
        "list": lambda key: client.lrange(key, 0, -1),
        "set": client.smembers,
        "none": client.get,  # it went meanwhile
    }
    return "\n".join([f"{key!r}: {await readers[await client.type(key)](key)!r}" async for key in client.scan_iter()])


class Workers:
    """A worker by our command, logging all as JSON, and one by arq's, as talkative as it can be."""

    COMMANDS = (
        ("-m", "mqworker", "--debug", "worker", "--log-level", "DEBUG", "--log-json"),
        ("-m", "arq", "--verbose", "mqworker.worker.WorkerSettings"),
    )

    def __init__(self, settings: Settings, folder: Path) -> None:
        environment = process_environment(
            settings.database_url.get_secret_value(),
            settings.redis_url.get_secret_value(),
            webhook_url=settings.webhook_url.get_secret_value(),
            app="tests.acceptance.leaky:registry",
            max_retries=2,
            log_level="DEBUG",
        )
        self.logs = [folder / f"{words[1]}.log" for words in self.COMMANDS]
        self.processes = [
            self._start(words, environment, log) for words, log in zip(self.COMMANDS, self.logs, strict=True)
        ]

    @staticmethod
    def _start(words: tuple[str, ...], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as file:
            return subprocess.Popen(
                [sys.executable, *words], cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
            )

    async def started(self) -> None:
        await eventually(
            lambda: all(STARTED.search(log.read_text()) for log in self.logs), "both start", timeout_seconds=20
        )

    @property
    def have_both_failed(self) -> bool:
        """Whether each has had something to scrub."""
        return all("***" in log.read_text() for log in self.logs)

    async def ended(self) -> list[int]:
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        await eventually(lambda: all(p.poll() is not None for p in self.processes), "both end", timeout_seconds=20)
        return [process.returncode for process in self.processes]

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def new_workers(tmp_path: Path) -> Iterator[Callable[[Settings], Workers]]:
    made: list[Workers] = []

    def make(settings: Settings) -> Workers:
        made.append(Workers(settings, tmp_path))
        return made[-1]

    yield make
    for workers in made:
        workers.kill()


def message(case: str) -> dict[str, object]:
    payload = {"text": TEXT, "case": case}
    return {"instance": INSTANCE, "client_id": 7, "chat_id": f"chat-{case}", "payload": payload, "max_retries": 2}


async def fail_in_both(queue: MessageQueue, workers: Workers) -> None:
    """Every case, until chance has given some of them to each worker."""
    for _ in range(50):
        await queue.enqueue_many([message(case) for case in CASES])
        await all_done(queue)
        if workers.have_both_failed:
            return


async def test_a_whole_run_tells_no_secret(
    own_servers: DevServers,
    secret_settings: Settings,
    new_workers: Callable[[Settings], Workers],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    postgres = own_servers.postgres
    assert postgres is not None
    async with monitored(secret_settings) as heard, MessageQueue(secret_settings) as queue:
        workers = new_workers(secret_settings)
        await workers.started()
        await fail_in_both(queue, workers)
        execute(
            own_servers.database_url,
            "INSERT INTO message_queue_items (instance, chat_id, client_id, payload)"
            f" VALUES ('{INSTANCE}', 'chat-list', 7, '[\"{TEXT}\"]'), ('{INSTANCE}', 'chat-word', 7, '\"{TEXT}\"')",
        )
        await queue.enqueue_many([message(f"fine-{n}") for n in range(200)])
        memory = await memory_of(queue._broker.redis)
        await eventually(lambda: "processed" in "".join(log.read_text() for log in workers.logs), "something is sent")
        await asyncio.to_thread(postgres.kill)
        with pytest.raises((StorageUnavailable, EnqueueUncertain)) as away:
            await queue.enqueue(INSTANCE, 7, "chat-away", {"text": TEXT})
        await asyncio.to_thread(postgres.start)
        await queue._broker.redis.flushall()
        stats = await all_done(queue, timeout_seconds=60)
        assert stats.failed % (len(CASES) - 1) == 2, "all cases but `wait`, and two that are no objects"
        memory += await memory_of(queue._broker.redis)
        rows = await everything_but_payloads(queue)
        assert await workers.ended() == [0, 0]
    assert workers.have_both_failed, "what was scrubbed was there to be found"
    assert "***" in rows
    assert b"evalsha" in heard.lower()
    assert INSTANCE in memory
    assert found(CANARIES, *workers.logs, bytes(heard), memory, rows, shown(away.value), records(caplog)) == []
    execute(own_servers.database_url, f"SELECT 1/count(*) FROM message_queue_items WHERE payload::text ~ '{TEXT}'")


async def everything_but_payloads(queue: MessageQueue) -> str:
    tables = ("message_queue_items", "message_queue_chats", "message_queue_instances", "message_queue_duties")
    lines = [f"SELECT (to_jsonb(t) - 'payload')::text AS line FROM {table} t" for table in tables]
    rows = await queue._store.database.rows(" UNION ALL ".join(lines))
    return "\n".join(row.line for row in rows)


def shown(error: BaseException) -> str:
    """An error in every way in which it gets shown."""
    return "\n".join([str(error), repr(error), *traceback.format_exception(error)])


def records(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)


async def test_refusals_of_a_producer_tell_no_secret(
    own_servers: DevServers, secret_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    deep: dict[str, Any] = {"text": TEXT}
    for _ in range(200):
        deep = {"deeper": deep, "text": TEXT}
    payloads: list[Any] = [
        {"text": TEXT, "n": float("nan")},
        {"text": TEXT, "what": object()},
        {"text": TEXT * 50_000},
        {"text": f"{TEXT}\x00"},
        {"text": f"{TEXT}\ud800"},
        {1: TEXT},
        {f"{TEXT}\x00": 1},
        {"more": {"and more": {TEXT}}},
        [TEXT],
        TEXT,
        deep,
    ]
    execute(
        own_servers.database_url, "ALTER TABLE message_queue_items ADD CONSTRAINT no_such CHECK (chat_id <> 'refused')"
    )
    taken = uuid4()
    errors: list[BaseException] = [EnqueueUncertain([taken])]

    async def refused(asked: Awaitable[object]) -> None:
        try:
            await asked
        except Exception as error:
            errors.append(error)

    async with MessageQueue(secret_settings) as queue:
        await queue.enqueue(INSTANCE, 7, "chat", {"text": TEXT}, message_id=taken)
        attempts = [
            *(queue.enqueue(INSTANCE, 7, "chat", payload) for payload in payloads),
            queue.enqueue(INSTANCE, 7, "chat", {"text": f"{TEXT}2"}, message_id=taken),
            queue.enqueue(INSTANCE, 7, "refused", {"text": TEXT}),
            queue.enqueue_many([message("a"), {**message("b"), "payload": TEXT}]),
            queue.enqueue_many([message("a"), {**message("b"), "unknown": TEXT}]),
            queue.enqueue_many([message("a"), {**message("b"), "chat_id": "refused"}]),
            queue.client(INSTANCE, 7).send_message(to="chat", text=TEXT, more={TEXT}),
        ]
        for attempt in attempts:
            await refused(attempt)
        assert own_servers.postgres is not None
        await asyncio.to_thread(own_servers.postgres.stop)
        await refused(queue.enqueue(INSTANCE, 7, "chat", {"text": TEXT}))
        await refused(queue.get_stats(INSTANCE))
        objects = [
            queue,
            queue._settings,
            queue._broker.redis,
            queue._store.database.connections,
            queue.client(INSTANCE, 7),
        ]
    assert len(errors) == 1 + len(attempts) + 2, "each was refused"
    assert found(CANARIES, *map(shown, errors), *map(repr, objects), records(caplog)) == []


def test_what_is_shown_of_our_objects_tells_no_secret(secret_settings: Settings) -> None:
    options = worker_settings({"default": leaky.send}, secret_settings)
    received = Message(
        id=uuid4(), instance=INSTANCE, client_id=7, chat_id="chat", payload={"text": TEXT}, is_group=False,
        executor="default", priority=0, retry_count=0, max_retries=3, created_at=datetime.now(UTC),
    )  # fmt: skip
    texts = [repr(one) for one in (secret_settings, received, options, vars(options))]
    assert found(CANARIES, *texts, str(secret_settings), str(received), secret_settings.model_dump_json()) == []


BAD_DATABASES = {
    "refused": f"postgresql://bot:{POSTGRES}@127.0.0.1:1/queue",
    "unknown host": f"postgresql://bot:{POSTGRES}@no-such-host.invalid/queue",
    "no port": f"postgresql://bot:{POSTGRES}@127.0.0.1:port/queue",
    "no name": f"postgresql://bot:{POSTGRES}@127.0.0.1:5432",
    "signs in the password": f"postgresql://bot:{POSTGRES}/#@?@127.0.0.1:1/queue",
    "another driver": f"mysql://bot:{POSTGRES}@127.0.0.1/queue",
    "unknown option": f"postgresql://bot:{POSTGRES}@127.0.0.1:1/queue?sslmode=sometimes",
    "an option unknown to all": f"postgresql://bot:{POSTGRES}@127.0.0.1:1/queue?secrets={POSTGRES}",
}
BAD_REDISES = {
    "no port": f"redis://:{REDIS}@127.0.0.1:port/0",
    "no number": f"redis://:{REDIS}@127.0.0.1:1/first",
    "no check": f"rediss://:{REDIS}@127.0.0.1:1/0?ssl_cert_reqs=none",
    "a list": f"redis://:{REDIS}@a:1,b:2/0",
}


@pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])
@pytest.mark.parametrize(
    ("database_url", "redis_url"),
    [
        *((url, f"redis://:{REDIS}@127.0.0.1:1/0") for url in BAD_DATABASES.values()),
        *((f"postgresql://bot:{POSTGRES}@127.0.0.1:1/queue", url) for url in BAD_REDISES.values()),
    ],
    ids=[*BAD_DATABASES, *(f"redis: {name}" for name in BAD_REDISES)],
)
@pytest.mark.parametrize("words", [["stats", INSTANCE], ["migrate"]], ids=["stats", "migrate"])
def test_bad_addresses_tell_no_password(
    words: list[str],
    database_url: str,
    redis_url: str,
    debug: bool,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MQWORKER_DATABASE_URL", database_url)
    monkeypatch.setenv("MQWORKER_REDIS_URL", redis_url)
    with pytest.raises(Exception if debug else SystemExit) as ending:
        main([*(["--debug"] if debug else []), *words])
    output = capfd.readouterr()
    assert debug or output.err
    assert found(CANARIES, shown(ending.value), output.out, output.err) == []


class Evil:
    """What touches a file when it is un-pickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return (Path.touch, (self.target,))


@pytest.fixture
def evil(tmp_path: Path) -> tuple[bytes, Path]:
    """A pickle, and the file that is there once somebody has read it."""
    proof = tmp_path / "proof"
    pickle.loads(pickle.dumps(Evil(proof)))
    assert proof.exists(), "it works where it is read"
    return pickle.dumps({"t": 1, "f": Evil(tmp_path / "owned"), "a": (), "k": {}, "et": 0}), tmp_path / "owned"


async def test_a_worker_refuses_a_planted_pickle_and_works_on(
    fleet: Fleet, queue: MessageQueue, evil: tuple[bytes, Path]
) -> None:
    planted, owned = evil
    (worker,) = await fleet.start()
    redis = queue._broker.redis
    await redis.set("arq:job:evil", planted)
    await redis.set("arq:result:evil", planted)
    await redis.zadd("mq:arq", {"evil": 1})
    await eventually(lambda: "deserializing job evil failed" in worker.text, "arq looks at it")

    async def gone() -> bool:
        return await redis.zscore("mq:arq", "evil") is None

    await eventually(gone, "it is thrown away")
    await fill(queue, chats=3, each=3)
    assert await all_done(queue) == QueueStats(completed=9)
    worker.send(signal.SIGTERM)
    assert await worker.exit_code() == 0, worker.text[-2000:]
    assert not owned.exists()


async def test_a_planted_result_is_refused(redis_url: str, evil: tuple[bytes, Path]) -> None:
    """No code of ours reads results; a user's arq function may, by the job that our client gives it."""
    planted, owned = evil
    client = PatientRedis(redis_url, redis_outage(), queue_name="mq:arq")
    job = await client.enqueue_job("sweep", _job_id="evil")
    assert isinstance(job, Job)
    await client.set("arq:result:evil", planted)
    with pytest.raises(DeserializationError):
        await job.result(timeout=5)
    with pytest.raises(DeserializationError):
        await client.all_job_results()
    assert not owned.exists()
    client.patience.stopping = True
    await client.aclose(close_connection_pool=True)


def test_no_code_of_ours_reads_pickles() -> None:
    """Nor anything else that runs code from data. The word may stand in a comment that says so."""
    banned = ("import pickle", "from pickle", "pickle.", "import marshal", "import shelve", "dill", "joblib")
    files = [*(ROOT / "mqworker").rglob("*.py"), *(ROOT / "models").rglob("*.py"), *(ROOT / "migrations").rglob("*.py")]
    assert len(files) > 50
    assert [f"{file}: {word}" for file in files for word in banned if word in file.read_text("utf-8")] == []
