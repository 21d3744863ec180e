"""What the worker asks of the broker, on Redis and in memory."""

from __future__ import annotations

import asyncio

import pytest

from mqworker.broker import Broker, Entry, Finish, Lease, Wake
from mqworker.broker.scripts import Plain
from mqworker.testing.waiting import eventually
from tests.conformance.conftest import servers_of
from tests.conftest import NewBroker
from tests.integration.lanes import LOCK_SECONDS, entry, lease, lease_one
from tests.integration.rows import INSTANCE, chat

HOLD_SECONDS = 30.0


async def waits(broker: Broker) -> float | None:
    """Seconds until something of the account is due, as a lease tells it."""
    (leased,) = await broker.lease([INSTANCE], max_chats=9, lock_seconds=LOCK_SECONDS)
    assert leased.leases == []
    return leased.wait_seconds


# announce and lease


async def test_an_announce_counts_what_is_new_and_its_chats_are_leased_once(broker: Broker) -> None:
    entries = [entry(5), entry(3), entry(4, priority=9), entry(6, "b"), entry(7, due_seconds=60)]
    assert await broker.announce(entries) == 5
    assert await broker.announce(entries) == 0
    assert [held.chat for held in await lease(broker)] == [chat("a"), chat("b")]
    assert await lease(broker) == []


async def test_a_lease_gives_no_more_chats_than_asked_for_and_says_that_there_are_more(broker: Broker) -> None:
    await broker.announce([entry(n, f"c{n}") for n in range(1, 6)])
    (leased,) = await broker.lease([INSTANCE], max_chats=3, lock_seconds=LOCK_SECONDS)
    assert (len(leased.leases), leased.wait_seconds, leased.known) == (3, 0.0, False)
    await broker.mark_known(await broker.mark_filling([INSTANCE]))
    (leased,) = await broker.lease([INSTANCE], max_chats=9, lock_seconds=LOCK_SECONDS)
    assert (len(leased.leases), leased.known) == (2, True)
    assert leased.wait_seconds is not None
    assert 25 < leased.wait_seconds <= LOCK_SECONDS


async def test_a_lease_tells_how_many_wait_and_goes_on_when_told_so(broker: Broker) -> None:
    await broker.announce([entry(1), entry(2), entry(3, priority=5), entry(4, due_seconds=60)])
    held = await lease_one(broker)
    assert held.depth == 3
    first, second = (
        Finish(held.chat, held.token, None, done=entry(3)),
        Finish(held.chat, held.token, None, done=entry(1)),
    )
    assert await broker.finish([first, second]) is None
    assert await lease(broker) == [], "the chat is still ours"
    assert await broker.announce([entry(2)]) == 0, "the other entries stand"
    assert await broker.finish([Finish(held.chat, held.token, 0.0, done=entry(2))]) is None, "nothing waits any more"
    assert await lease(broker) == []
    assert await broker.announce([entry(n, priority=p) for n, p in ((1, 0), (2, 0), (3, 5))]) == 3, "all are gone"


async def test_a_lease_whose_worker_died_ends_with_its_lock(broker: Broker) -> None:
    await broker.announce([entry(1)])

    async def again() -> list[Lease]:
        return await lease(broker, lock=0.02)

    for _ in range(3):
        await eventually(again, "the lock has ended")


async def test_a_scheduled_entry_stands_outside_until_it_is_due_and_may_outrank_the_one_in_flight(
    broker: Broker,
) -> None:
    await broker.announce([entry(1), entry(2, due_seconds=0.05, priority=5), entry(3, "later", due_seconds=50)])
    held = await lease_one(broker)

    async def promoted() -> bool:
        wait = await waits(broker)
        return wait is not None and wait > 1

    await eventually(promoted, "it is due, and its chat is leased")
    await broker.finish([Finish(held.chat, held.token, 60.0, 0.0, kept=entry(1))])
    assert len(await lease(broker)) == 1, "the holder was told to look again"
    assert await broker.announce([entry(1), entry(2, priority=5)]) == 0, "both stand in the chat's lanes"


