"""A Redis Cluster: each command goes to the node that holds its key.

Not by redis-py's ``RedisCluster``: that of asyncio (5.3) cannot listen to a channel, closes the connections to all
nodes when one of them fails, raises AttributeError at a redirect now and then, and forgets the host that it was given
for the addresses that the nodes tell of each other. Here a plain client stands before each node.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from redis.asyncio.client import PubSub
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import RedisError, ResponseError

from mqworker.broker.connection import Address, BrokerUnavailable
from mqworker.broker.scripts import Call, Plain, raised, replies_of
from mqworker.broker.server import Server

MOVING = ("MOVED ", "ASK ", "TRYAGAIN ")
"""How a node refuses a command whose slot is another's, or on its way there."""
PAUSES_SECONDS = (0.0, 0.05, 0.1, 0.2, 0.4)
"""How long it is waited for such a slot, before each new try."""

SLOTS, INFO = Plain(("CLUSTER", "SLOTS")), Plain(("CLUSTER", "INFO"))

T = TypeVar("T")


class Cluster:
    """All nodes of a cluster, found through the one that the URL names.

    A node that is away is Redis away for all, until it is back or another has its slots: a cluster as Redis has it by
    default (cluster-require-full-coverage) says the same.
    """

    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url
        self._named = Server.open(redis_url)
        self.redis = self._named.redis
        self._nodes: dict[Address, Server] = {}
        self._by_slot: list[Server] = []
        self._looking = asyncio.Lock()

    async def run(self, calls: Sequence[Call | Plain], then: Sequence[Call | Plain] = ()) -> list[Any]:
        """Run commands, those for one node in one round trip and in order; answer in the order of all.

        Between nodes there is no order, but ``then`` is run after all of ``calls``. Raises the first error of any.
        """
        replies = raised(await self._run(calls))
        return [*replies, *await self.run(then)] if then else replies

    async def _run(self, calls: Sequence[Call | Plain]) -> list[Any]:
        replies = await self._send(calls)
        for pause in PAUSES_SECONDS:
            refused = [index for index, reply in enumerate(replies) if _is_moving(reply)]
            if not refused:
                return replies
            self._by_slot = []
            await asyncio.sleep(pause)
            # Those alone: they were not run, the others were.
            again = await self._send([calls[index] for index in refused])
            for index, reply in zip(refused, again, strict=True):
                replies[index] = reply
        if any(map(_is_moving, replies)):
            raise BrokerUnavailable("a slot of the cluster is on its way to another node")
        return replies

    async def _send(self, calls: Sequence[Call | Plain]) -> list[Any]:
        if not calls:
            return []
        by_slot = await self._slots()
        parts: dict[Server, list[int]] = {}
        for index, call in enumerate(calls):
            parts.setdefault(by_slot[_slot_of(call.key)], []).append(index)
        answers = await self._all(
            replies_of(node.redis, [calls[index] for index in part]) for node, part in parts.items()
        )
        replies: list[Any] = [None] * len(calls)
        for part, answer in zip(parts.values(), answers, strict=True):
            for index, reply in zip(part, answer, strict=True):
                replies[index] = reply
        return replies

    async def run_id(self, key: str) -> str:
        """As that of :class:`Server`, for the node that holds the key."""
        return await (await self._slots())[_slot_of(key)].run_id(key)

    async def ping(self) -> None:
        """Raise unless every node answers, and takes commands."""
        nodes = set(await self._slots())
        for (info,) in await self._all(node.run([INFO]) for node in nodes):
            if "cluster_state:ok" not in info:
                self._by_slot = []
                raise ResponseError("CLUSTERDOWN")

    def pubsub(self) -> PubSub:
        """To hear a channel with: what is published at one node all others tell as well."""
        return random.choice([*self._nodes.values()] or [self._named]).pubsub()

    async def aclose(self) -> None:
        for server in (*self._nodes.values(), self._named):
            await server.aclose()

    async def _all(self, works: Iterable[Awaitable[T]]) -> list[T]:
        """All answers, once every one has come or failed. Where one failed the nodes are looked for anew."""
        answers = await asyncio.gather(*works, return_exceptions=True)
        found: list[T] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                self._by_slot = []
                raise answer
            found.append(answer)
        return found

    # Which node holds what

    async def _slots(self) -> list[Server]:
        if not self._by_slot:
            async with self._looking:
                self._by_slot = self._by_slot or await self._look()
        return self._by_slot

    async def _look(self) -> list[Server]:
        """Ask the nodes, one after the other, until one knows them all."""
        known = [(host, node) for (host, _), node in self._nodes.items()]
        random.shuffle(known)  # the first of them may be the one that is away
        named = urlsplit(self._redis_url).hostname or ""
        failure: Exception = ResponseError("CLUSTERDOWN")
        for host, server in (*known, (named, self._named)):
            try:
                (ranges,) = await server.run([SLOTS])
            except (RedisError, OSError) as error:
                failure = error
                continue
            if sum(last - first + 1 for first, last, *_ in ranges) == REDIS_CLUSTER_HASH_SLOTS:
                return await self._learn(ranges, host)
        raise failure

    async def _learn(self, ranges: Sequence[Sequence[Any]], asked: str) -> list[Server]:
        before, self._nodes = self._nodes, {}
        by_slot = [self._named] * REDIS_CLUSTER_HASH_SLOTS
        for first, last, (host, port, *_), *_ in ranges:
            address = (host or asked, port)  # a node that does not know its host is where we asked
            if address not in self._nodes:
                self._nodes[address] = before.get(address) or Server.open(self._redis_url, address)
            by_slot[first : last + 1] = [self._nodes[address]] * (last - first + 1)
        for gone in before.keys() - self._nodes.keys():
            await before[gone].aclose()
        return by_slot


def _is_moving(reply: object) -> bool:
    return isinstance(reply, ResponseError) and str(reply).startswith(MOVING)


def _slot_of(key: str) -> int:
    return key_slot(key.encode())
