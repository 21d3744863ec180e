"""Inserts: in the order of the batch, once each, and never failing for a stranger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest
from pydantic import SecretStr

from mqworker.devserver import PostgresServer
from mqworker.errors import (
    Conflict,
    EnqueueUncertain,
    SchemaBehind,
    StatementFailed,
    StorageReadOnly,
    StorageUnavailable,
)
from mqworker.message import Enqueued, NewMessage
from mqworker.producer import SharedInsert
from mqworker.settings import Settings
from mqworker.store import Store, enqueues
from mqworker.store.database import Rows, rows_on
from mqworker.testing.waiting import eventually
from tests.integration.rows import new_message, row, sql


async def count(store: Store) -> int:
    (found,) = await sql(store, "SELECT count(*) AS number FROM message_queue_items")
    return int(found.number)


async def refuse(store: Store, chat_id: str) -> None:
    """Have PostgreSQL refuse the messages of one chat, in the middle of a batch."""
    async with store.database.connections.use() as connection:
        await connection.execute(
            f"ALTER TABLE message_queue_items ADD CONSTRAINT no_such_chat CHECK (chat_id <> '{chat_id}')".encode()
        )


@pytest.fixture
async def administrator(settings: Settings) -> AsyncIterator[psycopg.AsyncConnection[object]]:
    url = settings.database_url.get_secret_value().replace("+psycopg", "")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        yield connection


async def terminate(administrator: psycopg.AsyncConnection[object]) -> None:
    """End every other connection to this database."""
    await administrator.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid()"
    )


# order, repeats, conflicts


async def test_the_order_of_the_batch_is_the_order_of_the_queue(store: Store) -> None:
    messages = [new_message(f"c{n % 3}", payload={"n": n}) for n in range(500)]
    answers = [answer for answer in await store.enqueues.insert(messages) if isinstance(answer, Enqueued)]
    assert [answer.id for answer in answers] == [message.id for message in messages]
    seqs = [answer.seq for answer in answers]
    assert seqs == sorted(seqs)
    rows = await sql(store, "SELECT payload->>'n' AS n FROM message_queue_items ORDER BY seq")
    assert [int(one.n) for one in rows] == list(range(500))


async def test_a_row_holds_what_was_enqueued(store: Store) -> None:
    due = datetime.now(UTC) + timedelta(days=1)
    message = new_message(
        "c", payload={"ü": [1.5, None, True]}, is_group=True, executor="e", priority=-3, max_retries=5, scheduled_at=due
    )
    (answer,) = await store.enqueues.insert([message])
    assert answer == Enqueued(message.id, 1, "PENDING")
    stored = await row(store, message.id)
    assert (stored.instance, stored.chat_id, stored.client_id, stored.status) == ("shop", "c", 7, "PENDING")
    assert (stored.payload, stored.is_group, stored.executor) == ({"ü": [1.5, None, True]}, True, "e")
    assert (stored.priority, stored.max_retries, stored.scheduled_at) == (-3, 5, due)


async def test_a_repeat_returns_the_message_that_is_there_whatever_its_priority_and_schedule(store: Store) -> None:
    message = new_message(message_id=uuid4(), payload={"a": 1, "b": 2})
    (first,) = await store.enqueues.insert([message])
    assert isinstance(first, Enqueued)
    repeat = replace(message, priority=9, scheduled_at=datetime.now(UTC), payload_json='{"b": 2, "a": 1}')
    assert await store.enqueues.insert([repeat]) == [replace(first, deduplicated=True)]
    await sql(store, "UPDATE message_queue_items SET status = 'COMPLETED' RETURNING 1")
    (late,) = await store.enqueues.insert([message])
    assert late == Enqueued(message.id, first.seq, "COMPLETED", deduplicated=True)
    assert ((await row(store, message.id)).priority, await count(store)) == (0, 1)


@pytest.mark.parametrize(
    "change",
    [{"instance": "other"}, {"chat_id": "b"}, {"client_id": 8}, {"executor": "other"}, {"payload_json": '{"text": 1}'}],
    ids=lambda change: next(iter(change)),
)
async def test_other_content_under_the_same_id_is_a_conflict(store: Store, change: dict[str, object]) -> None:
    message = new_message(message_id=uuid4())
    await store.enqueues.insert([message])
    (answer,) = await store.enqueues.insert([replace(message, **change)])  # type: ignore[arg-type]
    assert isinstance(answer, Conflict)
    assert str(message.id) in str(answer)
    assert await count(store) == 1


async def test_a_batch_of_new_repeated_and_conflicting_messages_tells_each_its_own(store: Store) -> None:
    repeated, taken = new_message(message_id=uuid4()), new_message(message_id=uuid4())
    await store.enqueues.insert([repeated, taken])
    new, other = new_message(), replace(taken, chat_id="b")
    first, second, third = await store.enqueues.insert([repeated, new, other])
    assert isinstance(first, Enqueued)
    assert first.deduplicated
    assert isinstance(second, Enqueued)
    assert (second.id, second.deduplicated) == (new.id, False)
    assert isinstance(third, Conflict)


# all or nothing, and never for a stranger


async def test_insert_all_stores_all(store: Store) -> None:
    messages = [new_message() for _ in range(20)]
    assert [one.id for one in await store.enqueues.insert_all(messages)] == [message.id for message in messages]
    assert await count(store) == 20


async def test_insert_all_stores_nothing_where_one_conflicts_and_names_its_place(store: Store) -> None:
    taken = new_message(message_id=uuid4())
    await store.enqueues.insert([taken])
    with pytest.raises(Conflict, match="message 2:"):
        await store.enqueues.insert_all([new_message(), new_message(), replace(taken, chat_id="b"), new_message()])
    assert await count(store) == 1


async def test_insert_all_stores_nothing_where_postgresql_refuses_one(store: Store) -> None:
    await refuse(store, "bad")
    with pytest.raises(StatementFailed, match="no_such_chat"):
        await store.enqueues.insert_all([new_message(), new_message("bad"), new_message()])
    assert await count(store) == 0


async def test_in_a_shared_batch_only_the_refused_message_fails(store: Store) -> None:
    await refuse(store, "bad")
    messages = [new_message("bad" if n == 5 else f"c{n}") for n in range(11)]
    answers = await store.enqueues.insert_each(messages)
    for message, answer in zip(messages, answers, strict=True):
        if message.chat_id == "bad":
            assert isinstance(answer, StatementFailed)
            assert "no_such_chat" in str(answer)
        else:
            assert isinstance(answer, Enqueued)
            assert answer.id == message.id
    assert await count(store) == 10
    with pytest.raises(StatementFailed):
        await store.enqueues.insert([new_message("bad")])


async def test_of_concurrent_callers_only_the_refused_one_hears_of_it(store: Store) -> None:
    await refuse(store, "bad")
    shared = SharedInsert(store.enqueues)
    messages = [new_message("bad" if n == 5 else f"c{n}") for n in range(11)]
    answers = await asyncio.gather(*(shared.insert(message) for message in messages), return_exceptions=True)
    failed = [m.chat_id for m, a in zip(messages, answers, strict=True) if not isinstance(a, Enqueued)]
    assert failed == ["bad"]
    assert [type(answer) for answer in answers if not isinstance(answer, Enqueued)] == [StatementFailed]


# the caller's own transaction


async def test_what_is_inserted_in_a_callers_transaction_lives_and_dies_with_it(store: Store) -> None:
    for rolls_back in (True, False):
        async with store.database.connections.use() as connection, connection.transaction(force_rollback=rolls_back):
            await store.enqueues.insert_in(rows_on(connection), [new_message(), new_message()])
            assert await count(store) == 0
        assert await count(store) == (0 if rolls_back else 2)


# broken connections


async def test_a_connection_that_breaks_in_the_middle_costs_no_message_and_doubles_none(
    store: Store, administrator: psycopg.AsyncConnection[object]
) -> None:
    messages = [new_message() for _ in range(50)]
    async with administrator.transaction():
        await administrator.execute("LOCK TABLE message_queue_items IN EXCLUSIVE MODE")
        insert = asyncio.create_task(store.enqueues.insert(messages))
        await eventually(lambda: _waits(administrator), "the insert stands at the lock")
        await terminate(administrator)
    answers = await insert
    assert [answer.id for answer in answers if isinstance(answer, Enqueued)] == [message.id for message in messages]
    assert not any(answer.deduplicated for answer in answers if isinstance(answer, Enqueued)), "the ids were ours"
    assert await count(store) == 50


async def _waits(administrator: psycopg.AsyncConnection[object]) -> bool:
    await administrator.execute("SELECT pg_stat_clear_snapshot()")
    cursor = await administrator.execute(
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return await cursor.fetchone() is not None


async def test_a_commit_whose_answer_was_lost_is_found_by_the_repeat(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stored, and then the connection broke: told as new, since the id was ours."""
    insert = enqueues._insert
    broken: list[list[Enqueued | Conflict]] = []

    async def break_once(rows: Rows, messages: list[NewMessage]) -> list[Enqueued | Conflict]:
        answers = await insert(rows, messages)
        if not broken:
            broken.append(answers)
            raise psycopg.OperationalError("the connection is lost")
        return answers

    monkeypatch.setattr(enqueues, "_insert", break_once)
    own, callers = new_message(), new_message(message_id=uuid4())
    first, second = await store.enqueues.insert([own, callers])
    assert first == broken[0][0], "the same message, told as new"
    assert isinstance(second, Enqueued)
    assert second.deduplicated, "who chose the id learns that it is there"
    assert await count(store) == 2


