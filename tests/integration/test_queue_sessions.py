"""Enqueue in the caller's own transaction: it exists once that has committed, and only then does Redis hear of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession as SQLModelSession

from mqworker import Conflict, InvalidMessage, MessageQueue, QueueStats
from mqworker.broker import Broker
from mqworker.settings import Settings
from mqworker.testing.waiting import eventually
from tests.integration.lanes import known
from tests.integration.rows import INSTANCE

SESSIONS: list[type[AsyncSession]] = [AsyncSession, SQLModelSession]


@pytest.fixture
async def engine(settings: Settings) -> AsyncIterator[AsyncEngine]:
    """The application's own."""
    made = create_async_engine(settings.database_url.get_secret_value())
    yield made
    await made.dispose()


@pytest.fixture(params=SESSIONS, ids=["sqlalchemy", "sqlmodel"])
def new_session(request: pytest.FixtureRequest, engine: AsyncEngine) -> Callable[..., AsyncSession]:
    def make(**options: Any) -> AsyncSession:
        session: AsyncSession = request.param(engine, **options)
        return session

    return make


async def enqueue(queue: MessageQueue, session: AsyncSession, chat_id: str = "a", **fields: Any) -> UUID:
    return (await queue.enqueue(INSTANCE, 7, chat_id, {"text": "hi"}, session=session, **fields)).id


async def become_known(broker: Broker, chats: set[str]) -> None:
    async def are_known() -> bool:
        return await known(broker) == chats

    await eventually(are_known, f"Redis knows {chats}")


async def test_a_commit_stores_and_announces(
    queue: MessageQueue, new_session: Callable[..., AsyncSession], broker: Broker
) -> None:
    async with new_session() as session:
        message_id = await enqueue(queue, session)
        many = [{"instance": INSTANCE, "client_id": 7, "chat_id": name, "payload": {}} for name in "bc"]
        assert len(await queue.enqueue_many(many, session=session)) == 2
        assert await queue.get_stats(INSTANCE) == QueueStats(), "nobody else sees it yet"
        assert await known(broker) == set()
        await session.commit()
    assert (await queue.get(message_id)).status == "PENDING"
    await become_known(broker, {"a", "b", "c"})


async def test_a_rollback_leaves_nothing(
    queue: MessageQueue, new_session: Callable[..., AsyncSession], broker: Broker
) -> None:
    async with new_session() as session:
        await enqueue(queue, session, "a")
        await session.rollback()
        await enqueue(queue, session, "b")
        await session.commit()
        await enqueue(queue, session, "c")
    assert [one.chat_id for one in await queue.list(INSTANCE)] == ["b"]
    await become_known(broker, {"b"})


async def test_a_transaction_that_fails_leaves_nothing(
    queue: MessageQueue, new_session: Callable[..., AsyncSession], broker: Broker
) -> None:
    async def fail() -> None:
        async with new_session() as session, session.begin():
            await enqueue(queue, session)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert await queue.get_stats(INSTANCE) == QueueStats()
    assert await known(broker) == set()


async def test_a_released_savepoint_announces_nothing_before_the_commit(
    queue: MessageQueue, new_session: Callable[..., AsyncSession], broker: Broker
) -> None:
    async with new_session() as session, session.begin():
        async with session.begin_nested():
            await enqueue(queue, session, "inner")
            async with session.begin_nested():
                await enqueue(queue, session, "innermost")
        assert queue._announcer._background == set()
        assert await known(broker) == set()
        await enqueue(queue, session, "outer")
    await become_known(broker, {"inner", "innermost", "outer"})


async def test_a_savepoint_rolled_back_takes_its_own_messages_only(
    queue: MessageQueue, new_session: Callable[..., AsyncSession], broker: Broker
) -> None:
    async with new_session() as session, session.begin():
        await enqueue(queue, session, "outer")
        savepoint = await session.begin_nested()
        await enqueue(queue, session, "inner")
        await savepoint.rollback()
    assert [one.chat_id for one in await queue.list(INSTANCE)] == ["outer"]

    async def outer_is_known() -> bool:
        return "outer" in await known(broker)

    await eventually(outer_is_known, "Redis knows what was committed")


async def test_a_conflict_stores_nothing_and_leaves_the_session_usable(
    queue: MessageQueue, new_session: Callable[..., AsyncSession]
) -> None:
    taken = uuid4()
    await queue.enqueue(INSTANCE, 7, "taken", {}, message_id=taken)
    async with new_session() as session:
        with pytest.raises(Conflict):
            await enqueue(queue, session, "other", message_id=taken)
        await enqueue(queue, session, "b")
        await session.commit()
    assert sorted(one.chat_id for one in await queue.list(INSTANCE)) == ["b", "taken"]


async def test_sessions_that_cannot_serve_are_refused(
    queue: MessageQueue, new_session: Callable[..., AsyncSession]
) -> None:
    with pytest.raises(InvalidMessage, match="session: must be an AsyncSession"):
        await queue.enqueue(INSTANCE, 7, "a", {}, session=object())  # type: ignore[arg-type]
    async with new_session() as session:
        await enqueue(queue, session)
        with pytest.raises(IntegrityError):
            await (await session.connection()).execute(text("INSERT INTO message_queue_items (instance) VALUES ('x')"))
        await session.rollback()
        await enqueue(queue, session)
        await session.commit()
    assert await queue.get_stats(INSTANCE) == QueueStats(pending=1)


async def test_a_commit_after_the_queue_was_closed_stores_the_message(
    settings: Settings, engine: AsyncEngine, queue: MessageQueue
) -> None:
    async with AsyncSession(engine) as session:
        async with MessageQueue(settings) as closed:
            await enqueue(closed, session)
        await session.commit()
    assert await queue.get_stats(INSTANCE) == QueueStats(pending=1)
