"""An event loop in virtual time, whose tasks belong to simulated processes that can crash, freeze and thaw.

Nothing sleeps: when nobody can go on, the clock jumps to the next timer. Which of several ready handles runs first
is drawn from the seed. A handle belongs to the process in whose context it was made.

Users' tests have a virtual time of another kind, ``mqworker.testing.clock``: on a loop of asyncio's own.
"""

from __future__ import annotations

import asyncio
import enum
from asyncio import events
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from heapq import heappop, heappush
from random import Random
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

START_SECONDS = 1000.0
"""Not zero: code that takes "never" for 0.0 must not find that it is now."""
MOST_STEPS = 500_000


class Step:
    """A step of the world outside all processes: as a handle, at a fraction of its cost."""

    __slots__ = ("arguments", "function")

    def __init__(self, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self.function = function
        self.arguments = arguments


class State(enum.Enum):
    RUNNING = enum.auto()
    FROZEN = enum.auto()
    DEAD = enum.auto()


class Process:
    """What a crash ends and a freeze stops: every handle that was made in its context."""

    def __init__(self, loop: VirtualLoop, name: str) -> None:
        self.name = name
        self.state = State.RUNNING
        self.context = copy_context()
        self.context.run(_PROCESS.set, self)
        self.held: list[asyncio.Handle] = []
        self._loop = loop

    def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call ``function`` as this process: what it starts is this process' own."""
        return self.context.copy().run(function, *arguments)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        return self.run(self._loop.create_task, work)

    def crash(self) -> None:
        """End between two awaits, as kill -9 does: nothing of it runs again, no ``finally`` either."""
        self.state = State.DEAD
        self.held.clear()

    def freeze(self) -> None:
        """Stand still, as SIGSTOP does."""
        if self.state is not State.DEAD:
            self.state = State.FROZEN

    def thaw(self) -> None:
        """Go on: all that came due meanwhile comes at once."""
        if self.state is State.DEAD:
            return
        self.state = State.RUNNING
        held, self.held = self.held, []
        self._loop.ready.extend(held)


_PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


def current_process() -> Process | None:
    """The process whose handle runs now; ``None`` is the world outside all of them."""
    return _PROCESS.get()


class VirtualLoop(asyncio.AbstractEventLoop):
    """As much of an event loop as tasks, timers and asyncio's own locks need: no threads, no sockets."""

    def __init__(self, rng: Random) -> None:
        self.ready: list[asyncio.Handle | Step] = []
        self.steps = 0
        self.complaints: list[str] = []
        """What nobody awaited: an exception in a task or in a callback, in any process that lives."""
        self._rng = rng
        self._now = START_SECONDS
        self._timers: list[tuple[float, int, asyncio.TimerHandle | Step]] = []
        self._timers_made = 0
        self._tasks: list[tuple[asyncio.Task[Any], Process | None]] = []
        self._disposed = False

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run until ``main`` has ended; what else is left stands still for ever."""
        events._set_running_loop(self)
        try:
            task: asyncio.Task[T] = self.create_task(main)
            while not task.done():
                self._step()
            result: T = task.result()
            return result
        finally:
            self._dispose()
            events._set_running_loop(None)

    def _step(self) -> None:
        ready = self.ready
        if not ready:
            self._advance()
        count = len(ready)
        if count > 1:
            index = int(self._rng.random() * count)
            ready[index], ready[-1] = ready[-1], ready[index]
        self.steps += 1
        handle = ready.pop()
        if type(handle) is Step:
            handle.function(*handle.arguments)
            return
        assert isinstance(handle, asyncio.Handle)
        if handle.cancelled():
            return
        process = handle._context.get(_PROCESS)  # type: ignore[attr-defined]
        if process is None or process.state is State.RUNNING:
            handle._run()
        elif process.state is State.FROZEN:
            process.held.append(handle)

    def _advance(self) -> None:
        """Jump to the next timer; all that are due then are ready together."""
        timers = self._timers
        while timers and _is_cancelled(timers[0][2]):
            heappop(timers)
        if not timers:
            raise AssertionError("nothing can ever happen again, and the run has not ended")
        if self.steps > MOST_STEPS:
            raise AssertionError(f"no end after {MOST_STEPS} steps")
        self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            self.ready.append(heappop(timers)[2])

    def _dispose(self) -> None:
        """Close what stands still. Its cleanup runs now, when nothing can hear of it any more."""
        self._complain()
        self._disposed = True
        while self._tasks:
            task, _ = self._tasks.pop()
            if not task.done():
                _close(task.get_coro())
        self.ready.clear()
        self._timers.clear()

    def _complain(self) -> None:
        for task, process in self._tasks:
            alive = process is None or process.state is not State.DEAD
            if alive and task.done() and task._log_traceback:
                self.complaints.append(f"nobody awaited what {task.get_coro()} raised: {task.exception()!r}")

    def later(self, seconds: float, function: Callable[..., object], *arguments: Any) -> None:
        """Have the world do something then."""
        self._timers_made += 1
        heappush(self._timers, (self._now + seconds, self._timers_made, Step(function, arguments)))

    # What asyncio asks of a loop.

    def time(self) -> float:
        return self._now

    def call_soon(
        self, callback: Callable[[Unpack[Arguments]], object], *args: *Arguments, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self.ready.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Arguments]], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Arguments]], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._timers_made += 1
        heappush(self._timers, (when, self._timers_made, handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name or "", context=context)
        self._tasks.append((task, current_process() if context is None else context.get(_PROCESS)))
        return task

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return self._disposed

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._disposed:
            self.complaints.append(f"{context.get('message')}: {context.get('exception')!r}")

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """A cancelled timer stays where it is until its time has come."""


def _is_cancelled(handle: asyncio.Handle | Step) -> bool:
    return isinstance(handle, asyncio.Handle) and handle.cancelled()


def _close(coroutine: Any) -> None:
    while True:
        try:
            coroutine.close()
        except RuntimeError:
            continue  # it awaits something in its cleanup: close that as well
        except BaseException:
            return  # what its cleanup raised
        return
