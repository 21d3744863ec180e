"""A process that enqueues: the shared insert and the announcer of a real producer, driven by a scenario's steps."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from random import Random

from mqworker.broker import Broker, Entry
from mqworker.errors import Conflict, EnqueueUncertain, NotFound, StorageUnavailable
from mqworker.message import Enqueued, NewMessage
from mqworker.producer import Announcer, SharedInsert
from mqworker.store import Dropped, Store
from mqworker.store.enqueues import Answer
from mqworker.testing.memory.tables import Note
from tests.simulation.scenario import Act, Letter, Step

AGAIN_SECONDS = 0.3
LONGEST_TRANSACTION_SECONDS = 6.0


class RolledBack(Exception):
    """The caller's transaction is not to be."""


class Producer:
    """Does its steps one after the other; what it does not wait for runs beside it."""

    def __init__(self, store: Store, broker: Broker, rng: Random, note: Note) -> None:
        self._store = store
        self._insert = SharedInsert(store.enqueues)
        self._announcer = Announcer(broker)
        self._rng = rng
        self._note = note

    async def run(self, steps: Sequence[Step]) -> None:
        beside = []
        for step in steps:
            await asyncio.sleep(step.pause_seconds)
            work = asyncio.create_task(self._do(step))
            if step.waits:
                await work
            else:
                beside.append(work)
        await asyncio.gather(*beside)

    async def _do(self, step: Step) -> None:
        letter = step.letter
        match step.act:
            case Act.ENQUEUE:
                await self._enqueue(letter, "hi")
            case Act.REPEAT:
                await self._enqueue(replace(letter, id_is_callers=True), "hi")
            case Act.FORGE:
                await self._enqueue(replace(letter, id_is_callers=True), "something else")
            case Act.COMMIT | Act.UNSEEN | Act.ROLL_BACK:
                await self._in_transaction(letter, step.act)
            case Act.CANCEL:
                await self._take_back(letter, all_of_chat=False)
            case Act.CLEAR:
                await self._take_back(letter, all_of_chat=True)

    async def _enqueue(self, letter: Letter, text: str) -> None:
        """As ``MessageQueue.enqueue`` does it; a caller who is told to asks again with the same id."""
        message = _message(letter, text)
        self._note("enqueue", letter.id)
        while True:
            try:
                answer = await self._insert_one(message)
            except StorageUnavailable:
                await asyncio.sleep(AGAIN_SECONDS)
            except EnqueueUncertain:
                self._note("uncertain", letter.id)
                message = replace(message, id_is_callers=True)
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                break
        if isinstance(answer, Conflict):
            self._note("conflict", letter.id)
            return
        self._note("enqueued", letter.id, answer.seq, answer.deduplicated)
        if not answer.deduplicated:
            await self._announcer.announce([self._entry(letter, answer)])

    async def _insert_one(self, message: NewMessage) -> Answer:
        if message.id_is_callers:
            return (await self._store.enqueues.insert([message]))[0]
        return await self._insert.insert(message)

    async def _in_transaction(self, letter: Letter, act: Act) -> None:
        seconds = self._rng.uniform(0.0, LONGEST_TRANSACTION_SECONDS)
        self._note("enqueue", letter.id)
        try:
            async with self._store.database.rows_of_one(in_transaction=True) as rows:
                (answer,) = await self._store.enqueues.insert_in(rows, [_message(letter, "hi")])
                await asyncio.sleep(seconds)
                if act is Act.ROLL_BACK:
                    raise RolledBack
        except RolledBack:
            return
        except (StorageUnavailable, Conflict, OSError) as error:
            self._note("unknown", letter.id, type(error).__name__)
            return
        self._note("enqueued", letter.id, answer.seq, False)
        if act is Act.COMMIT:
            await self._announcer.announce([self._entry(letter, answer)])

    def _entry(self, letter: Letter, answer: Enqueued) -> Entry:
        due = letter.due_at
        left = 0.0 if due is None else due - asyncio.get_running_loop().time()
        return Entry(letter.chat, answer.seq, letter.id, letter.priority, left)

    async def _take_back(self, letter: Letter, *, all_of_chat: bool) -> None:
        admin = self._store.admin
        dropped: list[Dropped]
        try:
            if all_of_chat:
                _, dropped = await admin.clear_chat(letter.chat)
            else:
                result, dropped = await admin.cancel(letter.id)
                self._note("cancelled", letter.id, result)
        except (StorageUnavailable, NotFound):
            return  # the caller may ask again, and this one does not
        await self._announcer.drop([Entry(d.chat, d.seq, d.id, d.priority) for d in dropped])


def _message(letter: Letter, text: str) -> NewMessage:
    return NewMessage(
        id=letter.id,
        id_is_callers=letter.id_is_callers,
        instance=letter.chat.instance,
        client_id=7,
        chat_id=letter.chat.chat_id,
        payload_json=f'{{"text": "{text}"}}',
        is_group=False,
        executor=letter.executor,
        priority=letter.priority,
        max_retries=letter.max_retries,
        scheduled_at=None if letter.due_at is None else datetime.fromtimestamp(letter.due_at, UTC),
    )
