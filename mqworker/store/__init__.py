"""The only room that speaks SQL. What is decided here holds, whatever Redis says."""

from __future__ import annotations

from typing import Self

from mqworker.settings import Settings
from mqworker.store.admin import Admin, CancelResult, Cleared, Dropped
from mqworker.store.claims import Claim, Claims, NotNow, Reclaimed, Settled
from mqworker.store.connections import Connections
from mqworker.store.database import Database, translated_errors
from mqworker.store.duties import Duties
from mqworker.store.enqueues import Enqueues
from mqworker.store.monitor import AccountBacklog, BacklogPage, Monitor
from mqworker.store.pages import Page, Pages, Place, Waiting
from mqworker.store.stats import ErrorCount, Stats, StoredMessage

__all__ = [
    "AccountBacklog",
    "BacklogPage",
    "CancelResult",
    "Claim",
    "Cleared",
    "Dropped",
    "ErrorCount",
    "NotNow",
    "Page",
    "Place",
    "Reclaimed",
    "Settled",
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

    @classmethod
    def open(cls, settings: Settings, *, worker: str, pool_size: int = 5) -> Self:
        """A store on connections of its own, which it opens when they are needed."""
        connections = Connections(settings.database_url.get_secret_value(), limit=pool_size)
        return cls(Database(connections), settings, worker=worker)

    async def aclose(self) -> None:
        """Close all connections."""
        await self.database.aclose()
