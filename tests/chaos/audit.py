"""What the rows went through, written by the database itself in the transaction of each change."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg

# With plain triggers: no worker can forget to write, and no history of a worker's has to be believed.
DDL = """
CREATE TABLE chaos_changes (
    n bigserial PRIMARY KEY,
    at double precision NOT NULL DEFAULT EXTRACT(EPOCH FROM clock_timestamp()),
    seen double precision NOT NULL DEFAULT EXTRACT(EPOCH FROM statement_timestamp()),
    key text, id uuid, seq bigint, chat text, priority int, was text, now text,
    claim_id uuid, worker text, retry_count int, max_retries int,
    lease_was double precision, due double precision, cancelled boolean, error text
);
CREATE FUNCTION chaos_note() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    was message_queue_items := CASE WHEN TG_OP = 'INSERT' THEN NULL ELSE OLD END;
    now message_queue_items := CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
BEGIN
    INSERT INTO chaos_changes (key, id, seq, chat, priority, was, now, claim_id, worker, retry_count, max_retries,
                               lease_was, due, cancelled, error)
    VALUES (now.payload->>'key', now.id, now.seq, now.instance || '/' || now.chat_id, now.priority, was.status,
            CASE WHEN TG_OP = 'DELETE' THEN 'DELETED' ELSE now.status END, now.claim_id, now.worker,
            now.retry_count, now.max_retries, EXTRACT(EPOCH FROM was.lease_expires_at),
            EXTRACT(EPOCH FROM now.scheduled_at), now.cancel_requested_at IS NOT NULL, left(now.error, 60));
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_inserted AFTER INSERT OR DELETE ON message_queue_items
    FOR EACH ROW EXECUTE FUNCTION chaos_note();
CREATE TRIGGER chaos_changed AFTER UPDATE ON message_queue_items
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status OR OLD.claim_id IS DISTINCT FROM NEW.claim_id
                       OR OLD.retry_count IS DISTINCT FROM NEW.retry_count)
    EXECUTE FUNCTION chaos_note();
"""

CHANGES = "SELECT row_to_json(c)::text FROM chaos_changes c ORDER BY n"
ROWS = """
    SELECT json_build_object('id', id, 'key', payload->>'key', 'chat', instance || '/' || chat_id, 'status', status,
                             'seq', seq, 'priority', priority, 'retry_count', retry_count,
                             'max_retries', max_retries, 'error', left(error, 200))::text
    FROM message_queue_items ORDER BY seq
"""


def install(database_url: str) -> None:
    """Have every change of a message noted from now on."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(DDL.encode())


def drop_index(database_url: str) -> None:
    """Take away what makes P4 a fact of the database: for a run that must be found broken."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(b"DROP INDEX message_queue_items_one_in_flight")


def dump(database_url: str, folder: Path) -> None:
    """Write all changes and all rows as JSON lines; no payload is among them."""
    with psycopg.connect(database_url) as connection:
        for name, query in (("changes", CHANGES), ("rows", ROWS)):
            with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file, connection.cursor(name) as cursor:
                cursor.execute(query.encode())
                file.writelines(f"{line}\n" for (line,) in cursor)


def waiting(database_url: str) -> int:
    """How many messages have not ended."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        query = "SELECT count(*) FROM message_queue_items WHERE status IN ('PENDING', 'PROCESSING')"
        row = connection.execute(query).fetchone()
        assert row is not None
        return int(row[0])


def write_line(path: Path, **facts: object) -> None:
    """Append one JSON line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(facts) + "\n")
