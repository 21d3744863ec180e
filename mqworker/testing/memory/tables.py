"""PostgreSQL's rows in memory, and the few looks and writes that hold the promises."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any
from uuid import UUID

from mqworker.message import ChatKey

Note = Callable[..., None]
Parameters = dict[str, Any]
Answers = list[Any]

OPEN_STATUSES = ("PENDING", "PROCESSING")
HOUR_SECONDS = 3600.0
DAY_SECONDS = 24 * HOUR_SECONDS


@dataclass(slots=True, eq=False)
class Row:
    """One message; times are seconds on the tables' clock."""

    id: UUID
    seq: int
    chat: ChatKey
    client_id: int
    payload: str
    is_group: bool
    executor: str
    priority: int
    max_retries: int
    scheduled_at: float | None
    created_at: float
    updated_at: float
    status: str = "PENDING"
    retry_count: int = 0
    error: str | None = None
    provider_id: str | None = None
    claim_id: UUID | None = None
    worker: str | None = None
    lease_expires_at: float | None = None
    available_at: float | None = None
    cancel_requested_at: float | None = None
    processing_started_at: float | None = None
    processed_at: float | None = None

    @property
    def rank(self) -> tuple[int, int]:
        """The lowest goes first."""
        return -self.priority, self.seq

    @property
    def arrival(self) -> tuple[float, int]:
        """The lowest came first."""
        return self.created_at, self.seq


@dataclass(slots=True)
class AccountRow:
    """One account; all of its chats wait until ``next_at``."""

    next_at: float = 0.0
    client_id: int | None = None
    clean_every_hours: float | None = None
    retention_days: float | None = None
    cleaned_at: float | None = None


@dataclass(slots=True)
class DutyRow:
    owner: str
    until: float
    last_done_at: float | None = None
    progress: Any = None


class Tables:
    """All rows. ``note`` hears of every change, for whoever judges the run."""

    def __init__(self, clock: Callable[[], float], rng: Random, note: Note) -> None:
        self._clock = clock
        self.rng = rng
        self.note = note
        self.contention = 0.0
        """How often a claim that could be had meets another transaction."""
        self.verdicts: Counter[str] = Counter()
        self.started_at = -DAY_SECONDS
        self.items: dict[UUID, Row] = {}
        self.by_chat: dict[ChatKey, list[Row]] = {}
        self.chats: dict[ChatKey, float] = {}
        self.accounts: dict[str, AccountRow] = {}
        self.duties: dict[str, DutyRow] = {}
        self.open_inserts: dict[tuple[str, int], float] = {}
        """When each transaction began that has inserted and not yet committed."""
        self._seq = 0

    @property
    def now(self) -> float:
        """In microseconds, as PostgreSQL's timestamps are."""
        return round(self._clock(), 6)

    def next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def add(self, row: Row) -> None:
        self.items[row.id] = row
        self.by_chat.setdefault(row.chat, []).append(row)

    def remove(self, row: Row) -> None:
        del self.items[row.id]
        self.by_chat[row.chat].remove(row)

    def of(self, given: Parameters) -> list[Row]:
        """The rows of the account and of the chat that a statement names, if it does."""
        instance, chat_id = given.get("instance"), given.get("chat_id")
        return [
            row
            for row in self.items.values()
            if instance in (None, row.chat.instance) and chat_id in (None, row.chat.chat_id)
        ]

    def account(self, instance: str) -> AccountRow:
        return self.accounts.setdefault(instance, AccountRow())

    def abandon(self, owner: str) -> None:
        """Roll back the transactions of a process that died."""
        for key in [key for key in self.open_inserts if key[0] == owner]:
            del self.open_inserts[key]

    # The parts of the claim and of the settle that hold the promises.

    def flight_of(self, chat: ChatKey) -> Row | None:
        return next((row for row in self.by_chat.get(chat, ()) if row.status == "PROCESSING"), None)

    def head_of(self, chat: ChatKey, now: float) -> Row | None:
        waiting = [
            row
            for row in self.by_chat.get(chat, ())
            if row.status == "PENDING" and (row.scheduled_at is None or row.scheduled_at <= now)
        ]
        return min(waiting, key=lambda row: row.rank, default=None)

    def held_by(self, message_id: UUID, claim_id: UUID) -> Row | None:
        row = self.items.get(message_id)
        return row if row is not None and row.claim_id == claim_id else None

    def pace(self, chat: ChatKey, until: float) -> None:
        self.chats[chat] = max(self.chats.get(chat, 0.0), until)

    def count_attempt(self, row: Row) -> None:
        row.retry_count += 1


# what goes into a statement, and comes out

_VALUE = re.compile(r'"((?:[^"\\]|\\.)*)"|([^,{}]+)', re.DOTALL)


def values_of(literal: str) -> list[Any]:
    """What stands in an array literal, as text."""
    values = []
    for match in _VALUE.finditer(literal):
        bare = match[2]
        values.append(re.sub(r"\\(.)", r"\1", match[1], flags=re.DOTALL) if bare is None else bare)
        if bare == "NULL":
            values[-1] = None
    return values


def ids_of(literal: str) -> list[UUID]:
    return [UUID(value) for value in values_of(literal)]


def timestamp(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


Statement = Callable[[Tables, Parameters, float], Answers]
"""What a statement does, given its parameters and when its client asked; it returns its rows."""
