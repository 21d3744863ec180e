"""``message_queue_items``: one row a message. What is in this table exists; all else is a view of it."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import BigInteger, CheckConstraint, Column, Identity, Index, Integer, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlmodel import Field

from .base import READABLE, Row, timestamp


class Status(enum.StrEnum):
    """The five states of a message, stored as these words.

    PENDING → PROCESSING by a claim; PROCESSING → COMPLETED, FAILED, PENDING or CANCELLED by the settle of that claim,
    PROCESSING → PENDING or FAILED by reclaim; PENDING → CANCELLED by cancel. The last three are final.
    """

    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


_TIMES = (
    "created_at",
    "updated_at",
    "scheduled_at",
    "available_at",
    "lease_expires_at",
    "cancel_requested_at",
    "processing_started_at",
    "processed_at",
)


class Item(Row, table=True):
    """One message.

    Every column has a server default where one makes sense, so that a row inserted by plain SQL is delivered.
    """

    __tablename__ = "message_queue_items"
    __table_args__ = (
        CheckConstraint(
            "status IN ('PENDING', 'PROCESSING', 'COMPLETED', 'FAILED', 'CANCELLED')", name="message_queue_items_status"
        ),
        CheckConstraint("char_length(instance) BETWEEN 1 AND 255", name="message_queue_items_instance"),
        CheckConstraint("char_length(chat_id) BETWEEN 1 AND 255", name="message_queue_items_chat_id"),
        CheckConstraint(
            " AND ".join(f"{time} BETWEEN {READABLE}" for time in _TIMES), name="message_queue_items_times"
        ),
        CheckConstraint("seq >= 0", name="message_queue_items_seq"),
        # The head of a chat is the first entry of a range of this index; what is scheduled for later stands behind
        # '-infinity' and is not walked over. The collation ties the claim to this index, whatever the statistics say.
        Index(
            "message_queue_items_head",
            "instance",
            "chat_id",
            text('status COLLATE "C"'),
            text("COALESCE(scheduled_at, '-infinity'::timestamptz)"),
            text("priority DESC"),
            "seq",
        ),
        # Keyset pages of rebuild, reconcile and clean.
        Index("message_queue_items_status", "status", "created_at", "seq"),
        Index("message_queue_items_client", "client_id", "status"),
        # P4 as a fact of the database: no bug above can put two messages of a chat in flight.
        Index(
            "message_queue_items_one_in_flight",
            "instance",
            "chat_id",
            unique=True,
            postgresql_where=text("status = 'PROCESSING'"),
        ),
        # A third of each page is left free for new versions of its rows, and vacuum comes after a fixed number of
        # changes: a share of a big table would let a queue's dead rows pile up for hours.
        {
            "postgresql_with": {
                "fillfactor": 70,
                "autovacuum_vacuum_scale_factor": 0.0,
                "autovacuum_vacuum_threshold": 20000,
                "autovacuum_vacuum_insert_scale_factor": 0.0,
                "autovacuum_vacuum_insert_threshold": 100000,
                "autovacuum_analyze_scale_factor": 0.05,
                "autovacuum_vacuum_cost_delay": 0,
            }
        },
    )

    id: UUID = Field(
        default_factory=uuid4,
        sa_column=Column(PG_UUID(as_uuid=True), primary_key=True, server_default=text("gen_random_uuid()")),
    )
    seq: int | None = Field(default=None, sa_column=Column(BigInteger, Identity(cache=1), nullable=False))
    instance: str = Field(sa_column=Column(Text, nullable=False))
    chat_id: str = Field(sa_column=Column(Text, nullable=False))
    client_id: int = Field(sa_column=Column(Integer, nullable=False))
    status: str = Field(default=Status.PENDING, sa_column=Column(Text, nullable=False, server_default="PENDING"))
    priority: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    payload: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    is_group: bool = Field(default=False, nullable=False, sa_column_kwargs={"server_default": text("false")})
    executor: str = Field(default="default", sa_column=Column(Text, nullable=False, server_default="default"))
    retry_count: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    max_retries: int = Field(default=3, sa_column=Column(Integer, nullable=False, server_default=text("3")))
    error: str | None = Field(default=None, sa_column=Column(Text))
    provider_id: str | None = Field(default=None, sa_column=Column(Text))
    claim_id: UUID | None = Field(default=None, sa_column=Column(PG_UUID(as_uuid=True)))
    worker: str | None = Field(default=None, sa_column=Column(Text))
    lease_expires_at: datetime | None = Field(default=None, sa_column=timestamp())
    scheduled_at: datetime | None = Field(default=None, sa_column=timestamp())
    available_at: datetime | None = Field(default=None, sa_column=timestamp())
    cancel_requested_at: datetime | None = Field(default=None, sa_column=timestamp())
    created_at: datetime | None = Field(default=None, sa_column=timestamp(default="clock_timestamp()", nullable=False))
    updated_at: datetime | None = Field(default=None, sa_column=timestamp(default="clock_timestamp()", nullable=False))
    processing_started_at: datetime | None = Field(default=None, sa_column=timestamp())
    processed_at: datetime | None = Field(default=None, sa_column=timestamp())
