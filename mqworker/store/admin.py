"""What people ask for: cancel, clear, clean, an account's settings. Each change is one guarded statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from mqworker.errors import Conflict, NotFound
from mqworker.message import ChatKey
from mqworker.store.database import Database

BATCH = 1000
CLEAN_BATCH = 200
"""Deleting leaves work for the checkpoint and the disk, which claims wait for beside it: little at a time."""
"""Rows a statement: no lock of ours is held longer than such a batch takes."""

CancelResult = Literal["cancelled", "too_late", "finished"]


@dataclass(frozen=True, slots=True)
class Dropped:
    """A message that waits no more, for the broker to forget."""

    id: UUID
    seq: int
    chat: ChatKey
    priority: int


@dataclass(frozen=True, slots=True)
class Cleared:
    """``cancelled`` messages were still waiting; ``in_flight`` ones are being sent and will not be retried."""

    cancelled: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class CleanPlan:
    """How an account is cleaned; ``None`` stands for the settings' defaults."""

    instance: str
    retention_days: float | None


class Admin:
    """The guarded writes of people."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def cancel(self, message_id: UUID) -> tuple[CancelResult, list[Dropped]]:
        """Cancel one message; one in flight is marked, so that it is not retried. Raises :class:`NotFound`."""
        rows = await self._database.rows(CANCEL, ids=[message_id])
        if not rows:
            raise NotFound(f"there is no message {message_id}")
        result: CancelResult
        match rows[0].was:
            case "PENDING":
                result = "cancelled"
            case "PROCESSING":
                result = "too_late"
            case _:
                result = "finished"
        return result, _dropped(rows)

    async def clear_chat(self, chat: ChatKey) -> tuple[Cleared, list[Dropped]]:
        """Cancel all of a chat's waiting messages, scheduled ones too, and mark the one in flight."""
        rows = await self._database.rows(CLEAR, instance=chat.instance, chat_id=chat.chat_id)
        dropped = _dropped(rows)
        return Cleared(len(dropped), len(rows) - len(dropped)), dropped

    async def time_ago(self, seconds: float) -> datetime:
        """What PostgreSQL's clock showed that long ago."""
        time: datetime = await self._database.scalar(TIME_AGO, seconds=seconds)
        return time

    async def cancel_pending(
        self, instance: str, *, chat_id: str | None = None, created_before: datetime
    ) -> list[Dropped]:
        """Cancel at most one batch of the messages of an account, or of one chat, that have waited since then."""
        statement = CANCEL_PENDING if chat_id is None else CANCEL_PENDING_IN_CHAT
        given = {} if chat_id is None else {"chat_id": chat_id}
        return _dropped(
            await self._database.rows(statement, instance=instance, before=created_before, limit=BATCH, **given)
        )

    async def clean(self, instance: str | None, *, retention_days: float) -> int:
        """Delete at most one batch of finished rows of each final status; return how many went.

        ``instance=None`` cleans all accounts that have no retention of their own.
        """
        statement = CLEAN_REST if instance is None else CLEAN_INSTANCE
        deleted = 0
        for status in ("COMPLETED", "FAILED", "CANCELLED"):
            parameters: dict[str, Any] = {"status": status, "days": retention_days, "limit": CLEAN_BATCH}
            if instance is not None:
                parameters["instance"] = instance
            deleted += len(await self._database.rows(statement, **parameters))
        return deleted

    async def clean_chats(self) -> int:
        """Delete at most one batch of the chats' rows that were idle for a day."""
        return len(await self._database.rows(CLEAN_CHATS, limit=BATCH))

    async def initialize(self, instance: str, client_id: int) -> None:
        """Bind an account to its client. Raises :class:`Conflict` where it is another client's."""
        owner = await self._database.scalar(INITIALIZE, instance=instance, client_id=client_id)
        if owner != client_id:
            raise Conflict(f"instance {instance!r} belongs to another client")

    async def schedule_clean(self, instance: str, *, every_hours: float, retention_days: float) -> None:
        """Give an account a cleanup of its own, kept until it is changed."""
        await self._database.rows(SCHEDULE_CLEAN, instance=instance, every=every_hours, days=retention_days)

    async def due_cleans(self) -> list[CleanPlan]:
        """The accounts with a cleanup of their own that is due; they are marked as cleaned now."""
        rows = await self._database.rows(DUE_CLEANS)
        return [CleanPlan(row.instance, row.retention_days) for row in rows]


def _dropped(rows: Sequence[Any]) -> list[Dropped]:
    return [
        Dropped(row.id, row.seq, ChatKey(row.instance, row.chat_id), row.priority)
        for row in rows
        if row.was == "PENDING"
    ]


