"""The page for operators: its commands and queries, with the queue in the states that they speak of."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from unittest.mock import ANY
from uuid import UUID

import psycopg
import pytest
import redis

from mqworker import MessageQueue, Settings
from mqworker.broker import Keys
from mqworker.devserver.server import free_port
from mqworker.testing.waiting import eventually
from tests.acceptance.conftest import Fleet
from tests.acceptance.gateway import Gateway
from tests.conftest import execute
from tests.guide.pages import OPERATIONS, blocks, named, shell_environment

ACCOUNT = "shop-1"
CHAT, REFUSED, FAILING, SENT, STUCK, FAX = (f"551199999000{number}@c.us" for number in range(1, 7))
REFUSAL = "PermanentError: webhook: HTTP 400 Bad Request"
FAILURE = "ExecutorError: webhook: HTTP 500 Internal Server Error"
DUTIES, PUT_BACK = "sql duties", "sql put back"
BLOCKS = named(OPERATIONS)
# A gap, a backoff and a lease that outlast the test: the states must stand still to be looked at.
LONG = {
    "delay_min_seconds": 100,
    "delay_max_seconds": 200,
    "backoff_base_seconds": 1000,
    "backoff_cap_seconds": 1000,
    "lease_seconds": 100,
    "executor_timeout_seconds": 100,
    "drain_seconds": 110,
}


class States:
    """A queue with a message in every state, its worker killed in the middle of a send."""

    def __init__(self, settings: Settings, queue: MessageQueue, gateway: Gateway, fleet: Fleet) -> None:
        self.database_url = settings.database_url.get_secret_value().replace("+psycopg", "")
        self._redis_url = settings.redis_url.get_secret_value()
        self._queue, self._gateway, self._fleet = queue, gateway, fleet
        self.ids: dict[str, UUID] = {}

    async def _put(self, name: str, chat_id: str, **fields: Any) -> None:
        payload = fields.pop("payload", {})
        self.ids[name] = (await self._queue.enqueue(ACCOUNT, 7, chat_id, payload, **fields)).id

    async def prepare(self) -> None:
        await self._queue.initialize(ACCOUNT, 7)
        await self._put("in flight", CHAT, payload={"hold_seconds": 100})
        await self._put("refused", REFUSED, payload={"status": 400})
        await self._put("failing", FAILING, payload={"status": 500}, max_retries=100)
        await self._put("sent", SENT)
        await self._put("fax", FAX, executor="fax")
        await self._fleet.start()
        await eventually(lambda: len(self._gateway.sends) >= 4, "four are being sent")
        await self._put("second", CHAT)
        await self._put("third", CHAT)
        await self._put("urgent", CHAT, priority=10)
        await self._put("later", CHAT, scheduled_at=datetime.now(UTC) + timedelta(hours=1))
        await eventually(self._settled, "three have been settled")
        await eventually(self._all_is_known, "Redis knows all that waits, and each sweep has run")
        self._fleet.end()
        self._by_hand()

    async def _settled(self) -> bool:
        counts = await self._queue.get_stats(ACCOUNT)
        return (counts.pending, counts.processing, counts.completed, counts.failed) == (6, 1, 1, 1)

    def _all_is_known(self) -> bool:
        of = Keys().of(ACCOUNT)
        with redis.Redis.from_url(self._redis_url) as client:
            scheduled, lock_ms = client.zcard(of.scheduled), cast(int, client.pttl(f"{of.chat}{CHAT}:lock"))
        # A lock is made long once its send has lasted longer than most do.
        return (
            scheduled == 1
            and lock_ms > 10_000
            and any(row["name"] == "reconcile" and row["ago"] is not None for row in self.rows(DUTIES))
        )

    def _by_hand(self) -> None:
        """What takes days to come about, or a worker that died an hour ago."""
        for statement in (
            "UPDATE message_queue_items SET created_at = created_at - interval '8 days', "
            "processed_at = processed_at - interval '8 days' WHERE status = 'COMPLETED'",
            "INSERT INTO message_queue_items (instance, chat_id, client_id, payload, status, lease_expires_at) "
            f"VALUES ('{ACCOUNT}', '{STUCK}', 7, '{{}}', 'PROCESSING', clock_timestamp() - interval '1 hour')",
            "UPDATE message_queue_instances SET next_at = clock_timestamp() + interval '1 hour'",
        ):
            execute(self.database_url, statement)

    def rows(self, block: str) -> list[dict[str, Any]]:
        """What a query of the page gives."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            found = connection.execute(BLOCKS[block].text.encode())
            names = [column.name for column in found.description or ()]
            return [dict(zip(names, row, strict=True)) for row in found]


