"""What can be asked of Redis. It proposes which chats may go; nothing that it says is taken for true."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID, uuid4

from mqworker.broker.cluster import Cluster
from mqworker.broker.connection import NO_CLUSTER, NODE_OF_A_CLUSTER, translated_errors
from mqworker.broker.keys import Keys, decode, encode
from mqworker.broker.scripts import Call, Plain
from mqworker.broker.server import Server
from mqworker.errors import ConfigError
from mqworker.message import ChatKey

ENTRIES_PER_CALL = 500
"""A script blocks the whole server: 500 entries take some 2 ms."""
TAKE_INSTANCES = 64
GUARD_MS = 100
REBUILDING = "rebuilding:"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """A waiting message as Redis knows it: never its payload."""

    chat: ChatKey
    seq: int
    id: UUID
    priority: int = 0
    due_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Taken:
    """Accounts with a due chat. ``remembers`` is false where Redis lost its memory."""

    remembers: bool
    guard: str
    wait_seconds: float | None
    instances: list[str]


@dataclass(slots=True)
class Lease:
    """One chat locked for us under ``token``; ``depth`` is how many waiting messages Redis knew of.

    The lock ends at ``until``, by the event loop's clock and as far as we know: no sooner, where Redis was told.
    """

    chat: ChatKey
    token: str
    depth: int = 1
    until: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Leased:
    """What one account gave. ``known`` is false where its epoch is not its server's: Redis may lack some messages."""

    instance: str
    known: bool
    wait_seconds: float | None
    leases: list[Lease]


@dataclass(frozen=True, slots=True)
class Finish:
    """A chat that may go again in ``wait_seconds``, or in ``gap_seconds`` if something new came meanwhile.

    With ``None`` for ``wait_seconds`` its lease goes on. ``done`` is an entry that leaves its lane, ``kept`` one that
    waits on (put in again if Redis lost it); an empty ``token`` breaks whoever's lock it is.
    """

    chat: ChatKey
    token: str
    wait_seconds: float | None
    gap_seconds: float = 0.0
    done: Entry | None = None
    kept: Entry | None = None

    @property
    def words(self) -> list[str | int]:
        """As the script takes it."""
        entry = self.done or self.kept
        action = "drop" if self.done else "keep" if self.kept else ""
        seq, message_id, priority = (str(entry.seq), str(entry.id), entry.priority) if entry else ("", "", 0)
        waits = (-1 if self.wait_seconds is None else _ms(self.wait_seconds), _ms(self.gap_seconds))
        return [encode(self.chat.chat_id), self.token, action, seq, message_id, priority, *waits]


