"""Virtual time in the test's own event loop."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from datetime import UTC, datetime, timedelta

import pytest
import uvloop

from mqworker.testing import Clock

DAY_SECONDS = 86_400.0


async def test_a_day_passes_at_once() -> None:
    clock, began, machine = Clock(seed=0), asyncio.get_running_loop().time(), time.monotonic()
    before = clock.now
    await clock.advance(DAY_SECONDS)
    assert clock.now - before == timedelta(days=1)
    assert asyncio.get_running_loop().time() - began >= DAY_SECONDS
    assert time.monotonic() - machine < 10


async def test_it_begins_now_and_what_is_scheduled_for_now_is_due() -> None:
    assert timedelta(0) <= Clock(seed=0).now - datetime.now(UTC) < timedelta(seconds=1)


async def test_it_stands_still_unless_it_is_let_pass() -> None:
    clock = Clock(seed=0)
    before = clock.now
    await asyncio.sleep(0.01)
    assert clock.now == before


async def test_it_does_not_go_back() -> None:
    for seconds in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="at least 0"):
            await Clock(seed=0).advance(seconds)


async def test_all_that_sleeps_wakes_in_its_order_and_at_its_time() -> None:
    clock, heard = Clock(seed=0), list[tuple[str, float]]()
    began = clock.time()

    async def sleeper(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        heard.append((name, round(clock.time() - began, 6)))

    with clock.passing():
        await asyncio.gather(sleeper("late", 7200), sleeper("soon", 0.25), sleeper("later", DAY_SECONDS))
    assert heard == [("soon", 0.25), ("late", 7200), ("later", DAY_SECONDS)]


async def test_a_timeout_ends_what_never_would() -> None:
    with pytest.raises(TimeoutError), Clock(seed=0).passing():
        async with asyncio.timeout(3600):
            await asyncio.Event().wait()


async def test_what_passes_within_what_passes_is_the_same_time() -> None:
    clock = Clock(seed=0)
    before = clock.now
    with clock.passing():
        await asyncio.gather(clock.advance(60), clock.advance(90))
        await asyncio.sleep(10)
    assert clock.now - before == timedelta(seconds=100)


async def test_it_waits_for_threads() -> None:
    clock = Clock(seed=0)
    before = clock.now
    with clock.passing():
        async with asyncio.timeout(1):
            assert await asyncio.to_thread(_slowly) == "done"
    assert clock.now == before


def _slowly() -> str:
    # Longer than the loop needs to find nothing to do: only then could a clock that does not wait go on.
    time.sleep(0.02)
    return "done"


async def test_what_has_arrived_is_heard_before_time_passes() -> None:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    with Clock(seed=0).passing(), theirs:
        theirs.send(b"hello\n")
        async with asyncio.timeout(1):
            assert await reader.readline() == b"hello\n"
    writer.close()
    await writer.wait_closed()


async def test_the_loops_time_never_goes_back_and_goes_on_with_the_machines() -> None:
    loop, times = asyncio.get_running_loop(), list[float]()
    for seconds in (100, 0, 5):
        times.append(loop.time())
        await Clock(seed=0).advance(seconds)
        times.append(loop.time())
    await asyncio.sleep(0.01)
    times.append(loop.time())
    assert times == sorted(times)
    assert 0.005 < times[-1] - times[-2] < 10
    assert 105 < times[-1] - times[0] < 120


async def test_a_seed_fixes_the_draws_and_those_of_the_test_go_on_as_if_nothing_was() -> None:
    def draw(seed: int) -> list[float]:
        with Clock(seed).passing():
            return [random.random() for _ in range(3)]

    random.seed(42)
    expected = [random.random(), random.random()]
    random.seed(42)
    first = random.random()
    drawn = draw(1)
    assert [first, random.random()] == expected
    assert drawn == draw(1) != draw(2)


def test_a_loop_that_is_not_asyncios_own_is_refused() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, pytest.raises(TypeError, match="uvloop"):
        runner.run(Clock(seed=0).advance(1))
