"""Insert messages: a batch in one statement, in a transaction of its own or in the caller's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from mqworker.errors import (
    Conflict,
    EnqueueUncertain,
    MqWorkerError,
    StatementFailed,
    StorageReadOnly,
    StorageUnavailable,
)
from mqworker.message import Enqueued, NewMessage
from mqworker.store.arrays import plain_array, text_array
from mqworker.store.database import Database, Rows, translated_errors

TRIES = 4
FIRST_PAUSE_SECONDS = 0.05

T = TypeVar("T")
Answer = Enqueued | Conflict


class Enqueues:
    """Inserts messages and tells a repeat from a conflict."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, messages: Sequence[NewMessage]) -> list[Answer]:
        """Insert a batch in one statement.

        Raises :class:`StorageUnavailable` where nothing was stored, :class:`EnqueueUncertain` where that is unknown.
        """
        return await self._surely(messages, lambda rows: _insert(rows, messages), in_transaction=False)

    async def insert_each(self, messages: Sequence[NewMessage]) -> list[Answer | MqWorkerError]:
        """Insert a batch of strangers' messages; one that fails is halved, so that nobody fails for another.

        An error is an answer here, each message's own.
        """
        try:
            return list(await self.insert(messages))
        except EnqueueUncertain:
            return [EnqueueUncertain([message.id]) for message in messages]
        except StorageUnavailable as error:
            return [type(error)(*error.args) for _ in messages]
        except StatementFailed as error:
            if len(messages) == 1:
                return [error]
        middle = len(messages) // 2
        return [*await self.insert_each(messages[:middle]), *await self.insert_each(messages[middle:])]

    async def insert_all(self, messages: Sequence[NewMessage]) -> list[Enqueued]:
        """Insert all of a batch or nothing. Raises as :meth:`insert`, and :class:`Conflict` naming the index."""

        async def insert(rows: Rows) -> list[Enqueued]:
            return _all_or_raise(await _insert(rows, messages))

        return await self._surely(messages, insert, in_transaction=True)

    @staticmethod
    async def insert_in(rows: Rows, messages: Sequence[NewMessage]) -> list[Enqueued]:
        """Insert in the caller's transaction, which decides whether the messages come to exist."""
        with translated_errors():
            return _all_or_raise(await _insert(rows, messages))

    async def _surely(
        self, messages: Sequence[NewMessage], work: Callable[[Rows], Awaitable[T]], *, in_transaction: bool
    ) -> T:
        """Do ``work``, again where the connection broke: the ids are ours, so a repeat finds what the first stored."""
        pause_seconds, uncertain = FIRST_PAUSE_SECONDS, False
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(pause_seconds)
                pause_seconds *= 4
            begun = False
            try:
                with translated_errors():
                    async with self._database.rows_of_one(in_transaction=in_transaction) as rows:
                        begun = True
                        return await work(rows)
            except StorageReadOnly:
                raise
            except StorageUnavailable:
                uncertain |= begun
                if not uncertain:
                    raise
        raise EnqueueUncertain([message.id for message in messages])


async def _insert(rows: Rows, messages: Sequence[NewMessage]) -> list[Answer]:
    parameters = _columns(messages)
    stored = {row.id: row.seq for row in await rows(INSERT, parameters)}
    if len(stored) == len(messages):
        return [Enqueued(message.id, stored[message.id], "PENDING") for message in messages]
    found = {row.id: row for row in await rows(COMPARE, parameters)}
    return [_answer(message, stored.get(message.id), found.get(message.id)) for message in messages]


def _columns(messages: Sequence[NewMessage]) -> dict[str, str]:
    return {
        "ids": plain_array(m.id for m in messages),
        "instances": text_array(m.instance for m in messages),
        "chat_ids": text_array(m.chat_id for m in messages),
        "client_ids": plain_array(m.client_id for m in messages),
        "payloads": text_array(m.payload_json for m in messages),
        "groups": plain_array(m.is_group for m in messages),
        "executors": text_array(m.executor for m in messages),
        "priorities": plain_array(m.priority for m in messages),
        "max_retries": plain_array(m.max_retries for m in messages),
        "scheduled_ats": text_array(None if m.scheduled_at is None else m.scheduled_at.isoformat() for m in messages),
    }


def _answer(message: NewMessage, seq: int | None, found: Any) -> Answer:
    if seq is not None:
        return Enqueued(message.id, seq, "PENDING")
    if found is None:
        return Conflict(f"message_id {message.id} was taken and cleaned at this very moment: enqueue it again")
    if not found.same:
        return Conflict(f"message_id {message.id} is already used with different content (status {found.status})")
    # An id that we made ourselves can only be there because a first try was stored before its connection broke.
    return Enqueued(message.id, found.seq, found.status, deduplicated=message.id_is_callers)


def _all_or_raise(answers: Sequence[Answer]) -> list[Enqueued]:
    enqueued: list[Enqueued] = []
    for index, answer in enumerate(answers):
        if isinstance(answer, Conflict):
            raise answer if len(answers) == 1 else Conflict(f"message {index}: {answer}")
        enqueued.append(answer)
    return enqueued


_ROWS = """
    unnest(
        CAST(%(ids)s AS uuid[]), CAST(%(instances)s AS text[]), CAST(%(chat_ids)s AS text[]),
        CAST(%(client_ids)s AS int[]), CAST(%(payloads)s AS text[]), CAST(%(groups)s AS bool[]),
        CAST(%(executors)s AS text[]), CAST(%(priorities)s AS int[]), CAST(%(max_retries)s AS int[]),
        CAST(%(scheduled_ats)s AS timestamptz[])
    ) WITH ORDINALITY AS new(
        id, instance, chat_id, client_id, payload, is_group, executor, priority, max_retries, scheduled_at, place
    )
"""

# seq is drawn above the sort, so the order of the batch is the order of the queue.
INSERT = f"""
INSERT INTO message_queue_items
    (id, instance, chat_id, client_id, payload, is_group, executor, priority, max_retries, scheduled_at)
SELECT id, instance, chat_id, client_id, CAST(payload AS jsonb), is_group, executor, priority, max_retries,
       scheduled_at
FROM {_ROWS}
ORDER BY place
ON CONFLICT (id) DO NOTHING
RETURNING id, seq
"""  # noqa: S608 - a constant of this file

# Priority and schedule may differ: a repeat with another priority is still the same message.
COMPARE = f"""
SELECT i.id, i.seq, i.status,
       i.instance = new.instance AND i.chat_id = new.chat_id AND i.client_id = new.client_id
       AND i.executor = new.executor AND i.payload = CAST(new.payload AS jsonb) AS same
FROM {_ROWS}
JOIN message_queue_items i ON i.id = new.id
WHERE i.id = ANY(CAST(%(ids)s AS uuid[]))
"""  # noqa: S608 - a constant of this file
