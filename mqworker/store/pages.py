"""Pages of waiting messages, by key: what rebuild and reconcile read.

Short statements on purpose: one long one would hold back vacuum for as long as it runs, and dead rows pile up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from mqworker.message import ChatKey
from mqworker.store.database import Database


@dataclass(frozen=True, slots=True)
class Waiting:
    """A PENDING message as Redis must know it; ``due_seconds`` is what is left until its schedule, 0 when none."""

    id: UUID
    seq: int
    chat: ChatKey
    priority: int
    due_seconds: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where the next page begins: after this row."""

    created_at: datetime
    seq: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some waiting messages, oldest first; ``end`` is ``None`` after the last page."""

    messages: list[Waiting]
    end: Place | None


class Pages:
    """Reads waiting messages in pages."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def oldest_first(self, after: Place | None, *, limit: int) -> Page:
        """The next page of all waiting messages."""
        if after is None:
            rows = await self._database.rows(FIRST_PAGE, limit=limit)
        else:
            rows = await self._database.rows(NEXT_PAGE, after=after.created_at, after_seq=after.seq, limit=limit)
        return _page(rows, limit)

    async def of_instance(self, instance: str, after: tuple[str, int] | None, *, limit: int) -> list[Waiting]:
        """The next page of one account's waiting messages, chat by chat; ``after`` is the last chat_id and seq."""
        chat_id, seq = after or ("", -1)
        rows = await self._database.rows(INSTANCE_PAGE, instance=instance, chat_id=chat_id, seq=seq, limit=limit)
        return [_waiting(row) for row in rows]

    async def of_ids(self, ids: Iterable[UUID]) -> list[Waiting]:
        """Those of the messages that wait still."""
        return [_waiting(row) for row in await self._database.rows(BY_IDS, ids=list(ids))]

    async def window_start(self, *, window_seconds: float) -> Place:
        """Where a look at recent rows begins: before the window and before any transaction still open began.

        A row carries the time of its insert, but appears at its commit.
        """
        start = await self._database.scalar(WINDOW_START, window=window_seconds)
        return Place(start, -1)


def _page(rows: Sequence[Any], limit: int) -> Page:
    end = Place(rows[-1].created_at, rows[-1].seq) if len(rows) == limit else None
    return Page([_waiting(row) for row in rows], end)


def _waiting(row: Any) -> Waiting:
    # Unpacked: a million rows go through here at a rebuild, and each look by name costs as much as the whole.
    message_id, seq, instance, chat_id, priority, _, due_seconds = row
    return Waiting(message_id, seq, ChatKey(instance, chat_id), priority, float(due_seconds))


_COLUMNS = """
    id, seq, instance, chat_id, priority, created_at,
    CASE WHEN scheduled_at > statement_timestamp()
         THEN EXTRACT(EPOCH FROM LEAST(scheduled_at, statement_timestamp() + interval '1 year') - statement_timestamp())
         ELSE 0 END AS due_seconds
"""

FIRST_PAGE = f"""
SELECT {_COLUMNS} FROM message_queue_items
WHERE status = 'PENDING'
ORDER BY created_at, seq
LIMIT %(limit)s
"""  # noqa: S608 - a constant of this file

NEXT_PAGE = f"""
SELECT {_COLUMNS} FROM message_queue_items
WHERE status = 'PENDING' AND (created_at, seq) > (%(after)s, %(after_seq)s)
ORDER BY created_at, seq
LIMIT %(limit)s
"""  # noqa: S608 - a constant of this file

INSTANCE_PAGE = f"""
SELECT {_COLUMNS} FROM message_queue_items
WHERE instance = %(instance)s AND status = 'PENDING' AND (chat_id, seq) > (%(chat_id)s, %(seq)s)
ORDER BY chat_id, seq
LIMIT %(limit)s
"""  # noqa: S608 - a constant of this file

BY_IDS = f"""
SELECT {_COLUMNS} FROM message_queue_items WHERE id = ANY(CAST(%(ids)s AS uuid[])) AND status = 'PENDING'
"""  # noqa: S608 - a constant of this file

# Sessions of other roles hide their xact_start without pg_read_all_stats: then only ours are looked back to, and
# what they insert is found by the walk.
WINDOW_START = """
SELECT LEAST(statement_timestamp() - make_interval(secs => %(window)s), min(xact_start))
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
  -- Who has written nothing yet holds no row back: a backup of many hours must not widen every look.
  AND backend_xid IS NOT NULL
"""
