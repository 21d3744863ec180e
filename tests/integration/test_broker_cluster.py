"""The broker on a Redis Cluster: what goes to which node, in which order, and what the loss of a node costs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from uuid import UUID

import pytest
from redis.crc import key_slot

from mqworker.broker import Broker, BrokerUnavailable, Entry, Finish, Keys, Lease, Wake
from mqworker.errors import ConfigError
from mqworker.message import ChatKey
from mqworker.testing.waiting import eventually
from tests.acceptance.processes import ROOT
from tests.cluster import Node, RedisNodes
from tests.conftest import NewBroker

LOCK_SECONDS = 30.0
KEYS = Keys()


@pytest.fixture
def new_broker(new_cluster_broker: NewBroker) -> NewBroker:
    return new_cluster_broker


@pytest.fixture
def accounts(redis_nodes: RedisNodes) -> list[str]:
    """One account on each node."""
    return redis_nodes.accounts(each=1)


@pytest.fixture
def index(redis_nodes: RedisNodes) -> Node:
    """The node that knows which accounts have something due."""
    return redis_nodes.of_key(KEYS.instances)


@pytest.fixture
def other(redis_nodes: RedisNodes, index: Node) -> Node:
    """A node that knows nothing but its own accounts."""
    return next(node for node in redis_nodes.nodes if node is not index)


def entry(instance: str, seq: int = 1, name: str = "a") -> Entry:
    return Entry(ChatKey(instance, name), seq, UUID(int=seq))


async def lease(broker: Broker, accounts: list[str]) -> list[Lease]:
    leased = await broker.lease(accounts, max_chats=99, lock_seconds=LOCK_SECONDS)
    return [one for account in leased for one in account.leases]


async def known(broker: Broker, accounts: list[str]) -> dict[str, bool]:
    leased = await broker.lease(accounts, max_chats=99, lock_seconds=LOCK_SECONDS)
    return {one.instance: one.known for one in leased}


async def fill(broker: Broker, accounts: list[str]) -> None:
    await broker.begin_rebuild(hold_seconds=30.0)
    assert await broker.end_rebuild(await broker.mark_filling(accounts))


def pointed_to(index: Node) -> set[str]:
    return set(index.ask("ZRANGE", KEYS.instances, 0, -1))


def has_lanes(redis_nodes: RedisNodes, instance: str) -> bool:
    return bool(redis_nodes.of(instance).ask("EXISTS", KEYS.of(instance).ready))


# order and scripts


async def test_each_account_has_its_node_and_one_call_reaches_them_all(
    broker: Broker, redis_nodes: RedisNodes, accounts: list[str]
) -> None:
    assert len({redis_nodes.of(account).port for account in accounts}) == 3
    assert await broker.announce([entry(account) for account in accounts]) == 3
    assert sorted((await broker.take()).instances) == sorted(accounts)
    leases = await lease(broker, accounts)
    assert sorted(one.chat.instance for one in leases) == sorted(accounts)
    gap = [Finish(one.chat, one.token, 5.0 + n, 5.0 + n, done=entry("")) for n, one in enumerate(leases)]
    assert await broker.finish(gap) == 5.0


async def test_no_account_is_pointed_to_before_the_lanes_of_all_were_written(
    broker: Broker, redis_nodes: RedisNodes, accounts: list[str], index: Node, other: Node
) -> None:
    """Pointed to first, it is taken, found empty and parked for ever, and then the message comes."""
    await broker.announce([entry(account) for account in accounts])
    await lease(broker, accounts)
    redis_nodes.everywhere("FLUSHALL")
    other.pause()
    announce = asyncio.create_task(broker.announce([entry(account) for account in accounts]))
    try:
        near = [account for account in accounts if redis_nodes.of(account) is not other]
        await eventually(
            lambda: all(has_lanes(redis_nodes, account) for account in near), "the others have their lanes"
        )
        assert pointed_to(index) == set()
    finally:
        other.resume()
    assert await announce == 3
    assert pointed_to(index) == set(accounts)


async def test_a_script_that_one_node_lost_is_loaded_there_again(
    broker: Broker, redis_nodes: RedisNodes, accounts: list[str]
) -> None:
    for seq, node in enumerate(redis_nodes.nodes, start=1):
        await broker.announce([entry(account, seq, "again") for account in accounts])
        node.ask("SCRIPT", "FLUSH")
        assert await broker.announce([entry(account, seq) for account in accounts]) == 3
        node.ask("SCRIPT", "FLUSH")
        assert len(await lease(broker, accounts)) == 6
        node.ask("SCRIPT", "FLUSH")
        assert sorted((await broker.take()).instances) == sorted(accounts)
        redis_nodes.everywhere("FLUSHALL")


# memory


async def test_a_node_that_is_emptied_is_missed_for_its_own_accounts_alone(
    broker: Broker, redis_nodes: RedisNodes, accounts: list[str], other: Node
) -> None:
    await fill(broker, accounts)
    assert await known(broker, accounts) == dict.fromkeys(accounts, True)
    other.ask("FLUSHALL")
    assert await known(broker, accounts) == {name: redis_nodes.of(name) is not other for name in accounts}
    assert (await broker.take()).remembers


async def test_the_node_that_points_to_accounts_and_its_epoch_are_lost_together(
    broker: Broker, accounts: list[str], index: Node
) -> None:
    assert key_slot(KEYS.epoch.encode()) == key_slot(KEYS.instances.encode())
    await fill(broker, accounts)
    await broker.announce([entry(account) for account in accounts])
    index.ask("FLUSHALL")
    taken = await broker.take()
    assert (taken.remembers, taken.instances) == (False, [])


async def test_a_node_that_comes_back_with_old_data_is_another_one_for_its_accounts(
    broker: Broker, redis_nodes: RedisNodes, accounts: list[str], other: Node
) -> None:
    """What it kept may be seconds old: announces between its last write and its end are gone."""
    await fill(broker, accounts)
    (lost,) = (name for name in accounts if redis_nodes.of(name) is other)
    epoch = other.ask("GET", KEYS.of(lost).epoch)
    other.kill()
    other.start()
    redis_nodes.wait()
    other.ask("SET", KEYS.of(lost).epoch, epoch)

    async def answers() -> dict[str, bool] | None:
        try:
            return await known(broker, accounts)
        except BrokerUnavailable:
            return None

    assert await eventually(answers, "the broker reaches the node again") == {name: name != lost for name in accounts}
    await fill(broker, accounts)
    assert all((await known(broker, accounts)).values())


async def test_an_account_whose_node_is_emptied_while_it_is_filled_is_not_taken_for_whole(
    broker: Broker, redis_nodes: RedisNodes, accounts: list[str], other: Node
) -> None:
    await broker.begin_rebuild(hold_seconds=30.0)
    filling = await broker.mark_filling(accounts)
    other.ask("FLUSHALL")
    assert await broker.end_rebuild(filling), "the node that says whether all was lost has its memory"
    assert await known(broker, accounts) == {name: redis_nodes.of(name) is not other for name in accounts}


# nodes that come and go


async def test_a_node_that_is_away_is_redis_away_until_it_takes_commands_again(
    broker: Broker, redis_nodes: RedisNodes, accounts: list[str], other: Node
) -> None:
    await broker.announce([entry(account) for account in accounts])
    other.kill()
    for _ in range(2):  # on connections that break, and on new ones
        with pytest.raises(BrokerUnavailable):
            await broker.ping()
        with pytest.raises(BrokerUnavailable):
            await lease(broker, accounts)
    other.start()

    async def is_back() -> bool:
        try:
            await broker.ping()
        except BrokerUnavailable:
            return False
        return True

    await eventually(is_back, "the cluster takes commands", timeout_seconds=20)
    assert await broker.announce([entry(account, 2) for account in accounts]) == 3, "a ping says no more than is so"


async def test_a_slot_that_moved_is_followed_and_its_account_is_filled_anew(
    broker: Broker, redis_nodes: RedisNodes, accounts: list[str]
) -> None:
    await fill(broker, accounts)
    await broker.announce([entry(account) for account in accounts])
    moved, target = accounts[0], redis_nodes.of(accounts[1])
    slot = key_slot(KEYS.of(moved).epoch.encode())
    redis_nodes.begin_move(slot, target)
    redis_nodes.end_move(slot, target)
    assert target.ask("EXISTS", KEYS.of(moved).ready)
    leased = {one.instance: one for one in await broker.lease(accounts, max_chats=99, lock_seconds=LOCK_SECONDS)}
    assert len(leased[moved].leases) == 1
    assert {name: one.known for name, one in leased.items()} == {name: name != moved for name in accounts}


async def test_a_slot_on_its_way_is_waited_for_but_not_for_ever(
    broker: Broker, redis_nodes: RedisNodes, accounts: list[str]
) -> None:
    await broker.announce([entry(account) for account in accounts])
    moved, target = accounts[0], redis_nodes.of(accounts[1])
    slot = key_slot(KEYS.of(moved).epoch.encode())
    redis_nodes.begin_move(slot, target)
    with pytest.raises(BrokerUnavailable, match="on its way to another node"):
        await broker.announce([entry(moved, 2)])
    announce = asyncio.create_task(broker.announce([entry(account, 3) for account in accounts]))
    await eventually(lambda: redis_nodes.depth(accounts[2]) == 2, "the announce is under way")
    redis_nodes.end_move(slot, target)
    assert await announce == 3


async def test_a_worker_hears_at_whatever_node_and_again_when_that_connection_ended(
    broker: Broker, new_broker: NewBroker, redis_nodes: RedisNodes, accounts: list[str]
) -> None:
    hearing = new_broker("w2")
    await hearing.ping()
    wake = Wake(hearing.servers, KEYS.wake)
    listener = asyncio.create_task(wake.listen())

    def listening() -> list[Node]:
        return [node for node in redis_nodes.nodes if node.ask("PUBSUB", "NUMSUB", KEYS.wake)[1]]

    (first,) = await eventually(listening, "it listens")
    await wake.wait(0.1)  # that it looked once
    for account in accounts:
        began = asyncio.get_running_loop().time()
        await broker.announce([entry(account)])
        await wake.wait(5)
        assert asyncio.get_running_loop().time() - began < 1
    clients = first.ask("CLIENT", "LIST", "TYPE", "pubsub")
    first.ask("CLIENT", "KILL", "ID", re.findall(r"\bid=(\d+)", clients)[0])
    await eventually(listening, "it listens again")
    listener.cancel()
    await asyncio.wait([listener])


# the wrong kind of Redis


@pytest.fixture
async def open_broker() -> AsyncIterator[Callable[..., Broker]]:
    brokers: list[Broker] = []

    def make(url: str, *, cluster: bool) -> Broker:
        brokers.append(Broker(url, Keys(), owner="w1", cluster=cluster))
        return brokers[-1]

    yield make
    for broker in brokers:
        await broker.aclose()


async def test_a_cluster_that_is_not_said_to_be_one_and_the_other_way_round(
    redis_nodes: RedisNodes, redis_url: str, open_broker: Callable[..., Broker]
) -> None:
    plain, cluster = open_broker(redis_nodes.nodes[0].url, cluster=False), open_broker(redis_url, cluster=True)
    with pytest.raises(ConfigError, match="set MQWORKER_REDIS_CLUSTER=true, and MQWORKER_ARQ_REDIS_URL"):
        await plain.check()
    with pytest.raises(ConfigError, match="MQWORKER_REDIS_CLUSTER is set, but"):
        await cluster.check()
    # Where it was away when that was looked at:
    with pytest.raises(BrokerUnavailable, match="names a node of a Redis Cluster: set MQWORKER_REDIS_CLUSTER=true"):
        await plain.announce([entry(account) for account in redis_nodes.accounts(each=1)])
    with pytest.raises(BrokerUnavailable, match="MQWORKER_REDIS_CLUSTER is set, but"):
        await cluster.announce([entry("shop")])
    await open_broker(redis_nodes.url, cluster=True).check()
    await open_broker(redis_url, cluster=False).check()


# least privilege


@pytest.fixture
def users(redis_nodes: RedisNodes) -> Callable[[str], str]:
    """The URL of a user of the ACL file, with what docs/security/README.md adds on a cluster."""
    more = re.search(r"`(\+cluster[^`]*)`", (ROOT / "docs" / "security" / "README.md").read_text())
    assert more is not None

    def make(name: str) -> str:
        lines = (ROOT / "docs" / "security" / "redis-users.acl").read_text().splitlines()
        _, user, *rules = next(line for line in lines if line.startswith(f"user {name} ")).split()
        rules = [">f00d" if rule.startswith("#") else rule for rule in rules]
        redis_nodes.everywhere("ACL", "SETUSER", user, *rules, *more[1].split())
        return redis_nodes.url.replace("redis://", f"redis://{name}:f00d@")

    return make


async def test_users_with_few_rights_can_do_all_on_a_cluster(
    users: Callable[[str], str], open_broker: Callable[..., Broker], redis_nodes: RedisNodes, accounts: list[str]
) -> None:
    producer = open_broker(users("mq_producer"), cluster=True)
    worker = open_broker(users("mq_worker"), cluster=True)
    await producer.ping()
    assert await producer.announce([entry(account) for account in accounts]) == 3
    await producer.drop([entry(accounts[0])])
    await worker.check()
    await worker.ping()
    await fill(worker, accounts)
    assert len((await worker.take()).instances) == 3
    assert len(await lease(worker, accounts)) == 2
    redis_nodes.everywhere("ACL", "DELUSER", "mq_producer", "mq_worker")
