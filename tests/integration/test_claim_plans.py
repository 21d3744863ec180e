"""The claim's plan: it finds a head by one index, whatever the statistics say and whatever else is in the table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mqworker.settings import Settings
from mqworker.store import Claim, Store
from mqworker.store.statements import CLAIM
from tests.integration.rows import DEFAULT, INSTANCE, chat, claim, put, settle, sql

BY_ID = "message_queue_items_pkey"
FLIGHT = "message_queue_items_one_in_flight"
HEAD = "message_queue_items_head"


async def explain(store: Store, chats: list[str], *, options: str = "") -> dict[str, Any]:
    rows = await store.database.rows(
        f"EXPLAIN (FORMAT JSON{options}) {CLAIM}",
        instances=[INSTANCE] * len(chats),
        chat_ids=chats,
        executors=DEFAULT,
        worker="w1",
        lease_seconds=30.0,
    )
    plan: dict[str, Any] = rows[0][0][0]["Plan"]
    return plan


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def indexes(plan: dict[str, Any]) -> list[str]:
    """The indexes by which messages are read; what is read whole stands there as its scan's kind."""
    return [
        node.get("Index Name", node["Node Type"])
        for node in nodes(plan)
        if node.get("Index Name", "").startswith("message_queue_items") or node["Node Type"] == "Seq Scan"
    ]


def buffers(plan: dict[str, Any]) -> int:
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


async def fill(store: Store, rows: int, *, chat_id: str, scheduled: str = "NULL") -> None:
    await sql(
        store,
        f"""
        WITH new AS (
            INSERT INTO message_queue_items (instance, chat_id, client_id, payload, scheduled_at)
            SELECT '{INSTANCE}', {chat_id}, 7, '{{}}', {scheduled} FROM generate_series(1, {rows}) n
            RETURNING 1
        )
        SELECT count(*) FROM new
        """,
    )


async def without_statistics(store: Store) -> None:
    """Keep autovacuum from analysing the table in the middle of the test."""
    async with store.database.connections.use() as connection:
        await connection.execute("ALTER TABLE message_queue_items SET (autovacuum_enabled = off)")


async def test_a_table_that_was_never_analysed_is_read_by_the_heads_index_alone(store: Store) -> None:
    await without_statistics(store)
    await fill(store, 50_000, chat_id="'c' || n % 1000")
    for asked in ([f"c{n}" for n in range(250)], ["c1"]):
        plan = await explain(store, asked)
        used = indexes(plan)
        assert set(used) <= {HEAD, FLIGHT, BY_ID}
        assert used.count(HEAD) >= 2, "both branches of the head"


async def test_a_claim_is_planned_once(settings: Settings) -> None:
    """To plan it takes as long as all else that the claim of one chat costs."""
    store = Store.open(settings, worker="w1", pool_size=1)
    for _ in range(20):
        await store.claims.claim([chat()], DEFAULT)
    (plans,) = await sql(
        store, "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE '%WITH heads%'"
    )
    await store.aclose()
    assert plans.generic_plans > 10
    assert plans.custom_plans == 0


async def test_the_plan_stays_when_the_table_was_analysed_while_it_was_empty(store: Store) -> None:
    async with store.database.connections.use() as connection:
        await connection.execute("ANALYZE message_queue_items")
    await without_statistics(store)
    await fill(store, 50_000, chat_id="'c' || n % 1000")
    assert set(indexes(await explain(store, [f"c{n}" for n in range(250)]))) <= {HEAD, FLIGHT, BY_ID}


async def test_a_claim_reads_as_few_pages_with_100_000_future_messages_in_its_chat(store: Store) -> None:
    await without_statistics(store)
    await fill(store, 100_000, chat_id="'a'", scheduled="now() + interval '1 day' + n * interval '1 second'")
    await put(store)
    await settle(store, await claim(store))
    for _ in range(2):
        await put(store)
        plan = await explain(store, ["a"], options=", ANALYZE, BUFFERS")
        assert buffers(plan) < 100
        (held,) = await store.claims.claim([chat()], DEFAULT)
        assert not isinstance(held, Claim), "it was claimed while it was explained"
        await sql(store, "UPDATE message_queue_items SET status = 'COMPLETED' WHERE status = 'PROCESSING' RETURNING 1")
    plan = await explain(store, ["a"], options=", ANALYZE, BUFFERS")
    assert buffers(plan) < 100, "nor where nothing is due"
