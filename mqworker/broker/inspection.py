"""What a doctor asks of Redis: what it has in its lanes, and how it is set up. Changes nothing."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from redis.exceptions import ResponseError

from mqworker.broker.broker import Broker, Entry
from mqworker.broker.connection import translated_errors
from mqworker.broker.keys import InstanceKeys, decode
from mqworker.message import ChatKey

PAGE_MEMBERS = 50
LANE_ENTRIES = 100


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """How Redis is set up. ``stream_node_bytes`` is ``None`` where our user may not ask for it."""

    version: str
    is_replica: bool
    eviction_policy: str
    appendonly: bool
    stream_node_bytes: int | None


class Inspection:
    """Reads of a doctor."""

    def __init__(self, broker: Broker) -> None:
        self._redis = broker.redis
        self._keys = broker.keys

    async def facts(self) -> ServerFacts | None:
        """How the server is set up; ``None`` where our user may not ask."""
        with translated_errors():
            try:
                info: dict[str, Any] = await self._redis.info()
            except ResponseError:
                return None
            return ServerFacts(
                version=info["redis_version"],
                is_replica=info["role"] != "master",
                eviction_policy=info["maxmemory_policy"],
                appendonly=bool(info["aof_enabled"]),
                stream_node_bytes=await self._stream_node_bytes(),
            )

    async def _stream_node_bytes(self) -> int | None:
        try:
            found = await self._redis.config_get("stream-node-max-bytes")
        except ResponseError:
            return None
        return int(found["stream-node-max-bytes"])

    async def entries(self) -> AsyncGenerator[list[Entry]]:
        """What Redis has, in pages: of each chat the first hundred of each lane, and what is scheduled.

        By rank, while chats go and come: one may be passed over, or come twice.
        """
        async for instances in self._members(self._keys.instances):
            for instance in instances:
                async for entries in self._entries_of(instance):
                    yield entries

    async def _entries_of(self, instance: str) -> AsyncGenerator[list[Entry]]:
        keys = self._keys.of(instance)
        for chats_by_time in (keys.ready, keys.leased):
            async for chats in self._members(chats_by_time):
                yield await self._in_lanes(instance, keys, chats)
        async for members in self._members(keys.scheduled):
            yield [_scheduled(instance, member) for member in members]

    async def _members(self, key: str) -> AsyncGenerator[list[str]]:
        start = 0
        while members := await self._range(key, start, start + PAGE_MEMBERS - 1):
            yield members
            start += PAGE_MEMBERS

    async def _range(self, key: str, start: int, end: int) -> list[str]:
        with translated_errors():
            members: list[str] = await self._redis.zrange(key, start, end)
            return members

    async def _in_lanes(self, instance: str, keys: InstanceKeys, chats: Sequence[str]) -> list[Entry]:
        with translated_errors():
            async with self._redis.pipeline(transaction=False) as pipeline:
                for chat in chats:
                    pipeline.xrange(f"{keys.chat}{chat}:stream", count=LANE_ENTRIES)
                    pipeline.zrange(f"{keys.chat}{chat}:sorted", 0, LANE_ENTRIES - 1, withscores=True)
                replies: list[Any] = await pipeline.execute()
        found: list[Entry] = []
        for chat, stream, rest in zip(chats, replies[::2], replies[1::2], strict=True):
            key = ChatKey(instance, decode(chat))
            found += [Entry(key, int(place.split("-")[0]), UUID(fields["id"])) for place, fields in stream]
            found += [_sorted(key, member, -int(score)) for member, score in rest]
        return found


def _sorted(chat: ChatKey, member: str, priority: int) -> Entry:
    seq, _, message_id = member.partition(":")
    return Entry(chat, int(seq), UUID(message_id), priority)


def _scheduled(instance: str, member: str) -> Entry:
    chat, priority, seq, message_id = member.split(":")
    return Entry(ChatKey(instance, decode(chat)), int(seq), UUID(message_id), int(priority))
