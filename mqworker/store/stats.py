"""What people look at: counts, lists, errors. Reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from mqworker.errors import NotFound
from mqworker.message import QueueStats
from mqworker.store.database import Database


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message's row, without its payload: what an operator asks about."""

    id: UUID
    seq: int
    instance: str
    client_id: int
    chat_id: str
    is_group: bool
    executor: str
    status: str
    priority: int
    retry_count: int
    max_retries: int
    error: str | None
    provider_id: str | None
    worker: str | None
    scheduled_at: datetime | None
    available_at: datetime | None
    created_at: datetime
    updated_at: datetime
    processing_started_at: datetime | None
    processed_at: datetime | None


@dataclass(frozen=True, slots=True)
class ErrorCount:
    """An error's first line, how many messages ended or wait with it, and when it was last seen."""

    error: str
    count: int
    last_seen_at: datetime


class Stats:
    """The reads of people."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def counts(self, instance: str, client_id: int | None) -> QueueStats:
        """The five counts of an account, or of one client's messages in it."""
        given = _given(instance=instance, client_id=client_id)
        rows = await self._database.rows(COUNTS.format(conditions=_conditions(given, COUNTED)), **given)
        return QueueStats(**{row.status.lower(): row.number for row in rows})

    async def get(self, message_id: UUID) -> StoredMessage:
        """One message. Raises :class:`NotFound`."""
        rows = await self._database.rows(GET, id=message_id)
        if not rows:
            raise NotFound(f"there is no message {message_id}")
        return _stored(rows)[0]

    async def list(
        self, instance: str, *, chat_id: str | None, status: str | None, before_seq: int | None, limit: int
    ) -> list[StoredMessage]:
        """An account's messages, newest first; ``before_seq`` continues after the last seq seen."""
        given = _given(instance=instance, chat_id=chat_id, status=status, before_seq=before_seq)
        statement = LIST.format(conditions=_conditions(given, LISTED))
        return _stored(await self._database.rows(statement, **given, limit=limit))

    async def errors(self, instance: str, *, limit: int) -> Sequence[ErrorCount]:
        """An account's errors by count."""
        rows = await self._database.rows(ERRORS, instance=instance, limit=limit)
        return [ErrorCount(row.error, row.number, row.last_seen_at) for row in rows]


def _stored(rows: Sequence[Any]) -> list[StoredMessage]:
    return [StoredMessage(**row._asdict()) for row in rows]


def _given(**values: object) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}


def _conditions(given: dict[str, object], known: Mapping[str, str]) -> str:
    """Only what is asked for: a condition that may be empty (``... IS NULL OR ...``) would be looked up by no index."""
    return " AND ".join(known[name] for name in given)


_COLUMNS = ", ".join(StoredMessage.__dataclass_fields__)

COUNTED = {"instance": "instance = %(instance)s", "client_id": "client_id = %(client_id)s"}
LISTED = {
    "instance": "instance = %(instance)s",
    "chat_id": "chat_id = %(chat_id)s",
    "status": "status = %(status)s",
    "before_seq": "seq < %(before_seq)s",
}

COUNTS = """
SELECT status, count(*) AS number FROM message_queue_items WHERE {conditions} GROUP BY status
"""

GET = f"SELECT {_COLUMNS} FROM message_queue_items WHERE id = %(id)s"  # noqa: S608 - a constant of this file

LIST = f"""
SELECT {_COLUMNS} FROM message_queue_items WHERE {{conditions}} ORDER BY seq DESC LIMIT %(limit)s
"""  # noqa: S608 - a constant of this file

ERRORS = """
SELECT split_part(error, E'\\n', 1) AS error, count(*) AS number, max(updated_at) AS last_seen_at
FROM message_queue_items
WHERE instance = %(instance)s AND error IS NOT NULL
GROUP BY 1
ORDER BY count(*) DESC, 1
LIMIT %(limit)s
"""
