"""The real :class:`mqworker.MessageQueue` on servers in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from mqworker.broker import Broker
from mqworker.errors import InvalidMessage
from mqworker.message import Enqueued, NewMessage
from mqworker.queue import MessageQueue
from mqworker.settings import Settings
from mqworker.store import Store


class MemoryQueue(MessageQueue):
    """Open as soon as it is made, in the event loop that runs then; it need not be closed."""

    def __init__(self, settings: Settings, store: Store, broker: Broker, now: Callable[[], datetime]) -> None:
        super().__init__(settings)
        self._servers = store, broker
        self._clock = now
        self._open()

    @property
    def is_open_here(self) -> bool:
        """Whether it can be used in the event loop that runs."""
        return self._loop is asyncio.get_running_loop()

    def _connect(self) -> tuple[Store, Broker]:
        return self._servers

    def _now(self) -> datetime:
        return self._clock()

    async def _insert_in(self, session: AsyncSession, messages: Sequence[NewMessage]) -> list[Enqueued]:
        raise InvalidMessage("session", "is a database's, and these messages are in memory: test this on PostgreSQL")
