"""``message_queue_duties``: which worker does which sweep, as a leased row on PostgreSQL's clock."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Column, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field

from .base import Row, timestamp


class Duty(Row, table=True):
    """One row a duty: ``owner`` holds it ``until`` then; ``last_done_at`` says when it is due again.

    ``progress`` is where a long walk goes on, whoever goes on with it.
    """

    __tablename__ = "message_queue_duties"

    name: str = Field(sa_column=Column(Text, primary_key=True))
    owner: str | None = Field(default=None, sa_column=Column(Text))
    until: datetime | None = Field(default=None, sa_column=timestamp(default="'epoch'", nullable=False))
    last_done_at: datetime | None = Field(default=None, sa_column=timestamp())
    progress: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONB))
