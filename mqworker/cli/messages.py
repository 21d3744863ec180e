"""`mqworker list` and `mqworker show`: rows as they are, without what is private."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from rich.table import Table
from rich.text import Text

from mqworker.cli.ages import short_age
from mqworker.cli.options import Status
from mqworker.cli.running import run
from mqworker.cli.table import new_table, put_table
from mqworker.cli.talk import in_one_line, put, put_json
from mqworker.queue import MessageQueue
from mqworker.store import StoredMessage

PAGE = 1000
STYLES = {"PROCESSING": "cyan", "FAILED": "red", "CANCELLED": "dim", "COMPLETED": "dim"}


def show_list(
    instance: str | None,
    chat: str | None,
    status: Status | None,
    *,
    limit: int,
    oldest_first: bool,
    as_json: bool,
) -> None:
    """Print messages, page by page."""
    run(_show_list(instance, chat, status, limit=limit, oldest_first=oldest_first, as_json=as_json))


async def _show_list(
    instance: str | None, chat: str | None, status: Status | None, *, limit: int, oldest_first: bool, as_json: bool
) -> None:
    first = True
    async for page in _pages(instance, chat, status, limit=limit, oldest_first=oldest_first):
        if as_json:
            for message in page:
                put_json(_public(message))
        else:
            put_table(_table(page, with_instance=instance is None, header=first))
        first = False


async def _pages(
    instance: str | None, chat: str | None, status: Status | None, *, limit: int, oldest_first: bool
) -> AsyncIterator[list[StoredMessage]]:
    last: StoredMessage | None = None
    async with MessageQueue() as queue:
        while limit > 0:
            asked = min(PAGE, limit)
            page = await queue.list(
                instance, chat_id=chat, status=status, after=last, oldest_first=oldest_first, limit=asked
            )
            if page or last is None:
                yield page
            if len(page) < asked:
                return
            last = page[-1]
            limit -= len(page)


def _public(message: StoredMessage) -> dict[str, object]:
    """All but the error's text, which may quote the message's."""
    fields = asdict(message)
    del fields["error"]
    return fields


def _table(page: Sequence[StoredMessage], *, with_instance: bool, header: bool) -> Table:
    table = new_table(header=header)
    # Of fixed widths, so that the pages of a long list stand under each other.
    table.add_column("id", width=36)
    table.add_column("status", width=10)
    table.add_column("age", width=4, justify="right")
    table.add_column("tries", width=5, justify="right")
    name = "instance/chat" if with_instance else "chat"
    table.add_column(name, no_wrap=True, overflow="ellipsis", ratio=1)
    for message in page:
        name = f"{message.instance}/{message.chat_id}" if with_instance else message.chat_id
        table.add_row(
            str(message.id),
            Text(message.status, style=STYLES.get(message.status, "")),
            _age(message),
            f"{message.retry_count}/{message.max_retries}",
            Text(in_one_line(name)),
        )
    return table


def _age(message: StoredMessage) -> str:
    return short_age((datetime.now(UTC) - message.created_at).total_seconds())


def show_one(message_id: str, *, with_payload: bool, as_json: bool) -> None:
    """Print one message's row; the payload, and more than its error's first line, only where asked for."""
    message, payload = run(_found(message_id, with_payload=with_payload))
    fields = asdict(message)
    if message.error and not with_payload:
        fields["error"] = message.error.splitlines()[0]
    if with_payload:
        fields["payload"] = payload
    if as_json:
        put_json(fields)
        return
    width = max(map(len, fields))
    for name, value in fields.items():
        if value is not None:
            put(f"{name:<{width}}  {_text(value)}")


async def _found(message_id: str, *, with_payload: bool) -> tuple[StoredMessage, object]:
    async with MessageQueue() as queue:
        message = await queue.get(message_id)
        return message, await queue.payload(message_id) if with_payload else None


def _text(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case datetime():
            return value.isoformat(sep=" ", timespec="milliseconds")
        case str():
            return in_one_line(value)
        case int():
            return str(value)
        case dict() | list():
            return in_one_line(json.dumps(value, ensure_ascii=False))
        case _:
            return in_one_line(str(value))
