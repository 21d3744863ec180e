"""``message_queue_chats``: when a chat may be sent to again. PostgreSQL holds the time, Redis only knows it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Column, Text
from sqlmodel import Field

from .base import Row, timestamp


class Chat(Row, table=True):
    """One row a chat that was sent to of late; written by each settle and each reclaim, cleaned when idle for a day.

    ``next_at`` is not indexed, so that each of those writes stays inside its page (a heap-only update).
    """

    __tablename__ = "message_queue_chats"
    __table_args__ = (
        {
            "postgresql_with": {
                "fillfactor": 50,
                "autovacuum_vacuum_scale_factor": 0.0,
                "autovacuum_vacuum_threshold": 20000,
                "autovacuum_vacuum_cost_delay": 0,
            }
        },
    )

    instance: str = Field(sa_column=Column(Text, primary_key=True))
    chat_id: str = Field(sa_column=Column(Text, primary_key=True))
    next_at: datetime | None = Field(default=None, sa_column=timestamp(default="'epoch'", nullable=False))
