"""What people look at: counts, lists, errors. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from mqworker.errors import NotFound
from mqworker.message import QueueStats
from mqworker.models import Status
from mqworker.store.database import Database

_STATUSES = [status.value for status in Status]

ERRORS_LOOKED_AT = 100_000
"""Errors are counted among so many of the newest messages of each state, however many there are."""


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
        rows = await self._database.rows(counts_statement(frozenset(given)), **given)
        return QueueStats(**{row.status.lower(): row.number for row in rows})

    async def get(self, message_id: UUID) -> StoredMessage:
        """One message. Raises :class:`NotFound`."""
        rows = await self._database.rows(GET, id=message_id)
        if not rows:
            raise NotFound(f"there is no message {message_id}")
        return _stored(rows)[0]

    async def payload(self, message_id: UUID) -> str:
        """One message's payload, as JSON text. Raises :class:`NotFound`."""
        payload: str | None = await self._database.scalar(PAYLOAD, id=message_id)
        if payload is None:
            raise NotFound(f"there is no message {message_id}")
        return payload

    async def list(
        self,
        instance: str | None = None,
        *,
        chat_id: str | None = None,
        status: str | None = None,
        after: StoredMessage | None = None,
        oldest_first: bool = False,
        limit: int,
    ) -> list[StoredMessage]:
        """Messages by arrival (``created_at``, then ``seq``), newest first; ``after`` is the last one seen."""
        given = _given(instance=instance, chat_id=chat_id)
        if after is not None:
            given |= {"after": after.created_at, "after_seq": after.seq}
        statuses = _STATUSES if status is None else [status]
        statement = list_statement(frozenset(given), oldest_first=oldest_first)
        return _stored(await self._database.rows_by_own_plan(statement, statuses=statuses, limit=limit, **given))

    async def errors(
        self, instance: str | None = None, *, limit: int, look_at: int = ERRORS_LOOKED_AT
    ) -> Sequence[ErrorCount]:
        """Errors by count, among the newest ``look_at`` messages of each state; of one account, or of all."""
        given = _given(instance=instance)
        rows = await self._database.rows_by_own_plan(
            errors_statement(frozenset(given)), statuses=_STATUSES, look_at=look_at, limit=limit, **given
        )
        return [ErrorCount(row.error, row.number, row.last_seen_at) for row in rows]


def _stored(rows: Sequence[Any]) -> list[StoredMessage]:
    return [StoredMessage(**row._asdict()) for row in rows]


def _given(**values: object) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}


_COLUMNS = ", ".join(StoredMessage.__dataclass_fields__)

_COUNTED = {"instance": "instance = %(instance)s", "client_id": "client_id = %(client_id)s"}


@cache
def counts_statement(given: frozenset[str]) -> str:
    """The statement for these filters.

    Only what is asked for: a condition that may be empty (``... IS NULL OR ...``) would be looked up by no index.
    """
    conditions = " AND ".join(condition for name, condition in _COUNTED.items() if name in given)
    # Of constants of this file, whatever is given.
    return f"SELECT status, count(*) AS number FROM message_queue_items WHERE {conditions} GROUP BY status"  # noqa: S608


GET = f"SELECT {_COLUMNS} FROM message_queue_items WHERE id = %(id)s"  # noqa: S608 - a constant of this file

PAYLOAD = "SELECT payload::text FROM message_queue_items WHERE id = %(id)s"

_FILTERS = {
    "instance": "AND i.instance = %(instance)s",
    "chat_id": "AND i.chat_id = %(chat_id)s",
    "after": "AND (i.created_at, i.seq) {beyond} (%(after)s, %(after_seq)s)",
}


def _newest(columns: str, given: frozenset[str], *, limit: str, oldest_first: bool = False) -> str:
    """Each state's first rows in the order of arrival, read from the end of an index: never the whole table."""
    direction, beyond = ("ASC", ">") if oldest_first else ("DESC", "<")
    filters = " ".join(words.format(beyond=beyond) for name, words in _FILTERS.items() if name in given)
    return f"""
    unnest(CAST(%(statuses)s AS text[])) AS one(status) CROSS JOIN LATERAL (
        SELECT {columns} FROM message_queue_items i
        WHERE i.status = one.status {filters}
        ORDER BY i.created_at {direction}, i.seq {direction}
        LIMIT {limit}
    ) AS found
    """  # noqa: S608 - built from constants of this file


@cache
def list_statement(given: frozenset[str], *, oldest_first: bool) -> str:
    """The statement for these filters."""
    direction = "ASC" if oldest_first else "DESC"
    return f"""
    SELECT found.* FROM {_newest(_COLUMNS, given, limit="%(limit)s", oldest_first=oldest_first)}
    ORDER BY found.created_at {direction}, found.seq {direction}
    LIMIT %(limit)s
    """  # noqa: S608 - built from constants of this file


@cache
def errors_statement(given: frozenset[str]) -> str:
    """The statement for these filters."""
    return f"""
    SELECT split_part(found.error, E'\\n', 1) AS error, count(*) AS number, max(found.updated_at) AS last_seen_at
    FROM {_newest("error, updated_at", given, limit="%(look_at)s")}
    WHERE found.error IS NOT NULL
    GROUP BY 1
    ORDER BY count(*) DESC, 1
    LIMIT %(limit)s
    """  # noqa: S608 - built from constants of this file
