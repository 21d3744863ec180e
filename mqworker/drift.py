"""Where PostgreSQL and Redis disagree about what waits. Both are read in pages, and no further than told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from mqworker.broker import Broker, Entry, Inspection
from mqworker.store import Place, Store, Waiting

PAGE = 1000
UNDER_WAY_SECONDS = 1.0
"""What is on its way from the one to the other gets there within this time: only what is left then is drift."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was found among the ``looked_at`` first messages; ``all_seen`` says that there were no more."""

    entries: list[Entry]
    looked_at: int
    all_seen: bool


class Drift:
    """Finds what the one has and the other lacks, and mends it in Redis, which is never the truth."""

    def __init__(self, store: Store, broker: Broker) -> None:
        self._store = store
        self._broker = broker

    async def missing(self, *, limit: int) -> Found:
        """Messages that wait in PostgreSQL, the oldest first, and that Redis would let no worker come upon."""
        place: Place | None = None
        suspects: list[Entry] = []
        looked_at = 0
        while looked_at < limit:
            page = await self._store.pages.oldest_first(place, limit=min(PAGE, limit - looked_at))
            suspects += await self._broker.unknown(_entries(page.messages))
            looked_at += len(page.messages)
            place = page.end
            if place is None:
                break
        return Found(await self._still_missing(suspects), looked_at, place is None)

    async def _still_missing(self, suspects: Sequence[Entry]) -> list[Entry]:
        missing: list[Entry] = []
        if suspects:
            await asyncio.sleep(UNDER_WAY_SECONDS)
        for some in _parts(suspects):
            waiting = await self._store.pages.of_ids(entry.id for entry in some)
            missing += await self._broker.unknown(_entries(waiting))
        return missing

    async def surplus(self, *, limit: int) -> Found:
        """Messages that Redis has, and that have ended in PostgreSQL or never were in it."""
        suspects: list[Entry] = []
        looked_at = 0
        async with aclosing(Inspection(self._broker).entries()) as pages:
            async for entries in pages:
                suspects += await self._ended(entries)
                looked_at += len(entries)
                if looked_at >= limit:
                    break
        return Found(await self._still_surplus(suspects), looked_at, looked_at < limit)

    async def _still_surplus(self, suspects: Sequence[Entry]) -> list[Entry]:
        surplus: list[Entry] = []
        if suspects:
            await asyncio.sleep(UNDER_WAY_SECONDS)
        for some in _parts(suspects):
            gone = set(await self._broker.unknown(some))
            surplus += await self._ended([entry for entry in some if entry not in gone])
        return surplus

    async def _ended(self, entries: Sequence[Entry]) -> list[Entry]:
        alive = await self._store.inspection.alive(entry.id for entry in entries)
        return [entry for entry in entries if entry.id not in alive]

    async def announce(self, missing: Sequence[Entry]) -> None:
        """Tell Redis of what it lacks."""
        for some in _parts(missing):
            await self._broker.announce(some)

    async def drop(self, surplus: Sequence[Entry]) -> None:
        """Have Redis forget what has ended."""
        for some in _parts(surplus):
            await self._broker.drop(some)


def _entries(messages: Sequence[Waiting]) -> list[Entry]:
    return [Entry(m.chat, m.seq, m.id, m.priority, m.due_seconds) for m in messages]


def _parts(entries: Sequence[Entry]) -> list[Sequence[Entry]]:
    return [entries[start : start + PAGE] for start in range(0, len(entries), PAGE)]
