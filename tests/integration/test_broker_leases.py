"""Lease, renew, finish, forget, drop: who may go, and that no chat and no wake-up is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from mqworker.broker import Broker, Finish, Lease
from mqworker.testing.waiting import eventually
from tests.integration.lanes import LOCK_SECONDS, account_in, depth, entry, everything, ids, lease, lease_one, ready_in
from tests.integration.rows import INSTANCE, chat

# lease


async def test_a_chat_is_leased_once_until_it_is_let_go(broker: Broker, new_broker: Callable[..., Broker]) -> None:
    await broker.announce([entry(1), entry(2)])
    held = await lease_one(broker)
    assert await lease(new_broker("w2")) == []
    await broker.finish([Finish(held.chat, held.token, 0.0, done=entry(1))])
    assert [other.chat for other in await lease(new_broker("w3"))] == [chat()]


async def test_the_room_is_shared_between_accounts(broker: Broker) -> None:
    await broker.announce([entry(n, f"c{n}", instance=f"i{n % 2}") for n in range(1, 21)])
    leased = await broker.lease(["i0", "i1"], max_chats=6, lock_seconds=LOCK_SECONDS)
    assert [len(one.leases) for one in leased] == [3, 3]


async def test_with_room_for_one_chat_no_account_starves_the_others(broker: Broker) -> None:
    accounts = [f"i{n}" for n in range(4)]
    await broker.announce([entry(n, f"c{n}", instance=name) for name in accounts for n in range(1, 200)])
    served: set[str] = set()

    async def round_of_a_full_worker() -> bool:
        taken = await broker.take()
        if not taken.instances:
            return False
        leased = await broker.lease(taken.instances, max_chats=1, lock_seconds=LOCK_SECONDS)
        await broker.park(taken.guard, {one.instance: one.wait_seconds for one in leased})
        served.update(one.instance for one in leased if one.leases)
        return served == set(accounts)

    await eventually(round_of_a_full_worker, "each account had its turn")
    left = [await broker.redis.zcard(broker.keys.of(name).ready) for name in accounts]
    assert min(left) > 100, "long before the first of them had nothing more to send"


async def test_a_look_in_the_very_moment_in_which_a_lock_ends_does_not_lose_its_chat(broker: Broker) -> None:
    """Its lease has ended, its lock stands for the rest of the millisecond, and its holder is dead."""
    await broker.announce([entry(1)])
    await lease(broker, lock=0.2)
    await broker.redis.zadd(broker.keys.of(INSTANCE).leased, {"a": 0})
    assert await lease(broker) == []

    async def again() -> list[Lease]:
        return await lease(broker)

    await eventually(again, "the chat is leased again", timeout_seconds=5)


async def test_renewed_locks_are_kept_and_others_left_alone(broker: Broker) -> None:
    await broker.announce([entry(1), entry(2, "b")])
    a, b = sorted(await lease(broker, lock=5.0), key=lambda held: held.chat)
    await broker.renew([a, Lease(b.chat, uuid4().hex), Lease(chat("c"), "x")], lock_seconds=100.0)
    prefix = broker.keys.of(INSTANCE).chat
    assert await broker.redis.pttl(f"{prefix}a:lock") > 90_000
    assert await broker.redis.pttl(f"{prefix}b:lock") <= 5_000
    assert not await broker.redis.exists(f"{prefix}c:lock")
    assert await broker.redis.zrange(broker.keys.of(INSTANCE).leased, 0, -1) == ["b", "a"]


async def test_the_lock_and_the_stream_tell_people_who_holds_a_chat(broker: Broker) -> None:
    await broker.announce([entry(1)])
    held = await lease_one(broker)
    prefix = broker.keys.of(INSTANCE).chat
    asked: Any = broker.redis.hmget(f"{prefix}a:lock", ["owner", "token"])
    assert await asked == ["w1", held.token]
    await broker.renew([held], lock_seconds=LOCK_SECONDS)
    (pending,) = await broker.redis.xpending_range(f"{prefix}a:stream", "workers", "-", "+", 10)
    assert (pending["consumer"], pending["message_id"]) == ("w1", "1-0")


# finish, forget, drop


async def test_a_finished_entry_leaves_and_the_next_waits_for_the_gap(broker: Broker) -> None:
    await broker.announce([entry(1), entry(2)])
    taken = await broker.take()
    held = await lease_one(broker)
    await broker.park(taken.guard, {INSTANCE: None})
    assert await broker.finish([Finish(held.chat, held.token, 20.0, 20.0, done=entry(1))]) == 20.0
    assert await depth(broker) == ids(2)
    for wait in (await ready_in(broker), await account_in(broker)):
        assert wait is not None
        assert 15 < wait <= 20


async def test_finish_tells_the_earliest_of_all_its_chats(broker: Broker) -> None:
    """More than fit one call: the account must come back for the earliest, wherever it stands."""
    finishes = [Finish(chat(f"c{n}"), "", 1.0 if n == 0 else 500.0) for n in range(700)]
    assert await broker.finish(finishes) == 1.0
    wait = await account_in(broker)
    assert wait is not None
    assert wait <= 1.0


async def test_a_repeated_finish_changes_nothing(broker: Broker) -> None:
    await broker.announce([entry(1), entry(2)])
    held = await lease_one(broker)
    finish = Finish(held.chat, held.token, 20.0, 20.0, done=entry(1))
    await broker.finish([finish])
    before = await ready_in(broker)
    await broker.finish([finish])
    after = await ready_in(broker)
    assert before is not None
    assert after is not None
    assert after <= before
    assert await depth(broker) == ids(2)


async def test_a_kept_entry_that_redis_lost_is_put_in_again(broker: Broker) -> None:
    await broker.announce([entry(1, priority=3)])
    held = await lease_one(broker)
    await broker.redis.flushall()
    await broker.finish([Finish(held.chat, held.token, 0.0, kept=entry(1, priority=3))])
    assert await depth(broker) == ids(1)
    assert len(await lease(broker)) == 1
    assert await account_in(broker) is not None


async def test_a_forgotten_chat_leaves_nothing(broker: Broker) -> None:
    await broker.announce([entry(1), entry(2, priority=5)])
    held = await lease_one(broker)
    await broker.let_go(empty=[held], waiting=[])
    assert set(await everything(broker)) == {broker.keys.instances}
    taken = await broker.take()
    await broker.park(taken.guard, {INSTANCE: None})
    assert await broker.sweep_instances() == 1
    assert await everything(broker) == {}


async def test_forget_under_a_lost_token_changes_nothing(broker: Broker) -> None:
    await broker.announce([entry(1)])
    held = await lease_one(broker)
    await broker.let_go(empty=[Lease(held.chat, "other")], waiting=[])
    assert await depth(broker) == ids(1)
    assert await broker.redis.exists(f"{broker.keys.of(INSTANCE).chat}a:lock")


async def test_drop_takes_out_what_it_names_and_nothing_else(broker: Broker) -> None:
    await broker.announce([entry(1), entry(2), entry(3, priority=-4), entry(4, due_seconds=60, priority=2)])
    dropped = [entry(1), entry(3, priority=-4), entry(4, priority=2)]
    for _ in range(2):
        await broker.drop([*dropped, entry(9, "other")])
        assert await depth(broker) == ids(2)
        assert await broker.redis.zcard(broker.keys.of(INSTANCE).scheduled) == 0


async def test_dropping_a_message_that_backs_off_lets_the_next_one_go(broker: Broker) -> None:
    """It held the chat for its backoff, five minutes perhaps: nobody but a cancel tells that this has ended."""
    await broker.announce([entry(1), entry(2)])
    taken = await broker.take()
    held = await lease_one(broker)
    await broker.park(taken.guard, {INSTANCE: None})
    await broker.finish([Finish(held.chat, held.token, 300.0, 1.0, kept=entry(1))])
    await broker.drop([entry(1)])
    assert [other.chat for other in await lease(broker)] == [chat()]
    wait = await account_in(broker)
    assert wait is not None
    assert wait <= 0


async def test_a_lock_that_is_held_longer_is_on_record_from_its_beginning(broker: Broker) -> None:
    await broker.announce([entry(1), entry(2), entry(3, "b", priority=4)])
    held = {lease.chat.chat_id: lease for lease in await lease(broker)}
    stream = f"{broker.keys.of(INSTANCE).chat}a:stream"
    assert await broker.redis.xinfo_groups(stream) == [], "most sends are over before anybody could look"
    await asyncio.sleep(0.05)
    for _ in range(2):
        await broker.renew(list(held.values()), lock_seconds=LOCK_SECONDS)
        (pending,) = await broker.redis.xpending_range(stream, "workers", "-", "+", 10)
        assert (pending["message_id"], pending["consumer"]) == ("1-0", "w1")
        assert pending["time_since_delivered"] >= 50
    await broker.finish([Finish(held["a"].chat, held["a"].token, 0.0, done=entry(1))])
    assert await broker.redis.xpending_range(stream, "workers", "-", "+", 10) == []
