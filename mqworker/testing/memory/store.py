"""PostgreSQL in memory: the real :class:`mqworker.store.Store` on a database whose statements act on rows in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Self, cast

from mqworker.settings import Settings
from mqworker.store import Store
from mqworker.store.connections import Connections
from mqworker.store.database import Database
from mqworker.store.enqueues import INSERT
from mqworker.testing.memory.line import Line
from mqworker.testing.memory.statements import STATEMENTS, commit, new_rows
from mqworker.testing.memory.tables import Answers, Parameters, Row, Tables


def open_memory_store(tables: Tables, line: Line, settings: Settings, *, worker: str) -> Store:
    """A store for one process, which reaches its rows over ``line``."""
    return Store(Database(cast(Connections, MemoryConnections(tables, line, worker))), settings, worker=worker)


class Result(list[Any]):
    """A statement's rows."""

    async def fetchall(self) -> list[Any]:
        return self


class MemoryConnections:
    """As much of its connections as the store uses."""

    def __init__(self, tables: Tables, line: Line, owner: str) -> None:
        self._tables = tables
        self._line = line
        self._owner = owner
        self._made = 0

    def use(self) -> MemoryConnection:
        self._made += 1
        return MemoryConnection(self._tables, self._line, (self._owner, self._made))

    async def aclose(self) -> None:
        """There is nothing to close."""


class MemoryConnection:
    """Each statement is a transaction of its own, unless one was begun."""

    def __init__(self, tables: Tables, line: Line, key: tuple[str, int]) -> None:
        self._tables = tables
        self._line = line
        self._key = key
        self._in_transaction = False
        self._inserted: list[Row] = []

    async def __aenter__(self) -> Self:
        await self._line.connect()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, OSError):
            self._roll_back()

    async def execute(self, statement: str, parameters: Parameters | None) -> Result:
        began = self._tables.now
        parameters = parameters or {}
        if statement is not INSERT:
            (answers,) = await self._line.call([partial(STATEMENTS[statement], self._tables, parameters, began)])
            return Result(answers)
        # Others may commit between the drawing of a seq and the commit that makes its row visible.
        draw = partial(self._draw, parameters)
        if self._in_transaction:
            (answers,) = await self._line.call([draw])
        else:
            _, answers = await self._line.call([draw, self._commit])
        return Result(answers)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        self._in_transaction = True
        try:
            yield
        except BaseException:
            self._roll_back()
            raise
        await self._line.call([self._commit])

    def _draw(self, parameters: Parameters) -> Answers:
        self._tables.open_inserts[self._key] = self._tables.now
        self._inserted = [row for row in new_rows(self._tables, parameters) if row.id not in self._tables.items]
        return self._inserted

    def _commit(self) -> Answers:
        inserted, self._inserted = self._inserted, []
        self._tables.open_inserts.pop(self._key, None)
        return commit(self._tables, inserted)

    def _roll_back(self) -> None:
        self._inserted = []
        self._tables.open_inserts.pop(self._key, None)
