"""Redis' commands: each one's guarantee, as the header of its Lua file states it."""

from __future__ import annotations

import re
from importlib.resources import files
from uuid import uuid4

import pytest

from mqworker.broker import Broker, Entry, Finish, Lease
from mqworker.message import ChatKey
from mqworker.testing.waiting import eventually
from tests.integration.lanes import LOCK_SECONDS, depth, entry, everything, ids, lease, lease_one, ready_in
from tests.integration.rows import INSTANCE, chat

STRANGE = [
    "a b",
    "a:b",
    "{a}",
    "}{",
    "%",
    "%3A",
    "a\nb",
    "\x7f\x1f",
    "ünï ☎",
    "a\u2028b",
    "😀",
    "*?[x]",
    "'\"\\",
    "5511@g.us",
]


# announce


async def test_a_repeated_announce_changes_nothing_and_counts_nothing(broker: Broker) -> None:
    entries = [entry(5), entry(6), entry(3), entry(4, priority=9), entry(7, due_seconds=60)]
    assert await broker.announce(entries) == 5
    before = await everything(broker)
    assert await broker.announce(entries) == 0
    assert await depth(broker) == ids(5, 6, 4, 3)
    assert set(await everything(broker)) == set(before)


async def test_a_late_seq_and_any_priority_stand_in_the_sorted_lane_in_the_order_in_which_they_go(
    broker: Broker,
) -> None:
    await broker.announce(
        [entry(10), entry(9), entry(2**53 - 1, priority=1), entry(8, priority=1), entry(1, priority=-5)]
    )
    members = await broker.redis.zrange(f"{broker.keys.of(INSTANCE).chat}a:sorted", 0, -1)
    assert [int(member[:19]) for member in members] == [8, 2**53 - 1, 9, 1]


async def test_an_announce_of_what_was_dropped_comes_in_again(broker: Broker) -> None:
    """A retried message whose entry was lost: XADD refuses an id that it has had."""
    await broker.announce([entry(1), entry(2)])
    await broker.drop([entry(1)])
    assert await broker.announce([entry(1)]) == 1
    assert sorted(await depth(broker)) == ids(1, 2)


async def test_an_entry_never_stands_in_both_lanes(broker: Broker) -> None:
    """A late seq stands in the sorted lane; when the stream was emptied meanwhile, it would take the entry, too."""
    await broker.announce([entry(7), entry(5)])
    await broker.drop([entry(7)])
    assert await broker.announce([entry(5)]) == 0
    assert await depth(broker) == ids(5)
    await broker.drop([entry(5)])
    assert await depth(broker) == []


async def test_a_message_into_an_emptied_chat_waits_for_its_gap(broker: Broker) -> None:
    await broker.announce([entry(1)])
    held = await lease_one(broker)
    await broker.finish([Finish(held.chat, held.token, 60.0, 60.0, done=entry(1))])
    await broker.announce([entry(2)])
    wait = await ready_in(broker)
    assert wait is not None
    assert wait > 50


async def test_more_entries_than_fit_one_call_are_all_announced(broker: Broker) -> None:
    entries = [entry(n, f"c{n % 7}", instance=f"i{n % 2}") for n in range(1, 1300)]
    assert await broker.announce(entries) == len(entries)
    assert await broker.announce(entries) == 0


async def test_nothing_to_announce_is_no_command(broker: Broker) -> None:
    assert await broker.announce([]) == 0
    assert await broker.redis.keys("*") == []


# scheduled


async def test_a_scheduled_entry_stands_outside_until_it_is_due(broker: Broker) -> None:
    await broker.announce([entry(1, due_seconds=0.3, priority=-7)])
    (leased,) = await broker.lease([INSTANCE], max_chats=10, lock_seconds=LOCK_SECONDS)
    assert leased.leases == []
    assert leased.wait_seconds is not None
    assert 0 < leased.wait_seconds <= 0.3

    async def due() -> list[Lease]:
        return await lease(broker)

    assert [held.chat for held in await eventually(due, "the entry is due")] == [chat()]
    assert await depth(broker) == ids(1)
    assert await broker.redis.zcard(broker.keys.of(INSTANCE).scheduled) == 0


# ids


async def test_any_text_is_a_chat_and_an_account_of_its_own(broker: Broker) -> None:
    chats = [ChatKey(instance, name) for instance in STRANGE[:4] for name in STRANGE]
    await broker.announce([Entry(key, n, uuid4()) for n, key in enumerate(chats, start=1)])
    taken = await broker.take()
    assert sorted(taken.instances) == sorted(STRANGE[:4])
    leased = await broker.lease(taken.instances, max_chats=500, lock_seconds=LOCK_SECONDS)
    assert sorted(held.chat for one in leased for held in one.leases) == sorted(chats)
    assert not [key for key in await everything(broker) if re.search(r"[\s\x00-\x1f\x7f]", key)], (
        "redis-cli can show them"
    )
    held = [held for one in leased for held in one.leases]
    await broker.let_go(empty=held, waiting=[])
    assert set(await everything(broker)) == {broker.keys.instances}


async def test_one_accounts_keys_share_a_slot(broker: Broker) -> None:
    key = ChatKey("{x}:y", "{z}")
    await broker.announce([Entry(key, 1, uuid4()), Entry(key, 2, uuid4(), due_seconds=60)])
    await broker.lease([key.instance], max_chats=1, lock_seconds=LOCK_SECONDS)
    tags = {re.search(r"\{([^{}]*)\}", name) for name in await everything(broker) if name != broker.keys.instances}
    assert {found and found[1] for found in tags} == {"%7Bx%7D%3Ay"}


# the files


LUA = sorted(path.name for path in (files("mqworker.broker") / "lua").iterdir() if path.name.endswith(".lua"))


@pytest.mark.parametrize("name", LUA)
def test_a_command_states_its_contract_and_is_short(name: str) -> None:
    source = (files("mqworker.broker") / "lua" / name).read_text("utf-8")
    assert source.count("\n") <= 60
    assert source.startswith(f"-- {name.split('.')[0]}: ")
    if not name.endswith(".inc.lua"):
        header = "\n".join(line for line in source.splitlines() if line.startswith("--"))
        for word in ("Guarantees: ", "KEYS: ", "ARGV: ", "Returns: "):
            assert word in header
