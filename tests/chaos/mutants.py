"""Bugs put in on purpose: each is what one line of the queue is there to prevent, and the checker must find each.

Some lines guard each other, so that one alone can go unnoticed. Such a bug is looked for under conditions that leave
the line alone with its duty (Redis proposes every chat to everybody, a claim pauses between its snapshot and its
writes); a *control* shows that the same conditions without the bug break nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import mqworker.queue as queue_room
from mqworker import MessageQueue
from mqworker.broker import Entry, scripts
from mqworker.flights import LeaseKeeper
from mqworker.lifecycle import Sent, Settlement, settle
from mqworker.message import Enqueued, Message, NewMessage
from mqworker.processor import Processor
from mqworker.store import Claim, admin, statements
from mqworker.store.enqueues import Enqueues
from mqworker.store.enqueues import _insert as insert_batch
from mqworker.sweeps import Sweeps
from tests.chaos.plan import PROFILE, Lane, Plan

HEAD_ORDER = "ORDER BY i.priority DESC, i.seq"
SNAPSHOT_TAKEN = "may_go AS MATERIALIZED (\n    SELECT * FROM heads\n    WHERE"
LOST_AFTER_SECONDS = 4.0

Change = Callable[[], None]


def sql(room: Any, name: str, old: str, new: str) -> None:
    """Put ``new`` for ``old`` into a statement of the store."""
    statement = getattr(room, name)
    assert old in statement, f"{name} has no {old!r}: the mutant is out of date"
    setattr(room, name, statement.replace(old, new))


# Conditions


def proposes_everything() -> None:
    """Redis hands out every chat again after 15 ms, leased or not."""
    load = scripts.load("lease")
    source = load.source.replace("redis.call('EXISTS', lock) == 1", "false").replace(
        "redis.call('ZADD', leased, now + lock_ms, chat)", "redis.call('ZADD', ready, now + 15, chat)"
    )
    assert source.count("now + 15") == 1
    changed = scripts.Script("lease", source, hashlib.sha1(source.encode()).hexdigest())
    original = scripts.load
    scripts.load = lambda name: changed if name == "lease" else original(name)  # type: ignore[assignment]


def pauses_after_snapshot() -> None:
    """A claim stands still for 120 ms between its snapshot and its writes."""
    pause = "pause AS MATERIALIZED (SELECT pg_sleep(0.12) FROM (SELECT count(*) FROM heads) AS taken),\n    "
    sql(statements, "CLAIM", SNAPSHOT_TAKEN, pause + SNAPSHOT_TAKEN + " (SELECT count(*) FROM pause) = 1 AND")


def racy() -> None:
    proposes_everything()
    pauses_after_snapshot()


# Bugs


def settles_without_its_claim() -> None:
    sql(statements, "SETTLE", "WHERE i.id = told.id AND i.claim_id = told.claim_id", "WHERE i.id = told.id")


def claims_any_message() -> None:
    sql(statements, "CLAIM", HEAD_ORDER, "ORDER BY random()")


def claims_beside_the_flight() -> None:
    racy()
    sql(statements, "CLAIM", "NOT in_flight AND", "")
    sql(
        statements,
        "CLAIM",
        "CASE WHEN flight.id IS NOT NULL THEN flight.lease_expires_at\n",
        "CASE WHEN false THEN NULL\n",
    )


def passes_what_backs_off() -> None:
    ready = "AND COALESCE(i.available_at, '-infinity') <= statement_timestamp() "
    sql(statements, "CLAIM", HEAD_ORDER, ready + HEAD_ORDER)


def remembers_a_watermark() -> None:
    done = (
        "AND i.seq > COALESCE((SELECT max(d.seq) FROM message_queue_items d WHERE d.instance = asked.instance "
        "AND d.chat_id = asked.chat_id AND d.status = 'COMPLETED'), 0) "
    )
    sql(statements, "CLAIM", HEAD_ORDER, done + HEAD_ORDER)


def paces_by_redis_alone() -> None:
    sql(statements, "CLAIM", "GREATEST(pace.next_at, ", "GREATEST(")
    sql(statements, "CLAIM", "AND c.next_at <= statement_timestamp()", "")


def trusts_its_snapshot() -> None:
    racy()
    sql(statements, "CLAIM", "AND c.next_at <= statement_timestamp()", "")


def reclaims_by_age() -> None:
    sql(
        statements, "RECLAIM", "COALESCE(i.lease_expires_at,", "COALESCE(i.processing_started_at + interval '1 second',"
    )


def reclaims_by_a_fast_clock() -> None:
    sql(
        statements,
        "RECLAIM",
        "< statement_timestamp()\n      --",
        "< statement_timestamp() + interval '1.8 s'\n      --",
    )


def forgets_the_dead_attempt() -> None:
    sql(statements, "RECLAIM", "retry_count = LEAST(i.retry_count, 2147483646) + 1,", "retry_count = i.retry_count,")


def settles_before_it_sends() -> None:
    sending: set[asyncio.Task[object]] = set()

    async def attempt(self: Processor, claim: Claim) -> Settlement:
        task = asyncio.create_task(self._execute(claim.message))
        sending.add(task)
        return settle(Sent(None), claim.message, self._policy, gap_draw=0.5, backoff_draw=0.5)

    Processor.attempt = attempt  # type: ignore[method-assign]


def sends_another_s_payload() -> None:
    execute = Processor._execute
    last: dict[str, Any] = {}

    async def execute_with_last(self: Processor, message: Message) -> Any:
        nonlocal last
        last, payload = message.payload, last or message.payload
        return await execute(self, replace(message, payload=payload))

    Processor._execute = execute_with_last  # type: ignore[method-assign]


def renews_nothing() -> None:
    async def run_once(self: LeaseKeeper) -> bool:
        return True

    LeaseKeeper.run_once = run_once  # type: ignore[method-assign]


def cancels_only_what_waits() -> None:
    sql(
        admin,
        "CANCEL",
        "cancel_requested_at = COALESCE(i.cancel_requested_at, clock_timestamp())",
        "cancel_requested_at = NULL",
    )


def deletes_and_refills() -> None:
    async def fill(self: Sweeps) -> int | None:
        redis, accounts = self._broker.redis, [f"account-{number}" for number in range(SMALL.instances)]
        await self._broker.begin_rebuild(hold_seconds=5)
        # Or each account would be filled once more, by itself.
        filling = await self._broker.mark_filling(accounts)
        await self._broker.mark_known(filling)
        pages = [page async for page in self._walk(None)]
        await asyncio.sleep(0.8)
        old = [key async for key in redis.scan_iter("mq:{*") if not key.endswith(":epoch")]
        if old:
            await redis.delete(*old)
        entries = [Entry(m.chat, m.seq, m.id, m.priority, m.due_seconds) for page in pages for m in page.messages]
        await self._broker.announce(entries)
        await self._broker.end_rebuild(filling)
        return len(entries)

    Sweeps._fill = fill  # type: ignore[method-assign]


def announces_before_the_commit() -> None:
    queues: list[MessageQueue] = []
    enter = MessageQueue.__aenter__

    async def entered(self: MessageQueue) -> MessageQueue:
        queues.append(await enter(self))
        return self

    async def insert(self: Enqueues, messages: Sequence[NewMessage]) -> list[Any]:
        async with self._database.rows_of_one(in_transaction=True) as rows:
            answers = await insert_batch(rows, messages)
            await announce_early(messages, answers)
            await asyncio.sleep(0.03)
        return answers

    async def announce_early(messages: Sequence[NewMessage], answers: Sequence[Any]) -> None:
        entries = [Entry(m.chat, a.seq, m.id, m.priority, 0.0) for m, a in zip(messages, answers, strict=True)]
        await queues[-1]._broker.announce(entries)

    MessageQueue.__aenter__ = entered  # type: ignore[assignment,method-assign]
    Enqueues.insert = insert  # type: ignore[method-assign]
    queue_room._entries = lambda *_: []


def answers_before_the_commit() -> None:
    insert = Enqueues.insert
    later: set[asyncio.Task[object]] = set()

    async def insert_later(self: Enqueues, messages: Sequence[NewMessage]) -> list[Any]:
        async def store() -> None:
            await asyncio.sleep(0.4)
            await insert(self, messages)

        later.add(asyncio.create_task(store()))
        return [Enqueued(message.id, 1, "PENDING") for message in messages]

    Enqueues.insert = insert_later  # type: ignore[method-assign]


# Where each is looked for

FREEZES = {"worker 1": Lane({"zombie": 1}, (0.1, 0.5)), "worker 2": Lane({"zombie": 1}, (0.1, 0.5))}
KILLS = {"worker 1": Lane({"kill -9": 1}, (0.3, 0.8))}
LOSSES = {"Redis": Lane({"FLUSHALL": 1}, (4.5, 5.5))}
MANY_LOSSES = {"Redis": Lane({"FLUSHALL": 1}, (0.3, 0.8))}
DEAD_PRODUCERS = {"producer": Lane({"kill -9": 1}, (0.3, 1.0))}

SMALL = Plan(
    seed=0,
    minutes=0.35,
    workers=3,
    producers=1,
    rate=24.0,
    instances=2,
    chats=60,
    rude_share=0.0,
    quiet_seconds=40.0,
    least={"messages": 50},
)


def small(lanes: Mapping[str, Lane] | None = None, settings: Mapping[str, float] | None = None, **changes: Any) -> Plan:
    """A short run in which little is done but what the bug needs to show itself."""
    values = {**vars(SMALL), "lanes": lanes or {}, "settings": {**PROFILE, **(settings or {})}, **changes}
    return Plan(**values)


# Reconcile stands still, so that what it would mend is seen.
UNMENDED = partial(small, settings={"reconcile_every_seconds": 25.0}, wake_seconds=LOST_AFTER_SECONDS)
RACY = partial(small, chats=20, rate=16.0, prioritised=0.4)
SLOW = partial(small, script="slow", rate=12.0)
# A longer lease than elsewhere: on a busy machine a renewal can be late by more than a second.
STEADY = partial(
    SLOW,
    settings={"lease_seconds": 4.0, "renew_seconds": 1.0, "executor_timeout_seconds": 8.0, "drain_seconds": 14.0},
    rate=8.0,
    steady=True,
)


@dataclass(frozen=True)
class Mutant:
    """A bug, where it is put in, and the promises of which one must be seen broken (none: a control)."""

    change: Change
    plan: Plan
    found_as: frozenset[str] = field(default_factory=frozenset)
    excused: frozenset[str] = field(default_factory=frozenset)
    """What the conditions themselves break."""


def _found_as(*names: str) -> frozenset[str]:
    return frozenset(names)


def nothing() -> None:
    """No bug."""


MUTANTS: dict[str, Mutant] = {
    "control: racy": Mutant(racy, RACY(), excused=_found_as("left behind")),
    "control: racy, failing": Mutant(racy, RACY(script="failing"), excused=_found_as("left behind")),
    "control: no reconcile": Mutant(nothing, UNMENDED()),
    "control: no reconcile, Redis lost": Mutant(nothing, UNMENDED(LOSSES, script="failing", chats=400)),
    "control: long sends": Mutant(nothing, STEADY()),
    "settle without its claim": Mutant(
        settles_without_its_claim, SLOW(FREEZES), _found_as("overlapping", "unexplained sends")
    ),
    "no unique index": Mutant(racy, RACY(drop_index=True), _found_as("overlapping")),
    "no head check": Mutant(claims_any_message, small(), _found_as("reordered")),
    "plain SKIP LOCKED": Mutant(claims_beside_the_flight, RACY(drop_index=True), _found_as("overlapping")),
    "backoff holds nobody": Mutant(passes_what_backs_off, small(script="failing"), _found_as("reordered")),
    "watermark": Mutant(remembers_a_watermark, small(quiet_seconds=10.0), _found_as("lost")),
    "pacing by Redis alone": Mutant(paces_by_redis_alone, small(MANY_LOSSES), _found_as("too fast")),
    "snapshot trusted": Mutant(trusts_its_snapshot, RACY(script="failing"), _found_as("too fast")),
    "stale reset by age": Mutant(reclaims_by_age, SLOW(), _found_as("reclaimed early")),
    "lease on a fast clock": Mutant(reclaims_by_a_fast_clock, SLOW(), _found_as("reclaimed early")),
    "dead attempt not counted": Mutant(forgets_the_dead_attempt, SLOW(KILLS), _found_as("wrongly counted")),
    "settled before sent": Mutant(settles_before_it_sends, small(), _found_as("unexplained sends", "overlapping")),
    "payloads mixed up": Mutant(sends_another_s_payload, small(), _found_as("mixed up")),
    "no renewals": Mutant(renews_nothing, STEADY(), _found_as("taken from the living")),
    "cancel forgets what flies": Mutant(cancels_only_what_waits, SLOW(), _found_as("claimed after cancel")),
    "delete and refill": Mutant(
        deletes_and_refills, UNMENDED(LOSSES, script="failing", chats=400), _found_as("woken late")
    ),
    "announce before commit": Mutant(announces_before_the_commit, UNMENDED(), _found_as("woken late")),
    "answer before commit": Mutant(answers_before_the_commit, small(DEAD_PRODUCERS), _found_as("lost")),
}


def mutate(name: str) -> None:
    """Put one bug, or the conditions of a control, into this process."""
    MUTANTS[name].change()
