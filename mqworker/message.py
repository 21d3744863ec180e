"""The values that travel: what a producer hands in, what it gets back, what an executor receives."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

Payload = dict[str, Any]
"""A message's content: a JSON object."""


class ChatKey(NamedTuple):
    """The ordering key: one chat of one sending account."""

    instance: str
    chat_id: str


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A validated message on its way into the database. Made by :mod:`mqworker.validation` only."""

    id: UUID
    id_is_callers: bool
    instance: str
    client_id: int
    chat_id: str
    payload_json: str = field(repr=False)
    is_group: bool
    executor: str
    priority: int
    max_retries: int
    scheduled_at: datetime | None

    @property
    def chat(self) -> ChatKey:
        return ChatKey(self.instance, self.chat_id)


@dataclass(frozen=True, slots=True)
class Enqueued:
    """What ``enqueue`` returns. ``deduplicated`` is true where the id was there already, with the same content."""

    id: UUID
    seq: int
    status: str
    deduplicated: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """One message as an executor gets it.

    ``id`` is the idempotency key: it stays the same over every attempt. ``attempt`` counts from 1;
    ``last_attempt`` says that a failure now is final.
    """

    id: UUID
    instance: str
    client_id: int
    chat_id: str
    payload: Payload = field(repr=False)
    is_group: bool
    executor: str
    priority: int
    retry_count: int
    max_retries: int
    created_at: datetime

    @property
    def attempt(self) -> int:
        return self.retry_count + 1

    @property
    def last_attempt(self) -> bool:
        return self.attempt >= self.max_retries


@dataclass(frozen=True, slots=True)
class QueueStats:
    """How many messages are in each state; always all five."""

    pending: int = 0
    processing: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def total(self) -> int:
        return self.pending + self.processing + self.completed + self.failed + self.cancelled
