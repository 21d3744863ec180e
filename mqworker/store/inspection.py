"""What a doctor asks of PostgreSQL, and the little that it writes. Each look is bounded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from mqworker.store.database import Database


@dataclass(frozen=True, slots=True)
class DutyState:
    """A sweep's row: for how long it is still taken (0: free), and how long ago it was done (``None``: never)."""

    name: str
    owner: str | None
    held_seconds: float
    idle_seconds: float | None


class Inspection:
    """Reads of a doctor."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def alive(self, ids: Iterable[UUID]) -> set[UUID]:
        """Those of the messages that wait or are in flight."""
        return {row.id for row in await self._database.rows(ALIVE, ids=list(ids))}

    async def expired_claims(self, *, longer_than_seconds: float, stale_after_seconds: float, limit: int) -> int:
        """How many claims, up to ``limit``, ended longer ago than that and were not taken back."""
        count: int = await self._database.scalar(
            EXPIRED, seconds=longer_than_seconds, stale_after_seconds=stale_after_seconds, limit=limit
        )
        return count

    async def duties(self) -> Sequence[DutyState]:
        """All sweeps that were ever taken."""
        rows = await self._database.rows(DUTIES)
        return [DutyState(row.name, row.owner, row.held_seconds, row.idle_seconds) for row in rows]

    async def free_duty(self, name: str, *, held_longer_than_seconds: float) -> bool:
        """Free a sweep that is taken for longer than that; false where it is not (any more)."""
        return bool(await self._database.rows(FREE_DUTY, name=name, seconds=held_longer_than_seconds))


ALIVE = """
SELECT id FROM message_queue_items
WHERE id = ANY(CAST(%(ids)s AS uuid[])) AND status IN ('PENDING', 'PROCESSING')
"""

# When a claim ends is said in RECLAIM.
EXPIRED = """
SELECT count(*) FROM (
    SELECT 1 FROM message_queue_items
    WHERE status = 'PROCESSING'
      AND COALESCE(lease_expires_at,
                   processing_started_at + make_interval(secs => %(stale_after_seconds)s),
                   updated_at + make_interval(secs => %(stale_after_seconds)s))
          < statement_timestamp() - make_interval(secs => %(seconds)s)
    LIMIT %(limit)s
) expired
"""

DUTIES = """
SELECT name, owner,
       GREATEST(EXTRACT(EPOCH FROM until - clock_timestamp()), 0)::float AS held_seconds,
       EXTRACT(EPOCH FROM clock_timestamp() - last_done_at)::float AS idle_seconds
FROM message_queue_duties
ORDER BY name
"""

FREE_DUTY = """
UPDATE message_queue_duties SET until = 'epoch'
WHERE name = %(name)s AND until > clock_timestamp() + make_interval(secs => %(seconds)s)
RETURNING 1
"""
