"""Messages and rows of the integration tests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from mqworker.lifecycle import Settlement
from mqworker.message import ChatKey, Enqueued, NewMessage
from mqworker.store import Claim, NotNow, Store
from mqworker.validation import new_message as validated

INSTANCE = "shop"
DEFAULT = ["default"]
NO_GAP = Settlement.completed(0.0, None)


def chat(name: str = "a") -> ChatKey:
    return ChatKey(INSTANCE, name)


def new_message(chat_id: str = "a", **fields: Any) -> NewMessage:
    """A message as validation makes it."""
    given = {"instance": INSTANCE, "client_id": 7, "chat_id": chat_id, "payload": {"text": "hi"}, **fields}
    return validated(**given, default_max_retries=3, now=datetime.now(UTC))


async def put(store: Store, chat_id: str = "a", **fields: Any) -> UUID:
    """Store one message."""
    (answer,) = await store.enqueues.insert([new_message(chat_id, **fields)])
    assert isinstance(answer, Enqueued)
    return answer.id


async def sql(store: Store, statement: str, **parameters: Any) -> Sequence[Any]:
    """Run a statement that returns rows."""
    return await store.database.rows(statement, **parameters)


async def row(store: Store, message_id: UUID) -> Any:
    """A message's whole row, its times as seconds from now in ``lease``, ``backoff``."""
    (found,) = await sql(
        store,
        """
        SELECT *, EXTRACT(EPOCH FROM lease_expires_at - clock_timestamp())::float AS lease,
               EXTRACT(EPOCH FROM available_at - clock_timestamp())::float AS backoff
        FROM message_queue_items WHERE id = %(id)s
        """,
        id=message_id,
    )
    return found


async def change(store: Store, message_id: UUID, assignments: str) -> None:
    """Change a row by hand."""
    assert await sql(
        store, f"UPDATE message_queue_items SET {assignments} WHERE id = %(id)s RETURNING 1", id=message_id
    ), "there is such a row"


async def gap_seconds(store: Store, chat_id: str = "a") -> float | None:
    """What is left of a chat's gap; ``None`` where the chat has no row."""
    rows = await sql(
        store,
        """
        SELECT EXTRACT(EPOCH FROM GREATEST(next_at, 'epoch') - clock_timestamp())::float AS seconds
        FROM message_queue_chats WHERE instance = %(instance)s AND chat_id = %(chat_id)s
        """,
        instance=INSTANCE,
        chat_id=chat_id,
    )
    return rows[0].seconds if rows else None


async def end_gap(store: Store, chat_id: str = "a") -> None:
    """Let a chat's gap have passed."""
    await sql(
        store,
        "UPDATE message_queue_chats SET next_at = '-infinity' WHERE chat_id = %(chat_id)s RETURNING 1",
        chat_id=chat_id,
    )


async def ask(store: Store, chat_id: str = "a", executors: Sequence[str] = ("default",)) -> Claim | NotNow:
    """Claim the head of one chat."""
    (answer,) = await store.claims.claim([chat(chat_id)], executors)
    return answer


async def claim(store: Store, chat_id: str = "a", executors: Sequence[str] = ("default",)) -> Claim:
    """Claim the head of one chat, which must give one."""
    answer = await ask(store, chat_id, executors)
    assert isinstance(answer, Claim), answer
    return answer


async def refused(store: Store, chat_id: str = "a", executors: Sequence[str] = ("default",)) -> NotNow:
    """Ask for the head of one chat, which must not give one."""
    answer = await ask(store, chat_id, executors)
    assert isinstance(answer, NotNow), answer
    return answer


async def settle(store: Store, held: Claim, settlement: Settlement = NO_GAP) -> str | None:
    """Settle one claim; its row's status, or ``None`` where it came late."""
    (settled,) = await store.claims.settle([(held, settlement)])
    return settled.status


async def sent_in_turn(store: Store, number: int) -> list[UUID]:
    """Send one message of a chat after the other; their ids in the order in which they went."""
    order = []
    for _ in range(number):
        held = await claim(store)
        order.append(held.message.id)
        await settle(store, held)
    return order
