"""``message_queue_instances``: the settings and the state of a sending account."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, Column, Double, Integer, Text
from sqlmodel import Field

from .base import READABLE, Row, timestamp


class Instance(Row, table=True):
    """One row an account that was initialized, has a cleanup of its own, or was told to wait.

    ``client_id`` is the tenant that initialized it; ``next_at`` holds all of its chats until then;
    ``clean_every_hours`` and ``retention_days`` replace the settings' defaults, ``cleaned_at`` is its last clean.
    """

    __tablename__ = "message_queue_instances"
    __table_args__ = (
        # Bounded above as well: one number put in by hand that no interval can hold would stop the cleaning of all.
        CheckConstraint(
            "clean_every_hours > 0 AND clean_every_hours <= 8784", name="message_queue_instances_clean_every_hours"
        ),
        CheckConstraint(
            "retention_days > 0 AND retention_days <= 36500", name="message_queue_instances_retention_days"
        ),
        CheckConstraint(f"cleaned_at BETWEEN {READABLE}", name="message_queue_instances_cleaned_at"),
    )

    instance: str = Field(sa_column=Column(Text, primary_key=True))
    client_id: int | None = Field(default=None, sa_column=Column(Integer))
    next_at: datetime | None = Field(default=None, sa_column=timestamp(default="'epoch'", nullable=False))
    clean_every_hours: float | None = Field(default=None, sa_column=Column(Double))
    retention_days: float | None = Field(default=None, sa_column=Column(Double))
    cleaned_at: datetime | None = Field(default=None, sa_column=timestamp())
    created_at: datetime | None = Field(default=None, sa_column=timestamp(default="clock_timestamp()", nullable=False))
