"""What the servers themselves can do here: each figure of ours stands beside one of these, of the same run.

A message's life in bare SQL is insert, PROCESSING, COMPLETED: the three writes that any queue with durable states must
make, by id and without any of the checks that make a queue correct. Same table, same indexes, same commits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter, sleep
from uuid import UUID, uuid4

import psycopg
import redis

from mqworker.broker import Keys
from mqworker.broker.scripts import load
from tests.bench.figures import percentile

BATCH = 250
TEXT = '{"text": "hello"}'

INSERT = """
    INSERT INTO message_queue_items (id, instance, chat_id, client_id, payload)
    SELECT id, 'bench', chat_id, 7, CAST(payload AS jsonb)
    FROM unnest(%s::uuid[], %s::text[], %s::text[]) AS new(id, chat_id, payload)
"""
INSERT_ONE = """
    INSERT INTO message_queue_items (id, instance, chat_id, client_id, payload) VALUES (%s, 'bench', %s, 7, %s)
"""
CLAIM = """
    UPDATE message_queue_items
    SET status = 'PROCESSING', claim_id = gen_random_uuid(), processing_started_at = clock_timestamp(),
        lease_expires_at = clock_timestamp() + interval '30 s', updated_at = clock_timestamp()
    WHERE id = ANY(%s) RETURNING id, claim_id, payload::text
"""
SETTLE = """
    UPDATE message_queue_items
    SET status = 'COMPLETED', processed_at = clock_timestamp(), lease_expires_at = NULL, updated_at = clock_timestamp()
    WHERE id = ANY(%s)
"""


def life_per_second(database_url: str, messages: int) -> float:
    """Messages a second through all three statements."""
    ids = [uuid4() for _ in range(messages)]
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET enable_seqscan = off")
        began = perf_counter()
        for start in range(0, messages, BATCH):
            part = ids[start : start + BATCH]
            _insert(connection, part)
            connection.execute(CLAIM, (part,)).fetchall()
            connection.execute(SETTLE, (part,))
        return messages / (perf_counter() - began)


def inserts_per_second(database_url: str, messages: int, batch: int) -> float:
    """Messages a second through one INSERT a batch."""
    ids = [uuid4() for _ in range(messages)]
    with psycopg.connect(database_url, autocommit=True) as connection:
        began = perf_counter()
        for start in range(0, messages, batch):
            _insert(connection, ids[start : start + batch])
        return messages / (perf_counter() - began)


def _insert(connection: psycopg.Connection, ids: list[UUID]) -> None:
    # One message a chat in a batch: more than one in flight in a chat is what the table refuses.
    chats = [f"chat-{number}" for number in range(len(ids))]
    connection.execute(INSERT, (ids, chats, [TEXT] * len(ids)))


@dataclass(frozen=True)
class BareEnqueue:
    """The median milliseconds of an INSERT with its commit, of an EVALSHA after it, and of both."""

    insert_ms: float
    script_ms: float
    both_ms: float


def bare_enqueue(database_url: str, redis_url: str, times: int, *, pause_seconds: float = 0.0) -> BareEnqueue:
    """One INSERT and its commit, then one call of the script that announces it; again and again.

    With pauses each takes longer: what has slept must be woken, by the kernel and in the caches.
    """
    script, keys = load("announce"), Keys().of("bench")
    client = redis.Redis.from_url(redis_url)
    client.script_load(script.source)

    def announce(number: int) -> None:
        entry = f'["chat-{number % 100}","{number + 1}","{uuid4()}",0,0]'
        client.evalsha(script.sha, len(keys.all), *keys.all, keys.chat, entry)

    with psycopg.connect(database_url, autocommit=True) as connection:

        def insert(number: int) -> None:
            connection.execute(INSERT_ONE, (uuid4(), f"chat-{number % 100}", TEXT))

        taken = []
        for number in range(times):
            taken.append((_seconds(insert, number), _seconds(announce, number)))
            sleep(pause_seconds)
    client.close()
    inserts, scripts, both = zip(*((one, two, one + two) for one, two in taken), strict=True)
    return BareEnqueue(*(1000 * percentile(seconds, 50) for seconds in (inserts, scripts, both)))


def _seconds(action: Callable[[int], None], number: int) -> float:
    began = perf_counter()
    action(number)
    return perf_counter() - began
