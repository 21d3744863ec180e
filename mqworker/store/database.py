"""The connection to PostgreSQL: one statement a call, each its own transaction, and one place for its errors."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, cast

from psycopg import AsyncConnection
from psycopg import errors as pg
from sqlalchemy.exc import DBAPIError, InterfaceError

from mqworker.errors import ConfigError, SchemaBehind, StatementFailed, StorageReadOnly, StorageUnavailable
from mqworker.store.connections import Connections, NoFreeConnection

Rows = Callable[[str, Mapping[str, Any]], Coroutine[Any, Any, Sequence[Any]]]
"""Runs a statement with its parameters (``%(name)s``) on one connection and returns its rows, by the columns' names."""


def rows_on(connection: AsyncConnection[Any]) -> Rows:
    """What runs statements on one of our connections."""

    async def rows(statement: str, parameters: Mapping[str, Any]) -> Sequence[Any]:
        # To the type checkers it is no literal any more: all statements are constants of this package.
        cursor = await connection.execute(cast(Any, statement), parameters or None)
        return await cursor.fetchall()

    return rows


class Database:
    """Runs statements. Every failure to reach the server comes out as :class:`StorageUnavailable`."""

    def __init__(self, connections: Connections) -> None:
        self.connections = connections

    async def rows(self, statement: str, **parameters: Any) -> Sequence[Any]:
        """Run one statement in a transaction of its own; return its rows."""
        with translated_errors():
            async with self.connections.use() as connection:
                return await rows_on(connection)(statement, parameters)

    async def rows_by_own_plan(self, statement: str, **parameters: Any) -> Sequence[Any]:
        """:meth:`rows` with a plan for these parameters alone: an account's rows may be a handful, or all there are."""
        with translated_errors():
            async with self.rows_of_one(in_transaction=True) as rows:
                await rows(OWN_PLAN, {})
                return await rows(statement, parameters)

    @contextlib.asynccontextmanager
    async def rows_of_one(self, *, in_transaction: bool) -> AsyncIterator[Rows]:
        """Several statements on one connection, or in one transaction. Raises the driver's errors."""
        async with self.connections.use() as connection:
            if not in_transaction:
                yield rows_on(connection)
                return
            async with connection.transaction():
                yield rows_on(connection)

    async def scalar(self, statement: str, **parameters: Any) -> Any:
        """The first column of the first row, or ``None``."""
        rows = await self.rows(statement, **parameters)
        return rows[0][0] if rows else None

    async def check(self) -> list[str]:
        """Raise :class:`ConfigError` where the server's settings would break a promise; return what else is risky."""
        row = (await self.rows(_CHECK))[0]
        if row.isolation != "read committed":
            raise ConfigError(
                f"PostgreSQL's default_transaction_isolation is '{row.isolation}' for this role; the claim is "
                "written for 'read committed': ALTER ROLE ... SET default_transaction_isolation = 'read committed'"
            )
        if row.encoding != "UTF8":
            raise ConfigError(f"the database's encoding is {row.encoding}; it must be UTF8 to hold every chat's text")
        if int(row.version) < 130_000:
            raise ConfigError(f"PostgreSQL {int(row.version) // 10_000} is too old: 13 or later is needed")
        if row.synchronous == "off":
            raise ConfigError(
                "synchronous_commit is off: a crash of PostgreSQL would lose accepted messages; set it to on"
            )
        # Not refused: a server that is thrown away after a test loses nothing by it.
        return [
            f"PostgreSQL runs with {name} off: if its machine stops, messages are lost or the database is damaged; "
            "set it to on, unless the data may be thrown away"
            for name, value in (("fsync", row.fsync), ("full_page_writes", row.full_page_writes))
            if value == "off"
        ]

    async def aclose(self) -> None:
        await self.connections.aclose()


OWN_PLAN = "SELECT set_config('plan_cache_mode', 'force_custom_plan', true)"

_CHECK = """
SELECT current_setting('transaction_isolation') AS isolation, current_setting('server_encoding') AS encoding,
       current_setting('server_version_num') AS version,
       current_setting('synchronous_commit') AS synchronous, current_setting('fsync') AS fsync,
       current_setting('full_page_writes') AS full_page_writes
"""


def sqlstate(error: BaseException) -> str | None:
    """PostgreSQL's five-letter code of a failed statement, where there is one."""
    original = _original(error)
    return original.sqlstate if isinstance(original, pg.Error) else None


def _original(error: BaseException) -> BaseException:
    """The driver's error: what runs in a caller's session, or in a migration, comes wrapped by SQLAlchemy."""
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error


# The server refuses writes for now: read-only, disk full, or out of memory for the statement.
_READ_ONLY = {"25006", "53100", "53200"}
# Undefined table, undefined column.
_NO_TABLE = {"42P01", "42703"}
# Connection lost or refused, too many clients, starting up, shutting down, statement or lock timeout.
_AWAY = ("08", "57P", "53300", "57014", "55P03")


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Turn the driver's errors into ours. Only the SQLSTATE goes into the text: DETAIL can hold a row's content."""
    try:
        yield
    except NoFreeConnection as error:
        raise StorageUnavailable(str(error)) from None
    except (DBAPIError, OSError, pg.Error) as error:
        raise _translate(error) from None


def _translate(error: BaseException) -> BaseException:
    state = sqlstate(error)
    if state in _READ_ONLY:
        return StorageReadOnly(f"PostgreSQL accepts no writes at the moment (SQLSTATE {state})")
    if is_connection_loss(error):
        return StorageUnavailable(f"PostgreSQL cannot be reached ({state or _refusal(error)})")
    if state in _NO_TABLE:
        return SchemaBehind("the database has not mqworker's tables, or older ones: run `mqworker migrate`")
    if state is not None:
        return StatementFailed(state, _reason(_original(error)))
    return error


def _refusal(error: BaseException) -> str:
    """Why there is no connection: the server's own FATAL line (a wrong password, no such database), libpq's about a
    certificate; else the error's kind.
    """
    original = _original(error)
    text = str(original)
    _, fatal, reason = text.partition("FATAL: ")
    if fatal:
        return reason.splitlines()[0].strip()
    certificate = (line.partition("failed: ")[2] for line in text.splitlines() if "certificate" in line)
    return next(filter(None, certificate), type(original).__name__)


def _reason(error: BaseException) -> str:
    """The constraint, or the primary message: never DETAIL, which quotes the row."""
    if not isinstance(error, pg.Error):
        return type(error).__name__
    return error.diag.constraint_name or error.diag.message_primary or type(error).__name__


def is_connection_loss(error: BaseException) -> bool:
    """Whether the failure says nothing about the statement, only that the server is not there for it."""
    state = sqlstate(error)
    if state is not None:
        return state.startswith(_AWAY)
    if isinstance(error, DBAPIError) and (error.connection_invalidated or isinstance(error, InterfaceError)):
        return True
    return isinstance(_original(error), OSError | pg.OperationalError | pg.InterfaceError)


# Two transactions met: another claimer of the same chat, or locks taken crosswise. Smaller batches get through.
CONTENTION = {"23505", "40P01", "40001"}
