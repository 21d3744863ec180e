"""The facade that users import: put messages in, look at them, take them back."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from mqworker import validation as check
from mqworker.broker import Broker, BrokerUnavailable, Entry, Keys
from mqworker.errors import Conflict, InvalidMessage, QueueClosed
from mqworker.message import ChatKey, Enqueued, NewMessage, Payload, QueueStats
from mqworker.producer import Announcer, SharedInsert
from mqworker.settings import Settings, load_settings
from mqworker.store import CancelResult, Cleared, Dropped, ErrorCount, Store, StoredMessage
from mqworker.store.database import Rows
from mqworker.sweeps import Sweeps

Status = Literal["PENDING", "PROCESSING", "COMPLETED", "FAILED", "CANCELLED"]


@dataclass(frozen=True, slots=True)
class Initialized:
    """What ``initialize`` found: expired claims that it took back, messages that wait, and the five counts."""

    reclaimed: int
    waiting: int
    stats: QueueStats


class MessageQueue:
    """A durable queue of messages for chats.

    ::

        async with MessageQueue() as queue:
            await queue.enqueue("shop", 7, "5511999999999@c.us", {"text": "Hello"})

    Once ``enqueue`` has returned, the message exists until it is COMPLETED, FAILED or CANCELLED and its retention has
    passed. Without ``settings`` they are read from the environment (``MQWORKER_*``) and ``.env``.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = (settings or load_settings()).require_servers()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        self._open()
        return self

    def _open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._store, self._broker = self._connect()
        self._insert = SharedInsert(self._store.enqueues)
        self._announcer = Announcer(self._broker)
        self._sweeps = Sweeps(self._store, self._broker, self._settings)

    def _connect(self) -> tuple[Store, Broker]:
        """Reach the servers; those in memory are reached otherwise (``mqworker.testing``)."""
        store = Store.open(self._settings, worker="producer")
        redis_url, keys = self._settings.redis_url.get_secret_value(), Keys(self._settings.key_prefix)
        return store, Broker(redis_url, keys, owner="producer", cluster=self._settings.redis_cluster)

    def _now(self) -> datetime:
        """The producer's clock; servers in memory have a time of their own."""
        return datetime.now(UTC)

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Finish what is under way and close the connections; the queue cannot be used afterwards."""
        if self._loop is None:
            return
        self._loop = None
        await self._insert.aclose()
        await self._announcer.aclose()
        await self._broker.aclose()
        await self._store.aclose()

    def _must_be_open(self) -> None:
        if self._loop is None:
            raise QueueClosed("the queue is not open: use `async with MessageQueue() as queue:`")
        if asyncio.get_running_loop() is not self._loop:
            raise QueueClosed("the queue was opened in another event loop: open one in each loop")

    # Putting in

    async def enqueue(
        self,
        instance: str,
        client_id: int,
        chat_id: str,
        payload: Payload,
        message_id: UUID | str | None = None,
        is_group: bool = False,
        executor: str = "default",
        priority: int = 0,
        max_retries: int | None = None,
        scheduled_at: datetime | None = None,
        session: AsyncSession | None = None,
    ) -> Enqueued:
        """Store one message; it is sent after all that came before it in its chat.

        Args:
            instance: the sending account, 1 to 255 characters.
            client_id: the tenant that the account belongs to.
            chat_id: whom it goes to, 1 to 255 characters; with ``instance`` the key of the order.
            payload: a JSON object, at most 256 KiB; serialised at once, so it may be changed afterwards.
            message_id: your own id (a UUID). The same id with the same content is a repeat, and returns the message
                that is there. It is also the idempotency key that the executor gets.
            is_group: whether the chat is a group.
            executor: the name of the registered executor that sends it.
            priority: -100 to 100; higher goes first within the chat.
            max_retries: attempts in all, 1 to 100 (default: the setting, 3).
            scheduled_at: not before then (with a timezone); until then it holds nobody up.
            session: insert in this SQLAlchemy or SQLModel ``AsyncSession``'s transaction: the message exists once you
                commit, and never did if you roll back.

        Raises:
            InvalidMessage: the input was refused; nothing was stored.
            Conflict: the id is already used with other content.
            StorageUnavailable: PostgreSQL cannot be reached; nothing was stored.
            EnqueueUncertain: the connection broke during the commit; enqueue again with the id that it names.
        """
        self._must_be_open()
        message = check.new_message(
            instance=instance,
            client_id=client_id,
            chat_id=chat_id,
            payload=payload,
            message_id=message_id,
            is_group=is_group,
            executor=executor,
            priority=priority,
            max_retries=max_retries,
            scheduled_at=scheduled_at,
            default_max_retries=self._settings.max_retries,
            now=self._now(),
        )
        if session is not None:
            return (await self._insert_in(session, [message]))[0]
        answer = await self._insert_alone(message)
        if isinstance(answer, Conflict):
            raise answer
        if not answer.deduplicated:
            await self._announcer.announce(_entries([message], [answer], self._now()))
        return answer

    async def enqueue_many(
        self, messages: Iterable[Mapping[str, Any]], *, session: AsyncSession | None = None
    ) -> list[Enqueued]:
        """Store many messages, all or none, in the order given: mappings with the arguments of :meth:`enqueue`.

        At most 10,000 messages and 16 MiB of payload. Raises as :meth:`enqueue`; the refused message's index is named.
        """
        self._must_be_open()
        batch = check.new_messages(messages, default_max_retries=self._settings.max_retries, now=self._now())
        if not batch:
            return []
        if session is not None:
            return await self._insert_in(session, batch)
        answers = await self._store.enqueues.insert_all(batch)
        await self._announcer.announce(_entries(batch, answers, self._now()))
        return answers

    async def _insert_alone(self, message: NewMessage) -> Enqueued | Conflict:
        # An id of the caller's may be in the middle of another transaction, and would hold up the whole shared batch.
        if message.id_is_callers:
            return (await self._store.enqueues.insert([message]))[0]
        return await self._insert.insert(message)

    async def _insert_in(self, session: AsyncSession, messages: Sequence[NewMessage]) -> list[Enqueued]:
        rows = _rows_of(await _connection_of(session))
        answers = await self._store.enqueues.insert_in(rows, messages)
        self._announcer.announce_after_commit(session, _entries(messages, answers, self._now()))
        return answers

    def client(self, instance: str, client_id: int) -> Client:
        """A sender for one account, for code that says ``client.send_message(to=..., text=...)``."""
        return Client(self, check.check_instance(instance), check.check_client_id(client_id))

    # Looking after

    async def initialize(self, instance: str, client_id: int) -> Initialized:
        """Bind an account to its client, take back what was stuck and see that Redis knows all that waits.

        Call it when the account is ready to send. Raises :class:`Conflict` where the account is another client's.
        """
        self._must_be_open()
        check.check_instance(instance)
        check.check_client_id(client_id)
        await self._store.admin.initialize(instance, client_id)
        reclaimed = await self._sweeps.reclaim()
        with contextlib.suppress(BrokerUnavailable):  # the workers fill it when it returns
            await self._sweeps.announce_instance(instance)
        stats = await self._store.stats.counts(instance, None)
        return Initialized(reclaimed, stats.pending, stats)

    async def get_stats(self, instance: str, client_id: int | None = None) -> QueueStats:
        """The five counts of an account, or of one client's messages in it."""
        self._must_be_open()
        check.check_instance(instance)
        if client_id is not None:
            check.check_client_id(client_id)
        return await self._store.stats.counts(instance, client_id)

    async def get(self, message_id: UUID | str) -> StoredMessage:
        """One message's row without its payload. Raises :class:`NotFound`."""
        self._must_be_open()
        return await self._store.stats.get(check.check_message_id(message_id))

    async def payload(self, message_id: UUID | str) -> Payload:
        """One message's payload. Raises :class:`NotFound`."""
        self._must_be_open()
        payload: Payload = json.loads(await self._store.stats.payload(check.check_message_id(message_id)))
        return payload

    async def list(
        self,
        instance: str | None = None,
        *,
        chat_id: str | None = None,
        status: Status | None = None,
        after: StoredMessage | None = None,
        oldest_first: bool = False,
        limit: int = 100,
    ) -> list[StoredMessage]:
        """Messages by arrival, newest first, at most 1,000; go on with ``after`` = the last one.

        Of all accounts, or of one and perhaps one of its chats.
        """
        self._must_be_open()
        if instance is not None:
            check.check_instance(instance)
        if chat_id is not None:
            check.check_chat_id(chat_id)
            if instance is None:
                raise InvalidMessage("chat_id", "needs its instance: two accounts may have a chat of the same id")
        if status is not None:
            check.check_statuses([status])
        if after is not None and not isinstance(after, StoredMessage):
            raise InvalidMessage("after", f"must be a message of an earlier list, got {type(after).__name__}")
        return await self._store.stats.list(
            instance,
            chat_id=chat_id,
            status=status,
            after=after,
            oldest_first=oldest_first,
            limit=check.check_limit(limit),
        )

    async def error_summary(self, instance: str | None = None, *, limit: int = 100) -> Sequence[ErrorCount]:
        """The errors of one account, or of all, the most frequent first.

        They are counted among the newest 100,000 messages of each state.
        """
        self._must_be_open()
        if instance is not None:
            check.check_instance(instance)
        return await self._store.stats.errors(instance, limit=check.check_limit(limit))

    # Taking back

    async def cancel(self, message_id: UUID | str) -> CancelResult:
        """Cancel one message.

        ``"cancelled"``: it will not be sent. ``"too_late"``: it is being sent now; if that fails it is not retried.
        ``"finished"``: it had ended before. Raises :class:`NotFound`.
        """
        self._must_be_open()
        result, dropped = await self._store.admin.cancel(check.check_message_id(message_id))
        await self._drop(dropped)
        return result

    async def clear_queue(self, instance: str, chat_id: str) -> Cleared:
        """Cancel all that waits for a chat, scheduled messages too; what is in flight is not retried."""
        self._must_be_open()
        chat = ChatKey(check.check_instance(instance), check.check_chat_id(chat_id))
        cleared, dropped = await self._store.admin.clear_chat(chat)
        await self._drop(dropped)
        return cleared

    async def cancel_pending(
        self, instance: str, *, chat_id: str | None = None, older_than: timedelta | None = None
    ) -> int:
        """Cancel what waits for an account, or for one of its chats; return how many.

        All that waits now, or what has waited longer than ``older_than``. What is in flight is left alone.
        """
        self._must_be_open()
        check.check_instance(instance)
        if chat_id is not None:
            check.check_chat_id(chat_id)
        age = 0.0 if older_than is None else check.check_age(older_than).total_seconds()
        # One moment for all batches: who goes on putting messages in must not keep this from ending.
        moment = await self._store.admin.time_ago(age)
        cancelled = 0
        while dropped := await self._store.admin.cancel_pending(instance, chat_id=chat_id, created_before=moment):
            cancelled += len(dropped)
            await self._drop(dropped)
        return cancelled

    async def clean_old_messages(self, instance: str | None, days: float = 7) -> int:
        """Delete an account's messages that ended more than ``days`` ago; return how many.

        ``None`` stands for all accounts but those that have a retention of their own.
        """
        self._must_be_open()
        if instance is not None:
            check.check_instance(instance)
        return await self._sweeps.clean_now(instance, retention_days=check.check_days(days))

    async def schedule_cleanup(
        self, instance: str, every_hours: float | None = None, retention_days: float | None = None
    ) -> None:
        """Give an account a cleanup of its own; it is kept in the database and done by the workers.

        Without a number the setting's (6 hours, 7 days) is kept for it.
        """
        self._must_be_open()
        hours = self._settings.clean_every_hours if every_hours is None else every_hours
        days = self._settings.retention_days if retention_days is None else retention_days
        await self._store.admin.schedule_clean(
            check.check_instance(instance),
            every_hours=check.check_positive(hours, "every_hours", 24 * 366),
            retention_days=check.check_days(days, "retention_days"),
        )

    async def _drop(self, dropped: Sequence[Dropped]) -> None:
        await self._announcer.drop([Entry(d.chat, d.seq, d.id, d.priority) for d in dropped])


