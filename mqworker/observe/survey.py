"""How much waits in which account, counted in the background by one worker of the fleet.

Not at each scrape, and not by a single statement: a count of a million waiting messages reads a million rows. A survey
walks through them in pages and rests after each, so that it takes one twentieth of one connection's time: a small queue
is surveyed every 15 s, a million messages in a minute or two. Which worker does it is a leased row, as with the sweeps.
It goes on for as long as it lives and shows the result as its own, so that sums over workers are right.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from mqworker.errors import StorageUnavailable
from mqworker.store import AccountBacklog, Store
from mqworker.store.monitor import FIRST

log = logging.getLogger(__name__)

DUTY = "survey"
EVERY_SECONDS = 15.0
HOLD_SECONDS = 45.0
GIVE_UP_SECONDS = 1.0
PAGE = 1000
"""Some 2 ms of PostgreSQL's, and 6 of the event loop's where each message is another account's."""
SHARE = 0.05
"""The part of the time in which it may keep PostgreSQL busy."""


class Backlog:
    """What waited in all accounts when it was surveyed; ``began`` is on the event loop's clock."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.accounts: dict[str, AccountBacklog] = {}

    def add(self, page: Sequence[AccountBacklog]) -> None:
        """Add what one stretch of the waiting messages holds."""
        for one in page:
            known = self.accounts.get(one.instance)
            self.accounts[one.instance] = one if known is None else _sum(known, one)

    @property
    def due(self) -> int:
        return sum(one.due for one in self.accounts.values())

    @property
    def later(self) -> int:
        return sum(one.later for one in self.accounts.values())

    @property
    def oldest_due_seconds(self) -> float:
        return max((one.oldest_due_seconds for one in self.accounts.values()), default=0.0)


def _sum(known: AccountBacklog, more: AccountBacklog) -> AccountBacklog:
    return AccountBacklog(
        known.instance,
        known.due + more.due,
        known.later + more.later,
        max(known.oldest_due_seconds, more.oldest_due_seconds),
    )


class Survey:
    """Surveys the backlog while this worker has the duty to."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held_until = float("-inf")
        self._latest: Backlog | None = None

    @property
    def latest(self) -> Backlog | None:
        """The last survey; ``None`` where another worker has the duty, or may have it by now."""
        return self._latest if _now() < self._held_until else None

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            try:
                await self.run_once()
            except StorageUnavailable:
                log.debug("the survey waits for PostgreSQL")
            await asyncio.sleep(EVERY_SECONDS)

    async def run_once(self) -> None:
        """Survey, if nobody else does."""
        backlog, place = Backlog(_now()), FIRST
        while await self._is_mine():
            began = _now()
            page = await self._store.monitor.backlog(place, limit=PAGE)
            backlog.add(page.accounts)
            if page.end is None:
                self._latest = backlog
                return
            place = page.end
            await asyncio.sleep((_now() - began) / SHARE)

    async def _is_mine(self) -> bool:
        if self._held_until - _now() > HOLD_SECONDS / 2:
            return True
        duties, asked_at = self._store.duties, _now()
        if await duties.hold(DUTY, hold_seconds=HOLD_SECONDS) or await duties.take(
            DUTY, every_seconds=0.0, hold_seconds=HOLD_SECONDS
        ):
            self._held_until = asked_at + HOLD_SECONDS
            return True
        self._held_until = float("-inf")
        return False

    async def aclose(self) -> None:
        """Leave the duty to another worker, at once."""
        if self._held_until > _now():
            self._held_until = float("-inf")
            try:
                async with asyncio.timeout(GIVE_UP_SECONDS):
                    await self._store.duties.give_up(DUTY)
            except (StorageUnavailable, TimeoutError):
                log.debug("cannot give the survey back")  # it ends with its lease


def _now() -> float:
    return asyncio.get_running_loop().time()
