"""Rows put in or changed by hand: each ends as it must, with a clear error, and nobody else notices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from time import monotonic
from uuid import UUID

import pytest

from mqworker import Message, MessageQueue
from mqworker.errors import StatementFailed
from mqworker.message import ChatKey
from mqworker.settings import Settings
from mqworker.store import Claim, NotNow, Store
from mqworker.testing.waiting import eventually
from tests.integration.rows import INSTANCE, sql
from tests.integration.working import Gateway, enqueue, finished, working

INSERT = """
    INSERT INTO message_queue_items (instance, chat_id, client_id, payload, {columns})
    VALUES (%(instance)s, %(chat_id)s, 7, CAST(%(payload)s AS jsonb), {values})
    RETURNING id
"""


async def plant(store: Store, chat_id: str, payload: str = "{}", instance: str = INSTANCE, **columns: str) -> UUID:
    """Insert a row as somebody with psql would; ``columns`` are SQL."""
    columns.setdefault("executor", "'default'")
    statement = INSERT.format(columns=", ".join(columns), values=", ".join(columns.values()))
    (made,) = await sql(store, statement, instance=instance, chat_id=chat_id, payload=payload)
    found: UUID = made.id
    return found


PAYLOADS = {
    "array": '[1, "two"]',
    "string": '"text"',
    "number": "7",
    "null": "null",
    "true": "true",
    "30,000 digits": '{"n": ' + "7" * 30_000 + "}",
    "5,000 deep": '{"a":' * 5000 + "1" + "}" * 5000,
}


async def test_payloads_that_no_executor_can_get(settings: Settings, queue: MessageQueue, store: Store) -> None:
    planted = {name: await plant(store, name, payload) for name, payload in PAYLOADS.items()}
    behind = {name: await enqueue(queue, name) for name in PAYLOADS}
    gateway = Gateway()
    async with working(settings, gateway):
        await finished(queue, completed=len(behind), failed=len(planted))
    assert {message_id for message_id, _ in gateway.attempts} == set(behind.values()), "no executor saw the others"
    for message_id in planted.values():
        stored = await queue.get(message_id)
        assert (stored.status, stored.retry_count) == ("FAILED", 1)
        assert (stored.error or "").startswith("UNDECODABLE: the payload ")


async def test_payloads_that_are_odd_but_fit(settings: Settings, queue: MessageQueue, store: Store) -> None:
    payloads: dict[str, tuple[str, object]] = {
        "empty": ("{}", {}),
        "double keys": ('{"a": 1, "a": 2}', {"a": 2}),
        "huge": ('{"text": "' + "x" * 3_000_000 + '"}', {"text": "x" * 3_000_000}),
        "400 digits": ('{"n": ' + "7" * 400 + "}", {"n": int("7" * 400)}),
        "keys": ('{"": {"__proto__": []}}', {"": {"__proto__": []}}),
    }
    seen: dict[str, object] = {}

    async def send(message: Message) -> None:
        seen[message.chat_id] = message.payload

    for name, (payload, _) in payloads.items():
        await plant(store, name, payload)
    async with working(settings, send):
        await finished(queue, completed=len(payloads))
    assert seen == {name: expected for name, (_, expected) in payloads.items()}


CHATS = [
    "}",
    "{",
    ":",
    "%",
    "%7B",
    "{}:{}",
    " ",
    "  a ",
    "\n",
    "\t",
    '"',
    "\\",
    "'; --",
    "a" * 255,
    "😀" * 255,
    "\u00e9",
    "e\u0301",
]


async def test_every_chat_id_that_the_table_holds_is_a_chat(
    settings: Settings, queue: MessageQueue, store: Store
) -> None:
    sent: list[tuple[str, str]] = []

    async def send(message: Message) -> None:
        sent.append((message.instance, message.chat_id))

    for name in CHATS:
        await plant(store, name)
        await plant(store, "same", instance=name)
    async with working(settings, send):
        await finished(queue, completed=len(CHATS))
        await eventually(lambda: len(sent) == 2 * len(CHATS), "all are sent")
    assert sorted(sent) == sorted([(INSTANCE, name) for name in CHATS] + [(name, "same") for name in CHATS])


@pytest.mark.parametrize("name", ["", "a" * 256, "a" * 10_000])
async def test_ids_of_other_lengths_are_refused_by_the_table(store: Store, name: str) -> None:
    with pytest.raises(StatementFailed, match="message_queue_items_chat_id"):
        await plant(store, name)
    with pytest.raises(StatementFailed, match="message_queue_items_instance"):
        await plant(store, "a", instance=name)


# columns; then status, retry_count and attempts where the executor fails ten times before it sends
NUMBERS: list[tuple[dict[str, str], str, int, int]] = [
    ({"retry_count": "3"}, "FAILED", 4, 1),
    ({"retry_count": "99"}, "FAILED", 100, 1),
    ({"retry_count": "-5"}, "FAILED", 3, 8),
    ({"retry_count": "2147483647"}, "FAILED", 2147483647, 1),
    ({"retry_count": "2147483647", "max_retries": "2147483647"}, "FAILED", 2147483647, 1),
    ({"retry_count": "-2147483648"}, "COMPLETED", -2147483638, 11),
    ({"max_retries": "0"}, "FAILED", 1, 1),
    ({"max_retries": "-2147483648"}, "FAILED", 1, 1),
    ({"max_retries": "2147483647"}, "COMPLETED", 10, 11),
    ({"priority": "2147483647"}, "FAILED", 3, 3),
    ({"priority": "-2147483648"}, "FAILED", 3, 3),
    ({"seq": "0"}, "FAILED", 3, 3),
    ({"seq": "9007199254740993"}, "FAILED", 3, 3),
    ({"seq": "9223372036854775806", "priority": "5"}, "FAILED", 3, 3),
    ({"seq": "9223372036854775807", "scheduled_at": "now() + interval '100 ms'"}, "FAILED", 3, 3),
    ({"claim_id": "gen_random_uuid()", "lease_expires_at": "now()", "worker": "repeat('w', 9999)"}, "FAILED", 3, 3),
    ({"provider_id": "repeat('p', 9999)", "error": "repeat('e', 99999)"}, "FAILED", 3, 3),
    ({"executor": "'default'", "is_group": "true", "processed_at": "now()"}, "FAILED", 3, 3),
]


async def test_numbers_at_their_ends(settings: Settings, queue: MessageQueue, store: Store) -> None:
    planted = [await plant(store, f"c{n}", **columns) for n, (columns, *_) in enumerate(NUMBERS)]
    attempts: Counter[UUID] = Counter()

    async def send(message: Message) -> None:
        attempts[message.id] += 1
        if message.id in planted and attempts[message.id] <= 10:
            raise ValueError("no")

    healthy = [await enqueue(queue, f"c{n}", priority=-100) for n in range(len(NUMBERS))]
    failed = sum(status == "FAILED" for _, status, *_ in NUMBERS)
    async with working(settings, send, backoff_base_seconds=0.001, backoff_cap_seconds=0.01):
        await finished(queue, completed=2 * len(NUMBERS) - failed, failed=failed)
    for message_id, (_, status, retry_count, tries) in zip(planted, NUMBERS, strict=True):
        stored = await queue.get(message_id)
        assert (stored.status, stored.retry_count, attempts[message_id]) == (status, retry_count, tries), stored
        assert stored.error == ("ValueError: no" if status == "FAILED" else None)
    assert [attempts[message_id] for message_id in healthy] == [1] * len(healthy)


async def test_priorities_and_seqs_at_their_ends_keep_their_order(
    settings: Settings, queue: MessageQueue, store: Store
) -> None:
    lowest = await plant(store, "a", priority="-2147483648", seq="1000")
    last = await plant(store, "a", seq="9223372036854775807")
    highest = await plant(store, "a", priority="2147483647", seq="1001")
    first = await plant(store, "a", seq="0")
    gateway = Gateway()
    async with working(settings, gateway):
        await finished(queue, completed=4)
    assert [message_id for message_id, _ in gateway.attempts] == [highest, first, last, lowest]


IN_FLIGHT: list[tuple[dict[str, str], str]] = [
    ({}, "COMPLETED"),
    ({"lease_expires_at": "'epoch'"}, "COMPLETED"),
    ({"lease_expires_at": "'0002-01-01 00:00+00'", "claim_id": "gen_random_uuid()"}, "COMPLETED"),
    ({"processing_started_at": "'epoch'"}, "COMPLETED"),
    ({"retry_count": "2147483647"}, "FAILED"),
    ({"retry_count": "2"}, "FAILED"),
    ({"max_retries": "-2147483648"}, "FAILED"),
    ({"retry_count": "-2147483648"}, "COMPLETED"),
    ({"cancel_requested_at": "now()", "worker": "repeat('w', 9999)"}, "CANCELLED"),
]


async def test_rows_that_were_never_claimed_but_say_so_are_taken_back(
    settings: Settings, queue: MessageQueue, store: Store
) -> None:
    """PROCESSING without a claim: an attempt is counted, as for a worker that died."""
    planted = [
        await plant(store, f"c{n}", status="'PROCESSING'", updated_at="now() - interval '1 hour'", **columns)
        for n, (columns, _) in enumerate(IN_FLIGHT)
    ]
    for n in range(len(IN_FLIGHT)):
        await enqueue(queue, f"c{n}")
    statuses = Counter(status.lower() for _, status in IN_FLIGHT)
    async with working(settings, Gateway(), stale_after_seconds=60.0):
        await finished(queue, **{**statuses, "completed": statuses["completed"] + len(IN_FLIGHT)})
    for message_id, (_, status) in zip(planted, IN_FLIGHT, strict=True):
        stored = await queue.get(message_id)
        assert stored.status == status
        if status != "COMPLETED":
            assert (stored.error or "").startswith("LeaseExpired: ")


COLUMNS = [
    "created_at",
    "updated_at",
    "scheduled_at",
    "available_at",
    "lease_expires_at",
    "cancel_requested_at",
    "processing_started_at",
    "processed_at",
]
UNREADABLE = ["infinity", "-infinity", "4713-01-01 BC", "0001-12-31 BC", "10000-01-01", "294276-12-31"]


@pytest.mark.parametrize("column", COLUMNS)
async def test_times_that_the_driver_cannot_read_are_refused_by_the_table(store: Store, column: str) -> None:
    """One such row would fail every claim, rebuild or reclaim that meets it, and with it all other chats."""
    for time in UNREADABLE:
        with pytest.raises(StatementFailed, match="message_queue_items_times"):
            await plant(store, "a", **{column: f"'{time}'"})


async def test_a_seq_that_redis_cannot_hold_is_refused_by_the_table(store: Store) -> None:
    with pytest.raises(StatementFailed, match="message_queue_items_seq"):
        await plant(store, "a", seq="-1")


async def test_times_far_away_stop_nothing(
    settings: Settings, queue: MessageQueue, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    far = ["'0002-01-02'", "'epoch'", "'9998-12-31'"]
    for column in COLUMNS:
        for n, time in enumerate(far):
            await plant(store, f"{column} {n} waiting", **{column: time})
            await plant(store, f"{column} {n} in flight", status="'PROCESSING'", **{column: time})
    await store.duties.take("reconcile", every_seconds=1, hold_seconds=0)
    async with working(settings, Gateway()):
        # What is scheduled or backs off until 9998 waits; of those in flight only what has visibly ended comes back.
        waits = 2
        sent = len(COLUMNS) * len(far) - waits
        back = [f"{column} {n}" for column in ("lease_expires_at", "processing_started_at") for n in (0, 1)]
        back += [f"updated_at {n}" for n in (0, 1)]
        flying = len(COLUMNS) * len(far) - len(back)
        await finished(queue, pending=waits, processing=flying, completed=sent + len(back))
    assert await queue.clean_old_messages(INSTANCE, 7) == 0, "they ended just now"
    assert len(await queue.list(INSTANCE, limit=1000)) == 2 * len(COLUMNS) * len(far)
    assert not [record for record in caplog.records if record.exc_info], "no part of the worker failed"


async def test_what_cannot_go_waits_quietly(settings: Settings, queue: MessageQueue, store: Store) -> None:
    """Other chats go on, and no chat that waits is asked for in a tight circle."""
    for n, name in enumerate(["nobodys", "", " ", "}{:%%", "x" * 300, "default\n", "Default"]):
        await plant(store, f"executor {n}", executor=f"'{name}'")  # %% is SQL's own %
    await plant(store, "in flight", status="'PROCESSING'", lease_expires_at="now() + interval '1 day'")
    await plant(store, "backs off", available_at="now() + interval '1 day'")
    stuck = ["in flight", "backs off", *(f"executor {n}" for n in range(7))]
    behind = [await plant(store, name) for name in stuck]
    gateway = Gateway()
    async with working(settings, gateway) as runtime:
        asked = _count_claims(runtime.store)
        for _ in range(40):
            await enqueue(queue, "good")
        begun = monotonic()
        await finished(queue, pending=len(stuck) - 1 + len(behind), processing=1, completed=40)
        seconds = monotonic() - begun
    for name in stuck:
        # Every second, or every half; and once at each announce of the two rows.
        assert asked[name] <= 4 + 3 * seconds, f"{name}: {asked[name]} claims in {seconds:.1f} s"
    assert not {message_id for message_id, _ in gateway.attempts} & set(behind)


def _count_claims(store: Store) -> Counter[str]:
    asked: Counter[str] = Counter()
    claim = store.claims.claim

    async def counted(chats: Sequence[ChatKey], executors: Sequence[str]) -> list[Claim | NotNow]:
        asked.update(chat.chat_id for chat in chats)
        return await claim(chats, executors)

    store.claims.claim = counted  # type: ignore[method-assign]
    return asked
