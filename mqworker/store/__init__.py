"""The only room that speaks SQL. What is decided here holds, whatever Redis says."""

from __future__ import annotations

from typing import Self

from mqworker.settings import Settings
from mqworker.store.admin import Admin, CancelResult, Cleared, Dropped
from mqworker.store.census import Census, Moving, Queued, Slice
from mqworker.store.claims import Claim, Claims, NotNow, Reclaimed, Settled
from mqworker.store.connections import Connections
from mqworker.store.database import Database, translated_errors
from mqworker.store.duties import Duties
from mqworker.store.enqueues import Enqueues
from mqworker.store.inspection import DutyState, Inspection
from mqworker.store.monitor import AccountBacklog, BacklogPage, Monitor
from mqworker.store.pages import Page, Pages, Place, Waiting
from mqworker.store.stats import ErrorCount, Stats, StoredMessage

__all__ = [
    "AccountBacklog",
    "BacklogPage",
    "CancelResult",
    "Census",
    "Claim",
    "Cleared",
    "Dropped",
    "DutyState",
    "ErrorCount",
    "Moving",
    "NotNow",
    "Page",
    "Place",
    "Queued",
    "Reclaimed",
    "Settled",
    "Slice",
    "Store",
    "StoredMessage",
    "Waiting",
    "translated_errors",
]


class Store:
    """PostgreSQL, by what is done with it."""

    def __init__(self, database: Database, settings: Settings, *, worker: str) -> None:
        self.database = database
        self.enqueues = Enqueues(database)
        self.claims = Claims(
            database,
            worker=worker,
            lease_seconds=settings.lease_seconds,
            stale_after_seconds=settings.stale_after_seconds,
        )
        self.admin = Admin(database)
        self.stats = Stats(database)
        self.pages = Pages(database)
        self.monitor = Monitor(database)
        self.duties = Duties(database, owner=worker)
        self.inspection = Inspection(database)

    @classmethod
    def open(cls, settings: Settings, *, worker: str, pool_size: int = 5) -> Self:
        """A store on connections of its own, which it opens when they are needed."""
        connections = Connections(settings.database_url.get_secret_value(), limit=pool_size)
        return cls(Database(connections), settings, worker=worker)

    def census(self, instance: str | None = None) -> Census:
        """Counts by account, or by chat of one account."""
        return Census(self.database, instance)

    async def aclose(self) -> None:
        """Close all connections."""
        await self.database.aclose()
