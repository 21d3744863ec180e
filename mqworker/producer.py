"""What happens between ``enqueue()`` and its return, a shared insert, and just after it: the announce."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Sequence
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from mqworker.broker import Broker, BrokerUnavailable, Entry
from mqworker.errors import Conflict
from mqworker.message import Enqueued, NewMessage
from mqworker.store.enqueues import Answer, Enqueues
from mqworker.tasks import end_tasks

log = logging.getLogger(__name__)

INSERT_BATCH = 500
ANNOUNCE_WAIT_SECONDS = 0.2
BREAKER_SECONDS = 1.0
AHEAD = 20_000
"""Announces that may be under way: two of the largest batches."""
OWED = 20_000
"""Announces kept while Redis is away; what is beyond them the workers' reconcile finds."""


class SharedInsert:
    """One INSERT for all callers that came while the last one ran.

    One flush at a time: that keeps the callers' order. No timer: a lone caller does not wait for company.
    """

    def __init__(self, enqueues: Enqueues) -> None:
        self._enqueues = enqueues
        self._waiting: list[tuple[NewMessage, asyncio.Future[Answer]]] = []
        self._flush: asyncio.Task[None] | None = None

    async def insert(self, message: NewMessage) -> Answer:
        """Insert one message; return after its commit. Raises what the insert raises."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((message, answer))
        if self._flush is None or self._flush.done():
            # A task of its own: a caller that is cancelled must not take the others' insert with it.
            self._flush = asyncio.create_task(self._run(), name="shared insert")
        return await answer

    async def _run(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:INSERT_BATCH], self._waiting[INSERT_BATCH:]
            try:
                answers = await self._enqueues.insert_each([message for message, _ in batch])
            except BaseException as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                if not isinstance(error, Exception):
                    raise
            else:
                for (_, future), answer in zip(batch, answers, strict=True):
                    if future.done():
                        continue
                    if isinstance(answer, Enqueued | Conflict):
                        future.set_result(answer)
                    else:
                        future.set_exception(answer)

    async def aclose(self) -> None:
        """Wait for the flush under way."""
        if self._flush is not None:
            await asyncio.wait([self._flush])


class Announcer:
    """Tells Redis what is stored, behind its callers' backs: what they wait for is the commit, and nothing of Redis.

    Only where Redis cannot keep up does a caller wait, for 200 ms at most. While it is away nobody waits at all; what
    could not be told is kept and told later.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._waiting: list[Entry] = []
        self._told: asyncio.Future[None] | None = None
        self._flush: asyncio.Task[None] | None = None
        self._trial: asyncio.Task[None] | None = None
        self._owed: deque[Entry] = deque(maxlen=OWED)
        self._away_until = 0.0
        self._away = False
        self._closed = False
        self._background: set[asyncio.Task[None]] = set()

    async def announce(self, entries: Sequence[Entry]) -> None:
        """Have stored messages announced soon."""
        if not entries or self._closed:
            return  # a session may commit after its queue was closed: the workers' reconcile finds the message
        _say("persisted", entries)
        if _now() < self._away_until:
            self._owed.extend(entries)
            return
        self._waiting.extend(entries)
        if self._told is None:
            self._told = asyncio.get_running_loop().create_future()
        told = self._told
        if self._flush is None or self._flush.done():
            self._flush = asyncio.create_task(self._run(), name="announce")
        if len(self._waiting) < AHEAD:
            return
        done, _ = await asyncio.wait([told], timeout=ANNOUNCE_WAIT_SECONDS)
        if not done:
            self._open_breaker("no answer")

    async def _run(self) -> None:
        while self._waiting:
            entries, self._waiting = self._waiting, []
            told, self._told = self._told, None
            try:
                await self._broker.announce(entries)
                _say("queued", entries)
                await self._pay_owed()
            except BrokerUnavailable as error:
                self._owed.extend(entries)
                self._open_breaker(str(error))
            finally:
                if told is not None and not told.done():
                    told.set_result(None)

    async def _pay_owed(self) -> None:
        kept = len(self._owed)
        while self._owed:
            entries = [self._owed.popleft() for _ in range(min(len(self._owed), INSERT_BATCH))]
            try:
                await self._broker.announce(entries)
            except BaseException:
                # Cancelled at the end, too: what was taken out is still owed.
                self._owed.extendleft(reversed(entries))
                raise
        if self._away:
            log.info("Redis is back", extra={"announces_kept": kept})
            self._away, self._away_until = False, 0.0

    def _open_breaker(self, reason: str) -> None:
        self._away_until = _now() + BREAKER_SECONDS
        if not self._away:
            log.warning("Redis is away: messages are stored and go out when it returns", extra={"reason": reason})
            self._away = True
            self._trial = asyncio.create_task(self._try_again(), name="announce what is owed")

    async def _try_again(self) -> None:
        """Pay what is owed once Redis answers: it must not wait for the next message to be enqueued."""
        while self._away:
            await asyncio.sleep(BREAKER_SECONDS)
            with contextlib.suppress(BrokerUnavailable):
                await self._broker.ping()
                await self._pay_owed()

    async def drop(self, entries: Sequence[Entry]) -> None:
        """Tell Redis that these wait no more; what it does not hear, the claim rights."""
        if entries and _now() >= self._away_until:
            with contextlib.suppress(BrokerUnavailable, TimeoutError):
                async with asyncio.timeout(ANNOUNCE_WAIT_SECONDS):
                    await self._broker.drop(entries)

    def announce_after_commit(self, session: AsyncSession, entries: Sequence[Entry]) -> None:
        """Announce when the outermost transaction of ``session`` has committed; forget when it rolls back.

        A commit that we cannot see (a session joined to an outer connection) is left to reconcile.
        """
        pending: dict[str, Any] = session.sync_session.info.setdefault(_PENDING, {"entries": []})
        pending["entries"].extend(entries)
        if "announcer" not in pending:
            pending["announcer"] = self
            event.listen(session.sync_session, "after_commit", _after_commit)
            event.listen(session.sync_session, "after_rollback", _after_rollback)

    def announce_soon(self, entries: Sequence[Entry]) -> None:
        """Announce in a task of its own."""
        task = asyncio.get_running_loop().create_task(self.announce(entries), name="announce after commit")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def aclose(self) -> None:
        """Wait for what is under way, and try once to pay what is owed; nothing is announced afterwards."""
        self._closed = True
        tasks = [task for task in (self._flush, *self._background) if task is not None]
        if tasks:
            await asyncio.wait(tasks)
        if self._trial is not None:
            await end_tasks([self._trial])
        with contextlib.suppress(BrokerUnavailable, TimeoutError):
            async with asyncio.timeout(ANNOUNCE_WAIT_SECONDS):
                await self._pay_owed()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _say(event: str, entries: Sequence[Entry]) -> None:
    if log.isEnabledFor(logging.DEBUG):
        for entry in entries:
            chat = {"instance": entry.chat.instance, "chat_id": entry.chat.chat_id}
            log.debug(event, extra={"message_id": str(entry.id), **chat})


_PENDING = "mqworker.pending"


def _after_commit(session: Session) -> None:
    # Also called when a SAVEPOINT is released: then nothing is committed yet.
    if not session.in_nested_transaction() and (entries := _take_pending(session)):
        session.info[_PENDING]["announcer"].announce_soon(entries)


def _after_rollback(session: Session) -> None:
    # After a SAVEPOINT's rollback some of them may still come to exist: announcing one too many does no harm.
    if not session.in_nested_transaction():
        _take_pending(session)


def _take_pending(session: Session) -> list[Entry]:
    entries: list[Entry] = session.info[_PENDING]["entries"]
    session.info[_PENDING]["entries"] = []
    return entries
