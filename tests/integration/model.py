"""What the queue promises, in plain Python: a message's states, a chat's head, what holds it back.

Times are not modelled: what waits, waits an hour, and a rule of the state machine ends the wait.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from mqworker.lifecycle import Settlement
from mqworker.message import ChatKey

FINAL = {"COMPLETED", "FAILED", "CANCELLED"}
When = Literal["now", "past", "soon", "far"]


@dataclass
class Row:
    """One message as the model knows it. ``content`` is what makes a repeated id a repeat."""

    id: UUID
    seq: int
    chat: ChatKey
    content: tuple[object, ...]
    executor: str
    priority: int
    max_retries: int
    when: When
    status: str = "PENDING"
    retry_count: int = 0
    claim_id: UUID | None = None
    expired: bool = False
    backs_off: bool = False
    cancel_requested: bool = False
    error: str | None = None
    provider_id: str | None = None
    aged: int = 0
    ended_long_ago: bool = False

    @property
    def created_long_ago(self) -> bool:
        """Whether its days went by; the one with the highest ``aged`` was the last."""
        return self.aged > 0

    def end(self, status: str) -> None:
        assert self.status not in FINAL, "nothing leaves a final state"
        self.status = status


@dataclass
class Model:
    """All rows, and which chats and accounts wait."""

    rows: dict[UUID, Row] = field(default_factory=dict)
    waiting_chats: set[ChatKey] = field(default_factory=set)
    waiting_accounts: set[str] = field(default_factory=set)
    owners: dict[str, int] = field(default_factory=dict)
    accepted: int = 0
    cleaned: int = 0

    def add(self, rows: Iterable[Row]) -> None:
        for row in rows:
            assert row.id not in self.rows
            self.rows[row.id] = row
            self.accepted += 1

    def of(self, chat: ChatKey, *statuses: str) -> list[Row]:
        found = [row for row in self.rows.values() if row.chat == chat and row.status in statuses]
        return sorted(found, key=lambda row: (-row.priority, row.seq))

    def line(self, chat: ChatKey) -> list[Row]:
        """What waits in a chat's line, its head first; what is scheduled for later stands outside."""
        return [row for row in self.of(chat, "PENDING") if row.when in ("now", "past")]

    def verdict(self, chat: ChatKey, executors: Collection[str]) -> Row | str:
        """The row that a claim must take, or why it must take none."""
        line = self.line(chat)
        if self.of(chat, "PROCESSING"):
            return "in_flight"
        if not line:
            return "waits" if any(row.when == "soon" for row in self.of(chat, "PENDING")) else "empty"
        if chat in self.waiting_chats or chat.instance in self.waiting_accounts or line[0].backs_off:
            return "waits"
        return line[0] if line[0].executor in executors else "executor"

    def claim(self, row: Row, claim_id: UUID) -> None:
        row.status, row.claim_id, row.expired = "PROCESSING", claim_id, False

    def holds(self, message_id: UUID, claim_id: UUID) -> Row | None:
        row = self.rows.get(message_id)
        return row if row is not None and row.claim_id == claim_id else None

    def settle(self, message_id: UUID, claim_id: UUID, told: Settlement) -> str | None:
        """The row's status afterwards; ``None`` where the claim was lost."""
        row = self.holds(message_id, claim_id)
        if row is None or row.status != "PROCESSING":
            return None if row is None else row.status
        cancelled = row.cancel_requested and told.status != "COMPLETED"
        row.end("CANCELLED" if cancelled else told.status)
        row.retry_count += told.counts_attempt
        row.backs_off = told.backoff_seconds > 0
        row.error, row.provider_id = told.error, told.provider_id or row.provider_id
        if told.gap_seconds:
            self.waiting_chats.add(row.chat)
        if told.instance_wait_seconds:
            self.waiting_accounts.add(row.chat.instance)
        return row.status

    def reclaim(self) -> int:
        """Take back what has expired; each of its chats waits a gap."""
        expired = [row for row in self.rows.values() if row.status == "PROCESSING" and row.expired]
        for row in expired:
            row.retry_count += 1
            last = row.retry_count >= row.max_retries
            row.end("CANCELLED" if row.cancel_requested else "FAILED" if last else "PENDING")
            row.claim_id, row.backs_off, row.error = None, False, "LeaseExpired"
            self.waiting_chats.add(row.chat)
        return len(expired)

    def cancel(self, row: Row) -> str:
        match row.status:
            case "PENDING":
                row.end("CANCELLED")
                row.cancel_requested, row.backs_off = True, False
                return "cancelled"
            case "PROCESSING":
                row.cancel_requested = True
                return "too_late"
            case _:
                return "finished"

    def clean(self, instance: str | None) -> int:
        """Forget what was made and ended long ago."""
        gone = [row for row in self.rows.values() if row.ended_long_ago and instance in (None, row.chat.instance)]
        for row in gone:
            del self.rows[row.id]
        self.cleaned += len(gone)
        return len(gone)

    def counts(self, instance: str, client_id: int | None = None) -> Counter[str]:
        return Counter(
            row.status.lower()
            for row in self.rows.values()
            if row.chat.instance == instance and client_id in (None, row.content[0])
        )
