"""A real worker on a Redis Cluster of three nodes: what the gateway saw is held against what was enqueued."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from time import monotonic

import pytest
from redis.crc import key_slot

from mqworker import MessageQueue
from mqworker.broker import Keys
from mqworker.settings import Settings, load_settings
from mqworker.testing.waiting import eventually
from tests.acceptance.conftest import Fleet
from tests.acceptance.gateway import Gateway
from tests.acceptance.processes import WorkerProcess
from tests.acceptance.test_promises import breaches, ids_of
from tests.cluster import Node, RedisNodes
from tests.conftest import SHORT

EACH = 2
"""Accounts on each node."""
PROMPT_SECONDS = 0.5
"""Without being woken an idle worker looks once a second."""
NEVER = 3600.0


@pytest.fixture
def cluster_settings(database_url: str, redis_nodes: RedisNodes, redis_url: str) -> Settings:
    return load_settings(
        _env_file=None,
        database_url=database_url,
        redis_url=redis_nodes.url,
        redis_cluster=True,
        arq_redis_url=redis_url,
        **SHORT,
    )


@pytest.fixture
def fleet(new_fleet: Callable[..., Fleet], cluster_settings: Settings, redis_url: str) -> Fleet:
    return new_fleet(cluster_settings, redis_cluster=True, arq_redis_url=redis_url, reconcile_every_seconds=NEVER)


@pytest.fixture
async def queue(cluster_settings: Settings) -> AsyncIterator[MessageQueue]:
    """A queue that no worker reconciles: that would hide that a loss was not noticed."""
    async with MessageQueue(cluster_settings) as opened:
        duties = opened._store.duties
        assert await duties.take("reconcile", every_seconds=0.0, hold_seconds=1.0)
        await duties.done("reconcile")
        yield opened


@pytest.fixture
def accounts(redis_nodes: RedisNodes) -> list[str]:
    accounts = redis_nodes.accounts(EACH)
    assert [sum(redis_nodes.of(name) is node for name in accounts) for node in redis_nodes.nodes] == [EACH] * 3
    return accounts


async def fill(
    queue: MessageQueue, accounts: Sequence[str], *, chats: int = 5, each: int = 20, prefix: str = ""
) -> list[str]:
    """Enqueue ``each`` messages for each of ``chats`` chats of each account, round robin; return their ids in order."""
    batch = [
        {"instance": name, "client_id": 7, "chat_id": f"{name}-{prefix}{chat}", "payload": {"hold_seconds": 0.01}}
        for _ in range(each)
        for chat in range(chats)
        for name in accounts
    ]
    return ids_of(await queue.enqueue_many(batch))


async def all_completed(queue: MessageQueue, accounts: Sequence[str], number: int) -> None:
    async def done() -> bool:
        stats = [await queue.get_stats(name) for name in accounts]
        return sum(one.completed for one in stats) == number

    await eventually(done, f"all {number} are COMPLETED", timeout_seconds=60)


async def test_accounts_on_all_nodes_are_served_in_order_and_at_once(
    fleet: Fleet, queue: MessageQueue, gateway: Gateway, redis_nodes: RedisNodes, accounts: list[str]
) -> None:
    (worker,) = await fleet.start()
    ids = await fill(queue, accounts, each=10)
    await all_completed(queue, accounts, len(ids))
    slowest = 0.0
    for name in 2 * accounts:
        await eventually(lambda: nothing_is_due(redis_nodes), "the worker sleeps")
        began = monotonic()
        (sent,) = await fill(queue, [name], chats=1, each=1)
        await eventually(partial(gateway.has_accepted, sent), "it is delivered")
        slowest = max(slowest, monotonic() - began)
        ids.append(sent)
    assert slowest < PROMPT_SECONDS, "the worker was woken"
    await all_completed(queue, accounts, len(ids))
    assert breaches(gateway, ids) == []
    assert "is away" not in worker.text
    assert "Traceback" not in worker.text


def nothing_is_due(redis_nodes: RedisNodes) -> bool:
    node = redis_nodes.of_key(Keys().instances)
    return bool(node.ask("ZCOUNT", Keys().instances, "-inf", "(inf") == 0)


async def test_each_node_emptied_in_turn_amid_traffic(
    fleet: Fleet, queue: MessageQueue, gateway: Gateway, redis_nodes: RedisNodes, accounts: list[str]
) -> None:
    (worker,) = await fleet.start()
    ids = await fill(queue, accounts)
    for n, node in enumerate(2 * redis_nodes.nodes):
        await eventually(partial(gateway.has_delivered, len(gateway.delivered) + 50), "the load goes on")
        if n >= len(redis_nodes.nodes):
            redis_nodes.everywhere("SCRIPT", "FLUSH")
        node.ask("FLUSHALL")
        # For other chats: with its next message Redis would know of a chat again.
        ids += await fill(queue, accounts, chats=1, each=1, prefix=f"new-{n}-")
    await all_completed(queue, accounts, len(ids))
    assert breaches(gateway, ids) == []
    assert "is away" not in worker.text
    assert "Traceback" not in worker.text


@pytest.mark.parametrize("which", ["the node that points to accounts", "another node"])
async def test_a_node_emptied_while_nothing_new_comes(
    which: str, fleet: Fleet, queue: MessageQueue, gateway: Gateway, redis_nodes: RedisNodes, accounts: list[str]
) -> None:
    await fleet.start()
    ids = await fill(queue, accounts)
    await eventually(partial(gateway.has_delivered, 100), "the load is under way")
    one_that(redis_nodes, which).ask("FLUSHALL")
    await all_completed(queue, accounts, len(ids))
    assert breaches(gateway, ids) == []


def one_that(redis_nodes: RedisNodes, which: str) -> Node:
    index = redis_nodes.of_key(Keys().instances)
    return next(node for node in redis_nodes.nodes if (node is index) == (which != "another node"))


async def test_all_nodes_emptied_one_right_after_the_other(
    fleet: Fleet, queue: MessageQueue, gateway: Gateway, redis_nodes: RedisNodes, accounts: list[str]
) -> None:
    """A rebuild that the first loss began fills nodes that are emptied after it."""
    await fleet.start()
    ids = await fill(queue, accounts)
    for done in (100, 300):
        await eventually(partial(gateway.has_delivered, done), f"{done} are delivered")
        redis_nodes.of_key(Keys().instances).ask("FLUSHALL")
        redis_nodes.everywhere("FLUSHALL")
    await all_completed(queue, accounts, len(ids))
    assert breaches(gateway, ids) == []


@pytest.mark.parametrize("which", ["the node that points to accounts", "another node"])
async def test_a_node_killed_and_restarted_amid_traffic(
    which: str, fleet: Fleet, queue: MessageQueue, gateway: Gateway, redis_nodes: RedisNodes, accounts: list[str]
) -> None:
    workers = await fleet.start(2)
    ids = await fill(queue, accounts)
    await eventually(partial(gateway.has_delivered, 100), "the load is under way")
    killed = one_that(redis_nodes, which)
    killed.kill()
    for _ in range(5):
        ids += await fill(queue, accounts, each=1)
    await asyncio.to_thread(_bring_back, killed, redis_nodes)
    back_at = monotonic()
    before = len(gateway.sends)
    await eventually(lambda: len(gateway.sends) > before, "delivery resumes")
    assert monotonic() - back_at < 5
    redis_nodes.everywhere("SCRIPT", "FLUSH")
    ids += await fill(queue, accounts, each=2)
    await all_completed(queue, accounts, len(ids))
    assert breaches(gateway, ids) == []
    assert not any("Traceback" in worker.text for worker in workers)


def _bring_back(node: Node, redis_nodes: RedisNodes) -> None:
    node.start()
    redis_nodes.wait()


async def test_slots_that_move_to_another_node_amid_traffic(
    fleet: Fleet, queue: MessageQueue, gateway: Gateway, redis_nodes: RedisNodes, accounts: list[str]
) -> None:
    (worker,) = await fleet.start()
    ids = await fill(queue, accounts)
    index = Keys().instances
    moving = [(Keys().of(name).epoch, redis_nodes.of(accounts[-1])) for name in accounts[:EACH]]
    moving.append((index, next(node for node in redis_nodes.nodes if node is not redis_nodes.of_key(index))))
    for key, target in moving:
        await eventually(partial(gateway.has_delivered, len(gateway.delivered) + 60), "the load goes on")
        slot = key_slot(key.encode())
        redis_nodes.begin_move(slot, target)
        ids += await fill(queue, accounts, each=1)
        redis_nodes.end_move(slot, target)
    await all_completed(queue, accounts, len(ids))
    assert breaches(gateway, ids) == []
    assert "Traceback" not in worker.text


# The wrong kind of Redis: one line, and the end.


async def refusal(fleet: Fleet, **changes: object) -> str:
    worker: WorkerProcess = fleet.launch(**changes)
    assert await worker.exit_code() == 1
    assert "Traceback" not in worker.text
    return worker.text


async def test_a_worker_that_was_not_told_of_the_cluster_ends_at_once(fleet: Fleet) -> None:
    text = await refusal(fleet, redis_cluster=False, arq_redis_url="")
    assert "set MQWORKER_REDIS_CLUSTER=true, and MQWORKER_ARQ_REDIS_URL to a plain Redis" in text


async def test_a_worker_whose_arq_would_live_on_the_cluster_ends_at_once(fleet: Fleet, redis_nodes: RedisNodes) -> None:
    assert "MQWORKER_ARQ_REDIS_URL names a node of a Redis Cluster" in await refusal(
        fleet, arq_redis_url=redis_nodes.url
    )


async def test_a_worker_that_was_told_of_a_cluster_that_is_none_ends_at_once(
    new_fleet: Callable[..., Fleet], settings: Settings, redis_url: str
) -> None:
    fleet = new_fleet(settings)
    text = await refusal(fleet, redis_cluster=True, arq_redis_url=redis_url)
    assert "MQWORKER_REDIS_CLUSTER is set, but" in text
