"""A Redis Cluster on this machine: three nodes without replicas, each with a third of the slots."""

from __future__ import annotations

import os
from contextlib import ExitStack
from itertools import pairwise, permutations
from types import TracebackType
from typing import Any, Self

from redis import Redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import ConnectionError as RedisConnectionError

from mqworker.broker import Keys
from mqworker.devserver import RedisServer
from mqworker.devserver.account import Account
from mqworker.devserver.find import Binaries, find_redis, server_choice
from mqworker.devserver.folders import StateFolder
from mqworker.devserver.launch import Place
from mqworker.devserver.server import HOST, free_port
from mqworker.devserver.servers import _usable
from mqworker.testing.waiting import wait_until

NODES = 3
NODE_TIMEOUT_MS = 2000


class Node(RedisServer):
    """One node. Which slots are its own it keeps in its folder, over a kill too; its memory it does not."""

    def __init__(self, place: Place, binaries: Binaries) -> None:
        super().__init__(place, binaries, appendonly=False)
        self._bus_port = free_port()

    def _command(self, port: int) -> list[str]:
        options = {
            "cluster-enabled": "yes",
            "cluster-port": str(self._bus_port),
            "cluster-node-timeout": str(NODE_TIMEOUT_MS),
        }
        return [*super()._command(port), *(word for name, value in options.items() for word in (f"--{name}", value))]

    def ask(self, *words: str | int) -> Any:
        """What it answers to a command."""
        with Redis(HOST, self.port, decode_responses=True) as client:
            return client.execute_command(*words)

    @property
    def id(self) -> str:
        return str(self.ask("CLUSTER", "MYID"))

    def meet(self, other: Node) -> None:
        self.ask("CLUSTER", "MEET", HOST, other.port, other._bus_port)

    @property
    def is_ready(self) -> bool:
        """Whether it takes commands, and knows of every slot who has it."""
        try:
            state, slots = self.ask("CLUSTER", "INFO"), self.ask("CLUSTER", "SLOTS")
        except RedisConnectionError:
            return False
        known = sum(last - first + 1 for first, last, *_ in slots)
        return "cluster_state:ok" in state and known == REDIS_CLUSTER_HASH_SLOTS


class RedisNodes:
    """The nodes, as a context manager."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._stack = ExitStack()
        self._bounds = [REDIS_CLUSTER_HASH_SLOTS * n // NODES for n in range(NODES + 1)]
        self._moved: set[int] = set()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for first, after in pairwise(self._bounds):
                self.nodes.append(_started(stack))
                self.nodes[-1].ask("CLUSTER", "ADDSLOTSRANGE", first, after - 1)
            for node, other in permutations(self.nodes, 2):
                node.meet(other)
            self.wait()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def reset(self) -> None:
        """All of them running, with the slots that they had at first, and empty."""
        for node in self.nodes:
            node.start()
        self.wait()
        self.everywhere("FLUSHALL")
        for slot in tuple(self._moved):
            self.begin_move(slot, self._of_slot(slot))
            self.end_move(slot, self._of_slot(slot))
            self._moved.remove(slot)

    def wait(self) -> None:
        """Wait until all of them take commands."""
        wait_until(lambda: all(node.is_ready for node in self.nodes), "all nodes take commands", timeout_seconds=30)

    @property
    def url(self) -> str:
        return self.nodes[0].url

    def everywhere(self, *words: str) -> None:
        """One command to each node."""
        for node in self.nodes:
            node.ask(*words)

    def of_key(self, key: str) -> Node:
        """The node that has had a key's slot from the start."""
        return self._of_slot(key_slot(key.encode()))

    def _of_slot(self, slot: int) -> Node:
        return next(node for node, after in zip(self.nodes, self._bounds[1:], strict=True) if slot < after)

    def of(self, instance: str) -> Node:
        """The node of an account."""
        return self.of_key(Keys().of(instance).epoch)

    def depth(self, instance: str) -> int:
        """How many messages wait in the chat ``a`` of an account."""
        return int(self.of(instance).ask("XLEN", f"{Keys().of(instance).chat}a:stream"))

    # A slot moves to another node as an operator's tools have it.

    def begin_move(self, slot: int, target: Node) -> None:
        """From here on the slot is on its way."""
        source = self._holding(slot)
        self._moved.add(slot)
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)

    def end_move(self, slot: int, target: Node) -> None:
        """Move its keys, a few at a time, then have the target hold it."""
        source = self._holding(slot)
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 10):
            source.ask("MIGRATE", HOST, target.port, "", 0, 5000, "REPLACE", "KEYS", *keys)
        for node in (target, source, *self.nodes):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", target.id)

    def _holding(self, slot: int) -> Node:
        ranges = self.nodes[0].ask("CLUSTER", "SLOTS")
        (port,) = (port for first, last, (_, port, *_), *_ in ranges if first <= slot <= last)
        return next(node for node in self.nodes if node.port == port)

    def accounts(self, each: int) -> list[str]:
        """Names of accounts, ``each`` of them on every node."""
        names: dict[int, list[str]] = {node.port: [] for node in self.nodes}
        for name in (f"shop-{n}" for n in range(200)):
            names[self.of(name).port].append(name)
        return [name for of_node in names.values() for name in of_node[:each]]


def _started(stack: ExitStack) -> Node:
    folder = StateFolder.open_throw_away()
    stack.callback(folder.close)
    place = Place(folder, Account.choose(folder.path))
    node = Node(place, _usable("Redis", find_redis(server_choice(os.environ)), place.account))
    stack.callback(node.stop)
    node.start()
    return node
