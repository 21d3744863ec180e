"""When the sweeps run: each by one worker at a time, none lost by an error, and a rebuild when Redis needs one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest

from mqworker import clockwork as module
from mqworker.broker import Broker, BrokerUnavailable
from mqworker.clockwork import Clockwork
from mqworker.settings import Settings
from mqworker.store import Store
from mqworker.sweeps import Sweeps
from mqworker.tally import Tally
from mqworker.testing.waiting import eventually
from tests.integration.lanes import known
from tests.integration.rows import INSTANCE, new_message, put, sql


class Counted(Sweeps):
    """Counts its rebuilds and reclaims, and may be told to fail."""

    def __init__(self, store: Store, broker: Broker, settings: Settings, done: list[str]) -> None:
        super().__init__(store, broker, settings)
        self.done = done
        self.failing = False

    async def reclaim(self) -> int:
        if self.failing:
            raise RuntimeError("a bug")
        self.done.append("reclaim")
        return await super().reclaim()

    async def reconcile(self) -> int:
        if self.failing:
            raise RuntimeError("a bug")
        self.done.append("reconcile")
        return await super().reconcile()

    async def rebuild(self) -> int | None:
        self.done.append("rebuild")
        return await super().rebuild()


@pytest.fixture
def done() -> list[str]:
    """The sweeps that ran, of all clockworks."""
    return []


@pytest.fixture
def new_clockwork(
    new_store: Callable[..., Store], new_broker: Callable[..., Broker], settings: Settings, done: list[str]
) -> Callable[..., tuple[Clockwork, Counted]]:
    """Makes the clockworks of several workers."""

    def make(worker: str = "w1", **changes: object) -> tuple[Clockwork, Counted]:
        store = new_store(worker)
        own = settings.model_copy(update=changes)
        sweeps = Counted(store, new_broker(worker), own, done)
        return Clockwork(store, sweeps, Tally(), own), sweeps

    return make


async def whole(broker: Broker) -> bool:
    """Filled, and not just being filled."""
    return await broker.remembers() and not await broker.is_rebuilding()


@asynccontextmanager
async def running(clockwork: Clockwork) -> AsyncIterator[None]:
    tasks = {asyncio.ensure_future(loop()) for loop in clockwork.loops.values()}
    try:
        yield
    finally:
        while tasks:
            # Again and again: before Python 3.12 redis-py can lose a cancellation.
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=0.5)


async def test_of_many_workers_one_does_a_sweep_that_is_due(
    new_clockwork: Callable[..., tuple[Clockwork, Counted]], done: list[str]
) -> None:
    clockworks = [new_clockwork(f"w{n}", reconcile_every_seconds=60.0)[0] for n in range(5)]
    ran = await asyncio.gather(*(one.run_due("reconcile") for one in clockworks))
    assert sorted(ran) == [False] * 4 + [True]
    assert done == ["reconcile"]
    assert not any([await one.run_due("reconcile") for one in clockworks]), "it is not due again"


async def test_of_many_workers_that_start_one_rebuilds(
    new_clockwork: Callable[..., tuple[Clockwork, Counted]], done: list[str]
) -> None:
    clockworks = [new_clockwork(f"w{n}")[0] for n in range(4)]
    assert sum(await asyncio.gather(*(one.rebuild_at_start() for one in clockworks))) == 1
    assert done == ["rebuild"]


async def test_a_rebuild_that_is_asked_for_runs_at_once_but_not_beside_another(
    new_clockwork: Callable[..., tuple[Clockwork, Counted]], store: Store, broker: Broker
) -> None:
    await put(store)
    clockwork, _ = new_clockwork("w1")
    assert await clockwork.rebuild_now() == 1
    assert await clockwork.rebuild_now() == 1, "whatever Redis knows"
    assert await known(broker) == {"a"}
    assert await store.duties.take("rebuild", every_seconds=0, hold_seconds=30, now=True)
    assert await clockwork.rebuild_now() is None


async def test_a_rebuild_that_is_asked_for_says_when_it_could_not_be_done(
    new_clockwork: Callable[..., tuple[Clockwork, Counted]], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    clockwork, sweeps = new_clockwork("w1")

    async def in_vain() -> None:
        return None

    monkeypatch.setattr(sweeps, "rebuild", in_vain)
    with pytest.raises(BrokerUnavailable, match="keeps losing its memory"):
        await clockwork.rebuild_now()
    (duty,) = await store.inspection.duties()
    assert (duty.held_seconds, duty.idle_seconds) == (0, None), "given back, and due"


async def test_a_sweep_that_failed_is_due_at_once_and_the_others_go_on(
    new_clockwork: Callable[..., tuple[Clockwork, Counted]], done: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    clockwork, sweeps = new_clockwork(reclaim_every_seconds=0.1, reconcile_every_seconds=60.0)
    sweeps.failing = True
    with pytest.raises(RuntimeError):
        await clockwork.run_due("reconcile")
    async with running(clockwork):
        await eventually(lambda: "reclaim failed" in caplog.text, "a timer told what failed")
        sweeps.failing = False
        await eventually(lambda: done.count("reclaim") > 2, "the timers go on")
    assert await clockwork.run_due("reconcile")


async def test_the_cron_looks_at_what_this_worker_has_not_looked_at_for_its_period(
    new_clockwork: Callable[..., tuple[Clockwork, Counted]], done: list[str]
) -> None:
    clockwork, _ = new_clockwork(reclaim_every_seconds=0.2, reconcile_every_seconds=60.0)
    await clockwork.look()
    assert done == []
    await eventually(lambda: _looked(clockwork, done), "reclaim came round")
    await clockwork.look()
    assert done == ["reclaim"]


async def _looked(clockwork: Clockwork, done: list[str]) -> bool:
    await clockwork.look()
    return bool(done)


async def test_a_duty_is_held_for_as_long_as_its_sweep_takes(
    new_clockwork: Callable[..., tuple[Clockwork, Counted]],
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "HOLD_SECONDS", 0.3)
    clockwork, _ = new_clockwork()
    other, _ = new_clockwork("w2")
    ended = asyncio.Event()

    async def long_sweep() -> int:
        await ended.wait()
        return 0

    sweep = asyncio.create_task(clockwork._do("walk", long_sweep, every_seconds=0.0))

    async def taken() -> float | None:
        rows = await sql(store, "SELECT extract(epoch FROM until)::float AS until FROM message_queue_duties")
        return rows[0].until if rows else None

    first = await eventually(taken, "the duty is taken")
    assert first is not None

    async def held_longer() -> bool:
        until = await taken()
        return until is not None and until > first + 0.3

    await eventually(held_longer, "the duty is held beyond its first hold")
    assert not await other._do("walk", long_sweep, every_seconds=0.0, now=True)
    ended.set()
    assert await sweep


async def test_a_lost_memory_is_filled_at_once(
    new_clockwork: Callable[..., tuple[Clockwork, Counted]], store: Store, broker: Broker, done: list[str]
) -> None:
    clockwork, _ = new_clockwork(reconcile_every_seconds=600.0)
    await put(store)
    async with running(clockwork):
        await eventually(partial(whole, broker), "the start has filled Redis")
        for _ in range(2):  # the second time within the minute in which a start would be skipped
            await broker.redis.flushall()
            clockwork.memory_lost()

            async def filled() -> bool:
                return await known(broker) == {"a"} and await whole(broker)

            await eventually(filled, "Redis was filled again")
        await eventually(lambda: done.count("rebuild") == 3, "each loss was filled by a rebuild of its own")


async def test_a_memory_that_somebody_fills_already_is_left_to_them(
    new_clockwork: Callable[..., tuple[Clockwork, Counted]], broker: Broker, done: list[str]
) -> None:
    clockwork, _ = new_clockwork()
    await broker.begin_rebuild(hold_seconds=30.0)
    clockwork.memory_lost()
    await clockwork._rebuild_wanted()
    assert done == []


async def test_an_account_that_redis_does_not_know_is_learned_alone(
    new_clockwork: Callable[..., tuple[Clockwork, Counted]], store: Store, broker: Broker, done: list[str]
) -> None:
    clockwork, _ = new_clockwork(reconcile_every_seconds=600.0)
    async with running(clockwork):
        await eventually(broker.remembers, "the start has filled Redis")
        await store.enqueues.insert([new_message("a"), new_message("x", instance="other")])
        clockwork.unknown_instance(INSTANCE)

        async def learned() -> bool:
            return await known(broker) == {"a"}

        await eventually(learned, "the account is known")
        assert await broker.redis.exists(broker.keys.of("other").ready) == 0
    assert done.count("rebuild") == 1


async def test_after_an_outage_of_redis_everything_is_walked_through(
    new_clockwork: Callable[..., tuple[Clockwork, Counted]],
    store: Store,
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "RETURN_EVERY_SECONDS", 0.0)
    clockwork, _ = new_clockwork(reconcile_every_seconds=600.0)
    async with running(clockwork):
        await eventually(broker.remembers, "the start has filled Redis")
        await put(store)
        clockwork.redis_returned()

        async def found() -> bool:
            return await known(broker) == {"a"}

        await eventually(found, "what was stored meanwhile is known")


async def test_the_timers_alone_keep_every_sweep_going(
    new_clockwork: Callable[..., tuple[Clockwork, Counted]], done: list[str]
) -> None:
    clockworks = [new_clockwork(f"w{n}", reclaim_every_seconds=0.1, reconcile_every_seconds=0.1)[0] for n in range(3)]
    async with running(clockworks[0]), running(clockworks[1]), running(clockworks[2]):
        await eventually(lambda: min(done.count("reclaim"), done.count("reconcile")) >= 3, "both come round")
