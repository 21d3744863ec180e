"""The virtual loop: time jumps, a crash runs nothing more, a freeze holds all back, a seed fixes the order."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any

import pytest

from tests.simulation.loop import START_SECONDS, Process, VirtualLoop


def new_loop(seed: int = 1) -> VirtualLoop:
    return VirtualLoop(Random(seed))  # type: ignore[abstract] # no sockets, no threads, no signals


def run(loop: VirtualLoop, main: Coroutine[Any, Any, None]) -> None:
    loop.run(main)
    assert loop.complaints == []


def test_an_hour_passes_at_once() -> None:
    loop = new_loop()
    run(loop, asyncio.sleep(3600))
    assert loop.time() == START_SECONDS + 3600


def test_a_timeout_ends_what_never_would() -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.Event().wait()

    run(new_loop(), main())


def test_where_nothing_can_happen_any_more_the_run_fails() -> None:
    with pytest.raises(AssertionError, match="nothing can ever happen"):
        run(new_loop(), _wait_for_ever())


async def _wait_for_ever() -> None:
    await asyncio.Event().wait()


async def tick(loop: VirtualLoop, heard: list[float | str]) -> None:
    try:
        while True:
            await asyncio.sleep(1)
            heard.append(loop.time() - START_SECONDS)
    finally:
        heard.append("cleaned up")


def test_a_crashed_process_does_nothing_more_not_even_clean_up() -> None:
    loop, heard = new_loop(), list[float | str]()

    async def main() -> None:
        process = Process(loop, "p")
        process.spawn(tick(loop, heard))
        await asyncio.sleep(2.5)
        process.crash()
        process.thaw()
        await asyncio.sleep(10)
        assert heard == [1, 2]

    run(loop, main())


def test_what_a_crashed_process_started_is_gone_with_it() -> None:
    loop, heard = new_loop(), list[float | str]()

    async def parent() -> None:
        await asyncio.gather(asyncio.create_task(tick(loop, heard)), asyncio.sleep(100))

    async def main() -> None:
        process = Process(loop, "p")
        process.spawn(parent())
        await asyncio.sleep(1.5)
        process.crash()
        await asyncio.sleep(10)
        assert heard == [1]

    run(loop, main())


def test_a_frozen_process_goes_on_where_it_stood_and_what_came_due_comes_at_once() -> None:
    loop, heard = new_loop(), list[float | str]()

    async def main() -> None:
        process = Process(loop, "p")
        process.spawn(tick(loop, heard))
        await asyncio.sleep(1.5)
        process.freeze()
        await asyncio.sleep(3)
        assert heard == [1]
        process.thaw()
        await asyncio.sleep(1.25)
        assert heard == [1, 4.5, 5.5]

    run(loop, main())


def test_the_seed_draws_the_order_of_what_is_ready_together() -> None:
    def order(seed: int) -> list[int]:
        loop, heard = new_loop(seed), list[int]()

        async def main() -> None:
            async with asyncio.TaskGroup() as group:
                for number in range(10):
                    group.create_task(_say(heard, number))

        run(loop, main())
        return heard

    assert order(1) == order(1)
    assert len({tuple(order(seed)) for seed in range(5)}) > 1


async def _say(heard: list[int], number: int) -> None:
    await asyncio.sleep(1)
    heard.append(number)


def test_an_exception_that_nobody_awaits_is_told() -> None:
    loop = new_loop()

    async def fail() -> None:
        raise ValueError("nobody hears this")

    async def main() -> None:
        loop.call_soon(_raise)
        asyncio.create_task(fail())  # noqa: RUF006 - nobody keeps it, either
        await asyncio.sleep(1)

    loop.run(main())
    assert sorted(complaint.rsplit(": ", 1)[1] for complaint in loop.complaints) == [
        "ValueError('in a callback')",
        "ValueError('nobody hears this')",
    ]


def _raise() -> None:
    raise ValueError("in a callback")
