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
from mqworker.broker.scripts import Plain
from mqworker.message import ChatKey

PAGE_MEMBERS = 50
LANE_ENTRIES = 100


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """How the server that the URL names is set up.

    ``is_lone_replica``: it takes no writes, and no cluster knows who does. ``stream_node_bytes`` is ``None`` where our
    user may not ask for it.
    """

    version: str
    is_lone_replica: bool
    eviction_policy: str
    appendonly: bool
    stream_node_bytes: int | None


class Inspection:
    """Reads of a doctor."""

    def __init__(self, broker: Broker) -> None:
        self._redis = broker.redis
        self._servers = broker.servers
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
                is_lone_replica=info["role"] != "master" and not info["cluster_enabled"],
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
            (members,) = await self._servers.run([Plain(("ZRANGE", key, str(start), str(end)))])
        return list(members)

    async def _in_lanes(self, instance: str, keys: InstanceKeys, chats: Sequence[str]) -> list[Entry]:
        looks: list[Plain] = []
        for chat in chats:
            looks.append(Plain(("XRANGE", f"{keys.chat}{chat}:stream", "-", "+", "COUNT", str(LANE_ENTRIES))))
            looks.append(Plain(("ZRANGE", f"{keys.chat}{chat}:sorted", "0", str(LANE_ENTRIES - 1), "WITHSCORES")))
        with translated_errors():
            replies = await self._servers.run(looks)
        found: list[Entry] = []
        for chat, stream, rest in zip(chats, replies[::2], replies[1::2], strict=True):
            key = ChatKey(instance, decode(chat))
            found += [Entry(key, int(place.split("-")[0]), UUID(fields["id"])) for place, fields in stream]
            found += [_sorted(key, member, -int(score)) for member, score in zip(rest[::2], rest[1::2], strict=True)]
        return found


def _sorted(chat: ChatKey, member: str, priority: int) -> Entry:
    seq, _, message_id = member.partition(":")
    return Entry(chat, int(seq), UUID(message_id), priority)


def _scheduled(instance: str, member: str) -> Entry:
    chat, priority, seq, message_id = member.split(":")
    return Entry(ChatKey(instance, decode(chat)), int(seq), UUID(message_id), int(priority))