class Client:
    """One account's sender."""

    def __init__(self, queue: MessageQueue, instance: str, client_id: int) -> None:
        self._queue = queue
        self.instance = instance
        self.client_id = client_id

    async def send_message(
        self,
        *,
        to: str,
        text: str,
        message_id: UUID | str | None = None,
        executor: str = "default",
        priority: int = 0,
        max_retries: int | None = None,
        scheduled_at: datetime | None = None,
        session: AsyncSession | None = None,
        **extra: Any,
    ) -> Enqueued:
        """Enqueue the payload ``{"to": to, "text": text, **extra}`` for the chat ``to``; see ``MessageQueue.enqueue``.

        An id that ends in ``@g.us`` is a group.
        """
        if not isinstance(to, str):
            raise InvalidMessage("to", f"must be str, got {type(to).__name__}")
        return await self._queue.enqueue(
            self.instance,
            self.client_id,
            to,
            {"to": to, "text": text, **extra},
            message_id=message_id,
            is_group=to.endswith("@g.us"),
            executor=executor,
            priority=priority,
            max_retries=max_retries,
            scheduled_at=scheduled_at,
            session=session,
        )


def _entries(messages: Sequence[NewMessage], answers: Sequence[Enqueued], now: datetime) -> list[Entry]:
    return [
        Entry(message.chat, answer.seq, message.id, message.priority, _due_seconds(message, now))
        for message, answer in zip(messages, answers, strict=True)
        if not answer.deduplicated
    ]


