"""What our tables share."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, DateTime, MetaData, text
from sqlmodel import SQLModel

READABLE = "'0002-01-01 00:00+00' AND '9999-01-01 00:00+00'"
"""The driver knows no infinity and no year beyond 9999: one such row would fail everything that it is read with."""


class Row(SQLModel):
    """Base of our tables. Its metadata is its own: an application's `create_all` or autogenerate leaves them alone."""

    metadata = MetaData()


def timestamp(*, default: str | None = None, nullable: bool = True) -> Any:
    """A ``timestamptz`` column, with a server default where the row must work when put in by plain SQL."""
    return Column(DateTime(timezone=True), nullable=nullable, server_default=text(default) if default else None)