class Broker:
    """The commands. Every one raises :class:`BrokerUnavailable` where Redis fails it."""

    def __init__(self, redis_url: str, keys: Keys, *, owner: str, cluster: bool = False) -> None:
        self.servers: Server | Cluster = Cluster(redis_url) if cluster else Server.open(redis_url)
        self.redis = self.servers.redis
        """The client of the server that the URL names."""
        self.keys = keys
        self._owner = owner

    async def check(self) -> None:
        """Raise :class:`ConfigError` where Redis is a cluster and is not said to be one, or the other way round."""
        with translated_errors():
            info = await self.redis.info("cluster")
        is_cluster = bool(info.get("cluster_enabled"))
        if is_cluster != isinstance(self.servers, Cluster):
            raise ConfigError(NODE_OF_A_CLUSTER if is_cluster else NO_CLUSTER)

    async def announce(self, entries: Sequence[Entry], *, wake: bool = True) -> int:
        """Make waiting messages known and wake idle workers; return how many were new to Redis. Idempotent."""
        calls: list[Call] = []
        for instance, part in _by_instance(entries, lambda entry: entry.chat.instance):
            items: list[str | int] = []
            for entry in part:
                due_ms = max(_ms(entry.due_seconds), 0)
                items += [encode(entry.chat.chat_id), str(entry.seq), str(entry.id), entry.priority, due_ms]
            calls.append(self._many("announce", instance, items))
        if not calls:
            return 0
        # After the lanes, never before: who finds the account must find the message.
        point = self._point((entry.chat.instance for entry in entries), wake=wake)
        with translated_errors():
            *added, _ = await self.servers.run(calls, [point])
        return sum(added)

    def _point(self, instances: Iterable[str], *, wake: bool) -> Call:
        return Call("point", [self.keys.instances], [self.keys.wake if wake else "", *sorted(set(instances))])

    async def take(self) -> Taken:
        """Take accounts that have a due chat."""
        with translated_errors():
            take = Call("take", [self.keys.instances], [TAKE_INSTANCES, GUARD_MS])
            epoch, reply = await self.servers.run([Plain(("GET", self.keys.epoch)), take])
            remembers = await self._remembers(epoch)
        guard, wait_ms, *instances = reply
        return Taken(remembers, guard, _seconds(wait_ms), instances)

    async def lease(self, instances: Sequence[str], *, max_chats: int, lock_seconds: float) -> list[Leased]:
        """Lease due chats, at most ``max_chats`` in all, shared between the accounts.

        Where there are more accounts than room, chance decides: were it always the first, the busiest would starve
        the rest.
        """
        token = uuid4().hex
        asked = instances if len(instances) <= max_chats else random.sample(list(instances), max_chats)
        share = max(max_chats // len(instances), 1)
        arguments: list[str | int] = [share, _ms(lock_seconds), self._owner, token]
        until = _now() + lock_seconds
        with translated_errors():
            replies = await self.servers.run([self._call("lease", name, arguments) for name in asked])
            run_ids = [await self.servers.run_id(self.keys.of(name).epoch) for name in asked]
        leased = [
            Leased(name, epoch == run_id, _seconds(wait_ms), _leases(name, chats, token, until))
            for name, run_id, (epoch, wait_ms, *chats) in zip(asked, run_ids, replies, strict=True)
        ]
        # The others are due still.
        return [*leased, *(Leased(name, True, 0.0, []) for name in set(instances).difference(asked))]

    async def park(self, guard: str, waits: Mapping[str, float | None]) -> None:
        """Put taken accounts back, each with the time until its next due chat (``None``: nothing waits)."""
        arguments: list[str | int] = [guard]
        for instance, wait in waits.items():
            arguments += [instance, -1 if wait is None else round(wait * 1000)]
        with translated_errors():
            await self.servers.run([Call("park", [self.keys.instances], arguments)])

    async def finish(self, finishes: Sequence[Finish]) -> float | None:
        """Let chats go again; return the seconds until the earliest of them is due. Idempotent."""
        return await self._let_go(self._finishes(finishes))

    async def let_go(self, *, empty: Sequence[Lease], waiting: Sequence[Finish]) -> float | None:
        """Give back what a claim left of its leases: drop the empty chats, let the waiting go later.

        Returns the seconds until the earliest of them is due, as :meth:`finish` does.
        """
        return await self._let_go([*self._finishes(waiting), *self._tokens("forget", empty)])

    async def renew(self, leases: Sequence[Lease], *, lock_seconds: float) -> None:
        """Hold locked chats longer: until ``lock_seconds`` from now."""
        until = _now() + lock_seconds
        with translated_errors():
            await self.servers.run([call for _, call in self._tokens("renew", leases, _ms(lock_seconds))])
        for lease in leases:
            lease.until = until

    async def _let_go(self, calls: Sequence[tuple[str, Call]]) -> float | None:
        """Run ``calls``, each of which tells when a chat of its account is due, and then see to their accounts."""
        with translated_errors():
            replies = await self.servers.run([call for _, call in calls])
            due: dict[str, float] = {}
            for (name, _), ms in sorted(zip(calls, replies, strict=True), key=lambda one: -one[1]):
                if ms >= 0:
                    due[name] = ms / 1000  # the earliest comes last
            if due:
                # No account has this score as its guard: the due times only ever lower what stands there.
                await self.park("", due)
        return min(due.values(), default=None)

    def _finishes(self, finishes: Sequence[Finish]) -> list[tuple[str, Call]]:
        return [
            (instance, self._many("finish", instance, [word for finish in part for word in finish.words]))
            for instance, part in _by_instance(finishes, lambda finish: finish.chat.instance)
        ]

    def _tokens(self, name: str, leases: Sequence[Lease], *more: int) -> list[tuple[str, Call]]:
        return [
            (instance, self._many(name, instance, [w for x in part for w in (encode(x.chat.chat_id), x.token)], *more))
            for instance, part in _by_instance(leases, lambda lease: lease.chat.instance)
        ]

    async def drop(self, entries: Sequence[Entry]) -> None:
        """Take cancelled messages out of the view."""
        calls: list[Call] = []
        for instance, part in _by_instance(entries, lambda entry: entry.chat.instance):
            items: list[str | int] = []
            for entry in part:
                items += [encode(entry.chat.chat_id), str(entry.seq), str(entry.id), entry.priority]
            calls.append(self._many("drop", instance, items))
        if calls:
            with translated_errors():
                await self.servers.run(calls, [self._point((entry.chat.instance for entry in entries), wake=True)])

    async def unknown(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those of the waiting messages that no lease would come upon."""
        parts = list(_by_instance(entries, lambda entry: entry.chat.instance))
        calls: list[Call | Plain] = []
        for instance, part in parts:
            words = [w for e in part for w in (encode(e.chat.chat_id), str(e.seq), str(e.id), e.priority)]
            calls += [self._many("unknown", instance, words), Plain(("ZSCORE", self.keys.instances, instance))]
        with translated_errors():
            replies = await self.servers.run(calls)
        unknown: list[Entry] = []
        for (_, part), places, due in zip(parts, replies[::2], replies[1::2], strict=True):
            # Of an account that is not due ever, no chat is looked at.
            unknown += part if due is None or math.isinf(due) else [part[place] for place in places]
        return unknown

    async def sweep_instances(self) -> int:
        """Remove the accounts in which nothing waits."""
        removed: int = await self._one("ZREMRANGEBYSCORE", self.keys.instances, "+inf", "+inf")
        return removed

    async def _one(self, *words: str) -> Any:
        with translated_errors():
            (answer,) = await self.servers.run([Plain(words)])
        return answer

    # The epochs: what says that Redis still has what it was given.

    async def remembers(self) -> bool:
        """Whether Redis is the server that was filled, and still has its memory (or is being filled now)."""
        epoch = await self._one("GET", self.keys.epoch)
        with translated_errors():
            return await self._remembers(epoch)

    async def _remembers(self, epoch: str | None) -> bool:
        return epoch == await self.servers.run_id(self.keys.epoch) or (epoch or "").startswith(REBUILDING)

    async def is_rebuilding(self) -> bool:
        """Whether it is being filled now."""
        return (await self._one("GET", self.keys.epoch) or "").startswith(REBUILDING)

    async def begin_rebuild(self, *, hold_seconds: float) -> None:
        """Mark the memory as being filled."""
        await self._one("SET", self.keys.epoch, f"{REBUILDING}{self._owner}", "PX", str(_ms(hold_seconds)))

    async def keep_rebuild(self, *, hold_seconds: float) -> bool:
        """Lengthen the mark; false where it is gone: the memory was lost again."""
        mark = f"{REBUILDING}{self._owner}"
        return bool(await self._one("SET", self.keys.epoch, mark, "PX", str(_ms(hold_seconds)), "XX"))

    async def end_rebuild(self, filling: Mapping[str, str]) -> bool:
        """Declare the memory whole; false where it was lost again meanwhile."""
        await self.mark_known(filling)
        with translated_errors():
            run_id = await self.servers.run_id(self.keys.epoch)
        return bool(await self._one("SET", self.keys.epoch, run_id, "XX"))

    async def mark_filling(self, instances: Iterable[str]) -> dict[str, str]:
        """Say that these accounts are being filled; return what :meth:`mark_known` takes.

        Where an old copy of the memory came back (a restart, a replica), the leases that it brought are broken: nobody
        would release them.
        """
        keys = {name: self.keys.of(name).epoch for name in instances}
        with translated_errors():
            filling = {name: await self.servers.run_id(key) for name, key in keys.items()}
            looks = [Plain(("GET", key)) for key in keys.values()]
            marks = [Plain(("SET", keys[name], f"{REBUILDING}{run_id}", "NX")) for name, run_id in filling.items()]
            epochs = await self.servers.run(looks, marks)
            found = zip(filling.items(), epochs, strict=False)
            await self._break_leases([name for (name, run_id), epoch in found if epoch and not epoch.endswith(run_id)])
        return filling

    async def mark_known(self, filling: Mapping[str, str]) -> None:
        """Declare what is known of these accounts whole, but for those that were lost since :meth:`mark_filling`."""
        marks = [Plain(("SET", self.keys.of(name).epoch, run_id, "XX")) for name, run_id in filling.items()]
        with translated_errors():
            await self.servers.run(marks)

    async def _break_leases(self, instances: Sequence[str]) -> None:
        """Let all leased chats of these accounts go at once, whoever holds them."""
        while instances:
            broken = await self.servers.run([self._call("unlease", instance, []) for instance in instances])
            instances = [instance for instance, number in zip(instances, broken, strict=True) if number]

    def _call(self, name: str, instance: str, arguments: Sequence[str | int]) -> Call:
        keys = self.keys.of(instance)
        return Call(name, keys.all, [keys.chat, *arguments])

    def _many(self, name: str, instance: str, items: Sequence[str | int], *more: int) -> Call:
        # One JSON word: thousands of words cost the client more than all else that it does for a batch.
        return self._call(name, instance, [json.dumps(items, separators=(",", ":")), *more])

    async def ping(self) -> None:
        """Raise :class:`BrokerUnavailable` unless Redis answers."""
        with translated_errors():
            await self.servers.ping()

    async def aclose(self) -> None:
        await self.servers.aclose()


def _by_instance(items: Sequence[T], instance_of: Callable[[T], str]) -> Iterator[tuple[str, Sequence[T]]]:
    """Items by account, in their order, at most ``ENTRIES_PER_CALL`` together."""
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(instance_of(item), []).append(item)
    for instance, group in groups.items():
        for start in range(0, len(group), ENTRIES_PER_CALL):
            yield instance, group[start : start + ENTRIES_PER_CALL]


def _leases(instance: str, words: Sequence[Any], token: str, until: float) -> list[Lease]:
    pairs = zip(words[::2], words[1::2], strict=True)
    return [Lease(ChatKey(instance, decode(chat)), token, depth, until) for chat, depth in pairs]


def _now() -> float:
    return asyncio.get_running_loop().time()


def _seconds(ms: int) -> float | None:
    return None if ms < 0 else ms / 1000


def _ms(seconds: float) -> int:
    # Rounded up: a chat that comes back a fraction of a millisecond early is asked for twice.
    return math.ceil(seconds * 1000)
