"""The same random calls on PostgreSQL and in memory give the same answers and leave the same rows.

Every wait is nothing, a millisecond that is then waited for, or an hour; every lease is over at once or lasts an
hour: so neither clock has a say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest

from mqworker.errors import Conflict, NotFound
from mqworker.lifecycle import Settlement
from mqworker.message import ChatKey, Enqueued, NewMessage
from mqworker.store import Claim, Place, Store, Waiting
from mqworker.validation import new_message
from tests.conformance.conftest import MemoryServers
from tests.conftest import NewStore

HOUR = 3600.0
TICK_SECONDS = 0.003
CALLS = 150
SEEDS = range(8)
CHATS = [ChatKey(instance, chat_id) for instance in ("shop", "bank") for chat_id in ("a", "b", "c", '"d\\,{}')]
EXECUTORS = (["default"], ["default"], ["other"], ["default", "other"])

Op = Callable[[Store], Coroutine[Any, Any, Any]]


class Pair:
    """Two stores that are told the same, and must answer the same."""

    def __init__(self, seed: int, stores: Sequence[dict[str, Store]]) -> None:
        self.rng = Random(seed)
        self._stores = stores
        self.claims: list[tuple[Claim, Claim]] = []
        """What each of both calls the same claim."""
        self.sent: list[NewMessage] = []

    async def both(self, worker: str, call: Callable[[Store, int], Coroutine[Any, Any, Any]]) -> tuple[Any, Any]:
        """What each answers, an error of ours being an answer, too."""
        answers = []
        for index, stores in enumerate(self._stores):
            try:
                answers.append(await call(stores[worker], index))
            except (Conflict, NotFound) as error:
                answers.append((type(error).__name__, str(error)))
        return answers[0], answers[1]

    # calls

    async def insert(self, worker: str) -> None:
        # An id stands once in a batch: validation sees to that.
        batch = list({m.id: m for m in (self._message() for _ in range(self.rng.randint(1, 4)))}.values())
        all_or_none = self.rng.random() < 0.3

        async def call(store: Store, _: int) -> Any:
            enqueues = store.enqueues
            return await (enqueues.insert_all(batch) if all_or_none else enqueues.insert(batch))

        real, memory = await self.both(worker, call)
        assert _plain(real) == _plain(memory)
        self.sent += batch

    def _message(self) -> NewMessage:
        rng = self.rng
        if self.sent and rng.random() < 0.15:
            old = rng.choice(self.sent)
            return self._new(old.chat, old.executor, message_id=old.id, payload={"n": rng.choice((1, 2))})
        return self._new(rng.choice(CHATS), rng.choice(("default", "default", "other")), payload={"n": 1})

    def _new(self, chat: ChatKey, executor: str, **fields: Any) -> NewMessage:
        rng, now = self.rng, datetime.now(UTC)
        seconds = rng.choice((None, None, None, None, -HOUR, 40.0, HOUR))
        fields.setdefault("message_id", UUID(int=rng.getrandbits(128), version=4) if rng.random() < 0.5 else None)
        return new_message(
            instance=chat.instance,
            chat_id=chat.chat_id,
            client_id=7,
            executor=executor,
            priority=rng.choice((0, 0, 0, 5, -5)),
            max_retries=rng.choice((1, 2, 3)),
            scheduled_at=None if seconds is None else now + timedelta(seconds=seconds),
            default_max_retries=3,
            now=now,
            **fields,
        )

    async def claim(self, worker: str) -> None:
        chats = self.rng.sample(CHATS, self.rng.randint(1, len(CHATS)))
        executors = self.rng.choice(EXECUTORS)
        real, memory = await self.both(worker, lambda store, _: store.claims.claim(chats, executors))
        assert _plain(real) == _plain(memory)
        self.claims += [pair for pair in zip(real, memory, strict=True) if isinstance(pair[0], Claim)]

    async def settle(self, worker: str) -> None:
        if not self.claims:
            return
        chosen = self.rng.sample(self.claims, min(len(self.claims), self.rng.randint(1, 4)))
        told = [(pair, self._settlement()) for pair in chosen]
        for _ in range(self.rng.choice((1, 1, 2))):  # twice, where the first reply is lost
            real, memory = await self.both(
                worker, lambda store, index: store.claims.settle([(pair[index], s) for pair, s in told])
            )
            assert _plain(real) == _plain(memory)
        await asyncio.sleep(TICK_SECONDS)

    def _settlement(self) -> Settlement:
        gap, account = (self.rng.choice((0.0, 0.0, 0.0, 0.0, HOUR)) for _ in range(2))
        backoff = self.rng.choice((0.0, 0.0, TICK_SECONDS / 3, HOUR))
        return self.rng.choice(
            (
                Settlement.completed(gap, "p-1"),
                Settlement.completed(gap, None),
                Settlement.failed(gap, 'no "{}\\,'),
                Settlement.retry(gap, backoff, "again"),
                Settlement.retry(gap, backoff, "NULL"),
                Settlement.deferred(gap, account if self.rng.random() < 0.3 else 0.0, "wait"),
                Settlement.released(),
            )
        )

    async def renew(self, worker: str) -> None:
        chosen = self.claims[-5:]
        if chosen:
            real, memory = await self.both(
                worker, lambda store, index: store.claims.renew([pair[index] for pair in chosen])
            )
            assert [a.claim_id in real for a, _ in chosen] == [b.claim_id in memory for _, b in chosen]

    async def reclaim(self, worker: str) -> None:
        gap = self.rng.choice((0.0, 0.0, HOUR))
        real, memory = await self.both(
            "hasty", lambda store, _: store.claims.reclaim(gap_min_seconds=gap, gap_max_seconds=gap)
        )
        assert sorted(_plain(real)) == sorted(_plain(memory))

    async def cancel(self, worker: str) -> None:
        message_id = self.rng.choice(self.sent).id if self.sent else UUID(int=1)
        real, memory = await self.both(worker, lambda store, _: store.admin.cancel(message_id))
        assert real == memory

    async def clear(self, worker: str) -> None:
        chat = self.rng.choice(CHATS)
        (real, gone), (memory, lost) = await self.both(worker, lambda store, _: store.admin.clear_chat(chat))
        assert (real, sorted(map(str, gone))) == (memory, sorted(map(str, lost)))

    async def duty(self, worker: str) -> None:
        name, every, hold = "sweep", self.rng.choice((0.0, HOUR)), self.rng.choice((0.0, HOUR))
        progress = self.rng.choice((None, {"seq": self.rng.randint(1, 9)}))
        now = self.rng.random() < 0.3
        calls: list[Op] = [
            lambda store: store.duties.take(name, every_seconds=every, hold_seconds=hold, now=now),
            lambda store: store.duties.hold(name, hold_seconds=hold),
            lambda store: store.duties.note_progress(name, progress),
            lambda store: store.duties.progress(name),
            lambda store: store.duties.done(name),
            lambda store: store.duties.give_up(name),
        ]
        call = self.rng.choice(calls)
        real, memory = await self.both(worker, lambda store, _: call(store))
        assert real == memory

    async def pages(self, worker: str) -> None:
        limit = self.rng.randint(1, 5)
        real, memory = await self.both(worker, lambda store, _: _all_pages(store, limit))
        assert real == memory
        real, memory = await self.both(worker, lambda store, _: _all_of_account(store, limit))
        assert real == memory


async def _all_pages(store: Store, limit: int) -> list[Any]:
    found: list[Any] = []
    place: Place | None = None
    while True:
        page = await store.pages.oldest_first(place, limit=limit)
        found += map(_waiting, page.messages)
        place = page.end
        if place is None:
            return found


async def _all_of_account(store: Store, limit: int) -> list[Any]:
    found: list[Any] = []
    after: tuple[str, int] | None = None
    while messages := await store.pages.of_instance("shop", after, limit=limit):
        found += map(_waiting, messages)
        after = (messages[-1].chat.chat_id, messages[-1].seq)
    return found


def _waiting(message: Waiting) -> Any:
    return message.id, message.seq, message.chat, message.priority, round(message.due_seconds / 100)


def _plain(answers: Any) -> Any:
    """Answers without what must differ: claim ids, and the fractions of a wait."""
    return [_plain_one(answer) for answer in answers] if isinstance(answers, list) else answers


def _plain_one(answer: Any) -> Any:
    if isinstance(answer, Claim):
        message = answer.message
        return (answer.seq, message.id, message.chat_id, message.payload, message.priority, message.retry_count)
    if isinstance(answer, Enqueued):
        return answer
    if isinstance(answer, Conflict):
        return str(answer)
    fields = {name: getattr(answer, name) for name in answer.__dataclass_fields__}
    # The two are asked one after the other, and on a busy machine some seconds apart.
    fields["wait_seconds"] = round(fields["wait_seconds"] / 100)
    if fields.get("scheduled") is not None:
        fields["scheduled"] = _waiting(fields["scheduled"])
    return sorted(fields.items(), key=str) if "reason" in fields else sorted(map(str, fields.items()))


ROWS = """
SELECT id, status, retry_count, error, provider_id, worker, priority, claim_id IS NOT NULL AS claimed,
       lease_expires_at IS NOT NULL AS leased, available_at IS NOT NULL AS backs_off,
       cancel_requested_at IS NOT NULL AS cancelled, processed_at IS NOT NULL AS ended
