"""The machine of the random histories: every deed is done to the queue and to the model, and both must agree."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
)
from sqlalchemy.ext.asyncio import AsyncSession

from mqworker import Conflict, Enqueued, InvalidMessage, NotFound, QueueStats
from mqworker.broker import Entry, Finish, Lease
from mqworker.lifecycle import Settlement
from mqworker.message import ChatKey
from mqworker.queue import Status
from mqworker.store import Claim, NotNow
from tests.integration.machine import (
    ACCOUNTS,
    CHATS,
    CLIENTS,
    DRAFTS,
    DRAFTS_WITH_IDS,
    HOUR,
    PARTS,
    PICKS,
    ROWS,
    SOME_ACCOUNT,
    SOME_CHAT,
    SOME_CHATS,
    SOMEBODY,
    TOLD,
    WAITS,
    WORKERS,
    Draft,
    Held,
    Part,
    Told,
    World,
    encoded,
    lanes,
)
from tests.integration.model import FINAL, Model, Row
from tests.integration.rows import sql

STATUSES: list[Status] = ["PENDING", "FAILED"]


@dataclass(frozen=True)
class Deed:
    """One thing to do, and how."""

    name: str
    how: dict[str, Any]


DEEDS: dict[str, list[st.SearchStrategy[Deed]]] = {}
Method = TypeVar("Method", bound=Callable[..., Awaitable[None]])


def deed(group: str, *, weight: int = 1, **how: st.SearchStrategy[Any]) -> Callable[[Method], Method]:
    """Make a method one of a group's deeds, chosen ``weight`` times as often as another.

    A rule for each would let Hypothesis leave out at random most of what makes a history.
    """

    def add(method: Method) -> Method:
        # Each a strategy of its own: what is there twice, Hypothesis takes for one.
        made = [st.builds(Deed, st.just(method.__name__), st.fixed_dictionaries(how)) for _ in range(weight)]
        DEEDS.setdefault(group, []).extend(made)
        return method

    return add


def some(group: str, most: int) -> st.SearchStrategy[list[Deed]]:
    return st.lists(st.deferred(lambda: st.one_of(DEEDS[group])), min_size=1, max_size=most)


class QueueMachine(RuleBasedStateMachine):
    """Every rule does one thing to the queue and to the model, and compares what both say of it."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.queue = self.world.queue
        self.model = Model()
        self.held: list[Held] = []
        self.open: tuple[AsyncSession, list[Row]] | None = None
        self.ended: dict[UUID, str] = {}
        self.failed = False
        self.run(self.world.empty())

    def run(self, work: Awaitable[None]) -> None:
        async def awaited() -> None:
            await work

        try:
            self.world.run(awaited())
        except BaseException:
            self.failed = True
            raise

    async def _do(self, deeds: list[Deed]) -> None:
        for one in deeds:
            await getattr(self, one.name)(**one.how)
            await self._all_is_as_the_model_says()

    @initialize(batch=st.lists(DRAFTS, min_size=4, max_size=8))
    def begin(self, batch: list[Draft]) -> None:
        """With something to work on: an empty queue teaches little."""
        self.run(self.enqueue_many(batch, spoiled=False))

    @rule(deeds=some("producers", 2))
    def producers(self, deeds: list[Deed]) -> None:
        self.run(self._do(deeds))

    @rule(deeds=some("workers", 8))
    def workers(self, deeds: list[Deed]) -> None:
        self.run(self._do(deeds))

    @rule(deeds=some("others", 2))
    def others(self, deeds: list[Deed]) -> None:
        self.run(self._do(deeds))

    # putting in

    @deed("producers", weight=2, draft=DRAFTS_WITH_IDS)
    async def enqueue(self, draft: Draft) -> None:
        there = self.model.rows.get(draft.message_id) if draft.message_id else None
        if there is not None and there.content != draft.content:
            with pytest.raises(Conflict):
                await self.queue.enqueue(**draft.arguments())
            return
        answer = await self.queue.enqueue(**draft.arguments())
        if there is None:
            assert (answer.status, answer.deduplicated) == ("PENDING", False)
            self.model.add([draft.row(answer)])
        else:
            assert answer == Enqueued(there.id, there.seq, there.status, deduplicated=True)

    @deed(
        "producers", batch=st.lists(DRAFTS_WITH_IDS, max_size=4), spoiled=st.sampled_from([False, False, False, True])
    )
    async def enqueue_many(self, batch: list[Draft], spoiled: bool) -> None:
        messages = [draft.arguments() for draft in batch]
        ids = [draft.message_id for draft in batch if draft.message_id]
        there = {one: self.model.rows[one] for one in ids if one in self.model.rows}
        if spoiled:
            messages.append({**Draft(CHATS[0]).arguments(), "payload": {"n": float("nan")}})
        if spoiled or len(ids) > len(set(ids)):
            with pytest.raises(InvalidMessage):
                await self.queue.enqueue_many(messages)
        elif any(d.message_id and there.get(d.message_id, d).content != d.content for d in batch):
            with pytest.raises(Conflict):
                await self.queue.enqueue_many(messages)
        else:
            answers = await self.queue.enqueue_many(messages)
            assert [answer.deduplicated for answer in answers] == [draft.message_id in there for draft in batch]
            self.model.add(d.row(a) for d, a in zip(batch, answers, strict=True) if not a.deduplicated)

    @deed(
        "producers", parts=st.lists(PARTS, min_size=1, max_size=3), end=st.sampled_from(["commit", "rollback", "later"])
    )
    async def enqueue_in_a_transaction(self, parts: list[Part], end: str) -> None:
        """One that ends later: its messages appear behind others that came after them."""
        await self._end_the_transaction(commit=True)
        self.open = (AsyncSession(self.world.engine), [])
        for part in parts:
            await self._part(*self.open, part)
        if end != "later":
            await self._end_the_transaction(commit=end == "commit")

    async def _part(self, session: AsyncSession, stored: list[Row], part: Part) -> None:
        nested = None if part.savepoint == "none" else await session.begin_nested()
        rows = [draft.row(await self.queue.enqueue(**draft.arguments(), session=session)) for draft in part.drafts]
        if nested is not None:
            await (nested.commit() if part.savepoint == "released" else nested.rollback())
        if part.savepoint != "rolled back":
            stored.extend(rows)

    @deed("producers", commit=st.booleans())
    async def end_the_transaction(self, commit: bool) -> None:
        await self._end_the_transaction(commit)

    async def _end_the_transaction(self, commit: bool) -> None:
        if self.open is None:
            return
        session, rows = self.open
        self.open = None
        await (session.commit() if commit else session.rollback())
        await session.close()
        if commit:
            self.model.add(rows)

    # workers

    @deed("workers", weight=3, worker=SOMEBODY, chats=SOME_CHATS)
    async def claim(self, worker: str, chats: list[ChatKey]) -> None:
        answers = await self.world.stores[worker].claims.claim(chats, WORKERS[worker])
        for chat, answer in zip(chats, answers, strict=True):
            self._claimed(worker, chat, answer, None)

    @deed("workers", weight=2, worker=SOMEBODY, max_chats=st.integers(1, 4))
    async def lease_and_claim(self, worker: str, max_chats: int) -> None:
        """As a dispatcher does it: what Redis offers is claimed, and Redis is told what came of it."""
        broker = self.world.broker
        leased = await broker.lease(ACCOUNTS, max_chats=max_chats, lock_seconds=HOUR)
        leases = [lease for one in leased for lease in one.leases]
        answers = await self.world.stores[worker].claims.claim([lease.chat for lease in leases], WORKERS[worker])
        empty, waiting = [], []
        for lease, answer in zip(leases, answers, strict=True):
            self._claimed(worker, lease.chat, answer, lease)
            if isinstance(answer, Claim):
                continue
            if answer.reason == "empty":
                empty.append(lease)
            else:
                waiting.append(Finish(lease.chat, lease.token, answer.wait_seconds))
        await broker.let_go(empty=empty, waiting=waiting)

    def _claimed(self, worker: str, chat: ChatKey, answer: Claim | NotNow, lease: Lease | None) -> None:
        expected = self.model.verdict(chat, WORKERS[worker])
        if isinstance(answer, NotNow):
            assert answer.reason == expected
            return
        assert isinstance(expected, Row), f"{chat} gave {answer.message.id}, but it is {expected}"
        message = answer.message
        assert (message.id, answer.seq) == (expected.id, expected.seq), "the claim takes the head"
        assert (message.priority, message.retry_count) == (expected.priority, expected.retry_count)
        assert (message.client_id, answer.chat, message.executor, message.payload["n"]) == expected.content
        self.model.claim(expected, answer.claim_id)
        self.held.append(Held(worker, answer, lease))

    def _pick(self, number: int) -> Held:
        """What is held now comes before what was lost, and the latest first."""
        kept = [self.model.holds(held.claim.message.id, held.claim.claim_id) for held in self.held]
        live = [row is not None and row.status == "PROCESSING" for row in kept]
        order = sorted(range(len(self.held)), key=lambda place: (not live[place], -place))
        return self.held[order[number % len(order)]]

    @deed("workers", weight=4, told=st.lists(st.tuples(PICKS, TOLD), min_size=1, max_size=3), worker=SOMEBODY)
    async def settle(self, told: list[tuple[int, Told]], worker: str) -> None:
        """Also by who lost the claim, and again by who settled it."""
        if self.held:
            batch = [(self._pick(pick), one) for pick, one in told]
            await self._settle(worker, [(held, one.settlement(held)) for held, one in batch])

    async def _settle(self, worker: str, batch: Sequence[tuple[Held, Settlement]]) -> None:
        # The holder of a claim settles what it holds; nobody settles one message under two claims at once.
        one_each = {held.claim.message.id: (held, told) for held, told in batch}.values()
        answers = await self.world.stores[worker].claims.settle([(held.claim, told) for held, told in one_each])
        finishes = []
        for (held, told), answer in zip(one_each, answers, strict=True):
            expected = self.model.settle(held.claim.message.id, held.claim.claim_id, told)
            assert answer.status == expected, f"{held.claim.message.id} settled as {answer.status}, not {expected}"
            if held.lease and expected:
                entry = Entry(held.lease.chat, held.claim.seq, held.claim.message.id, held.claim.message.priority)
                done, kept = (None, entry) if expected == "PENDING" else (entry, None)
                finishes.append(Finish(held.lease.chat, held.lease.token, answer.wait_seconds, done=done, kept=kept))
        await self.world.broker.finish(finishes)

    @deed(
        "workers",
        weight=6,
        worker=SOMEBODY,
        chats=SOME_CHATS,
        ended=WAITS | st.just(set[str]()),
        outcomes=st.lists(TOLD, min_size=len(CHATS), max_size=len(CHATS)),
    )
    async def claim_and_settle(self, worker: str, chats: list[ChatKey], ended: set[str], outcomes: list[Told]) -> None:
        """A worker's plain life."""
        await self.waits_end(chats, ended)
        before = len(self.held)
        await self.claim(worker, chats)
        held = self.held[before:]
        await self._settle(worker, [(one, told.settlement(one)) for one, told in zip(held, outcomes, strict=False)])

    @deed("workers", asked=st.lists(PICKS, min_size=1, max_size=4), worker=SOMEBODY)
    async def renew(self, asked: list[int], worker: str) -> None:
        if not self.held:
            return
        held = {one.claim.claim_id: one.claim for one in map(self._pick, asked)}
        kept = await self.world.stores[worker].claims.renew(list(held.values()))
        expected = set()
        for claim in held.values():
            row = self.model.holds(claim.message.id, claim.claim_id)
            if row is not None and row.status == "PROCESSING":
                row.expired = False
                expected.add(claim.claim_id)
        assert kept == expected

    @deed("workers", weight=2, pick=PICKS, at_once=st.booleans())
    async def a_lease_ends(self, pick: int, at_once: bool) -> None:
        if not self.held:
            return
        held = self._pick(pick)
        row = self.model.holds(held.claim.message.id, held.claim.claim_id)
        if row is not None and row.status == "PROCESSING":
            row.expired = True
            await self._change("lease_expires_at = 'epoch'", row)
        if at_once:
            assert await self.world.sweeps.reclaim() == self.model.reclaim()

    @deed("others")
    async def reclaim(self) -> None:
        assert await self.world.sweeps.reclaim() == self.model.reclaim()

    # time

    async def _change(self, assignments: str, row: Row) -> None:
        statement = f"UPDATE message_queue_items SET {assignments} WHERE id = %(id)s RETURNING 1"
        assert await sql(self.world.store, statement, id=row.id)

    @deed("workers", weight=3, chats=SOME_CHATS, what=WAITS)
    async def waits_end(self, chats: list[ChatKey], what: set[str]) -> None:
        for chat in chats:
            await self._waits_end(chat, what)

    async def _waits_end(self, chat: ChatKey, what: set[str]) -> None:
        if "gap" in what:
            self.model.waiting_chats.discard(chat)
            await self._end_wait("chats", "instance = %(instance)s AND chat_id = %(chat_id)s", chat)
        if "account" in what:
            self.model.waiting_accounts.discard(chat.instance)
            await self._end_wait("instances", "instance = %(instance)s AND %(chat_id)s <> ''", chat)
        for row in self.model.of(chat, "PENDING"):
            if "backoff" in what and row.backs_off:
                row.backs_off = False
                await self._change("available_at = 'epoch'", row)
            if "schedule" in what and row.when in ("soon", "far"):
                row.when = "past"
                await self._change("scheduled_at = clock_timestamp() - interval '1 minute'", row)

    async def _end_wait(self, table: str, which: str, chat: ChatKey) -> None:
        statement = f"UPDATE message_queue_{table} SET next_at = 'epoch' WHERE {which} RETURNING 1"
        await sql(self.world.store, statement, **chat._asdict())

    @deed("others", weight=2, pick=PICKS)
    async def days_go_by_for_a_message(self, pick: int) -> None:
        if not self.model.rows:
            return
        row = list(self.model.rows.values())[pick % len(self.model.rows)]
        row.aged = 1 + max(other.aged for other in self.model.rows.values())
        row.ended_long_ago = row.status in FINAL
        ago = "clock_timestamp() - interval '8 days'"
        ended = f", processed_at = {ago}" if row.ended_long_ago else ""
        await self._change(f"created_at = {ago}{ended}", row)

    # people

    @deed("workers", weight=3, pick=st.sampled_from([0, 0, 1, 2, 5, None]))
    async def cancel(self, pick: int | None) -> None:
        if pick is None or not self.model.rows:
            with pytest.raises(NotFound):
                await self.queue.cancel(uuid4())
            return
        # What is being sent comes first, what has ended last.
        rows = sorted(self.model.rows.values(), key=lambda row: (row.status in FINAL, row.status != "PROCESSING"))
        row = rows[pick % len(rows)]
        assert await self.queue.cancel(row.id) == self.model.cancel(row)

    @deed("others", chat=SOME_CHAT, old_ones_only=st.booleans())
    async def cancel_all(self, chat: ChatKey, old_ones_only: bool) -> None:
        if old_ones_only:
            rows = [row for one in CHATS if one.instance == chat.instance for row in self.model.of(one, "PENDING")]
            told = [self.model.cancel(row) for row in rows if row.created_long_ago]
            assert await self.queue.cancel_pending(chat.instance, older_than=timedelta(days=1)) == len(told)
        else:
            told = [self.model.cancel(row) for row in self.model.of(chat, "PENDING", "PROCESSING")]
            cleared = await self.queue.clear_queue(*chat)
            assert (cleared.cancelled, cleared.in_flight) == (told.count("cancelled"), told.count("too_late"))

    @deed("others", account=st.none() | SOME_ACCOUNT)
    async def clean(self, account: str | None) -> None:
        if account is None:
            assert await self.world.sweeps.clean() == self.model.clean(None)
        else:
            assert await self.queue.clean_old_messages(account, 7) == self.model.clean(account)

    @deed("others", account=SOME_ACCOUNT, client_id=st.sampled_from(CLIENTS))
    async def initialize_an_account(self, account: str, client_id: int) -> None:
        if self.model.owners.setdefault(account, client_id) != client_id:
            with pytest.raises(Conflict):
                await self.queue.initialize(account, client_id)
            return
        found = await self.queue.initialize(account, client_id)
        assert found.reclaimed == self.model.reclaim()
        assert found.stats == QueueStats(**self.model.counts(account))
        assert found.waiting == found.stats.pending

    @deed("others", account=SOME_ACCOUNT)
    async def look(self, account: str) -> None:
        rows = [row for row in self.model.rows.values() if row.chat.instance == account]
        rows.sort(key=lambda row: (row.created_long_ago, -row.aged, -row.seq))
        assert await self.queue.get_stats(account) == QueueStats(**self.model.counts(account))
        assert await self.queue.get_stats(account, 7) == QueueStats(**self.model.counts(account, 7))
        listed = await self.queue.list(account)
        assert [(one.id, one.status) for one in listed] == [(row.id, row.status) for row in rows]
        for status in STATUSES:
            listed = await self.queue.list(account, status=status, limit=2)
            assert [one.id for one in listed] == [row.id for row in rows if row.status == status][:2]
        summary = await self.queue.error_summary(account)
        assert sum(one.count for one in summary) == sum(row.error is not None for row in rows)
        if rows:
            assert (await self.queue.get(rows[0].id)).seq == rows[0].seq

    # Redis

    @deed("others", weight=2, what=st.sampled_from(["is emptied", "is rebuilt", "is reconciled"]))
    async def redis(self, what: str) -> None:
        if what == "is emptied":
            await self.world.broker.redis.flushall()
        elif what == "is rebuilt":
            waiting = sum(row.status == "PENDING" for row in self.model.rows.values())
            assert await self.world.sweeps.rebuild() == waiting
        else:
            await self.world.sweeps.reconcile()

    # what always holds

    async def _all_is_as_the_model_says(self) -> None:
        await self._rows_are_the_models()
        await self._gaps_are_kept()
        for row in self.model.rows.values():
            if row.status in FINAL:
                assert self.ended.setdefault(row.id, row.status) == row.status, "what has ended stays as it ended"

    async def _rows_are_the_models(self) -> None:
        rows = {row.id: row for row in await sql(self.world.store, ROWS)}
        assert len(rows) == self.model.accepted - self.model.cleaned, "nothing is lost and nothing comes from nowhere"
        assert rows.keys() == self.model.rows.keys()
        flying = [ChatKey(row.instance, row.chat_id) for row in rows.values() if row.status == "PROCESSING"]
        assert len(flying) == len(set(flying)), "one message of a chat is in flight"
        for message_id, expected in self.model.rows.items():
            row = rows[message_id]
            assert (row.status, row.retry_count, row.claim_id) == (
                expected.status,
                expected.retry_count,
                expected.claim_id,
            ), f"{message_id}"
            flags = (row.backs_off, row.expired, row.cancel_requested, row.ended)
            in_flight = expected.status == "PROCESSING"
            expected_flags = (expected.backs_off, in_flight and expected.expired, expected.cancel_requested)
            assert flags == (*expected_flags, expected.status in FINAL), f"{message_id}: {row}"
            assert (row.error or "").startswith(expected.error or ""), row.error
            assert (row.error is None, row.provider_id) == (expected.error is None, expected.provider_id)

    async def _gaps_are_kept(self) -> None:
        waiting = "SELECT * FROM message_queue_{} WHERE next_at > clock_timestamp()"
        chats = {ChatKey(r.instance, r.chat_id) for r in await sql(self.world.store, waiting.format("chats"))}
        assert chats == self.model.waiting_chats
        accounts = {row.instance for row in await sql(self.world.store, waiting.format("instances"))}
        assert accounts == self.model.waiting_accounts

    def teardown(self) -> None:
        failed = self.failed
        self.run(self._end_the_transaction(commit=not failed))
        if not failed:
            self.run(self._at_the_end())

    async def _at_the_end(self) -> None:
        await self.world.sweeps.rebuild()
        await self._every_chat_is_offered()
        await self.world.broker.redis.flushall()
        await self.world.sweeps.rebuild()
        for account in ACCOUNTS:
            await self._redis_shows_what_waits(account)

    async def _every_chat_is_offered(self) -> None:
        """Whatever Redis went through: a rebuild leaves no chat behind that has something to send."""
        redis = self.world.broker.redis
        for chat in CHATS:
            keys = self.world.broker.keys.of(chat.instance)
            known = {await redis.zscore(key, encoded(chat)) is not None for key in (keys.ready, keys.leased)}
            assert True in known or not self.model.line(chat), f"Redis does not offer {chat}"

    async def _redis_shows_what_waits(self, account: str) -> None:
        redis, keys = self.world.broker.redis, self.world.broker.keys.of(account)
        scheduled = {member.rsplit(":", 1)[1] for member in await redis.zrange(keys.scheduled, 0, -1)}
        later = [r for r in self.model.rows.values() if r.chat.instance == account and r.status == "PENDING"]
        assert scheduled == {str(row.id) for row in later if row.when in ("soon", "far")}
        for chat in [chat for chat in CHATS if chat.instance == account]:
            shown = await lanes(self.world.broker, chat)
            assert shown == [(row.priority, row.seq, str(row.id)) for row in self.model.line(chat)]
