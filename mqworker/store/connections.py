"""A few connections to PostgreSQL, kept open.

Our own, since this is the way of every claim and every settle: a statement through an ORM's engine costs three times
one on a connection, and a pool that reconnects with growing pauses would make a short outage of PostgreSQL longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus
from psycopg.rows import namedtuple_row
from sqlalchemy.engine import make_url

WAIT_SECONDS = 10.0

# A peer that vanished without a word (a pulled cable, a dead host) is noticed within some 15 s.
CONNECT_ARGS: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "application_name": "mqworker",
}

# A prepared statement keeps its plan until the next ANALYZE, which can be a minute and 100,000 messages away: one made
# while the tables were nearly empty would go on to read them whole. And left to itself PostgreSQL plans a claim anew
# each time, for what it hopes of the arrays' lengths: twice what the claim of one chat takes.
PREPARED = "SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan"


class NoFreeConnection(Exception):
    """All connections are in use, for longer than :data:`WAIT_SECONDS`."""


class Connections:
    """At most ``limit`` of them, opened when first needed; every statement is its own READ COMMITTED transaction."""

    def __init__(self, database_url: str, *, limit: int) -> None:
        self._arguments = _arguments(database_url)
        self._room = asyncio.Semaphore(limit)
        self._free: list[AsyncConnection[Any]] = []
        self._closed = False

    @asynccontextmanager
    async def use(self) -> AsyncIterator[AsyncConnection[Any]]:
        """One connection, nobody else's meanwhile. Raises :class:`NoFreeConnection` and the driver's errors."""
        await self._wait_for_room()
        try:
            connection = self._free.pop() if self._free else await self._open()
            try:
                yield connection
            finally:
                await self._take_back(connection)
        finally:
            self._room.release()

    async def _wait_for_room(self) -> None:
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._room.acquire()
        except TimeoutError:
            raise NoFreeConnection(f"no free connection to PostgreSQL within {WAIT_SECONDS:g} s") from None

    async def _open(self) -> AsyncConnection[Any]:
        connection = await AsyncConnection.connect(**self._arguments, autocommit=True, row_factory=namedtuple_row)
        try:
            if connection.prepare_threshold is not None:
                await connection.execute(PREPARED)
        except BaseException:
            # Who is cancelled here leaves a connection that nobody else knows of.
            await connection.close()
            raise
        return connection

    async def _take_back(self, connection: AsyncConnection[Any]) -> None:
        if connection.closed:
            # The server went away, or was restarted: the idle ones would fail as well, one statement each.
            await self._close_free()
        elif self._closed or connection.pgconn.transaction_status != TransactionStatus.IDLE:
            await connection.close()
        else:
            self._free.append(connection)

    async def _close_free(self) -> None:
        while self._free:
            await self._free.pop().close()

    async def aclose(self) -> None:
        """Close what is idle now, and what is in use when it comes back."""
        self._closed = True
        await self._close_free()


def _arguments(database_url: str) -> dict[str, Any]:
    """libpq's parameters of a SQLAlchemy URL.

    Behind PgBouncer in transaction mode the URL has ``?prepare_threshold=none``: statements prepared on a server's
    connection, and its settings, would be met by other clients there.
    """
    url = make_url(database_url)
    threshold = url.query.get("prepare_threshold", "5")
    _, arguments = url.get_dialect()().create_connect_args(url.difference_update_query(["prepare_threshold"]))
    return {
        **CONNECT_ARGS,
        **arguments,
        "prepare_threshold": None if threshold == "none" else int(str(threshold)),
    }
