"""Claim, settle, renew, reclaim: every state change of a message that a worker makes. The rules: statements.py."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar
from uuid import UUID

from mqworker.errors import StatementFailed
from mqworker.lifecycle import Settlement
from mqworker.message import ChatKey, Message
from mqworker.store import statements
from mqworker.store.arrays import plain_array, text_array
from mqworker.store.database import CONTENTION, Database
from mqworker.store.pages import Waiting

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Claim:
    """A message that this worker holds. ``undecodable`` is set where its stored payload is no JSON object.

    ``waited_seconds`` is how long ago it was enqueued, or became due by its schedule; ``lag_seconds`` how much of that
    nothing held it up any more: its chat's gap and its own backoff had passed.
    """

    claim_id: UUID
    seq: int
    message: Message
    undecodable: str | None = None
    waited_seconds: float = field(default=0.0, compare=False)
    lag_seconds: float = field(default=0.0, compare=False)

    @property
    def chat(self) -> ChatKey:
        return ChatKey(self.message.instance, self.message.chat_id)


@dataclass(frozen=True, slots=True)
class NotNow:
    """Why a chat gave no message, and for how long it is no use to ask again.

    ``scheduled`` is set where all that waits is a message that is due within the minute: the first one.
    """

    reason: Literal["empty", "in_flight", "waits", "executor", "contended"]
    wait_seconds: float
    scheduled: Waiting | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """What a settle did: the row's new status, or ``None`` where the claim was no longer ours (a late settle)."""

    status: str | None
    wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """A message whose claim had expired, the status it has now, and which attempt ended with the claim."""

    id: UUID
    seq: int
    chat: ChatKey
    status: str
    priority: int
    attempt: int
    wait_seconds: float


class Claims:
    """The guarded writes of workers."""

    def __init__(self, database: Database, *, worker: str, lease_seconds: float, stale_after_seconds: float) -> None:
        self._database = database
        self._worker = worker
        self._lease_seconds = lease_seconds
        self._stale_after_seconds = stale_after_seconds

    async def claim(self, chats: Sequence[ChatKey], executors: Sequence[str]) -> list[Claim | NotNow]:
        """Claim the head of each chat; answer in the order of ``chats``, which must be distinct."""
        return await _halving(chats, lambda part: self._claim(part, executors), _contended)

    async def _claim(self, chats: Sequence[ChatKey], executors: Sequence[str]) -> list[Claim | NotNow]:
        rows = await self._database.rows(
            statements.CLAIM,
            instances=text_array(chat.instance for chat in chats),
            chat_ids=text_array(chat.chat_id for chat in chats),
            executors=text_array(executors),
            worker=self._worker,
            lease_seconds=self._lease_seconds,
        )
        return [_answer(row) for row in rows]

    async def settle(self, settlements: Sequence[tuple[Claim, Settlement]]) -> list[Settled]:
        """Write settlements under their claims, in the order given; safe to repeat after a broken connection."""
        return await _halving(settlements, self._settle, _uncontended)

    async def _settle(self, settlements: Sequence[tuple[Claim, Settlement]]) -> list[Settled]:
        rows = await self._database.rows(
            statements.SETTLE,
            ids=plain_array(claim.message.id for claim, _ in settlements),
            claim_ids=plain_array(claim.claim_id for claim, _ in settlements),
            statuses=text_array(s.status for _, s in settlements),
            attempts=plain_array(int(s.counts_attempt) for _, s in settlements),
            backoffs=plain_array(s.backoff_seconds for _, s in settlements),
            gaps=plain_array(s.gap_seconds for _, s in settlements),
            instance_waits=plain_array(s.instance_wait_seconds for _, s in settlements),
            errors=text_array(s.error for _, s in settlements),
            provider_ids=text_array(s.provider_id for _, s in settlements),
        )
        statuses = {row.place: row.status for row in rows}
        return [
            Settled(statuses.get(place), _wait_seconds(settlement))
            for place, (_, settlement) in enumerate(settlements, start=1)
        ]

    async def renew(self, claims: Sequence[Claim]) -> set[UUID]:
        """Lengthen the leases of ``claims`` to now + lease; return the claim ids that are still ours."""
        rows = await self._database.rows(
            statements.RENEW,
            ids=plain_array(claim.message.id for claim in claims),
            claim_ids=plain_array(claim.claim_id for claim in claims),
            lease_seconds=self._lease_seconds,
            stale_after_seconds=self._stale_after_seconds,
        )
        return {row.claim_id for row in rows}

    async def release_strays(self, held: Sequence[Claim]) -> int:
        """Give back, uncounted, what this worker claimed without hearing of it; ``held`` is all that it knows of."""
        rows = await self._database.rows(
            statements.RELEASE_STRAYS, worker=self._worker, claim_ids=plain_array(claim.claim_id for claim in held)
        )
        return len(rows)

    async def reclaim(self, *, gap_min_seconds: float, gap_max_seconds: float, limit: int = 500) -> list[Reclaimed]:
        """Take back at most ``limit`` expired claims: an attempt is counted, the chat waits a gap."""
        rows = await self._database.rows(
            statements.RECLAIM,
            lease_seconds=self._lease_seconds,
            stale_after_seconds=self._stale_after_seconds,
            gap_min=gap_min_seconds,
            gap_span=gap_max_seconds - gap_min_seconds,
            limit=limit,
        )
        return [
            Reclaimed(r.id, r.seq, ChatKey(r.instance, r.chat_id), r.status, r.priority, r.retry_count, r.wait_seconds)
            for r in rows
        ]