FROM message_queue_items
"""


async def _rows(store: Store, memory: MemoryServers) -> tuple[list[Any], list[Any]]:
    real = [tuple(row) for row in await store.database.rows(ROWS)]
    fake = [
        (
            *(row.id, row.status, row.retry_count, row.error, row.provider_id, row.worker, row.priority),
            *(row.claim_id is not None, row.lease_expires_at is not None, row.available_at is not None),
            *(row.cancel_requested_at is not None, row.processed_at is not None),
        )
        for row in memory.tables.items.values()
    ]
    return sorted(real), sorted(fake)


@pytest.mark.parametrize("seed", SEEDS)
async def test_random_calls_give_the_same_answers(seed: int, new_real_store: NewStore, memory: MemoryServers) -> None:
    leases = {"w1": HOUR, "w2": HOUR, "hasty": 0.0}
    stores = [
        {worker: make(worker, lease_seconds=seconds) for worker, seconds in leases.items()}
        for make in (new_real_store, memory.store)
    ]
    pair = Pair(seed, stores)
    ops = [
        pair.insert,
        pair.claim,
        pair.settle,
        pair.renew,
        pair.reclaim,
        pair.cancel,
        pair.clear,
        pair.duty,
        pair.pages,
    ]
    weights = [20, 30, 30, 4, 6, 5, 1, 8, 2]
    for _ in range(CALLS):
        (op,) = pair.rng.choices(ops, weights)
        await op(pair.rng.choice(list(leases)))
    real, fake = await _rows(stores[0]["w1"], memory)
    assert real == fake
