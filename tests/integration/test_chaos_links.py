"""The proxy that the chaos runs put before each server: what it loses was done, what it holds back arrives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import psycopg
import pytest
import redis.asyncio as redis

from mqworker.settings import Settings
from mqworker.testing.waiting import eventually
from tests.chaos.proxy import Link
from tests.conftest import execute

INSERT = "INSERT INTO message_queue_items (instance, chat_id, client_id, payload) VALUES ('shop', 'c', 7, '{}')"


@pytest.fixture
async def link(database_url: str) -> AsyncIterator[Link]:
    started = await Link("test", urlsplit(database_url).port or 0, postgres=True).start()
    yield started
    await started.aclose()


async def connected(link: Link, database_url: str) -> psycopg.AsyncConnection[tuple[object, ...]]:
    return await psycopg.AsyncConnection.connect(database_url, port=link.port, autocommit=True)


def count_rows(database_url: str) -> int:
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SELECT count(*) FROM message_queue_items").fetchone()
    assert row is not None
    return int(row[0])


async def test_a_lost_answer_is_an_ambiguous_commit(link: Link, database_url: str) -> None:
    dropped: list[tuple[str, int]] = []
    client = await connected(link, database_url)
    await client.execute("SELECT 1")
    link.lose_answer(frozenset({"insert"}), lambda kind, rows: dropped.append((kind, rows)))
    await client.execute("SELECT 2")
    with pytest.raises(psycopg.OperationalError):
        await client.execute(INSERT.encode())
    assert dropped == [("insert", 1)]
    assert count_rows(database_url) == 1


async def test_a_prepared_statement_is_known_by_its_name(link: Link, database_url: str) -> None:
    client = await connected(link, database_url)
    for _ in range(3):
        await client.execute(INSERT.encode(), prepare=True)
    dropped: list[tuple[str, int]] = []
    link.lose_answer(frozenset({"insert"}), lambda kind, rows: dropped.append((kind, rows)))
    with pytest.raises(psycopg.OperationalError):
        await client.execute(INSERT.encode(), prepare=True)
    assert dropped == [("insert", 1)]
    assert count_rows(database_url) == 4


async def test_what_was_refused_changed_no_rows(link: Link, database_url: str) -> None:
    execute(database_url, "ALTER TABLE message_queue_items ADD CHECK (client_id <> 7)")
    client = await connected(link, database_url)
    dropped: list[tuple[str, int]] = []
    link.lose_answer(frozenset({"insert"}), lambda kind, rows: dropped.append((kind, rows)))
    with pytest.raises(psycopg.OperationalError):
        await client.execute(INSERT.encode())
    assert dropped == [("insert", 0)]


async def test_a_black_hole_gives_back_what_it_held(link: Link, database_url: str) -> None:
    client = await connected(link, database_url)
    link.hold()
    asked = asyncio.create_task(client.execute(INSERT.encode()))
    await asyncio.sleep(0.1)
    assert not asked.done()
    assert count_rows(database_url) == 0
    link.heal()
    await asked
    assert count_rows(database_url) == 1
    await client.close()


async def test_a_reset_breaks_every_connection_and_lets_new_ones_through(link: Link, database_url: str) -> None:
    client = await connected(link, database_url)
    link.reset()
    with pytest.raises(psycopg.OperationalError):
        await client.execute("SELECT 1")
    again = await connected(link, database_url)
    await again.execute("SELECT 1")
    await again.close()


async def test_an_answer_of_redis_can_be_lost_too(settings: Settings) -> None:
    link = await Link("test", urlsplit(settings.redis_url.get_secret_value()).port or 0, postgres=False).start()
    client: redis.Redis = redis.Redis(port=link.port, retry=None)
    await client.ping()
    dropped: list[tuple[str, int]] = []
    link.lose_answer(frozenset({"redis"}), lambda kind, rows: dropped.append((kind, rows)))
    with pytest.raises(redis.ConnectionError):
        await client.incr("counter")
    assert dropped == [("redis", 1)]
    await eventually(lambda: client.get("counter"), "the command was done")
    await client.aclose()
    await link.aclose()
