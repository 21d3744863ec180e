"""A gate inside a statement: it stands still after its snapshot was taken, until the gate is opened.

The statement calls ``statement_timestamp()``; on a connection whose search path begins with the schema ``gated`` that
is a function of ours, which waits for an advisory lock that the test holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import psycopg
from pydantic import SecretStr

from mqworker.settings import Settings
from mqworker.store import Store
from mqworker.testing.waiting import eventually

GATE = 4711
PATIENCE_SECONDS = 10.0
FUNCTION = f"""
CREATE SCHEMA gated;
CREATE FUNCTION gated.statement_timestamp() RETURNS timestamptz LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pg_advisory_lock_shared({GATE});
    PERFORM pg_advisory_unlock_shared({GATE});
    RETURN pg_catalog.statement_timestamp();
END $$;
"""
PATH = "options=-csearch_path%3Dgated,pg_catalog,public"

T = TypeVar("T")


class Gate:
    """What runs behind it stands still until it is opened."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection
        self._watchdog: asyncio.Task[None] | None = None

    async def stop(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start ``work`` and return once it stands before the gate."""
        await self._connection.execute(f"SELECT pg_advisory_lock({GATE})".encode())
        self._watchdog = asyncio.create_task(self._open_in_the_end())
        task = asyncio.create_task(work)
        await eventually(self._somebody_waits, "the statement stands before the gate")
        return task

    async def open(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
        await self._connection.execute(f"SELECT pg_advisory_unlock({GATE})".encode())

    async def _open_in_the_end(self) -> None:
        # A test that itself runs into what stands at the gate must fail, not hang.
        await asyncio.sleep(PATIENCE_SECONDS)
        await self._connection.execute(f"SELECT pg_advisory_unlock({GATE})".encode())

    async def _somebody_waits(self) -> bool:
        cursor = await self._connection.execute(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"
        )
        return await cursor.fetchone() is not None


def _url(settings: Settings) -> str:
    return settings.database_url.get_secret_value()


@asynccontextmanager
async def gate(settings: Settings) -> AsyncIterator[Gate]:
    async with await psycopg.AsyncConnection.connect(_url(settings).replace("+psycopg", ""), autocommit=True) as holder:
        await holder.execute(FUNCTION.encode())
        yield Gate(holder)


def gated(settings: Settings) -> Settings:
    """Settings for a store whose statements go through the gate."""
    return settings.model_copy(update={"database_url": SecretStr(f"{_url(settings)}?{PATH}")})


def gated_store(settings: Settings, worker: str) -> Store:
    return Store.open(gated(settings), worker=worker)
