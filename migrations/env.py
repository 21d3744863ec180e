"""Alembic's entry: `alembic upgrade head` from a checkout, `mqworker migrate` from anywhere."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, text

from mqworker.errors import ConfigError
from mqworker.migrate import engine_for
from mqworker.models import METADATA, VERSION_TABLE
from mqworker.settings import load_settings


def database_url() -> str:
    """The URL handed over by `mqworker.migrate`, else the environment's."""
    url: str = context.config.attributes.get("database_url") or load_settings().database_url.get_secret_value()
    if not url:
        raise ConfigError("MQWORKER_DATABASE_URL must be set: postgresql://user:password@host:5432/name")
    return url


def run_offline() -> None:
    """`alembic upgrade head --sql`: print the statements."""
    context.configure(url=database_url(), target_metadata=METADATA, version_table=VERSION_TABLE, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=METADATA, version_table=VERSION_TABLE, include_object=ours)
    with context.begin_transaction():
        # Two that migrate at once take turns; the lock ends with the transaction, so a pooler cannot leak it.
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('mqworker.migrations'))"))
        context.run_migrations()


def ours(_object: object, name: str | None, kind: str, reflected: bool, _compare_to: object) -> bool:
    """Autogenerate looks at our tables only: the database may be shared with the user's own."""
    if name == "message_queue_items_head":
        return False  # it has a collation, which autogenerate takes for a difference every time
    return not (kind == "table" and reflected and not (name or "").startswith("message_queue_"))


if context.is_offline_mode():
    run_offline()
else:
    engine = engine_for(database_url())
    with engine.connect() as connection:
        run(connection)
    engine.dispose()