@pytest.mark.parametrize("first", [entry(4), entry(8, priority=1)], ids=["committed late", "of higher priority"])
async def test_a_message_that_goes_before_the_one_that_backs_off_lets_its_chat_go_at_once(
    broker: Broker, first: Entry
) -> None:
    await broker.announce([entry(5)])
    held = await lease_one(broker)
    await broker.finish([Finish(held.chat, held.token, 60.0, kept=entry(5))])
    await broker.announce([entry(6), entry(7, priority=-1)])
    assert await lease(broker) == [], "neither goes before it"
    await broker.announce([first])
    assert len(await lease(broker)) == 1


# renew, finish, forget, drop


async def test_renew_lengthens_our_locks_alone(broker: Broker) -> None:
    await broker.announce([entry(1), entry(2, "b")])
    a, b = sorted(await lease(broker, lock=0.1), key=lambda held: held.chat)
    await broker.renew([a, Lease(b.chat, "not ours")], lock_seconds=100.0)

    async def ended() -> list[Lease]:
        return await lease(broker)

    assert [held.chat for held in await eventually(ended, "the other lock has ended")] == [b.chat]
    wait = await waits(broker)
    assert wait is not None
    assert 25 < wait <= LOCK_SECONDS


async def test_a_finished_entry_leaves_and_the_next_waits_for_the_gap(broker: Broker) -> None:
    await broker.announce([entry(1), entry(2)])
    held = await lease_one(broker)
    for _ in range(2):
        assert await broker.finish([Finish(held.chat, held.token, 20.0, 20.0, done=entry(1))]) == 20.0
    wait = await waits(broker)
    assert wait is not None
    assert 15 < wait <= 20
    assert await broker.announce([entry(1), entry(2)]) == 1, "the one is gone, the other is there"


async def test_an_emptied_chat_keeps_its_gap_and_is_forgotten_after_it(broker: Broker) -> None:
    await broker.announce([entry(1)])
    held = await lease_one(broker)
    await broker.finish([Finish(held.chat, held.token, 0.05, 0.05, done=entry(1))])
    await broker.announce([entry(2)])
    assert await lease(broker) == []

    async def again() -> list[Lease]:
        return await lease(broker)

    (held,) = await eventually(again, "the gap has passed")
    await broker.finish([Finish(held.chat, held.token, 0.0, 0.0, done=entry(2))])
    assert await waits(broker) is None


async def test_a_finish_under_a_lost_token_leaves_the_new_holder_alone_and_makes_it_look_again(broker: Broker) -> None:
    await broker.announce([entry(1)])
    held = await lease_one(broker)
    await broker.finish([Finish(held.chat, "", 0.0, kept=entry(1))])
    new = await lease_one(broker)
    await broker.finish([Finish(held.chat, held.token, 0.0, kept=entry(1))])
    assert await lease(broker) == [], "the new holder's lock stands"
    await broker.finish([Finish(new.chat, new.token, 60.0, 0.0, kept=entry(1))])
    assert len(await lease(broker)) == 1, "and it looked again"


async def test_what_came_during_the_attempt_goes_after_the_gap_and_not_after_the_backoff(broker: Broker) -> None:
    await broker.announce([entry(1)])
    held = await lease_one(broker)
    await broker.announce([entry(2, priority=9)])
    await broker.finish([Finish(held.chat, held.token, 300.0, 2.0, kept=entry(1))])
    wait = await waits(broker)
    assert wait is not None
    assert wait <= 2


async def test_a_forgotten_chat_leaves_nothing_unless_it_was_announced_to_meanwhile(broker: Broker) -> None:
    await broker.announce([entry(1), entry(2, priority=5)])
    held = await lease_one(broker)
    await broker.announce([entry(3)])
    await broker.let_go(empty=[held], waiting=[])
    held = await lease_one(broker)
    assert await broker.announce([entry(3)]) == 0, "what came meanwhile is kept"
    await broker.let_go(empty=[held], waiting=[])
    assert await waits(broker) is None
    assert await broker.announce([entry(1), entry(2, priority=5)]) == 2


