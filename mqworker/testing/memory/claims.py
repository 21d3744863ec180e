"""What a worker's guarded statements do to the rows in memory: claim, settle, renew, reclaim.

Each is atomic; that it is what the SQL does is shown by ``tests/conformance``. ``began`` is when the client asked.
"""

from __future__ import annotations

from datetime import datetime
from types import SimpleNamespace
from typing import NamedTuple
from uuid import UUID

from mqworker.message import ChatKey
from mqworker.testing.memory.tables import (
    DAY_SECONDS,
    Answers,
    Parameters,
    Row,
    Tables,
    ids_of,
    timestamp,
    values_of,
)


class ClaimRow(NamedTuple):
    """What the claim tells of one chat, in the order of its columns; what is only counted stays as it is."""

    instance: str
    chat_id: str
    verdict: str
    wait_seconds: float | None = None
    soon_id: UUID | None = None
    soon_seq: int | None = None
    soon_priority: int | None = None
    free_seconds: float | None = None
    id: UUID | None = None
    claim_id: UUID | None = None
    seq: int | None = None
    client_id: int | None = None
    payload: str | None = None
    is_group: bool | None = None
    executor: str | None = None
    priority: int | None = None
    retry_count: int | None = None
    max_retries: int | None = None
    created_at: datetime | None = None
    waited_seconds: float = 0.0


def claim(tables: Tables, given: Parameters, began: float) -> Answers:
    executors = set(values_of(given["executors"]))
    now = tables.now
    chats = map(ChatKey, values_of(given["instances"]), values_of(given["chat_ids"]))
    answers = [_claim_one(tables, chat, executors, given, now, began) for chat in chats]
    tables.verdicts.update(answer.verdict for answer in answers)
    return answers


def _claim_one(
    tables: Tables, chat: ChatKey, executors: set[str], given: Parameters, now: float, began: float
) -> ClaimRow:
    flight = tables.flight_of(chat)
    if flight is not None:
        return _not_now("in_flight", chat, flight.lease_expires_at, now)
    head = tables.head_of(chat, now)
    soon = None if head else _soon_due(tables, chat, now)
    backoff = head.available_at if head else None
    account = tables.account(chat.instance).next_at
    times = (tables.chats.get(chat), account, backoff, soon.scheduled_at if soon else None)
    until = max((time for time in times if time is not None), default=now)
    if head is None and soon is None:
        return _not_now("empty", chat, until, now)
    if until > now:
        return _not_now("waits", chat, until, now, soon)
    assert head is not None, "what is due soon lies in the future"
    if head.executor not in executors:
        return _not_now("executor", chat, None, now)
    if tables.contention and tables.rng.random() < tables.contention:
        return _not_now("contended", chat, None, now)
    tables.chats.setdefault(chat, 0.0)
    head.status, head.claim_id, head.worker = "PROCESSING", _new_id(tables), given["worker"]
    head.lease_expires_at = now + given["lease_seconds"]
    head.processing_started_at = head.updated_at = now
    tables.note("claim", head.id, chat, head.claim_id, head.worker, began)
    return _claimed(head)


def _soon_due(tables: Tables, chat: ChatKey, now: float) -> Row | None:
    waiting = [row for row in tables.by_chat.get(chat, ()) if row.status == "PENDING" and row.scheduled_at]
    due = [row for row in waiting if now < (row.scheduled_at or 0.0) <= now + 60]
    return min(due, key=lambda row: row.scheduled_at or 0.0, default=None)


def _new_id(tables: Tables) -> UUID:
    return UUID(int=tables.rng.getrandbits(128), version=4)


def _not_now(verdict: str, chat: ChatKey, until: float | None, now: float, soon: Row | None = None) -> ClaimRow:
    wait = None if until is None or until <= now else min(until - now, DAY_SECONDS)
    return ClaimRow(
        chat.instance,
        chat.chat_id,
        verdict,
        wait,
        soon_id=soon.id if soon else None,
        soon_seq=soon.seq if soon else None,
        soon_priority=soon.priority if soon else None,
    )


def _claimed(row: Row) -> ClaimRow:
    return ClaimRow(
        verdict="claimed",
        claim_id=row.claim_id,
        id=row.id,
        seq=row.seq,
        instance=row.chat.instance,
        chat_id=row.chat.chat_id,
        client_id=row.client_id,
        payload=row.payload,
        is_group=row.is_group,
        executor=row.executor,
        priority=row.priority,
        retry_count=row.retry_count,
        max_retries=row.max_retries,
        created_at=timestamp(row.created_at),
    )


_SETTLED = ("statuses", "attempts", "backoffs", "gaps", "instance_waits", "errors", "provider_ids")


