"""Redis without its memory: emptied, restarted, away. Accounts, the epoch, lost scripts, lost servers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from uuid import UUID, uuid4

import pytest
import redis as blocking

from mqworker.broker import Broker, BrokerUnavailable, Entry, Finish, Keys, Lease
from mqworker.broker.scripts import load
from mqworker.devserver import RedisServer
from mqworker.message import ChatKey
from tests.integration.rows import INSTANCE, chat

HOLD_SECONDS = 30.0


def entry(seq: int, name: str = "a", instance: str = INSTANCE) -> Entry:
    return Entry(ChatKey(instance, name), seq, UUID(int=seq))


# accounts: take, park, point


async def test_parked_accounts_are_due_in_their_time_and_empty_ones_never(broker: Broker) -> None:
    await broker.announce([entry(1), entry(2, instance="idle")])
    taken = await broker.take()
    await broker.park(taken.guard, {INSTANCE: 50.0, "idle": None})
    again = await broker.take()
    assert again.instances == []
    assert again.wait_seconds is not None
    assert 45 < again.wait_seconds <= 50
    assert await broker.sweep_instances() == 1
    assert await broker.redis.zrange(broker.keys.instances, 0, -1) == [INSTANCE]


async def test_an_announce_between_take_and_park_is_not_lost(broker: Broker) -> None:
    await broker.announce([entry(1)])
    taken = await broker.take()
    await broker.announce([entry(2, "b")])
    await broker.park(taken.guard, {INSTANCE: None})
    assert (await broker.take()).instances == [INSTANCE]


async def test_parking_raises_no_time_but_its_own_guard(broker: Broker) -> None:
    await broker.redis.zadd(broker.keys.instances, {INSTANCE: 5})
    await broker.park("", {INSTANCE: 100.0})
    await broker.park("123", {INSTANCE: None})
    assert await broker.redis.zscore(broker.keys.instances, INSTANCE) == 5


async def test_accounts_without_room_are_parked_as_due_still(broker: Broker) -> None:
    await broker.announce([entry(n, instance=f"i{n}") for n in range(1, 6)])
    taken = await broker.take()
    leased = await broker.lease(taken.instances, max_chats=2, lock_seconds=HOLD_SECONDS)
    assert sorted(one.instance for one in leased) == sorted(taken.instances)
    assert sum(len(one.leases) for one in leased) == 2
    assert [one.wait_seconds for one in leased if not one.leases] == [0.0] * 3


# lost scripts and lost memory


async def test_every_command_works_after_script_flush(broker: Broker) -> None:
    async def flush() -> None:
        await broker.redis.script_flush()

    await flush()
    await broker.announce([entry(1), entry(2, "b"), entry(3, "c")])
    await flush()
    taken = await broker.take()
    assert taken.instances == [INSTANCE]
    await flush()
    (leased,) = await broker.lease(taken.instances, max_chats=9, lock_seconds=HOLD_SECONDS)
    a, b, c = leased.leases
    await flush()
    await broker.park(taken.guard, {INSTANCE: None})
    await flush()
    await broker.let_go(empty=[b], waiting=[Finish(c.chat, c.token, 9.0)])
    await flush()
    await broker.renew([a], lock_seconds=HOLD_SECONDS)
    await flush()
    assert await broker.finish([Finish(a.chat, a.token, 5.0, done=entry(1))]) == 5.0
    await flush()
    await broker.drop([entry(3, "c")])


async def test_the_account_is_pointed_to_after_its_lanes_were_written_whatever_scripts_were_lost(
    broker: Broker,
) -> None:
    """Pointed to first, it is taken, found empty and parked for ever, and then the message comes."""
    await broker.redis.script_flush()
    await broker.redis.script_load(load("point").source)
    async with broker.redis.monitor() as monitor:
        await broker.announce([entry(1)])
        await broker.redis.echo("end")
        commands: list[str] = []
        while not (commands and commands[-1].startswith("ECHO")):
            commands.append((await monitor.next_command())["command"])
    effects = [line.split()[0] for line in commands if line.startswith(("XADD", "PUBLISH"))]
    assert effects[-1] == "PUBLISH"
    assert effects.index("XADD") < len(effects) - 1


async def test_every_command_works_on_an_emptied_redis(broker: Broker) -> None:
    await broker.announce([entry(1), entry(2)])
    taken = await broker.take()
    (leased,) = await broker.lease(taken.instances, max_chats=9, lock_seconds=HOLD_SECONDS)
    (held,) = leased.leases
    await broker.redis.flushall()
    await broker.renew([held], lock_seconds=HOLD_SECONDS)
    await broker.let_go(empty=[held], waiting=[])
    await broker.park(taken.guard, {INSTANCE: None})
    await broker.drop([entry(2)])
    await broker.finish([Finish(held.chat, held.token, 7.0, 7.0, done=entry(1))])
    assert not (await broker.take()).remembers
    (leased,) = await broker.lease([INSTANCE], max_chats=9, lock_seconds=HOLD_SECONDS)
    assert (leased.leases, leased.known) == ([], False)
    await broker.announce([entry(3)])
    (leased,) = await broker.lease([INSTANCE], max_chats=9, lock_seconds=HOLD_SECONDS)
    assert leased.leases == [], "the gap that the finish told is known again"


# the epoch


async def test_a_flush_in_the_middle_of_a_rebuild_is_noticed(broker: Broker) -> None:
    await broker.begin_rebuild(hold_seconds=HOLD_SECONDS)
    await broker.announce([entry(1)])
    await broker.redis.flushall()
    assert not await broker.keep_rebuild(hold_seconds=HOLD_SECONDS)


async def test_a_flush_after_the_last_page_of_a_rebuild_is_noticed(broker: Broker) -> None:
    await broker.begin_rebuild(hold_seconds=HOLD_SECONDS)
    assert await broker.keep_rebuild(hold_seconds=HOLD_SECONDS)
    await broker.redis.flushall()
    assert not await broker.end_rebuild({})
    assert not (await broker.take()).remembers


async def test_a_flush_is_noticed_by_the_next_look(broker: Broker) -> None:
    await broker.begin_rebuild(hold_seconds=HOLD_SECONDS)
    await broker.end_rebuild({})
    assert (await broker.take()).remembers
    await broker.redis.flushall()
    assert not (await broker.take()).remembers


# another server, or none


@pytest.fixture
def own_redis_url(own_redis: RedisServer) -> Iterator[str]:
    yield own_redis.url
    if not own_redis.running:
        own_redis.start()


async def test_every_command_says_that_redis_is_away_and_works_when_it_is_back(
    own_redis: RedisServer, own_redis_url: str
) -> None:
    broker = Broker(own_redis_url, Keys(), owner="w1")
    await broker.begin_rebuild(hold_seconds=HOLD_SECONDS)
    await broker.end_rebuild({})
    own_redis.kill()
    held = Lease(chat(), uuid4().hex)
    commands: list[Callable[[], Awaitable[object]]] = [
        lambda: broker.ping(),
        lambda: broker.announce([entry(1)]),
        lambda: broker.take(),
        lambda: broker.lease([INSTANCE], max_chats=1, lock_seconds=1.0),
        lambda: broker.park("1", {INSTANCE: None}),
        lambda: broker.finish([Finish(held.chat, held.token, 1.0)]),
        lambda: broker.let_go(empty=[held], waiting=[]),
        lambda: broker.renew([held], lock_seconds=1.0),
        lambda: broker.drop([entry(1)]),
        lambda: broker.sweep_instances(),
        lambda: broker.remembers(),
        lambda: broker.is_rebuilding(),
        lambda: broker.begin_rebuild(hold_seconds=1.0),
        lambda: broker.keep_rebuild(hold_seconds=1.0),
        lambda: broker.end_rebuild({}),
        lambda: broker.mark_filling([INSTANCE]),
        lambda: broker.mark_known({INSTANCE: "run"}),
    ]
    for command in commands:
        with pytest.raises(BrokerUnavailable) as refusal:
            await command()
        assert INSTANCE not in str(refusal.value)
    own_redis.start()
    for command in commands:
        await command()
    await broker.aclose()


async def test_a_restarted_server_that_kept_its_data_is_another_one(own_redis: RedisServer, own_redis_url: str) -> None:
    """What it kept may be seconds old: announces between its last write and its end are gone."""
    broker = Broker(own_redis_url, Keys(), owner="w1")
    await broker.begin_rebuild(hold_seconds=HOLD_SECONDS)
    await broker.end_rebuild({})
    epoch = await broker.redis.get(broker.keys.epoch)
    own_redis.restart()
    client = blocking.Redis.from_url(own_redis_url)
    client.set(broker.keys.epoch, epoch)
    client.close()
    with pytest.raises(BrokerUnavailable):
        await broker.take()
    assert not (await broker.take()).remembers
    await broker.aclose()
