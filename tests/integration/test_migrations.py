"""The schema comes up, goes down, is what the models say, and its version is checked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from mqworker.cli.migrate import current_revision
from mqworker.errors import SchemaBehind
from mqworker.migrate import check_schema, downgrade, newest_revision, upgrade
from mqworker.models import METADATA, VERSION_TABLE
from mqworker.store import Store
from tests.conftest import execute

ROOT = Path(__file__).parents[2]
UPGRADE = [sys.executable, "-m", "alembic", "upgrade", "head"]


def environment(url: str) -> dict[str, str]:
    return {**os.environ, "MQWORKER_DATABASE_URL": url}


def sqlalchemy_url(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://")


def tables(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    return {name for (name,) in rows}


def test_down_and_up_again(database_url: str) -> None:
    up = tables(database_url)
    downgrade(sqlalchemy_url(database_url), "base")
    assert tables(database_url) == {VERSION_TABLE}
    upgrade(sqlalchemy_url(database_url))
    assert tables(database_url) == up


def test_with_the_url_that_goes_through_pgbouncer(database_url: str) -> None:
    url = f"{sqlalchemy_url(database_url)}?prepare_threshold=none"
    downgrade(url, "base")
    upgrade(url)
    assert current_revision(url) == newest_revision()


def test_two_that_migrate_at_once_take_turns(database_url: str) -> None:
    downgrade(sqlalchemy_url(database_url), "base")
    both = [
        subprocess.Popen(UPGRADE, cwd=ROOT, env=environment(database_url), stderr=subprocess.PIPE) for _ in range(2)
    ]
    errors = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert "message_queue_items" in tables(database_url)


def test_the_models_are_the_migrations(database_url: str) -> None:
    engine = create_engine(sqlalchemy_url(database_url))
    with engine.connect() as connection:
        options = {"version_table": VERSION_TABLE, "include_name": lambda name, *_: name != "message_queue_items_head"}
        differences = compare_metadata(MigrationContext.configure(connection, opts=options), METADATA)
    engine.dispose()
    # Alembic cannot compare an index with a collation: the next test does.
    assert [d for d in differences if getattr(d[1], "name", "") != "message_queue_items_head"] == []


def test_the_heads_index_is_the_models(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "SELECT indexdef FROM pg_indexes WHERE indexname = 'message_queue_items_head'"
        ).fetchone()
    assert row is not None
    assert row[0].endswith(
        '(instance, chat_id, status COLLATE "C", '
        "COALESCE(scheduled_at, '-infinity'::timestamp with time zone), priority DESC, seq)"
    )
    (index,) = [i for i in METADATA.tables["message_queue_items"].indexes if i.name == "message_queue_items_head"]
    assert [str(expression).split(".")[-1] for expression in index.expressions] == [
        "instance",
        "chat_id",
        'status COLLATE "C"',
        "COALESCE(scheduled_at, '-infinity'::timestamptz)",
        "priority DESC",
        "seq",
    ]


async def test_the_newest_schema_passes_and_an_older_one_names_the_command(store: Store, database_url: str) -> None:
    await check_schema(store.database)
    downgrade(sqlalchemy_url(database_url), "base")
    with pytest.raises(SchemaBehind, match=f"nothing, this code needs {newest_revision()}: run `mqworker migrate`"):
        await check_schema(store.database)


async def test_a_schema_newer_than_the_code_is_refused(store: Store, database_url: str) -> None:
    execute(database_url, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(SchemaBehind, match="upgrade mqworker"):
        await check_schema(store.database)


def test_an_applications_own_alembic_is_left_alone(database_url: str) -> None:
    execute(
        database_url, "CREATE TABLE alembic_version (version_num text); INSERT INTO alembic_version VALUES ('mine')"
    )
    downgrade(sqlalchemy_url(database_url), "base")
    upgrade(sqlalchemy_url(database_url))
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("mine",)]


def test_alembic_runs_from_the_checkout(database_url: str) -> None:
    downgrade(sqlalchemy_url(database_url), "base")
    subprocess.run(UPGRADE, cwd=ROOT, env=environment(database_url), check=True, capture_output=True)
    assert "message_queue_items" in tables(database_url)


def test_a_row_by_plain_sql_needs_four_values(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            """
            INSERT INTO message_queue_items (instance, chat_id, client_id, payload)
            VALUES ('shop', 'a', 7, '{}')
            RETURNING status, priority, is_group, executor, retry_count, max_retries, seq, created_at IS NOT NULL
            """
        ).fetchone()
    assert row == ("PENDING", 0, False, "default", 0, 3, 1, True)


@pytest.mark.parametrize("column", ["created_at", "updated_at", "scheduled_at", "available_at"])
def test_a_time_at_infinity_is_refused(database_url: str, column: str) -> None:
    """The driver cannot read one: a single such row would fail every claim and rebuild that meets it."""
    with psycopg.connect(database_url) as connection, pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(
            f"""INSERT INTO message_queue_items (instance, chat_id, client_id, payload, {column})
                VALUES ('shop', 'a', 7, '{{}}', 'infinity')""".encode()
        )
