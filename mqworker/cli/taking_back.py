"""`mqworker cancel`, `cancel-pending`, `clear` and `clean`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TypeVar

from mqworker.cli.ages import short_age
from mqworker.cli.asking import must_agree
from mqworker.cli.exits import Exit
from mqworker.cli.running import run
from mqworker.cli.talk import put, put_json
from mqworker.errors import NotFound
from mqworker.queue import MessageQueue
from mqworker.settings import load_settings
from mqworker.validation import check_message_id

T = TypeVar("T")

RESULTS = {
    "cancelled": "cancelled",
    "too_late": "too late: it is being sent; if that fails it is not retried",
    "finished": "finished before",
    "not_found": "not found",
}


def cancel(message_ids: Sequence[str], *, as_json: bool) -> Exit:
    """Cancel messages and print what became of each; done only where all were cancelled."""
    for message_id in message_ids:
        check_message_id(message_id)  # all before the first is cancelled
    results = run(_cancel(message_ids))
    for message_id, result in results:
        if as_json:
            put_json({"id": message_id, "result": result})
        else:
            put(f"{message_id} {RESULTS[result]}")
    return Exit.DONE if all(result == "cancelled" for _, result in results) else Exit.FAILED


async def _cancel(message_ids: Sequence[str]) -> list[tuple[str, str]]:
    async with MessageQueue() as queue:
        return [(message_id, await _result(queue, message_id)) for message_id in message_ids]


async def _result(queue: MessageQueue, message_id: str) -> str:
    try:
        return await queue.cancel(message_id)
    except NotFound:
        return "not_found"


def cancel_pending(instance: str, chat: str | None, older_than: timedelta | None, *, yes: bool, as_json: bool) -> None:
    """Cancel what waits for an account, or one of its chats."""
    whose = instance if chat is None else f"{instance}/{chat}"
    longer = "" if older_than is None else f" for more than {short_age(older_than.total_seconds())}"
    must_agree(f"Cancel all messages of {whose} that wait{longer}?", yes=yes)
    cancelled = _with_queue(lambda queue: queue.cancel_pending(instance, chat_id=chat, older_than=older_than))
    _put_counts({"cancelled": cancelled}, as_json=as_json)


def clear(instance: str, chat: str, *, yes: bool, as_json: bool) -> None:
    """Cancel all of a chat, what is in flight as far as that goes."""
    must_agree(f"Cancel all messages of {instance}/{chat}, and retry none in flight?", yes=yes)
    _put_counts(asdict(_with_queue(lambda queue: queue.clear_queue(instance, chat))), as_json=as_json)


def clean(instance: str | None, older_than: timedelta | None, *, yes: bool, as_json: bool) -> None:
    """Delete messages that ended long ago."""
    age = older_than or timedelta(days=load_settings().retention_days)
    whose = "all messages" if instance is None else f"all messages of {instance}"
    must_agree(f"Delete {whose} that ended more than {short_age(age.total_seconds())} ago?", yes=yes)
    removed = _with_queue(lambda queue: queue.clean_old_messages(instance, age / timedelta(days=1)))
    _put_counts({"removed": removed}, as_json=as_json)


def _with_queue(deed: Callable[[MessageQueue], Awaitable[T]]) -> T:
    async def do() -> T:
        async with MessageQueue() as queue:
            return await deed(queue)

    return run(do())


def _put_counts(counts: dict[str, int], *, as_json: bool) -> None:
    if as_json:
        put_json(counts)
    else:
        put(", ".join(f"{number} {name.replace('_', ' ')}" for name, number in counts.items()))