def settle(tables: Tables, given: Parameters, began: float) -> Answers:
    told = zip(
        ids_of(given["ids"]), ids_of(given["claim_ids"]), *(values_of(given[name]) for name in _SETTLED), strict=True
    )
    answers = []
    for place, (message_id, claim_id, status, *rest) in enumerate(told, start=1):
        row = tables.held_by(message_id, claim_id)
        if row is None:
            tables.note("late", message_id, claim_id)
        elif row.status != "PROCESSING":
            tables.note("repeat", message_id, claim_id)
            answers.append(SimpleNamespace(place=place, status=row.status))
        else:
            _settle_one(tables, row, claim_id, status, *rest)
            answers.append(SimpleNamespace(place=place, status=row.status))
    return answers


def _settle_one(
    tables: Tables,
    row: Row,
    claim_id: UUID,
    status: str,
    attempts: str,
    backoff: str,
    gap: str | None,
    instance_wait: str,
    error: str | None,
    provider_id: str | None,
) -> None:
    now = tables.now
    cancelled = row.cancel_requested_at is not None
    row.status = "CANCELLED" if cancelled and status != "COMPLETED" else status
    for _ in range(int(attempts)):
        tables.count_attempt(row)
    row.error, row.provider_id = error, provider_id or row.provider_id
    row.lease_expires_at = None
    row.available_at = now + float(backoff) if float(backoff) > 0 else None
    row.processed_at = now if status != "PENDING" or cancelled else None
    row.updated_at = now
    if gap is not None:
        tables.pace(row.chat, now + float(gap))
    if float(instance_wait) > 0:
        account = tables.account(row.chat.instance)
        account.next_at = max(account.next_at, now + float(instance_wait))
    waits = (float(backoff), None if gap is None else float(gap), float(instance_wait))
    tables.note("settle", row.id, row.chat, claim_id, row.status, bool(int(attempts)), *waits)


def renew(tables: Tables, given: Parameters, began: float) -> Answers:
    now, kept = tables.now, []
    claim_ids = set(ids_of(given["claim_ids"]))
    for message_id in ids_of(given["ids"]):
        row = tables.items.get(message_id)
        if row is None or row.claim_id not in claim_ids or row.status != "PROCESSING":
            continue
        assert row.processing_started_at is not None
        stale_at = row.processing_started_at + given["stale_after_seconds"]
        row.lease_expires_at = min(now + given["lease_seconds"], stale_at)
        kept.append(SimpleNamespace(claim_id=row.claim_id))
    return kept


def release_strays(tables: Tables, given: Parameters, began: float) -> Answers:
    held, released = set(ids_of(given["claim_ids"])), []
    for row in tables.items.values():
        if row.status != "PROCESSING" or row.worker != given["worker"] or row.claim_id in held:
            continue
        cancelled = row.cancel_requested_at is not None
        row.status = "CANCELLED" if cancelled else "PENDING"
        row.processed_at = tables.now if cancelled else None
        row.error = row.lease_expires_at = row.available_at = None
        row.updated_at = tables.now
        released.append(SimpleNamespace(id=row.id))
        tables.note("settle", row.id, row.chat, row.claim_id, row.status, False, 0.0, None, 0.0)
    return released


def reclaim(tables: Tables, given: Parameters, began: float) -> Answers:
    now = tables.now
    if tables.started_at + given["lease_seconds"] >= now:
        return []
    expired = [
        row
        for row in tables.items.values()
        if row.status == "PROCESSING" and row.lease_expires_at is not None and row.lease_expires_at < now
    ]
    expired.sort(key=lambda row: row.id)
    return [_reclaim_one(tables, row, given, now) for row in expired[: given["limit"]]]


def _reclaim_one(tables: Tables, row: Row, given: Parameters, now: float) -> SimpleNamespace:
    claim_id, last = row.claim_id, row.retry_count + 1 >= row.max_retries
    cancelled = row.cancel_requested_at is not None
    row.status = "CANCELLED" if cancelled else "FAILED" if last else "PENDING"
    tables.count_attempt(row)
    row.error = f"LeaseExpired: {row.worker or 'a worker'} stopped renewing its claim"
    row.processed_at = now if cancelled or last else None
    row.claim_id = row.lease_expires_at = row.available_at = None
    row.updated_at = now
    gap = given["gap_min"] + tables.rng.random() * given["gap_span"]
    tables.pace(row.chat, now + gap)
    tables.note("reclaim", row.id, row.chat, claim_id, row.status)
    return SimpleNamespace(
        id=row.id,
        seq=row.seq,
        instance=row.chat.instance,
        chat_id=row.chat.chat_id,
        status=row.status,
        priority=row.priority,
        retry_count=row.retry_count,
        wait_seconds=gap,
    )