def _due_seconds(message: NewMessage, now: datetime) -> float:
    # By the producer's clock, as a hint: whether the message is due the claim decides, by PostgreSQL's.
    return 0.0 if message.scheduled_at is None else (message.scheduled_at - now).total_seconds()


async def _connection_of(session: AsyncSession) -> AsyncConnection:
    if not isinstance(session, AsyncSession):
        raise InvalidMessage("session", f"must be an AsyncSession, got {type(session).__name__}")
    if not session.is_active:
        raise InvalidMessage("session", "its transaction has failed: roll it back first")
    try:
        connection = await session.connection()
    except SQLAlchemyError as error:
        raise InvalidMessage("session", f"cannot be used ({type(error).__name__})") from error
    if connection.dialect.name != "postgresql":
        raise InvalidMessage("session", f"must be bound to PostgreSQL, not {connection.dialect.name}")
    if connection.dialect.driver != "psycopg":
        raise InvalidMessage("session", f"must use psycopg (postgresql+psycopg://), not {connection.dialect.driver}")
    return connection


def _rows_of(connection: AsyncConnection) -> Rows:
    async def rows(statement: str, parameters: Mapping[str, Any]) -> Sequence[Any]:
        return (await connection.exec_driver_sql(statement, dict(parameters))).all()

    return rows
