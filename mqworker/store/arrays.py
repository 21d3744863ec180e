"""PostgreSQL array literals for whole columns of a batch.

The driver's own list adapter looks at each element anew: 5 µs for a text, which is more than all else that a batch
costs in Python. The literal is cast in the statement, so its type is checked there.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID


def plain_array(values: Iterable[UUID | int | float | bool | None]) -> str:
    """A literal of values whose text needs no quotes."""
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


def text_array(values: Iterable[str | None]) -> str:
    """A literal of texts; every one is quoted, so that no content can end it."""
    return "{" + ",".join([_quoted(value) for value in values]) + "}"


def _quoted(value: str | None) -> str:
    if value is None:
        return "NULL"
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
