"""The sweeps that close every gap between the steps: rebuild, reconcile, reclaim, clean. One bounded pass each.

They are called by :mod:`mqworker.clockwork`, which sees to it that one worker at a time does each.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from datetime import datetime

from mqworker.broker import Broker, BrokerUnavailable, Entry, Finish
from mqworker.settings import Settings
from mqworker.store import Page, Place, Reclaimed, Store, Waiting

log = logging.getLogger(__name__)

PAGE = 1000
RECLAIM_BATCH = 500
HOLD_SECONDS = 5.0
"""How long a sweep may go without a sign of life before another worker takes it over. Short, because a worker killed in
a rebuild leaves Redis half filled for so long; a sweep that runs twice does no harm."""
WALK_SHARE = 0.05
"""The part of a reconcile's period that it may spend on walking through old messages."""
REBUILD_TRIES = 5


class Sweeps:
    """The passes. Each may run twice, at once or one after the other, without harm."""

    def __init__(self, store: Store, broker: Broker, settings: Settings) -> None:
        self._store = store
        self._broker = broker
        self._settings = settings

    async def rebuild(self) -> int | None:
        """Fill Redis with all that waits; return how many, ``None`` where Redis kept losing its memory meanwhile.

        It only adds: to clear first would lose what producers announce in the middle of it.
        """
        for _ in range(REBUILD_TRIES):
            count = await self._fill()
            if count is not None:
                log.info("rebuilt: Redis knows all waiting messages", extra={"messages": count})
                return count
        log.warning("cannot rebuild: Redis keeps losing its memory")
        return None

    async def _fill(self) -> int | None:
        await self._broker.begin_rebuild(hold_seconds=HOLD_SECONDS)
        filling: dict[str, str] = {}
        count = 0
        async for page in self._walk(None):
            # Before its first message: an account that is lost in the middle of this must not be taken for whole.
            filling |= await self._broker.mark_filling({m.chat.instance for m in page.messages} - filling.keys())
            await self._broker.announce(_entries(page.messages))
            count += len(page.messages)
            if not await self._broker.keep_rebuild(hold_seconds=HOLD_SECONDS):
                return None
        return count if await self._broker.end_rebuild(filling) else None

    async def memory_is_whole(self) -> bool:
        """Whether Redis has its memory, or somebody is filling it."""
        return await self._broker.remembers()

    async def is_rebuilding(self) -> bool:
        """Whether somebody is filling Redis."""
        return await self._broker.is_rebuilding()

    async def rebuild_instance(self, instance: str) -> int:
        """Fill Redis with all that waits for one account, and declare it known; return how many."""
        filling = await self._broker.mark_filling([instance])
        count = await self.announce_instance(instance)
        await self._broker.mark_known(filling)
        return count

    async def announce_instance(self, instance: str) -> int:
        """Announce all that waits for one account; return how many."""
        after: tuple[str, int] | None = None
        count = 0
        while messages := await self._store.pages.of_instance(instance, after, limit=PAGE):
            await self._broker.announce(_entries(messages))
            count += len(messages)
            after = (messages[-1].chat.chat_id, messages[-1].seq)
        return count

    async def reconcile(self) -> int:
        """Announce what Redis does not know: all recent messages, and the next stretch of the old ones.

        Recent means since two periods ago, or since the oldest transaction began that was open at the last reconcile:
        a row carries the time of its insert, but appears at its commit. Returns how many were found.
        """
        progress = await self._store.duties.progress("reconcile") or {}
        start = await self._store.pages.window_start(window_seconds=2 * self._settings.reconcile_every_seconds)
        found = 0
        async for page in self._walk(min(start, _place(progress.get("window")) or start, key=lambda p: p.created_at)):
            found += await self._broker.announce(_entries(page.messages), wake=False)
        more, place = await self._walk_on(_place(progress.get("walk")))
        found += more
        noted = {"window": _progress(start), "walk": _progress(place)}
        await self._store.duties.note_progress("reconcile", noted)
        await self._broker.sweep_instances()
        if found:
            log.info("reconciled: announces that had been lost", extra={"messages": found})
        return found

    async def _walk_on(self, place: Place | None) -> tuple[int, Place | None]:
        """Go on with the walk through all waiting messages, where whoever did it last left off."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + WALK_SHARE * self._settings.reconcile_every_seconds
        found = 0
        async for page in self._walk(place):
            found += await self._broker.announce(_entries(page.messages), wake=False)
            place = page.end
            if clock() > deadline:
                break
        return found, place

    async def _walk(self, start: Place | None) -> AsyncIterator[Page]:
        place = start
        while True:
            page = await self._store.pages.oldest_first(place, limit=PAGE)
            yield page
            if page.end is None:
                return
            place = page.end

    async def reclaim(self) -> int:
        """Take back every expired claim; return how many."""
        count = 0
        while True:
            batch = await self._store.claims.reclaim(
                gap_min_seconds=self._settings.delay_min_seconds,
                gap_max_seconds=self._settings.delay_max_seconds,
                limit=RECLAIM_BATCH,
            )
            if batch:
                count += len(batch)
                _say(batch)
                await self._let_go(batch)
            if len(batch) < RECLAIM_BATCH:
                return count

    async def _let_go(self, batch: Sequence[Reclaimed]) -> None:
        """Break the locks of what was taken back and announce its chats at once."""
        finishes = []
        for message in batch:
            entry = Entry(message.chat, message.seq, message.id, message.priority)
            waits = message.status == "PENDING"
            gap = message.wait_seconds
            finishes.append(
                Finish(message.chat, "", gap, gap, kept=entry if waits else None, done=None if waits else entry)
            )
        try:
            await self._broker.finish(finishes)
        except BrokerUnavailable:
            log.info("Redis was not told of what was reset; it will learn it on its return")

    async def clean(self) -> int:
        """Delete finished rows older than their retention, and the rows of idle chats; return how many messages."""
        removed = await self._clean(None, self._settings.retention_days)
        while await self._store.admin.clean_chats():
            pass
        return removed

    async def clean_now(self, instance: str | None, *, retention_days: float) -> int:
        """Delete one account's finished rows older than that; ``None``: of all that have no retention of their own."""
        return await self._clean(instance, retention_days)

    async def clean_instances(self) -> int:
        """The same for the accounts whose own cleanup is due."""
        removed = 0
        for plan in await self._store.admin.due_cleans():
            removed += await self._clean(plan.instance, plan.retention_days or self._settings.retention_days)
        return removed

    async def _clean(self, instance: str | None, retention_days: float) -> int:
        removed = 0
        while batch := await self._store.admin.clean(instance, retention_days=retention_days):
            removed += batch
        if removed:
            log.info("%d old messages removed", removed, extra={"instance": instance or "(all others)"})
        return removed


def _say(batch: Sequence[Reclaimed]) -> None:
    log.warning("%d stuck messages reset", len(batch))
    for m in batch:
        chat = {"instance": m.chat.instance, "chat_id": m.chat.chat_id}
        log.warning("reset", extra={**chat, "message_id": str(m.id), "attempt": m.attempt, "status": m.status})


def _entries(messages: Sequence[Waiting]) -> list[Entry]:
    return [Entry(m.chat, m.seq, m.id, m.priority, m.due_seconds) for m in messages]


def _place(progress: dict[str, object] | None) -> Place | None:
    if not progress:
        return None
    return Place(datetime.fromisoformat(str(progress["created_at"])), int(str(progress["seq"])))


def _progress(place: Place | None) -> dict[str, object] | None:
    return None if place is None else {"created_at": place.created_at.isoformat(), "seq": place.seq}
