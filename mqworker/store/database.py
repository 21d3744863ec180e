"""The connection to PostgreSQL: one statement a call, each its own transaction, and one place for its errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from psycopg import errors as pg
from sqlalchemy import Row, TextClause, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from mqworker.errors import ConfigError, SchemaBehind, StatementFailed, StorageReadOnly, StorageUnavailable

POOL_TIMEOUT_SECONDS = 10.0

# A peer that vanished without a word (a pulled cable, a dead host) is noticed within some 15 s.
CONNECT_ARGS: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "application_name": "mqworker",
}


def create_engine(database_url: str, *, pool_size: int = 5) -> AsyncEngine:
    """An engine whose statements are their own READ COMMITTED transactions and whose errors show no parameters.

    Behind PgBouncer in transaction mode add ``?prepare_threshold=none`` to the URL: server-side prepared statements
    do not survive there.
    """
    url = make_url(database_url)
    arguments = dict(CONNECT_ARGS)
    threshold = url.query.get("prepare_threshold")
    if threshold is not None:
        arguments["prepare_threshold"] = None if threshold == "none" else int(str(threshold))
        url = url.difference_update_query(["prepare_threshold"])
    engine = create_async_engine(
        url,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_SECONDS,
        connect_args=arguments,
    )
    event.listen(engine.sync_engine, "connect", _prefer_indexes)
    return engine


def _prefer_indexes(connection: Any, _record: Any) -> None:
    """Keep plans made while the tables were nearly empty from reading them whole once they are full.

    A prepared statement keeps its plan until the next ANALYZE, which can be a minute and 100,000 messages away.
    """
    with connection.cursor() as cursor:
        cursor.execute("SET enable_seqscan = off")


class Database:
    """Runs statements. Every failure to reach the server comes out as :class:`StorageUnavailable`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine

    async def rows(self, statement: TextClause, **parameters: Any) -> Sequence[Row[Any]]:
        """Run one statement in a transaction of its own; return its rows."""
        with translated_errors():
            async with self.engine.connect() as connection:
                result = await connection.execute(statement, parameters)
                return result.all()

    async def scalar(self, statement: TextClause, **parameters: Any) -> Any:
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
        await self.engine.dispose()


_CHECK = text(
    """
    SELECT current_setting('transaction_isolation') AS isolation, current_setting('server_encoding') AS encoding,
           current_setting('server_version_num') AS version,
           current_setting('synchronous_commit') AS synchronous, current_setting('fsync') AS fsync,
           current_setting('full_page_writes') AS full_page_writes
    """
)


def sqlstate(error: BaseException) -> str | None:
    """PostgreSQL's five-letter code of a failed statement, where there is one."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return original.sqlstate if isinstance(original, pg.Error) else None


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
    except PoolTimeout:
        raise StorageUnavailable(f"no free connection to PostgreSQL within {POOL_TIMEOUT_SECONDS:g} s") from None
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
    if isinstance(error, DBAPIError) and state is not None:
        return StatementFailed(state, _reason(error))
    return error


def _refusal(error: BaseException) -> str:
    """Why there is no connection: the server's own FATAL line (a wrong password, no such database), libpq's about a
    certificate; else the error's kind.
    """
    original = error.orig if isinstance(error, DBAPIError) else error
    text = str(original)
    _, fatal, reason = text.partition("FATAL: ")
    if fatal:
        return reason.splitlines()[0].strip()
    certificate = (line.partition("failed: ")[2] for line in text.splitlines() if "certificate" in line)
    return next(filter(None, certificate), type(original).__name__)


def _reason(error: DBAPIError) -> str:
    """The constraint, or the primary message: never DETAIL, which quotes the row."""
    diagnosis = error.orig.diag if isinstance(error.orig, pg.Error) else None
    if diagnosis is None:
        return type(error).__name__
    return diagnosis.constraint_name or diagnosis.message_primary or type(error).__name__


def is_connection_loss(error: BaseException) -> bool:
    """Whether the failure says nothing about the statement, only that the server is not there for it."""
    state = sqlstate(error)
    if state is not None:
        return state.startswith(_AWAY)
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or isinstance(error, InterfaceError) or _is_operational(error.orig)
    return isinstance(error, OSError | pg.OperationalError | pg.InterfaceError)


def _is_operational(error: BaseException | None) -> bool:
    return isinstance(error, pg.OperationalError | pg.InterfaceError)


# Two transactions met: another claimer of the same chat, or locks taken crosswise. Smaller batches get through.
CONTENTION = {"23505", "40P01", "40001"}
