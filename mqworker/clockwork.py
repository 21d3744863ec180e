"""When the sweeps run, and that one worker at a time does each.

Two things drive it: arq's cron on whole seconds, and a timer of our own in every worker. The timer is what the
promises rest on (arq's cron needs Redis, and a free place among the user's jobs); it comes a little later than the
cron, finds in the database that the duty is done, and goes back to sleep. Which worker may sweep is a leased row.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from mqworker.broker import BrokerUnavailable
from mqworker.errors import StorageUnavailable
from mqworker.settings import Settings
from mqworker.store import Store
from mqworker.sweeps import HOLD_SECONDS, Sweeps
from mqworker.tally import Tally

log = logging.getLogger(__name__)

TIMER_AFTER_CRON = 1.2
EARLY = 0.8
"""The cron comes on whole seconds, and its jobs a little sooner or later."""
AGAIN_SECONDS = 1.0
REBUILD_EVERY_SECONDS = 60.0
RETURN_EVERY_SECONDS = 5.0
CLEAN_LOOK_SECONDS = 60.0
LEAST_HOLD_SECONDS = 1.0
RENEW_FIRST_SECONDS = 5.0


Sweep = Callable[[], Awaitable[int | None]]
"""One pass; it returns how many messages it was for."""


@dataclass(frozen=True, slots=True)
class Duty:
    """A sweep, how often it is due, and how often somebody looks whether it is."""

    name: str
    every_seconds: float
    look_seconds: float
    sweep: Sweep
    is_brief: bool = False
    """Done as soon as it is taken, at a third of the statements: for a sweep that two may do at once, without harm."""


class Clockwork:
    """Runs the sweeps of one worker."""

    def __init__(self, store: Store, sweeps: Sweeps, tally: Tally, settings: Settings) -> None:
        self._store = store
        self._sweeps = sweeps
        self._tally = tally
        self._wanted = asyncio.Event()
        self._memory_lost = False
        self._unknown: set[str] = set()
        self._postgres_away_at = float("-inf")
        self._renew_first_seconds = min(RENEW_FIRST_SECONDS, settings.lease_seconds)
        clean_seconds = settings.clean_every_hours * 3600
        self.duties = {
            duty.name: duty
            for duty in (
                Duty("reclaim", settings.reclaim_every_seconds, settings.reclaim_every_seconds, self._reclaim, True),
                Duty("reconcile", settings.reconcile_every_seconds, settings.reconcile_every_seconds, sweeps.reconcile),
                Duty("clean", clean_seconds, min(clean_seconds, CLEAN_LOOK_SECONDS), sweeps.clean),
                Duty("clean-instances", CLEAN_LOOK_SECONDS, CLEAN_LOOK_SECONDS, sweeps.clean_instances),
            )
        }
        self._looked_at = dict.fromkeys(self.duties, _now())

    async def run_due(self, name: str) -> bool:
        """Run a sweep if it is due and nobody is at it; return whether it ran."""
        duty = self.duties[name]
        if not duty.is_brief:
            return await self._do(name, duty.sweep, every_seconds=duty.every_seconds)
        taken = await self._store.duties.take(name, every_seconds=duty.every_seconds, hold_seconds=0.0)
        if taken:
            await self._pass(name, duty.sweep)
        return taken

    async def _pass(self, name: str, sweep: Sweep) -> None:
        began = _now()
        messages = await sweep()
        self._tally.count_sweep(name, _now() - began, messages or 0)

    async def _reclaim(self) -> int:
        """Reclaim, but not just after PostgreSQL was away: the workers whose leases ended meanwhile renew first.

        The statement itself waits after a restart of PostgreSQL; what else may have been away it cannot see.
        """
        if _now() - self._postgres_away_at > self._renew_first_seconds:
            return await self._sweeps.reclaim()
        return 0

    async def _do(self, name: str, sweep: Sweep, *, every_seconds: float, now: bool = False) -> bool:
        duties = self._store.duties
        hold_seconds = _hold_seconds(every_seconds)
        if not await duties.take(name, every_seconds=every_seconds, hold_seconds=hold_seconds, now=now):
            return False
        holder = asyncio.create_task(self._hold(name, hold_seconds), name=f"hold {name}")
        try:
            await self._pass(name, sweep)
        except BaseException:
            holder.cancel()
            await asyncio.shield(self._give_up(name))
            raise
        holder.cancel()
        await duties.done(name)
        return True

    async def _hold(self, name: str, hold_seconds: float) -> None:
        while True:
            await asyncio.sleep(hold_seconds / 3)
            try:
                await self._store.duties.hold(name, hold_seconds=hold_seconds)
            except StorageUnavailable:
                log.debug("cannot hold the duty %s", name)  # another worker may take it; a sweep may run twice

    async def _give_up(self, name: str) -> None:
        try:
            await self._store.duties.give_up(name)
        except StorageUnavailable:
            log.debug("cannot give the duty %s back", name)  # it ends with its lease

    @property
    def loops(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """What runs until it is cancelled: a timer a sweep, and the rebuilds that the dispatcher asks for."""
        timers = {f"timer {duty.name}": partial(self._timer, duty) for duty in self.duties.values()}
        return {**timers, "rebuilder": self._rebuilder}

    async def _timer(self, duty: Duty) -> None:
        late = TIMER_AFTER_CRON if has_cron(duty.look_seconds) else 1.0
        while True:
            wait_seconds = self._looked_at[duty.name] + duty.look_seconds * late - _now()
            if wait_seconds > 0:
                await asyncio.sleep(wait_seconds)  # the cron may have looked meanwhile
            else:
                await self._look_at(duty)

    async def look(self) -> None:
        """Look at each sweep that this worker has not looked at for its period, and run those that are due."""
        late = [one for one in self.duties.values() if _now() >= self._looked_at[one.name] + one.look_seconds * EARLY]
        await asyncio.gather(*map(self._look_at, late))

    async def _look_at(self, duty: Duty) -> None:
        # Before it runs: a long sweep must not make the timer think that nobody looks.
        self._looked_at[duty.name] = _now()
        await self._quietly(duty.name, self.run_due(duty.name))

    async def _quietly(self, name: str, work: Awaitable[Any]) -> bool:
        """Do it; a server that is away is no news here (the dispatcher says it), anything else is logged in full."""
        try:
            await work
        except (StorageUnavailable, BrokerUnavailable) as error:
            if isinstance(error, StorageUnavailable):
                self._postgres_away_at = _now()
            log.debug("%s waits", name, extra={"reason": str(error)})
            return False
        except Exception:
            # A bug in one sweep must not stop the others.
            log.exception("%s failed", name)
            return False
        return True

    # Rebuilds: at start, when Redis lost its memory, when it came back, when an account is new to it.

    def memory_lost(self) -> None:
        """Redis has no epoch, or is another server than the one that was filled: fill it at once."""
        self._memory_lost = True
        self._wanted.set()

    def redis_returned(self) -> None:
        """Announces may have been lost while it was away: walk through everything."""
        self._wanted.set()

    def unknown_instance(self, instance: str) -> None:
        """Redis has no epoch for this account."""
        self._unknown.add(instance)
        self._wanted.set()

    async def rebuild_at_start(self) -> bool:
        """Fill Redis unless one worker did so within the last minute and it still knows."""
        return await self._do("rebuild", self._sweeps.rebuild, every_seconds=REBUILD_EVERY_SECONDS)

    async def rebuild_now(self) -> int | None:
        """Fill Redis, whatever it knows; return how many messages wait, ``None`` where another is at it already.

        Raises :class:`BrokerUnavailable` where Redis is away, or keeps losing its memory.
        """
        counts: list[int] = []

        async def rebuild() -> int:
            count = await self._sweeps.rebuild()
            if count is None:
                raise BrokerUnavailable("Redis keeps losing its memory")
            counts.append(count)
            return count

        await self._do("rebuild", rebuild, every_seconds=RETURN_EVERY_SECONDS, now=True)
        return counts[0] if counts else None

    async def _rebuilder(self) -> None:
        await self._quietly("rebuild", self.rebuild_at_start())
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            if not await self._quietly("rebuild", self._rebuild_wanted()):
                await asyncio.sleep(AGAIN_SECONDS)
                self._wanted.set()

    async def _rebuild_wanted(self) -> None:
        unknown, self._unknown = self._unknown, set()
        try:
            if self._memory_lost:
                await self._refill()
            elif unknown:
                await self._learn(unknown)
            else:
                await self._do("rebuild", self._sweeps.rebuild, every_seconds=RETURN_EVERY_SECONDS)
        except BaseException:
            self._unknown |= unknown
            raise

    async def _refill(self) -> None:
        """Whoever noticed the loss first does it; for the others the mark of a rebuild is memory enough."""
        self._memory_lost = False  # before it: a loss from here on is another one
        filled = False
        try:
            filled = await self._sweeps.memory_is_whole() or await self._do(
                "rebuild", self._sweeps.rebuild, every_seconds=RETURN_EVERY_SECONDS, now=True
            )
        finally:
            self._memory_lost |= not filled
        if not filled:
            # Somebody holds the duty, perhaps of a rebuild that ended just before the loss: look again.
            await asyncio.sleep(AGAIN_SECONDS)
            self._wanted.set()

    async def _learn(self, instances: set[str]) -> None:
        if await self._sweeps.is_rebuilding():
            return  # it will learn them all
        for instance in sorted(instances):
            await self._sweeps.rebuild_instance(instance)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _hold_seconds(every_seconds: float) -> float:
    """How long a duty stays taken without a sign of life: a worker killed in its sweep holds up the next one."""
    return min(HOLD_SECONDS, max(LEAST_HOLD_SECONDS, every_seconds))


def has_cron(every_seconds: float) -> bool:
    """Whether arq's cron, which knows whole seconds only, drives a sweep of this period."""
    return every_seconds >= 1.0
