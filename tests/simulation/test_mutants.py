"""The simulation finds what is wrong: each of these defects is caught within a few hundred seeds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count, islice
from typing import Any
from uuid import UUID

import pytest

from mqworker.lifecycle import Sent, Settlement, settle
from mqworker.message import ChatKey
from mqworker.processor import Processor
from mqworker.settler import Settler
from mqworker.store import Claim
from mqworker.store.statements import RECLAIM
from mqworker.sweeps import Sweeps
from mqworker.testing.memory import redis as memory_redis
from mqworker.testing.memory.redis import Account, Memory
from mqworker.testing.memory.statements import STATEMENTS
from mqworker.testing.memory.store import MemoryConnection
from mqworker.testing.memory.tables import Answers, Parameters, Row, Tables
from tests.simulation.batch import play
from tests.simulation.scenario import draw_scenario

SEEDS = 300

Mutate = Callable[[pytest.MonkeyPatch], None]


def settle_without_claim_id(patch: pytest.MonkeyPatch) -> None:
    def held_by(self: Tables, message_id: UUID, claim_id: UUID) -> Row | None:
        return self.items.get(message_id)

    patch.setattr(Tables, "held_by", held_by)


def claim_without_head_check(patch: pytest.MonkeyPatch) -> None:
    """SKIP LOCKED without the head check: whatever cannot go at this moment is stepped over."""
    head_of = Tables.head_of

    def any_of(self: Tables, chat: ChatKey, now: float) -> Row | None:
        head = head_of(self, chat, now)
        others = [row for row in self.by_chat.get(chat, ()) if row.status == "PENDING" and not row.scheduled_at]
        free = [row for row in others if row.available_at is None or row.available_at <= now]
        return min(free, key=lambda row: row.rank, default=head)

    patch.setattr(Tables, "head_of", any_of)


def claim_by_seq_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Row, "rank", property(lambda self: (0, self.seq)))


def claim_without_flight_check(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Tables, "flight_of", lambda self, chat: None)


def no_gap(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Tables, "pace", lambda self, chat, until: None)


def answer_before_commit(patch: pytest.MonkeyPatch) -> None:
    """The announce goes out before the row can be seen, and nobody looks for it later."""
    commit = MemoryConnection._commit

    def late(self: MemoryConnection) -> Answers:
        inserted = list(self._inserted)
        loop: Any = asyncio.get_running_loop()
        loop.later(0.5, commit, self)
        return inserted

    async def nothing(self: Sweeps) -> int:
        return 0

    patch.setattr(MemoryConnection, "_commit", late)
    patch.setattr(Sweeps, "reconcile", nothing)


def reclaim_counts_no_attempt(patch: pytest.MonkeyPatch) -> None:
    reclaim = STATEMENTS[RECLAIM]

    def uncounted(tables: Tables, given: Parameters, began: float) -> Answers:
        taken = reclaim(tables, given, began)
        for one in taken:
            tables.items[one.id].retry_count -= 1
        return taken

    patch.setitem(STATEMENTS, RECLAIM, uncounted)


def reclaim_by_age(patch: pytest.MonkeyPatch) -> None:
    """What has been sent for a second counts as stuck, renewed or not."""
    reclaim = STATEMENTS[RECLAIM]

    def hasty(tables: Tables, given: Parameters, began: float) -> Answers:
        for row in tables.items.values():
            if row.processing_started_at is not None and row.processing_started_at < tables.now - 1.0:
                row.lease_expires_at = tables.now - 1.0
        return reclaim(tables, given, began)

    patch.setitem(STATEMENTS, RECLAIM, hasty)


def settle_before_send(patch: pytest.MonkeyPatch) -> None:
    async def attempt(self: Processor, claim: Claim) -> Settlement:
        self.beside = asyncio.create_task(self._execute(claim.message))  # type: ignore[attr-defined]
        return settle(Sent(), claim.message, self._policy, gap_draw=0.0, backoff_draw=0.0)

    patch.setattr(Processor, "attempt", attempt)


def announce_loses_the_mark_of_a_leased_chat(patch: pytest.MonkeyPatch) -> None:
    """Who holds a lease is not told that something came, and forgets the chat."""
    patch.setattr(memory_redis.Lock, "dirty", property(lambda self: False, lambda self, value: None))


def park_raises_what_was_told_meanwhile(patch: pytest.MonkeyPatch) -> None:
    """A guard keeps its half: an announce or a finish between a lease and its park is lost."""

    def lower(self: Memory, instance: str, score: float) -> None:
        self.instances[instance] = min(self.instances.get(instance, float("inf")), score)

    patch.setattr(Memory, "lower", lower)


def finish_leaves_the_entry(patch: pytest.MonkeyPatch) -> None:
    """What is done stays in its lane: the chat is leased for ever."""
    patch.setattr(Account, "drop", lambda self, chat, seq, message_id: None)


def settler_gives_up(patch: pytest.MonkeyPatch) -> None:
    """A settle that PostgreSQL did not answer is not repeated."""

    async def once(self: Settler, batch: Any) -> Any:
        return await self._store.claims.settle([(flight.claim, s) for flight, s in batch])

    patch.setattr(Settler, "_settle", once)


MUTANTS: list[tuple[Mutate, str]] = [
    (settle_without_claim_id, "fencing"),
    (claim_without_head_check, "P3 order"),
    (claim_by_seq_alone, "P3 order"),
    (claim_without_flight_check, "P4 one at a time"),
    (no_gap, "P5 pace"),
    (answer_before_commit, "P6 recovery"),
    (reclaim_counts_no_attempt, "attempts"),
    (reclaim_by_age, "P2 honestly"),
    (settle_before_send, "P2 honestly"),
    (announce_loses_the_mark_of_a_leased_chat, "P6 recovery"),
    (park_raises_what_was_told_meanwhile, "P6 recovery"),
    (finish_leaves_the_entry, "P6 recovery"),
    (settler_gives_up, "settler failed"),
]


@pytest.mark.parametrize(("mutate", "promise"), MUTANTS, ids=lambda given: getattr(given, "__name__", ""))
def test_a_defect_is_caught(mutate: Mutate, promise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    seeds = filter(_is_calm, count()) if promise == "P6 recovery" else count()
    for seed in islice(seeds, SEEDS):
        _, judge = play(seed)
        if any(violation.startswith(promise) for violation in judge.violations):
            return
    pytest.fail(f"{promise} seems kept over {SEEDS} seeds")


def _is_calm(seed: int) -> bool:
    """A wake-up that is lost is plain to see where nothing else delays a message."""
    return draw_scenario(seed).is_calm
