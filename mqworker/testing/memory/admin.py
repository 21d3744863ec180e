"""What people's statements do to the rows in memory: cancel, clear, clean, an account's settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace

from mqworker.message import ChatKey
from mqworker.store import admin
from mqworker.testing.memory.tables import (
    DAY_SECONDS,
    HOUR_SECONDS,
    OPEN_STATUSES,
    Answers,
    Parameters,
    Row,
    Statement,
    Tables,
    timestamp,
)


def _cancel(tables: Tables, given: Parameters, began: float) -> Answers:
    return [_cancel_one(tables, tables.items[key]) for key in given["ids"] if key in tables.items]


def _clear(tables: Tables, given: Parameters, began: float) -> Answers:
    rows = tables.by_chat.get(ChatKey(given["instance"], given["chat_id"]), ())
    return [_cancel_one(tables, row) for row in rows if row.status in OPEN_STATUSES]


def _cancel_pending(tables: Tables, given: Parameters, began: float) -> Answers:
    before = given["before"].timestamp()
    old = [
        row
        for row in tables.of(given)
        if row.status == "PENDING" and row.chat.instance == given["instance"] and row.created_at <= before
    ]
    return [_cancel_one(tables, row) for row in _oldest(old, given["limit"])]


def _cancel_one(tables: Tables, row: Row) -> SimpleNamespace:
    now, was = tables.now, row.status
    if was in OPEN_STATUSES:
        row.cancel_requested_at = row.cancel_requested_at or now
        row.updated_at = now
        tables.note("cancel", row.id, row.chat, was)
    if was == "PENDING":
        row.status, row.processed_at, row.available_at = "CANCELLED", now, None
    return SimpleNamespace(
        was=was, id=row.id, seq=row.seq, instance=row.chat.instance, chat_id=row.chat.chat_id, priority=row.priority
    )


def _time_ago(tables: Tables, given: Parameters, began: float) -> Answers:
    return [(timestamp(tables.now - given["seconds"]),)]


def _clean_instance(tables: Tables, given: Parameters, began: float) -> Answers:
    return _clean(tables, given, lambda instance: instance == given["instance"])


def _clean_rest(tables: Tables, given: Parameters, began: float) -> Answers:
    own = {name for name, account in tables.accounts.items() if account.retention_days is not None}
    return _clean(tables, given, lambda instance: instance not in own)


def _clean(tables: Tables, given: Parameters, is_meant: Callable[[str], bool]) -> Answers:
    before = tables.now - given["days"] * DAY_SECONDS
    old = [
        row
        for row in tables.items.values()
        if row.status == given["status"] and row.created_at < before and (row.processed_at or row.updated_at) < before
    ]
    gone = _oldest((row for row in old if is_meant(row.chat.instance)), given["limit"])
    for row in gone:
        tables.remove(row)
    return gone


def _oldest(rows: Iterable[Row], limit: int) -> list[Row]:
    return sorted(rows, key=lambda row: row.arrival)[:limit]


def _clean_chats(tables: Tables, given: Parameters, began: float) -> Answers:
    idle = [chat for chat, next_at in tables.chats.items() if next_at < tables.now - DAY_SECONDS]
    for chat in idle[: given["limit"]]:
        del tables.chats[chat]
    return idle[: given["limit"]]


def _initialize(tables: Tables, given: Parameters, began: float) -> Answers:
    account = tables.account(given["instance"])
    if account.client_id is None:
        account.client_id = given["client_id"]
    return [(account.client_id,)]


def _schedule_clean(tables: Tables, given: Parameters, began: float) -> Answers:
    account = tables.account(given["instance"])
    account.clean_every_hours, account.retention_days = given["every"], given["days"]
    return [(1,)]


def _due_cleans(tables: Tables, given: Parameters, began: float) -> Answers:
    due = []
    for name, account in tables.accounts.items():
        every_hours, cleaned_at = account.clean_every_hours, account.cleaned_at
        if every_hours is None:
            continue
        if cleaned_at is None or cleaned_at + every_hours * HOUR_SECONDS <= tables.now:
            account.cleaned_at = tables.now
            due.append(SimpleNamespace(instance=name, retention_days=account.retention_days))
    return due


STATEMENTS: dict[str, Statement] = {
    admin.CANCEL: _cancel,
    admin.CLEAR: _clear,
    admin.CANCEL_PENDING: _cancel_pending,
    admin.CANCEL_PENDING_IN_CHAT: _cancel_pending,
    admin.TIME_AGO: _time_ago,
    admin.CLEAN_INSTANCE: _clean_instance,
    admin.CLEAN_REST: _clean_rest,
    admin.CLEAN_CHATS: _clean_chats,
    admin.INITIALIZE: _initialize,
    admin.SCHEDULE_CLEAN: _schedule_clean,
    admin.DUE_CLEANS: _due_cleans,
}
