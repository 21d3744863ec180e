"""Lists, errors and counts for people read a bounded part of a table that holds far more."""

from __future__ import annotations

from typing import Any
from unittest.mock import AsyncMock

import pytest

from mqworker.store import Store
from mqworker.store.census import BACKLOG_OF_ONE, MOVING
from mqworker.store.monitor import BACKLOG, FIRST
from mqworker.store.stats import errors_statement, list_statement
from tests.conftest import execute
from tests.integration.rows import sql

ROWS = 40_000
STATUSES = ["PENDING", "PROCESSING", "COMPLETED", "FAILED", "CANCELLED"]
ALL = frozenset[str]()


@pytest.fixture
async def full(store: Store, database_url: str) -> Store:
    """A big account, half of it waiting, and a small one of long ago, as autovacuum leaves them within a minute."""
    await sql(
        store,
        f"""
        WITH new AS (
            INSERT INTO message_queue_items (instance, chat_id, client_id, payload, status, created_at, error)
            SELECT CASE WHEN n <= 20 THEN 'small' ELSE 'big' END, 'c' || n % 500, 7, '{{}}',
                   CASE WHEN n % 2 = 0 THEN 'PENDING' ELSE 'FAILED' END,
                   now() - ({ROWS} - n) * interval '1 second', 'no'
            FROM generate_series(1, {ROWS}) n
            RETURNING 1
        )
        SELECT count(*) FROM new
        """,
    )
    execute(database_url, "ANALYZE message_queue_items")
    return store


async def rows_read(store: Store, statement: str, **parameters: Any) -> int:
    """How many rows its scans gave or threw away."""
    rows = await store.database.rows_by_own_plan(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", **parameters)
    return _scanned(rows[0][0][0]["Plan"])


def _scanned(plan: dict[str, Any]) -> int:
    below = sum(map(_scanned, plan.get("Plans", ())))
    if plan.get("Relation Name") != "message_queue_items":
        return below
    each = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Index Recheck", 0)
    return int(below + each * plan["Actual Loops"])


CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "all": (list_statement(ALL, oldest_first=False), {"statuses": STATUSES, "limit": 50}, 100),
    "all, the oldest first": (list_statement(ALL, oldest_first=True), {"statuses": STATUSES, "limit": 50}, 100),
    "an account": (
        list_statement(frozenset({"instance"}), oldest_first=False),
        {"statuses": STATUSES, "limit": 50, "instance": "big"},
        100,
    ),
    "a later page": (
        list_statement(frozenset({"instance", "after", "after_seq"}), oldest_first=True),
        {"statuses": STATUSES, "limit": 50, "instance": "big", "after": FIRST.created_at, "after_seq": -1},
        150,
    ),
    "a chat": (
        list_statement(frozenset({"instance", "chat_id"}), oldest_first=False),
        {"statuses": STATUSES, "limit": 50, "instance": "big", "chat_id": "c3"},
        5 * ROWS // 500,
    ),
    "errors": (errors_statement(ALL), {"statuses": STATUSES, "limit": 9, "look_at": 1000}, 2000),
    "what waits": (BACKLOG, {"after": FIRST.created_at, "after_seq": -1, "limit": 1000}, 1000),
    "what waits in an account": (
        BACKLOG_OF_ONE,
        {"after": FIRST.created_at, "after_seq": -1, "limit": 1000, "instance": "small"},
        1000,
    ),
    "what moves": (MOVING, {"look_at": 1000}, 1000),
}


async def test_what_is_read_does_not_grow_with_the_table(full: Store) -> None:
    read = {name: await rows_read(full, statement, **given) for name, (statement, given, _) in CASES.items()}
    assert {name: number for name, number in read.items() if number > CASES[name][2]} == {}


async def test_a_small_account_is_not_looked_for_in_the_whole_table(full: Store) -> None:
    statement = list_statement(frozenset({"instance"}), oldest_first=False)
    assert await rows_read(full, statement, statuses=STATUSES, limit=50, instance="small") <= 5 * 20


async def test_lists_and_counts_are_planned_for_their_account(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = AsyncMock(return_value=[])
    monkeypatch.setattr(store.database, "rows_by_own_plan", planned)
    await store.stats.list("small", limit=50)
    await store.stats.errors("small", limit=50)
    await store.census("small").queued(None, limit=50)
    await store.census("small").moving()
    assert [call.kwargs["instance"] for call in planned.await_args_list] == ["small"] * 4


async def test_who_plans_for_himself_does_so_for_one_statement(store: Store) -> None:
    mode = "SELECT current_setting('plan_cache_mode') AS mode"
    (own,) = await store.database.rows_by_own_plan(mode)
    (after,) = await store.database.rows(mode)
    assert (own.mode, after.mode) == ("force_custom_plan", "force_generic_plan")
