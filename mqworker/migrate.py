"""The schema's version: bring it up, or say that it is behind."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, make_url, pool

from mqworker.errors import SchemaBehind
from mqworker.models import VERSION_TABLE
from mqworker.store.database import Database


def _config(database_url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", "mqworker:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["database_url"] = database_url
    return config


def engine_for(database_url: str) -> Engine:
    """What migrations run on. It prepares no statement: the URL may be PgBouncer's, ``?prepare_threshold=none``."""
    url = make_url(database_url).difference_update_query(["prepare_threshold"])
    return create_engine(url, poolclass=pool.NullPool, hide_parameters=True, connect_args={"prepare_threshold": None})


def upgrade(database_url: str, revision: str = "head") -> None:
    """Bring the schema to ``revision``. Blocking; run it before an event loop or in a thread."""
    command.upgrade(_config(database_url), revision)


def downgrade(database_url: str, revision: str) -> None:
    """Take the schema back to ``revision`` (``base``: drop our tables with all their rows). Blocking."""
    command.downgrade(_config(database_url), revision)


def newest_revision() -> str:
    """The revision that this code needs."""
    return ScriptDirectory.from_config(_config("")).get_current_head() or ""


async def check_schema(database: Database) -> None:
    """Raise :class:`SchemaBehind` unless the database has the revision that this code needs."""
    needed = newest_revision()
    current = await database.scalar(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608 - a constant
    if current == needed:
        return
    known = {script.revision for script in ScriptDirectory.from_config(_config("")).walk_revisions()}
    if current is None or current in known:
        raise SchemaBehind(
            f"the database schema is at {current or 'nothing'}, this code needs {needed}: run `mqworker migrate`"
        )
    raise SchemaBehind(f"the database schema is at {current}, which this code does not know: upgrade mqworker")
