"""Our connections to PostgreSQL: bounded, kept while idle, closed when lost, and never left open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from mqworker.settings import Settings
from mqworker.store import connections as module
from mqworker.store.connections import Connections, NoFreeConnection
from mqworker.testing.waiting import eventually


@pytest.fixture
async def new_connections(settings: Settings) -> AsyncIterator[Callable[[int], Connections]]:
    made: list[Connections] = []

    def make(limit: int) -> Connections:
        made.append(Connections(settings.database_url.get_secret_value(), limit=limit))
        return made[-1]

    yield make
    for one in made:
        await one.aclose()


async def pid(connections: Connections) -> int:
    async with connections.use() as connection:
        return connection.info.backend_pid


async def test_an_idle_connection_is_used_again(new_connections: Callable[[int], Connections]) -> None:
    connections = new_connections(3)
    assert len({await pid(connections) for _ in range(5)}) == 1


async def test_who_finds_all_in_use_waits_and_is_told_at_last(
    new_connections: Callable[[int], Connections], monkeypatch: pytest.MonkeyPatch
) -> None:
    connections = new_connections(1)
    async with connections.use() as held:
        waiting = asyncio.create_task(pid(connections))
        await asyncio.sleep(0)
        taken = held.info.backend_pid
    assert await waiting == taken
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.05)
    async with connections.use():
        with pytest.raises(NoFreeConnection, match=r"within 0\.05 s"):
            await pid(connections)


async def test_a_lost_connection_takes_the_idle_ones_along(new_connections: Callable[[int], Connections]) -> None:
    connections = new_connections(3)
    async with connections.use() as first, connections.use() as second:
        pids = {first.info.backend_pid, second.info.backend_pid}
    with pytest.raises(psycopg.OperationalError):
        async with connections.use() as connection:
            await connection.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s) AS pid", [list(pids)])
    assert await pid(connections) not in pids


async def test_what_is_left_in_a_transaction_is_not_used_again(new_connections: Callable[[int], Connections]) -> None:
    connections = new_connections(1)
    async with connections.use() as connection:
        left = connection.info.backend_pid
        await connection.execute("BEGIN")
    assert connection.closed
    assert await pid(connections) != left


async def test_a_connection_whose_maker_is_cancelled_is_closed(
    new_connections: Callable[[int], Connections], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PREPARED", "SELECT pg_sleep(60)")
    made: list[Any] = []
    execute: Any = psycopg.AsyncConnection.execute

    async def noted(self: Any, *arguments: Any) -> Any:
        made.append(self)
        return await execute(self, *arguments)

    monkeypatch.setattr(psycopg.AsyncConnection, "execute", noted)
    opening = asyncio.create_task(pid(new_connections(1)))
    await eventually(lambda: bool(made), "the connection is made and being prepared")
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert made[0].closed


async def test_a_cancelled_statement_leaves_a_connection_that_is_used_again_or_closed(
    new_connections: Callable[[int], Connections],
) -> None:
    connections = new_connections(1)
    used: list[psycopg.AsyncConnection[Any]] = []

    async def sleep() -> None:
        async with connections.use() as connection:
            used.append(connection)
            await connection.execute("SELECT pg_sleep(60)")

    def is_under_way() -> bool:
        return bool(used) and used[-1].pgconn.transaction_status == TransactionStatus.ACTIVE

    for _ in range(3):
        sleeping = asyncio.create_task(sleep())
        await eventually(is_under_way, "the statement is under way")
        sleeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sleeping
        assert await pid(connections) > 0


async def test_what_is_in_use_at_the_end_is_closed_when_it_comes_back(
    new_connections: Callable[[int], Connections],
) -> None:
    connections = new_connections(2)
    async with connections.use() as connection:
        await connections.aclose()
        assert not connection.closed
    assert connection.closed
