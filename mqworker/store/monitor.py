"""What is asked by monitoring: does PostgreSQL take writes, and how much waits in which account. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mqworker.errors import StorageReadOnly
from mqworker.store.database import Database
from mqworker.store.pages import Place

FIRST = Place(datetime(1, 1, 1, tzinfo=UTC), -1)
"""Before every message."""


@dataclass(frozen=True, slots=True)
class AccountBacklog:
    """An account's waiting messages: those that are ``due``, and those that wait for a schedule or a backoff.

    ``oldest_due_seconds`` is for how long the longest due of them has been; 0 where none is.
    """

    instance: str
    due: int
    later: int
    oldest_due_seconds: float


@dataclass(frozen=True, slots=True)
class BacklogPage:
    """What one stretch of the waiting messages holds, by account; ``end`` is ``None`` after the last one."""

    accounts: list[AccountBacklog]
    end: Place | None


class Monitor:
    """The reads of monitoring."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def check(self) -> None:
        """Raise :class:`StorageUnavailable` or :class:`SchemaBehind` unless PostgreSQL could take a message now."""
        if await self._database.scalar(CHECK) == "on":
            raise StorageReadOnly("PostgreSQL accepts no writes at the moment (it is read-only)")

    async def backlog(self, after: Place, *, limit: int) -> BacklogPage:
        """Count the next ``limit`` waiting messages by account, the oldest first. Begin with ``FIRST``.

        In pages: to count a million rows in one statement would hold vacuum back for as long as that takes.
        """
        rows = await self._database.rows(BACKLOG, after=after.created_at, after_seq=after.seq, limit=limit)
        accounts = [AccountBacklog(row.name, row.due, row.later, row.oldest_due_seconds) for row in rows]
        return BacklogPage(accounts, page_end(rows, limit))


def page_end(rows: Sequence[Any], limit: int) -> Place | None:
    """Where the next page begins."""
    return Place(rows[0].end_at, rows[0].end_seq) if rows and rows[0].looked_at == limit else None


# The look at a table of ours tells a database that has none.
CHECK = """
SELECT current_setting('transaction_read_only') FROM (SELECT count(*) FROM message_queue_duties) ours
"""


def backlog_by(name: str, whose: str = "true") -> str:
    """Count a page of what waits; a page with none of those asked for is one row without a name."""
    return f"""
    WITH page AS MATERIALIZED (
        SELECT instance, chat_id, created_at, seq, GREATEST(created_at, scheduled_at, available_at) AS due_at
        FROM message_queue_items
        WHERE status = 'PENDING' AND (created_at, seq) > (%(after)s, %(after_seq)s)
        ORDER BY created_at, seq
        LIMIT %(limit)s
    ),
    place AS (
        SELECT created_at AS end_at, seq AS end_seq, (SELECT count(*) FROM page) AS looked_at
        FROM page ORDER BY created_at DESC, seq DESC LIMIT 1
    ),
    counted AS (
        SELECT {name} AS name,
               count(*) FILTER (WHERE due_at <= statement_timestamp()) AS due,
               count(*) FILTER (WHERE due_at > statement_timestamp()) AS later,
               GREATEST(date_part('epoch', statement_timestamp() - min(due_at)), 0) AS oldest_due_seconds
        FROM page WHERE {whose} GROUP BY 1
    )
    SELECT * FROM place LEFT JOIN counted ON true
    """  # noqa: S608 - built from constants of this room


BACKLOG = backlog_by("instance")