@pytest.fixture
async def states(settings: Settings, queue: MessageQueue, gateway: Gateway, tmp_path: Path) -> States:
    fleet = Fleet(tmp_path, gateway, settings, LONG)
    made = States(settings, queue, gateway, fleet)
    try:
        await made.prepare()
    finally:
        fleet.end()
    return made


def test_every_block_is_run_here() -> None:
    cli = {f"cli {name}" for name in ("look", "worker", "mend", "cancel", "rebuild")}
    assert set(BLOCKS) == {*QUERIES, DUTIES, PUT_BACK, *COMMANDS, *cli}
    assert all(block.name for block in blocks(OPERATIONS))


QUERIES: dict[str, list[dict[str, Any]]] = {
    "sql per status": [
        {"status": "COMPLETED", "count": 1},
        {"status": "FAILED", "count": 1},
        {"status": "PENDING", "count": 6},
        {"status": "PROCESSING", "count": 2},
    ],
    "sql pending": [
        {"id": "urgent", "priority": 10, "scheduled_at": None},
        {"id": "second", "priority": 0, "scheduled_at": None},
        {"id": "third", "priority": 0, "scheduled_at": None},
        {"id": "later", "priority": 0, "scheduled_at": ANY},
    ],
    "sql in flight": [
        {"chat_id": CHAT, "id": "in flight", "attempt": 1},
        {"chat_id": STUCK, "id": ANY, "attempt": 1},
    ],
    "sql stuck": [{"chat_id": STUCK}],
    "sql next": [
        {"chat_id": None},
        *({"chat_id": ANY} for _ in range(3)),
    ],
    "sql failed": [{"chat_id": REFUSED, "error": REFUSAL, "retry_count": 1, "id": "refused"}],
    "sql errors": [
        {"error": FAILURE, "count": 1},
        {"error": REFUSAL, "count": 1},
    ],
    "sql backlog": [
        {"chat_id": CHAT, "waiting": 3},
        {"chat_id": FAILING, "waiting": 1},
        {"chat_id": FAX, "waiting": 1},
    ],
    "sql executors": [{"executor": "default", "count": 5}, {"executor": "fax", "count": 1}],
    "sql old": [{"status": "COMPLETED", "count": 1}],
}


async def test_the_queries_answer_what_they_are_asked(states: States) -> None:
    names = {value: name for name, value in states.ids.items()}
    for block, expected in QUERIES.items():
        rows = [{key: names.get(value, value) for key, value in row.items()} for row in states.rows(block)]
        assert len(rows) == len(expected), (block, rows)
        shown = [{key: row[key] for key in wanted} for row, wanted in zip(rows, expected, strict=True)]
        assert shown == expected, block
    ago = {row["name"]: row["ago"] for row in states.rows(DUTIES)}
    assert all(timedelta(0) < ago[name] < timedelta(minutes=1) for name in ("rebuild", "reclaim", "reconcile"))


async def test_what_was_put_back_goes_again(states: States, queue: MessageQueue, shell: dict[str, str]) -> None:
    execute(states.database_url, BLOCKS[PUT_BACK].text)
    again = await queue.get(states.ids["refused"])
    assert (again.status, again.retry_count, again.error) == ("PENDING", 0, None)
    (told,) = await outputs("cli rebuild", shell)
    assert told == "waiting messages told to Redis: 7\n"


async def test_the_command_line_shows_the_states(states: States, shell: dict[str, str]) -> None:
    # What is stuck is a fault, and that is the exit code of a doctor who found one.
    doctor, *rest = BLOCKS["cli look"].lines
    assert re.search(r"^fail +claims", await output(doctor, shell, exit_code=1), re.M)
    accounts, chats, counts, line, failed, errors = [await output(one, shell) for one in rest]
    assert ACCOUNT in accounts
    assert CHAT in chats
    assert counts.split() == ["pending", "6", "processing", "2", "completed", "1", "failed", "1", "cancelled", "0"]
    ids = re.findall(r"^[0-9a-f-]{36}", line, re.M)
    assert ids == [str(states.ids[name]) for name in ("in flight", "second", "third", "urgent", "later")]
    assert str(states.ids["refused"]) in failed
    assert "HTTP 400" in errors
    await outputs("cli mend", shell)
    assert states.rows("sql stuck") == []