async def test_pooled_connections_that_died_unnoticed_cost_nobody_an_error(
    store: Store, administrator: psycopg.AsyncConnection[object]
) -> None:
    await asyncio.gather(*(store.enqueues.insert([new_message()]) for _ in range(5)))
    await terminate(administrator)
    await asyncio.gather(*(store.enqueues.insert([new_message()]) for _ in range(5)))
    assert await count(store) == 10


async def test_where_nobody_listens_nothing_was_stored_and_the_error_says_so(new_store: Callable[..., Store]) -> None:
    url = SecretStr("postgresql+psycopg://somebody:s3cret@127.0.0.1:9/nowhere")
    with pytest.raises(StorageUnavailable) as refusal:
        await new_store(database_url=url).enqueues.insert([new_message()])
    assert "s3cret" not in str(refusal.value)


async def test_a_server_that_goes_away_for_good_in_the_middle_leaves_its_callers_uncertain_of_their_own_ids(
    own_postgres: PostgresServer, own_settings: Settings
) -> None:
    store = Store.open(own_settings, worker="w1")
    shared = SharedInsert(store.enqueues)
    holder = await psycopg.AsyncConnection.connect(own_postgres.url)
    await holder.execute("LOCK TABLE message_queue_items IN EXCLUSIVE MODE")
    messages = [new_message() for _ in range(4)]
    inserts = [asyncio.create_task(shared.insert(message)) for message in messages]
    await eventually(lambda: _waits(holder), "the insert stands at the lock")
    await asyncio.to_thread(own_postgres.kill)
    answers = await asyncio.gather(*inserts, return_exceptions=True)
    await holder.close()
    for message, answer in zip(messages, answers, strict=True):
        assert isinstance(answer, EnqueueUncertain)
        assert answer.message_ids == [message.id], "a caller repeats its own message, and knows no other"
    await store.aclose()


async def test_a_read_only_server_is_told_apart(store: Store, new_store: Callable[..., Store]) -> None:
    (database,) = await sql(store, "SELECT current_database() AS name")
    async with store.database.connections.use() as connection:
        await connection.execute(f'ALTER DATABASE "{database.name}" SET default_transaction_read_only = on'.encode())
    with pytest.raises(StorageReadOnly):
        await new_store().enqueues.insert([new_message()])


async def test_missing_tables_are_named_with_what_to_run(store: Store) -> None:
    async with store.database.connections.use() as connection:
        await connection.execute("DROP TABLE message_queue_items")
    with pytest.raises(SchemaBehind, match="mqworker migrate"):
        await store.enqueues.insert([new_message()])


async def test_an_error_of_the_database_quotes_no_payload(store: Store) -> None:
    await refuse(store, "bad")
    with pytest.raises(StatementFailed) as refusal:
        await store.enqueues.insert([new_message("bad", payload={"text": "canary"})])
    assert "canary" not in repr(refusal.value) + str(refusal.value.__cause__)