async def test_what_a_claim_left_goes_later(broker: Broker) -> None:
    await broker.announce([entry(1), entry(2, "b")])
    a, b = await lease(broker, lock=1.0)
    await broker.renew([a], lock_seconds=100.0)
    await broker.let_go(empty=[], waiting=[Finish(b.chat, b.token, 20.0)])
    wait = await waits(broker)
    assert wait is not None
    assert 15 < wait <= 20


async def test_dropping_a_message_that_backs_off_lets_the_next_one_go(broker: Broker) -> None:
    await broker.announce([entry(1), entry(2), entry(3, "b", due_seconds=60)])
    held = await lease_one(broker)
    await broker.finish([Finish(held.chat, held.token, 300.0, 1.0, kept=entry(1))])
    await broker.drop([entry(1), entry(3, "b"), entry(9, "other")])
    assert [other.chat for other in await lease(broker)] == [chat()]
    wait = await waits(broker)
    assert wait is not None
    assert wait <= LOCK_SECONDS, "the scheduled one is gone, too"


# accounts


async def test_a_due_account_is_taken_once_and_again_after_its_time(broker: Broker, new_broker: NewBroker) -> None:
    await broker.announce([entry(1), entry(2, instance="idle")])
    taken = await broker.take()
    assert (sorted(taken.instances), taken.remembers) == (["idle", INSTANCE], False)
    other = await new_broker("w2").take()
    assert other.instances == []
    assert other.wait_seconds is not None
    assert 0 < other.wait_seconds <= 0.11
    await broker.park(taken.guard, {INSTANCE: 0.0, "idle": None})
    assert (await broker.take()).instances == [INSTANCE]
    assert await broker.sweep_instances() == 1


async def test_an_account_whose_taker_died_comes_back_by_itself(broker: Broker) -> None:
    await broker.announce([entry(1)])
    await broker.take()

    async def again() -> list[str]:
        return (await broker.take()).instances

    assert await eventually(again, "the guard has ended") == [INSTANCE]


async def test_an_announce_between_take_and_park_is_not_lost_however_late_the_park_comes(broker: Broker) -> None:
    """Late: after the guard's time, when an announce can no longer lower the account's score."""
    for late_seconds in (0.0, 0.15):
        await broker.announce([entry(1, "x")])
        taken = await broker.take()
        (held,) = await lease(broker)
        await broker.let_go(empty=[held], waiting=[])
        assert await waits(broker) is None
        await asyncio.sleep(late_seconds)
        await broker.announce([entry(2)])
        await broker.park(taken.guard, {INSTANCE: None})

        async def due() -> list[str]:
            return (await broker.take()).instances

        assert await eventually(due, "the account is due", timeout_seconds=1) == [INSTANCE]
        (held,) = await lease(broker)
        await broker.let_go(empty=[held], waiting=[])


async def test_a_finish_between_lease_and_park_is_not_lost(broker: Broker) -> None:
    """The worker that took the account saw the chat in flight, and parks the account until that lease would end."""
    await broker.announce([entry(1), entry(2)])
    held = await lease_one(broker)
    taken = await broker.take()
    wait_seconds = await waits(broker)
    await broker.finish([Finish(held.chat, held.token, 0.2, 0.2, done=entry(1))])
    await broker.park(taken.guard, {INSTANCE: wait_seconds})

    async def due() -> list[Lease]:
        again = await broker.take()
        return await lease(broker) if again.instances else []

    assert len(await eventually(due, "the next one goes", timeout_seconds=2)) == 1


# memory


async def test_the_epoch_tells_whether_redis_has_its_memory(broker: Broker) -> None:
    assert not await broker.remembers()
    assert not await broker.keep_rebuild(hold_seconds=HOLD_SECONDS)
    await broker.begin_rebuild(hold_seconds=HOLD_SECONDS)
    filling = await broker.mark_filling([INSTANCE])
    assert await broker.is_rebuilding()
    assert await broker.remembers(), "it is being filled: nobody else need begin"
    await broker.announce([entry(1)])
    assert await broker.keep_rebuild(hold_seconds=HOLD_SECONDS)
    assert await broker.end_rebuild(filling)
    assert not await broker.is_rebuilding()
    assert await broker.remembers()
    assert (await broker.take()).remembers
    leased = await broker.lease([INSTANCE, "other"], max_chats=9, lock_seconds=LOCK_SECONDS)
    assert {one.instance: one.known for one in leased} == {INSTANCE: True, "other": False}


