"""The same random commands on Redis and in memory give the same answers and leave the same keys.

Every time is nothing, a millisecond that is then waited for, or an hour: so neither clock has a say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any
from uuid import UUID

import pytest

from mqworker.broker import Broker, Entry, Finish, Lease
from mqworker.broker import broker as module
from mqworker.broker.scripts import Plain
from mqworker.message import ChatKey
from mqworker.testing.memory.redis import Account
from tests.conformance.conftest import MemoryServers
from tests.conftest import NewBroker

HOUR = 3600.0
CALLS = 150
SEEDS = range(8)
ACCOUNTS = ("shop", "bank")
CHATS = [ChatKey(account, chat_id) for account in ACCOUNTS for chat_id in ("a", "b", "c:%")]
TICK_SECONDS = 0.004


class Pair:
    """Two brokers that are told the same, and must answer the same."""

    def __init__(self, seed: int, real: Broker, memory: Broker) -> None:
        self.rng = Random(seed)
        self._brokers = real, memory
        self._leases: list[tuple[Lease, Lease]] = []
        """What each of both calls the same lease, the last ones first."""
        self._guards = ("", "")
        self._seq = 0

    async def both(self, call: Callable[[Broker, int], Awaitable[Any]]) -> tuple[Any, Any]:
        answers = [await call(broker, index) for index, broker in enumerate(self._brokers)]
        return answers[0], answers[1]

    async def same(self, call: Callable[[Broker], Awaitable[Any]]) -> None:
        real, memory = await self.both(lambda broker, _: call(broker))
        assert real == memory

    def _entry(self, chat: ChatKey | None = None) -> Entry:
        rng = self.rng
        seq = rng.randint(1, 12)  # few: repeats, and seqs that come late
        priority = (0, 0, 3, -3)[seq % 4]
        return Entry(chat or rng.choice(CHATS), seq, UUID(int=seq), priority, rng.choice((0.0, 0.0, 0.0, 0.001, HOUR)))

    async def announce(self) -> None:
        entries = [self._entry() for _ in range(self.rng.randint(1, 4))]
        await self.same(lambda broker: broker.announce(entries))

    async def lease(self) -> None:
        accounts = self.rng.sample(ACCOUNTS, self.rng.randint(1, 2))
        lock = self.rng.choice((0.001, HOUR, HOUR))
        real, memory = await self.both(lambda broker, _: broker.lease(accounts, max_chats=99, lock_seconds=lock))
        for one, other in zip(real, memory, strict=True):
            assert (one.instance, one.known, _about(one.wait_seconds)) == (
                other.instance,
                other.known,
                _about(other.wait_seconds),
            )
            pairs = [sorted(side.leases, key=lambda lease: lease.chat) for side in (one, other)]
            about = [[(lease.chat, lease.depth) for lease in side] for side in pairs]
            assert about[0] == about[1]
            self._leases = [*zip(*pairs, strict=True), *self._leases][:8]

    async def finish(self) -> None:
        finishes = [self._finish() for _ in range(self.rng.randint(1, 3))]
        real, memory = await self.both(lambda broker, index: broker.finish([finish[index] for finish in finishes]))
        assert _about(real) == _about(memory)

    def _finish(self) -> tuple[Finish, Finish]:
        rng = self.rng
        leases = rng.choice(self._leases) if self._leases else (Lease(rng.choice(CHATS), "x"),) * 2
        chat, entry = leases[0].chat, self._entry(leases[0].chat)
        done, kept = rng.choice(((None, None), (entry, None), (None, entry)))
        wait, gap = rng.choice((0.0, HOUR, None)), rng.choice((0.0, HOUR))
        breaks = rng.random() < 0.2
        real, memory = (Finish(chat, "" if breaks else lease.token, wait, gap, done, kept) for lease in leases)
        return real, memory

    async def let_go(self) -> None:
        leases, self._leases = self._leases, []
        rng = self.rng
        kinds = [rng.randrange(3) for _ in leases]
        wait = rng.choice((0.0, HOUR))

        async def call(broker: Broker, index: int) -> None:
            empty, waiting = (
                [pair[index] for pair, kind in zip(leases, kinds, strict=True) if kind == wanted] for wanted in (1, 2)
            )
            late = [Finish(lease.chat, lease.token, wait) for lease in waiting]
            await broker.let_go(empty=empty, waiting=late)

        await self.both(call)
        self._leases = [pair for pair, kind in zip(leases, kinds, strict=True) if kind == 0]

    async def renew(self) -> None:
        lock = self.rng.choice((0.001, HOUR))
        await self.both(lambda broker, index: broker.renew([pair[index] for pair in self._leases], lock_seconds=lock))

    async def drop(self) -> None:
        entries = [self._entry() for _ in range(2)]
        await self.same(lambda broker: broker.drop(entries))

    async def take(self) -> None:
        real, memory = await self.both(lambda broker, _: broker.take())
        for fields in (lambda t: (t.remembers, sorted(t.instances)), lambda t: _about(t.wait_seconds)):
            assert fields(real) == fields(memory)
        self._guards = real.guard, memory.guard

    async def park(self) -> None:
        waits = {account: self.rng.choice((None, 0.0, HOUR)) for account in ACCOUNTS}
        await self.both(lambda broker, index: broker.park(self._guards[index], waits))

    async def memory(self) -> None:
        calls: list[Callable[[Broker], Awaitable[Any]]] = [
            lambda broker: broker.begin_rebuild(hold_seconds=HOUR),
            lambda broker: broker.begin_rebuild(hold_seconds=0.001),
            lambda broker: broker.keep_rebuild(hold_seconds=HOUR),
            lambda broker: ended(broker, ["shop"]),
            lambda broker: known(broker, ["bank"]),
            lambda broker: came_back_old(broker, ACCOUNTS),
            lambda broker: broker.is_rebuilding(),
            lambda broker: broker.remembers(),
            lambda broker: broker.sweep_instances(),
            lambda broker: broker.redis.script_flush(),
        ]
        call = self.rng.choice(calls)
        if self.rng.random() < 0.1:
            await self.both(lambda broker, _: broker.redis.flushall())
        if call is calls[-1]:
            await self.both(lambda broker, _: call(broker))
        else:
            await self.same(call)


async def ended(broker: Broker, accounts: Sequence[str]) -> bool:
    return await broker.end_rebuild(await broker.mark_filling(accounts))


async def known(broker: Broker, accounts: Sequence[str]) -> None:
    await broker.mark_known(await broker.mark_filling(accounts))


async def came_back_old(broker: Broker, accounts: Sequence[str]) -> None:
    """What a copy of the memory brings back, its leases too; and that whoever fills it breaks them."""
    await broker.servers.run([Plain(("SET", broker.keys.of(account).epoch, "an old run")) for account in accounts])
    await broker.mark_filling(accounts)


def _about(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds / 100)


async def _keys(broker: Broker, account: str) -> Any:
    """What Redis holds of an account, without times."""
    keys, redis = broker.keys.of(account), broker.redis
    chats: dict[str, Any] = {}
    for key in await redis.keys(f"{keys.chat}*"):
        chat, kind = key.removeprefix(keys.chat).rsplit(":", 1)
        if kind == "stream":
            value: Any = [(int(entry.split("-")[0]), fields["id"]) for entry, fields in await redis.xrange(key)]
        elif kind == "sorted":
            value = await redis.zrange(key, 0, -1, withscores=True)
        else:
            asked: Any = redis.hget(key, "dirty")
            value = bool(await asked)
        chats[f"{chat} {kind}"] = value
    sets = [sorted(await redis.zrange(key, 0, -1)) for key in (keys.ready, keys.leased, keys.scheduled)]
    return sets, chats


def _memory_keys(account: Account, now: int) -> Any:
    chats: dict[str, Any] = {}
    for chat, stream in account.streams.items():
        chats[f"{chat} stream"] = list(stream.entries.items())
    for chat, lane in account.sorted.items():
        chats[f"{chat} sorted"] = sorted(lane.items(), key=lambda one: (one[1], one[0]))
    for chat in list(account.locks):
        lock = account.lock(chat, now)
        if lock is not None:
            chats[f"{chat} lock"] = lock.dirty
    return [sorted(account.ready), sorted(account.leased), sorted(account.scheduled)], chats


@pytest.mark.parametrize("seed", SEEDS)
async def test_random_commands_give_the_same_answers(
    seed: int, new_real_broker: NewBroker, memory: MemoryServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GUARD_MS", int(HOUR * 1000))
    real = new_real_broker()
    pair = Pair(seed, real, memory.broker())
    ops = [
        pair.announce,
        pair.lease,
        pair.finish,
        pair.let_go,
        pair.renew,
        pair.drop,
        pair.take,
        pair.park,
        pair.memory,
    ]
    weights = [30, 25, 20, 10, 5, 8, 15, 10, 10]
    for _ in range(CALLS):
        (op,) = pair.rng.choices(ops, weights)
        await op()
        await asyncio.sleep(TICK_SECONDS)
        for account in ACCOUNTS:
            prefix = real.keys.of(account).chat
            fake = _memory_keys(memory.redis.memory.account(prefix), memory.redis.memory.now)
            assert await _keys(real, account) == fake, op.__name__