async def _halving(
    items: Sequence[T], run: Callable[[Sequence[T]], Awaitable[list[R]]], alone: Callable[[], R | None]
) -> list[R]:
    """Run a batch; where two transactions met, run its halves, so that one chat never fails another.

    A single item that still meets another answers ``alone()``, or raises where that is ``None``.
    """
    if not items:
        return []
    try:
        return await run(items)
    except StatementFailed as error:
        if error.sqlstate not in CONTENTION:
            raise
        if len(items) == 1:
            answer = alone()
            if answer is None:
                raise
            return [answer]
        middle = len(items) // 2
        return [*await _halving(items[:middle], run, alone), *await _halving(items[middle:], run, alone)]


def _contended() -> NotNow:
    return NotNow("contended", _ask_again_seconds("contended", 0.0))


def _uncontended() -> None:
    return None


def _wait_seconds(settlement: Settlement) -> float:
    return max(settlement.gap_seconds or 0.0, settlement.backoff_seconds, settlement.instance_wait_seconds)


def _ask_again_seconds(verdict: str, wait_seconds: float) -> float:
    match verdict:
        case "in_flight":
            # Its end announces the chat; asking again covers an end that could not (its worker died, Redis lost it).
            return min(max(wait_seconds, 0.5), 5.0)
        case "executor":
            return 1.0
        case "contended":
            return 0.05
        case _:
            return max(wait_seconds, 0.0)


def _answer(row: Any) -> Claim | NotNow:
    if row.claim_id is None:
        wait_seconds = _ask_again_seconds(row.verdict, float(row.wait_seconds or 0.0))
        return NotNow(row.verdict, wait_seconds, _scheduled(row, wait_seconds) if row.verdict == "waits" else None)
    # Unpacked at once, in the statement's order: to look each column up by its name costs as much as all else here.
    (
        instance, chat_id, _verdict, _wait_seconds, _soon_id, _soon_seq, _soon_priority, free_seconds,
        message_id, claim_id, seq, client_id, stored, is_group, executor,
        priority, retry_count, max_retries, created_at, waited_seconds,
    ) = row  # fmt: skip
    payload, undecodable = _decode(stored)
    message = Message(
        id=message_id,
        instance=instance,
        client_id=client_id,
        chat_id=chat_id,
        payload=payload,
        is_group=is_group,
        executor=executor,
        priority=priority,
        retry_count=retry_count,
        max_retries=max_retries,
        created_at=created_at,
    )
    lag_seconds = waited_seconds if free_seconds is None or waited_seconds < free_seconds else free_seconds
    return Claim(claim_id, seq, message, undecodable, waited_seconds, lag_seconds)


def _scheduled(row: Any, due_seconds: float) -> Waiting | None:
    if row.soon_id is None:
        return None
    return Waiting(row.soon_id, row.soon_seq, ChatKey(row.instance, row.chat_id), row.soon_priority, due_seconds)


def _decode(stored: str) -> tuple[dict[str, Any], str | None]:
    # Here and not in the driver: one row that cannot be decoded must not fail the claims of all the others.
    try:
        payload = json.loads(stored)
    except (ValueError, RecursionError) as error:
        return {}, f"the payload cannot be read ({type(error).__name__})"
    if not isinstance(payload, dict):
        return {}, f"the payload is not a JSON object but {type(payload).__name__}"
    return payload, None