async def test_an_abandoned_rebuild_is_noticed(broker: Broker) -> None:
    await broker.begin_rebuild(hold_seconds=0.03)

    async def forgotten() -> bool:
        return not await broker.remembers()

    await eventually(forgotten, "the mark ends with its holder")
    assert not await broker.keep_rebuild(hold_seconds=HOLD_SECONDS)
    assert not await broker.end_rebuild({})
    assert not await broker.remembers()


async def test_an_account_is_known_once_it_was_filled_and_not_if_it_was_lost_meanwhile(broker: Broker) -> None:
    async def is_known() -> bool:
        (leased,) = await broker.lease([INSTANCE], max_chats=1, lock_seconds=LOCK_SECONDS)
        return leased.known

    filling = await broker.mark_filling([INSTANCE])
    assert not await is_known(), "being filled is not being known: who fills it may die"
    for redis in servers_of(broker):
        await redis.flushall()
    await broker.mark_known(filling)
    assert not await is_known()
    await broker.mark_known(await broker.mark_filling([INSTANCE]))
    assert await is_known()
    await broker.mark_filling([INSTANCE])
    assert await is_known(), "another rebuild only adds"


async def test_leases_that_an_old_copy_of_an_account_brought_back_are_broken_when_it_is_filled(broker: Broker) -> None:
    """A failover to a replica that lagged: nobody will release what was leased before it."""
    await broker.announce([entry(1), entry(2, "b"), entry(3, "c")])
    held = await lease(broker)
    await broker.mark_known(await broker.mark_filling([INSTANCE]))
    assert await lease(broker) == [], "leases of this run stand"
    await broker.servers.run([Plain(("SET", broker.keys.of(INSTANCE).epoch, "an old run"))])
    await broker.mark_filling([INSTANCE])
    again = await lease(broker)
    assert sorted(one.chat.chat_id for one in again) == ["a", "b", "c"]
    old = next(lease for lease in held if lease.chat.chat_id == "a")
    await broker.finish([Finish(old.chat, old.token, 0.0, done=entry(1))])
    assert await lease(broker) == [], "who held it before cannot release the new lease"


async def test_every_command_works_on_an_emptied_memory(broker: Broker) -> None:
    await broker.announce([entry(1, priority=3), entry(2)])
    taken = await broker.take()
    held = await lease_one(broker)
    for redis in servers_of(broker):
        await redis.flushall()
    assert not await broker.remembers()
    await broker.renew([held], lock_seconds=LOCK_SECONDS)
    await broker.let_go(empty=[held], waiting=[])
    await broker.park(taken.guard, {INSTANCE: None})
    await broker.drop([entry(2)])
    await broker.ping()
    await broker.finish([Finish(held.chat, held.token, 0.0, kept=entry(1, priority=3))])
    assert len(await lease(broker)) == 1, "what is kept is put in again"
    assert (await broker.take()).instances == [INSTANCE]


async def test_commands_work_after_their_scripts_were_lost(broker: Broker) -> None:
    for redis in servers_of(broker):
        await redis.script_flush()
    assert await broker.announce([entry(1)]) == 1
    for redis in servers_of(broker):
        await redis.script_flush()
    assert len(await lease(broker)) == 1


async def test_an_announce_wakes_those_who_listen_unless_told_not_to(broker: Broker, new_broker: NewBroker) -> None:
    wake = Wake(new_broker("w2").servers, broker.keys.wake)
    listener = asyncio.create_task(wake.listen())
    await wake.wait(5)
    clock = asyncio.get_running_loop().time
    began = clock()
    await broker.announce([entry(1)], wake=False)
    await wake.wait(0.2)
    assert clock() - began >= 0.19
    await broker.announce([entry(2)])
    await wake.wait(5)
    assert clock() - began < 4
    listener.cancel()
    await asyncio.wait([listener])
