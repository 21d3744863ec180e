"""Virtual time: what takes hours passes at once, in the event loop that a test runs in.

The loop stays the test's own, with its sockets and threads, so that it does not matter who started it: pytest-asyncio,
anyio, ``asyncio.run``. While time passes it does not wait for its next timer but takes it to be due.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any


class LoopTime:
    """Stands in for one event loop's selector, where the loop waits, and for its time.

    Otherwise the loop goes by the machine's time, ahead of it by all that was jumped over: it never goes back.
    """

    def __init__(self, loop: BaseSelectorEventLoop) -> None:
        own = vars(loop)
        self._selector = own["_selector"]
        self._machine_time = loop.time
        self._run_in_executor = loop.run_in_executor
        self._ahead_seconds = 0.0
        self._now = 0.0
        self._passing = 0
        self._threads = 0
        own |= {"_selector": self, "time": self.time, "run_in_executor": self.run_in_executor}

    @classmethod
    def of_running_loop(cls) -> LoopTime:
        """The one of the loop that runs. Raises TypeError for a loop that is not asyncio's own."""
        loop = asyncio.get_running_loop()
        if not isinstance(loop, BaseSelectorEventLoop):
            raise TypeError(f"virtual time needs asyncio's own event loop, and this is {type(loop).__module__}'s")
        there = vars(loop)["_selector"]
        return there if isinstance(there, cls) else cls(loop)

    def time(self) -> float:
        return self._now if self._passing else self._machine_time() + self._ahead_seconds

    @contextlib.contextmanager
    def passing(self) -> Iterator[None]:
        """Have the loop jump from timer to timer, as long as the context lasts."""
        self._now = self.time()
        self._passing += 1
        try:
            yield
        finally:
            self._passing -= 1
            self._ahead_seconds = self._now - self._machine_time()

    def select(self, timeout: float | None = None) -> Any:
        """What the loop calls once a round, with the seconds until its next timer."""
        if not self._passing:
            return self._selector.select(timeout)
        events = self._selector.select(0)
        if events or timeout == 0:
            return events
        if timeout is None or self._threads:
            return self._selector.select(None)
        self._now += timeout
        return events

    def run_in_executor(self, executor: Any, function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        """Time stands still while a thread works: how long it takes the machine tells."""
        future = self._run_in_executor(executor, function, *arguments)
        self._threads += 1
        future.add_done_callback(self._thread_ended)
        return future

    def _thread_ended(self, _: asyncio.Future[Any]) -> None:
        self._threads -= 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._selector, name)


class Clock:
    """The time of the servers in memory. It begins now, and stands still unless something lets it pass."""

    def __init__(self, seed: int) -> None:
        # Not before now: what is scheduled for the time that this machine shows is due.
        self._seconds = float(math.ceil(time.time()))
        self._random_state = random.Random(seed).getstate()
        self._loop: LoopTime | None = None
        self._loop_began = 0.0
        self._passing = 0

    @property
    def now(self) -> datetime:
        """The time, in UTC."""
        return datetime.fromtimestamp(self.time(), UTC)

    def time(self) -> float:
        """The time in seconds since 1970."""
        return self._seconds if self._loop is None else self._seconds + (self._loop.time() - self._loop_began)

    async def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass while no worker runs: what becomes due meanwhile waits for the next drain."""
        if not seconds >= 0:
            raise ValueError(f"time does not go back: seconds must be at least 0, got {seconds!r}")
        with self.passing():
            await asyncio.sleep(seconds)

    @contextlib.contextmanager
    def passing(self) -> Iterator[None]:
        """Let time pass for all that runs in this event loop, as long as the context lasts."""
        loop = LoopTime.of_running_loop()
        with loop.passing():
            self._begin(loop)
            try:
                yield
            finally:
                self._end()

    def _begin(self, loop: LoopTime) -> None:
        self._passing += 1
        if self._passing == 1:
            self._loop, self._loop_began = loop, loop.time()
            self._swap_random_state()

    def _end(self) -> None:
        self._passing -= 1
        if self._passing == 0:
            self._seconds, self._loop = self.time(), None
            self._swap_random_state()

    def _swap_random_state(self) -> None:
        """Workers draw gaps and backoffs from ``random``: from our seed, whatever the test draws besides."""
        kept = random.getstate()
        random.setstate(self._random_state)
        self._random_state = kept
