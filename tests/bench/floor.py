"""What PostgreSQL itself can do here: a message's life in bare SQL, in batches, on one connection.

Insert, PROCESSING, COMPLETED: the three writes that any queue with durable states must make, by id and without any of
the checks that make a queue correct. Same table, same indexes, same commits.
"""

from __future__ import annotations

from time import perf_counter
from uuid import uuid4

import psycopg

BATCH = 250

INSERT = """
    INSERT INTO message_queue_items (id, instance, chat_id, client_id, payload)
    SELECT id, 'bench', chat_id, 7, CAST(payload AS jsonb)
    FROM unnest(%s::uuid[], %s::text[], %s::text[]) AS new(id, chat_id, payload)
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
            # One message a chat in a batch: more than one in flight in a chat is what the table refuses.
            chats = [f"chat-{n}" for n in range(len(part))]
            connection.execute(INSERT, (part, chats, ['{"text": "hello"}'] * len(part)))
            connection.execute(CLAIM, (part,)).fetchall()
            connection.execute(SETTLE, (part,))
        return messages / (perf_counter() - began)
