"""Counts of all accounts, or of one account's chats, for who looks on: each look reads a bounded part of the table."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from mqworker.store import Census, Moving, Place, Queued

SLICE = 10_000
ROWS_A_LOOK = 100_000
"""Some 0.1 s of PostgreSQL's time: a million waiting messages are counted in ten looks."""


@dataclass(frozen=True, slots=True)
class Line:
    """One account, or one chat."""

    name: str
    due: int = 0
    later: int = 0
    oldest_due_seconds: float = 0.0
    in_flight: int = 0
    failed_last_hour: int = 0

    @property
    def pending(self) -> int:
        """All that waits."""
        return self.due + self.later


@dataclass(frozen=True, slots=True)
class View:
    """What a look found, the most due first.

    What waits was counted ``counted_seconds_ago``; ``None`` while the first count is under way, and there are more.
    """

    lines: list[Line]
    counted_seconds_ago: float | None


@dataclass
class _Count:
    """All that waits, as far as ``place``."""

    queued: dict[str, Queued] = field(default_factory=dict)
    place: Place | None = None

    def add(self, queued: dict[str, Queued]) -> None:
        for name, more in queued.items():
            self.queued[name] = _sum(self.queued[name], more) if name in self.queued else more


class Overview:
    """Looks again and again. What is in flight is counted anew each time, what waits in as many looks as it takes."""

    def __init__(self, census: Census, *, rows_a_look: int = ROWS_A_LOOK) -> None:
        self._census = census
        self._rows_a_look = rows_a_look
        self._slice = min(SLICE, rows_a_look)
        self._count = _Count()
        self._last: dict[str, Queued] = {}
        self._counted_at: float | None = None

    async def look(self) -> View:
        """Go on counting, and say what is known."""
        looked_at = 0
        while looked_at < self._rows_a_look:
            looked_at += self._slice
            if await self._count_on():
                break
        return await self._view()

    async def look_at_all(self) -> View:
        """Count to the end first."""
        while not await self._count_on():
            pass
        return await self._view()

    async def _count_on(self) -> bool:
        """Count one slice more; true where it was the last one."""
        found = await self._census.queued(self._count.place, limit=self._slice)
        self._count.add(found.queued)
        self._count.place = found.end
        if found.end is not None:
            return False
        self._last, self._count = self._count.queued, _Count()
        self._counted_at = asyncio.get_running_loop().time()
        return True

    async def _view(self) -> View:
        moving = await self._census.moving()
        queued = self._count.queued if self._counted_at is None else self._last
        lines = [_line(name, queued.get(name), moving.get(name)) for name in {*queued, *moving}]
        lines.sort(key=lambda line: (-line.due, -line.later, -line.in_flight, line.name))
        if self._counted_at is None:
            return View(lines, None)
        return View(lines, asyncio.get_running_loop().time() - self._counted_at)


def _sum(one: Queued, other: Queued) -> Queued:
    oldest = max(one.oldest_due_seconds, other.oldest_due_seconds)
    return Queued(one.due + other.due, one.later + other.later, oldest)


def _line(name: str, queued: Queued | None, moving: Moving | None) -> Line:
    queued, moving = queued or Queued(0, 0, 0.0), moving or Moving(0, 0)
    return Line(name, queued.due, queued.later, queued.oldest_due_seconds, moving.in_flight, moving.failed)
