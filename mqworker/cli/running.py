"""How commands run: an event loop for the async ones, and signals that end the foreground ones in order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop's loop where it is installed, else asyncio's."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run an async command to its end."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(main)


class Ending:
    """Which signal told the command to end; ``exit_code`` is the shell's for it."""

    def __init__(self) -> None:
        self.number = signal.SIGINT

    @property
    def exit_code(self) -> int:
        return 128 + self.number


@contextlib.contextmanager
def ended_by_signals() -> Iterator[Ending]:
    """Have SIGTERM and SIGHUP end the block as Ctrl-C does: by KeyboardInterrupt, so that everything is cleaned up."""
    ending = Ending()

    def end(number: int, _frame: object) -> None:
        ending.number = signal.Signals(number)
        # Not an exception from here: inside an event loop SIGINT is what its runner turns into a cancellation.
        signal.raise_signal(signal.SIGINT)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    # A shell starts background jobs with SIGINT ignored.
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
