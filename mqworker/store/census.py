"""Counts by account, or by chat of one account, for people who look on: no statement reads more than it was told."""

from __future__ import annotations

from dataclasses import dataclass

from mqworker.store.database import Database
from mqworker.store.monitor import BACKLOG, FIRST, backlog_by, page_end
from mqworker.store.pages import Place

FAILED_LOOKED_AT = 10_000
"""Failures are counted among so many of the newest FAILED messages."""


@dataclass(frozen=True, slots=True)
class Queued:
    """What waits under a name: what is due and for how long the oldest of it has been, and what is due later."""

    due: int
    later: int
    oldest_due_seconds: float


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of all that waits, counted; ``end`` is ``None`` after the last part."""

    queued: dict[str, Queued]
    end: Place | None


@dataclass(frozen=True, slots=True)
class Moving:
    """What is in flight under a name, and what failed within the last hour."""

    in_flight: int
    failed: int


class Census:
    """Counts by account."""

    def __init__(self, database: Database, instance: str | None = None) -> None:
        """With ``instance`` only its messages are counted, and by chat."""
        self._database = database
        self._given = {} if instance is None else {"instance": instance}
        self._queued, self._moving = (BACKLOG, MOVING) if instance is None else (BACKLOG_OF_ONE, MOVING_OF_ONE)

    async def queued(self, after: Place | None, *, limit: int) -> Slice:
        """Look at the next ``limit`` waiting messages, whosever they are, the oldest first."""
        after = after or FIRST
        rows = await self._database.rows_by_own_plan(
            self._queued, after=after.created_at, after_seq=after.seq, limit=limit, **self._given
        )
        queued = {row.name: Queued(row.due, row.later, row.oldest_due_seconds) for row in rows if row.name is not None}
        return Slice(queued, page_end(rows, limit))

    async def moving(self) -> dict[str, Moving]:
        """What is in flight and what failed of late."""
        rows = await self._database.rows_by_own_plan(self._moving, look_at=FAILED_LOOKED_AT, **self._given)
        return {row.name: Moving(row.in_flight, row.failed) for row in rows}


def _moving_by(name: str, whose: str = "true") -> str:
    return f"""
    SELECT name, count(*) FILTER (WHERE status = 'PROCESSING') AS in_flight,
           count(*) FILTER (WHERE status = 'FAILED') AS failed
    FROM (
        SELECT {name} AS name, status FROM message_queue_items WHERE status = 'PROCESSING' AND {whose}
        UNION ALL
        (SELECT {name}, status FROM (
            SELECT instance, chat_id, status, processed_at FROM message_queue_items
            WHERE status = 'FAILED'
            ORDER BY created_at DESC, seq DESC
            LIMIT %(look_at)s
        ) newest WHERE processed_at > statement_timestamp() - interval '1 hour' AND {whose})
    ) moving
    GROUP BY name
    """  # noqa: S608 - built from constants of this file


_OF_ONE = ("chat_id", "instance = %(instance)s")
MOVING, MOVING_OF_ONE = _moving_by("instance"), _moving_by(*_OF_ONE)
BACKLOG_OF_ONE = backlog_by(*_OF_ONE)
