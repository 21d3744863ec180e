"""Who does which sweep: a leased row on PostgreSQL's clock.

Not advisory locks: through a pool the unlock lands on another connection and the duty stays taken, and PgBouncer
in transaction mode forbids them.
"""

from __future__ import annotations

import json
from typing import Any

from mqworker.store.database import Database

# Who sweeps on whole seconds and writes "done" some milliseconds later must find the duty due at the next mark.
DUE_AFTER = 0.8


class Duties:
    """Takes and gives back duties in the name of one worker."""

    def __init__(self, database: Database, *, owner: str) -> None:
        self._database = database
        self._owner = owner

    async def take(self, name: str, *, every_seconds: float, hold_seconds: float, now: bool = False) -> bool:
        """Take a duty for ``hold_seconds`` if nobody has it and it is due (or ``now`` is asked for).

        Taken for no time it is done at once.
        """
        taken = await self._database.scalar(
            TAKE, name=name, owner=self._owner, every=every_seconds * DUE_AFTER, hold=hold_seconds, now=now
        )
        return taken is not None

    async def hold(self, name: str, *, hold_seconds: float) -> bool:
        """Hold a duty longer; false where it was lost to another worker."""
        held = await self._database.scalar(HOLD, name=name, owner=self._owner, hold=hold_seconds)
        return held is not None

    async def note_progress(self, name: str, progress: dict[str, Any] | None) -> None:
        """Store how far a walk came."""
        await self._database.rows(NOTE, name=name, progress=json.dumps(progress))

    async def done(self, name: str) -> None:
        """Give a duty back; it is due again after its period."""
        await self._database.rows(DONE, name=name, owner=self._owner, done=True)

    async def give_up(self, name: str) -> None:
        """Give a duty back undone; it stays due."""
        await self._database.rows(DONE, name=name, owner=self._owner, done=False)

    async def progress(self, name: str) -> dict[str, Any] | None:
        """How far a duty came, whoever did it last."""
        progress: dict[str, Any] | None = await self._database.scalar(PROGRESS, name=name)
        return progress


TAKE = """
INSERT INTO message_queue_duties AS duty (name, owner, until, last_done_at)
VALUES (%(name)s, %(owner)s, clock_timestamp() + make_interval(secs => %(hold)s),
        CASE WHEN %(hold)s = 0 THEN clock_timestamp() END)
ON CONFLICT (name) DO UPDATE SET owner = EXCLUDED.owner, until = EXCLUDED.until,
    last_done_at = COALESCE(EXCLUDED.last_done_at, duty.last_done_at)
WHERE duty.until <= clock_timestamp()
  AND (%(now)s OR duty.last_done_at IS NULL
       OR duty.last_done_at + make_interval(secs => %(every)s) <= clock_timestamp())
RETURNING 1
"""

HOLD = """
UPDATE message_queue_duties
SET until = clock_timestamp() + make_interval(secs => %(hold)s)
WHERE name = %(name)s AND owner = %(owner)s AND until > clock_timestamp()
RETURNING 1
"""

NOTE = """
UPDATE message_queue_duties SET progress = CAST(%(progress)s AS jsonb) WHERE name = %(name)s RETURNING 1
"""

DONE = """
UPDATE message_queue_duties
SET until = 'epoch', last_done_at = CASE WHEN %(done)s THEN clock_timestamp() ELSE last_done_at END
WHERE name = %(name)s AND owner = %(owner)s
RETURNING 1
"""

PROGRESS = "SELECT progress FROM message_queue_duties WHERE name = %(name)s"
