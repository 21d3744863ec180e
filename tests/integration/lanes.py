"""Redis' lanes as the tests look at them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from mqworker.broker import Broker, Entry, Lease
from mqworker.message import ChatKey
from tests.integration.rows import INSTANCE, chat

LOCK_SECONDS = 30.0


def entry(seq: int, name: str = "a", *, priority: int = 0, due_seconds: float = 0.0, instance: str = INSTANCE) -> Entry:
    return Entry(ChatKey(instance, name), seq, UUID(int=seq), priority, due_seconds)


async def lease(
    broker: Broker, instance: str = INSTANCE, *, max_chats: int = 100, lock: float = LOCK_SECONDS
) -> list[Lease]:
    (leased,) = await broker.lease([instance], max_chats=max_chats, lock_seconds=lock)
    return leased.leases


async def lease_one(broker: Broker, name: str = "a") -> Lease:
    (held,) = await lease(broker)
    assert held.chat == chat(name)
    return held


async def depth(broker: Broker, name: str = "a") -> list[str]:
    """The ids in a chat's two lanes."""
    prefix = broker.keys.of(INSTANCE).chat + name
    lane: list[Any] = await broker.redis.xrange(f"{prefix}:stream")
    rest: list[str] = await broker.redis.zrange(f"{prefix}:sorted", 0, -1)
    return [fields["id"] for _, fields in lane] + [member.split(":", 1)[1] for member in rest]


async def known(broker: Broker, instance: str = INSTANCE) -> set[str]:
    """The chats that Redis lets go, now or later."""
    return set(await broker.redis.zrange(broker.keys.of(instance).ready, 0, -1))


async def ready_in(broker: Broker, name: str = "a") -> float | None:
    """Seconds until a chat may go; ``None`` where it is not in ``ready``."""
    score = await broker.redis.zscore(broker.keys.of(INSTANCE).ready, name)
    return None if score is None else score / 1000 - await clock(broker)


async def account_in(broker: Broker, instance: str = INSTANCE) -> float | None:
    """Seconds until an account is due."""
    score = await broker.redis.zscore(broker.keys.instances, instance)
    return None if score is None else score / 1000 - await clock(broker)


async def clock(broker: Broker) -> float:
    seconds, microseconds = await broker.redis.time()
    return float(seconds) + float(microseconds) / 1e6


def ids(*seqs: int) -> list[str]:
    return [str(UUID(int=seq)) for seq in seqs]


async def everything(broker: Broker) -> dict[str, str]:
    """Every key and its type."""
    return {key: await broker.redis.type(key) for key in await broker.redis.keys("*")}