def _cancel(chosen: str) -> str:
    """Cancel the chosen rows: PENDING ones end, PROCESSING ones are marked, finished ones stay as they are."""
    return f"""
    WITH locked AS MATERIALIZED (
        SELECT i.id, i.status AS was FROM message_queue_items i
        WHERE {chosen}
        ORDER BY i.id
        FOR UPDATE
    ),
    changed AS (
        UPDATE message_queue_items i
        SET status = CASE WHEN locked.was = 'PENDING' THEN 'CANCELLED' ELSE i.status END,
            processed_at = CASE WHEN locked.was = 'PENDING' THEN clock_timestamp() END,
            available_at = CASE WHEN locked.was = 'PENDING' THEN NULL ELSE i.available_at END,
            cancel_requested_at = COALESCE(i.cancel_requested_at, clock_timestamp()),
            updated_at = clock_timestamp()
        FROM locked
        WHERE i.id = locked.id AND locked.was IN ('PENDING', 'PROCESSING')
        RETURNING i.id, i.seq, i.instance, i.chat_id, i.priority
    )
    SELECT locked.was, locked.id, changed.seq, changed.instance, changed.chat_id, changed.priority
    FROM locked LEFT JOIN changed USING (id)
    """  # noqa: S608 - built from constants of this file


CANCEL = _cancel("i.id = ANY(CAST(%(ids)s AS uuid[]))")

CLEAR = _cancel("i.instance = %(instance)s AND i.chat_id = %(chat_id)s AND i.status IN ('PENDING', 'PROCESSING')")

TIME_AGO = "SELECT clock_timestamp() - make_interval(secs => %(seconds)s)"


def _cancel_pending(whose: str) -> str:
    return _cancel(
        f"""i.status = 'PENDING' AND i.id = ANY(ARRAY(
            SELECT old.id FROM message_queue_items old
            WHERE {whose} AND old.status = 'PENDING' AND old.created_at <= %(before)s
            ORDER BY old.created_at, old.seq
            LIMIT %(limit)s))"""  # noqa: S608 - built from constants of this file
    )


CANCEL_PENDING = _cancel_pending("old.instance = %(instance)s")
CANCEL_PENDING_IN_CHAT = _cancel_pending("old.instance = %(instance)s AND old.chat_id = %(chat_id)s")


def _clean(whose: str) -> str:
    return f"""
    DELETE FROM message_queue_items
    WHERE id = ANY(ARRAY(
        SELECT i.id FROM message_queue_items i
        WHERE i.id = ANY(ARRAY(
            SELECT old.id FROM message_queue_items old
            WHERE old.status = %(status)s
              AND old.created_at < statement_timestamp() - make_interval(secs => %(days)s * 86400)
              AND COALESCE(old.processed_at, old.updated_at)
                  < statement_timestamp() - make_interval(secs => %(days)s * 86400)
              AND {whose}
            ORDER BY old.created_at, old.seq
            LIMIT %(limit)s))
          AND i.status = %(status)s
        ORDER BY i.id
        FOR UPDATE SKIP LOCKED))
    RETURNING id
    """  # noqa: S608 - built from constants of this file


CLEAN_INSTANCE = _clean("old.instance = %(instance)s")

CLEAN_REST = _clean(
    """NOT EXISTS (SELECT 1 FROM message_queue_instances a
                   WHERE a.instance = old.instance AND a.retention_days IS NOT NULL)"""
)

CLEAN_CHATS = """
DELETE FROM message_queue_chats
WHERE (instance, chat_id) IN (
    SELECT instance, chat_id FROM message_queue_chats
    WHERE next_at < statement_timestamp() - interval '1 day'
    ORDER BY instance, chat_id
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED)
RETURNING 1
"""

INITIALIZE = """
INSERT INTO message_queue_instances AS account (instance, client_id) VALUES (%(instance)s, %(client_id)s)
ON CONFLICT (instance) DO UPDATE SET client_id = COALESCE(account.client_id, EXCLUDED.client_id)
RETURNING client_id
"""

SCHEDULE_CLEAN = """
INSERT INTO message_queue_instances (instance, clean_every_hours, retention_days)
VALUES (%(instance)s, %(every)s, %(days)s)
ON CONFLICT (instance) DO UPDATE
SET clean_every_hours = EXCLUDED.clean_every_hours, retention_days = EXCLUDED.retention_days
RETURNING 1
"""

DUE_CLEANS = """
UPDATE message_queue_instances
SET cleaned_at = clock_timestamp()
WHERE clean_every_hours IS NOT NULL
  AND (cleaned_at IS NULL OR cleaned_at + make_interval(secs => clean_every_hours * 3600) <= statement_timestamp())
RETURNING instance, retention_days
"""
