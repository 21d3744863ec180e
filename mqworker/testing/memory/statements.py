"""What enqueues, duties and pages do to the rows in memory, and the table of all statements.

Each is atomic; that it is what the SQL does is shown by ``tests/conformance``.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable
from datetime import datetime
from types import SimpleNamespace
from typing import NamedTuple
from uuid import UUID

from mqworker.message import ChatKey
from mqworker.store import database, duties, enqueues, pages, statements
from mqworker.testing.memory import admin, claims, stats
from mqworker.testing.memory.tables import (
    DAY_SECONDS,
    Answers,
    DutyRow,
    Parameters,
    Row,
    Statement,
    Tables,
    ids_of,
    timestamp,
    values_of,
)

# enqueues


def new_rows(tables: Tables, given: Parameters) -> list[Row]:
    """The rows of an INSERT, with the seq and the time that they keep; a row that is refused has drawn a seq, too."""
    now = tables.now
    names = ("instances", "chat_ids", "client_ids", "payloads", "groups", "executors", "priorities", "max_retries")
    columns = zip(ids_of(given["ids"]), *(values_of(given[n]) for n in (*names, "scheduled_ats")), strict=True)
    return [
        Row(
            message_id,
            tables.next_seq(),
            ChatKey(instance, chat_id),
            int(client_id),
            payload,
            is_group == "True",
            executor,
            int(priority),
            int(max_retries),
            None if scheduled_at is None else datetime.fromisoformat(scheduled_at).timestamp(),
            created_at=now,
            updated_at=now,
        )
        for (
            message_id, instance, chat_id, client_id, payload, is_group, executor, priority, max_retries, scheduled_at,
        ) in columns
    ]  # fmt: skip


def commit(tables: Tables, rows: Iterable[Row]) -> Answers:
    """Make an INSERT's rows visible; what is there already stays."""
    stored = []
    for row in rows:
        if row.id not in tables.items:
            tables.add(row)
            tables.note("insert", row.id, row.chat, row.seq)
            stored.append(SimpleNamespace(id=row.id, seq=row.seq))
    return stored


def _insert(tables: Tables, given: Parameters, began: float) -> Answers:
    return commit(tables, new_rows(tables, given))


def _compare(tables: Tables, given: Parameters, began: float) -> Answers:
    names = ("instances", "chat_ids", "client_ids", "executors", "payloads")
    answers = []
    for message_id, *content in zip(ids_of(given["ids"]), *(values_of(given[n]) for n in names), strict=True):
        row = tables.items.get(message_id)
        if row is not None:
            *there, payload = row.chat.instance, row.chat.chat_id, str(row.client_id), row.executor, row.payload
            same = there == content[:-1] and json.loads(payload) == json.loads(content[-1])
            answers.append(SimpleNamespace(id=row.id, seq=row.seq, status=row.status, same=same))
    return answers


# duties


def _take(tables: Tables, given: Parameters, began: float) -> Answers:
    now, name = tables.now, given["name"]
    duty = tables.duties.get(name)
    if duty is None:
        duty = tables.duties[name] = DutyRow(given["owner"], 0.0)
    elif duty.until > now or not (given["now"] or _is_due(duty, given["every"], now)):
        return []
    duty.owner, duty.until = given["owner"], now + given["hold"]
    if given["hold"] == 0:
        duty.last_done_at = now
    tables.note("duty", name, given["owner"])
    return [(1,)]


def _is_due(duty: DutyRow, every_seconds: float, now: float) -> bool:
    return duty.last_done_at is None or duty.last_done_at + every_seconds <= now


def _hold(tables: Tables, given: Parameters, began: float) -> Answers:
    now, duty = tables.now, tables.duties.get(given["name"])
    if duty is None or duty.owner != given["owner"] or duty.until <= now:
        return []
    duty.until = now + given["hold"]
    return [(1,)]


def _note_progress(tables: Tables, given: Parameters, began: float) -> Answers:
    duty = tables.duties.get(given["name"])
    if duty is None:
        return []
    duty.progress = json.loads(given["progress"])
    return [(1,)]


def _done(tables: Tables, given: Parameters, began: float) -> Answers:
    duty = tables.duties.get(given["name"])
    if duty is None or duty.owner != given["owner"]:
        return []
    duty.until = 0.0
    if given["done"]:
        duty.last_done_at = tables.now
    return [(1,)]


def _progress(tables: Tables, given: Parameters, began: float) -> Answers:
    duty = tables.duties.get(given["name"])
    return [] if duty is None else [(duty.progress,)]


# pages


def _page(tables: Tables, given: Parameters, began: float) -> Answers:
    waiting = sorted(
        (row for row in tables.items.values() if row.status == "PENDING"), key=lambda row: (row.created_at, row.seq)
    )
    start = 0
    if "after" in given:
        after = given["after"].timestamp(), given["after_seq"] + 1
        start = bisect_left(waiting, after, key=lambda row: (row.created_at, row.seq))
    return [_waiting(tables, row) for row in waiting[start : start + given["limit"]]]


def _instance_page(tables: Tables, given: Parameters, began: float) -> Answers:
    after = given["chat_id"], given["seq"]
    waiting = sorted(
        (row.chat.chat_id, row.seq, row.id)
        for row in tables.items.values()
        if row.status == "PENDING" and row.chat.instance == given["instance"]
    )
    return [_waiting(tables, tables.items[key]) for *place, key in waiting if tuple(place) > after][: given["limit"]]


class WaitingRow(NamedTuple):
    """A row of a page, in the order of its columns."""

    id: UUID
    seq: int
    instance: str
    chat_id: str
    priority: int
    created_at: datetime
    due_seconds: float


def _waiting(tables: Tables, row: Row) -> WaitingRow:
    due = 0.0 if row.scheduled_at is None else max(row.scheduled_at - tables.now, 0.0)
    return WaitingRow(
        id=row.id,
        seq=row.seq,
        instance=row.chat.instance,
        chat_id=row.chat.chat_id,
        priority=row.priority,
        created_at=timestamp(row.created_at),
        due_seconds=min(due, 365 * DAY_SECONDS),
    )


def _window_start(tables: Tables, given: Parameters, began: float) -> Answers:
    return [(timestamp(min([tables.now - given["window"], *tables.open_inserts.values()])),)]


def _nothing(tables: Tables, given: Parameters, began: float) -> Answers:
    return []


STATEMENTS: dict[str, Statement] = {
    statements.CLAIM: claims.claim,
    statements.SETTLE: claims.settle,
    statements.RENEW: claims.renew,
    statements.RELEASE_STRAYS: claims.release_strays,
    statements.RECLAIM: claims.reclaim,
    enqueues.INSERT: _insert,
    enqueues.COMPARE: _compare,
    duties.TAKE: _take,
    duties.HOLD: _hold,
    duties.NOTE: _note_progress,
    duties.DONE: _done,
    duties.PROGRESS: _progress,
    pages.FIRST_PAGE: _page,
    pages.NEXT_PAGE: _page,
    pages.INSTANCE_PAGE: _instance_page,
    pages.WINDOW_START: _window_start,
    database.OWN_PLAN: _nothing,
    **admin.STATEMENTS,
    **stats.STATEMENTS,
}