async def test_the_command_line_cancels(states: States, queue: MessageQueue, shell: dict[str, str]) -> None:
    execute(
        states.database_url,
        f"UPDATE message_queue_items SET created_at = created_at - interval '7 hours' WHERE chat_id = '{FAX}'",
    )
    await outputs("cli cancel", shell)
    waiting = [await queue.get(states.ids[name]) for name in ("fax", "second", "urgent", "later", "failing")]
    assert [message.status for message in waiting] == [*["CANCELLED"] * 4, "PENDING"]


async def outputs(block: str, environment: dict[str, str]) -> list[str]:
    """What the commands of a block print."""
    return [await output(line, environment) for line in BLOCKS[block].lines]


async def output(line: str, environment: dict[str, str], exit_code: int = 0) -> str:
    run = await asyncio.create_subprocess_exec(
        *shlex.split(line), env=environment, cwd=environment["HOME"], stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await run.communicate()
    assert run.returncode == exit_code, line
    return printed.decode()


def ask(connection: Any, line: str) -> Any:
    """One command as redis-cli sends it, and the server's own answer."""
    connection.send_command(*shlex.split(line))
    return connection.read_response()


def pairs(flat: Sequence[Any]) -> dict[Any, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def waits(answers: list[Any], states: States) -> None:
    urgent, stream, depth = answers
    assert [(member.partition(":")[2], float(score)) for member, score in pairs(urgent).items()] == [
        (str(states.ids["urgent"]), -10.0)
    ]
    in_order = [str(states.ids[name]) for name in ("in flight", "second", "third")]
    assert ([fields[1] for _, fields in stream], depth) == (in_order, 3)


def holds(answers: list[Any], states: States) -> None:
    lock, left_ms, leased = answers
    (worker,) = [row["worker"] for row in states.rows("sql in flight") if row["chat_id"] == CHAT]
    assert pairs(lock)["owner"] == worker
    assert 0 < left_ms < 200_000
    assert list(pairs(leased)) == [CHAT]


def due(answers: list[Any], states: States) -> None:
    accounts, ready, scheduled = answers
    assert list(pairs(accounts)) == [ACCOUNT]
    assert {FAILING, FAX} <= set(pairs(ready))
    (member,) = pairs(scheduled)
    assert member.split(":")[::3] == [CHAT, str(states.ids["later"])]


def memory(answers: list[Any], _: States) -> None:
    epoch, accounts_epoch, info, keys, (_, found) = answers
    assert f"run_id:{epoch}" in info.split()
    assert accounts_epoch == epoch
    assert 0 < len(found) <= keys


COMMANDS = {"redis waits": waits, "redis holds": holds, "redis due": due, "redis memory": memory}


async def test_the_commands_answer_what_they_are_asked(states: States, redis_url: str) -> None:
    connection: Any = redis.ConnectionPool.from_url(redis_url, decode_responses=True).get_connection()
    try:
        for block, judge in COMMANDS.items():
            judge([ask(connection, line) for line in BLOCKS[block].lines], states)
    finally:
        connection.disconnect()


def test_the_table_of_keys_is_that_of_the_code() -> None:
    text = OPERATIONS.read_text()
    keys = Keys()
    of = keys.of("I")
    lanes = [f"{of.chat}<C>:{lane}" for lane in ("stream", "sorted", "lock")]
    for key in (keys.instances, keys.epoch, keys.wake, keys.arq_queue, *of.all, *lanes):
        assert f"| `{key}`" in text, key


async def test_a_worker_says_that_it_is_ready(settings: Settings, gateway: Gateway, tmp_path: Path) -> None:
    port = free_port()
    fleet = Fleet(tmp_path, gateway, settings, {"probe_port": port})
    environment = shell_environment({"PATH": os.defpath, "MQWORKER_PROBE_PORT": str(port)}, tmp_path)
    try:
        await fleet.start()
        (health,) = await outputs("cli worker", environment)
    finally:
        fleet.end()
    assert health.startswith("ready")
