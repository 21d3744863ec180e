"""Replaces a worker's process whose event loop stands still: nothing that runs in the loop could.

An executor that blocks (``time.sleep``, a synchronous client without a timeout) stops the renewals of every send beside
it. Their leases end and other workers take over; this process would stand for ever, and hold its place in the fleet.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import threading
from collections.abc import Callable

LOOK_SECONDS = 0.5
LAST_WORDS_SECONDS = 2.0
STALLED_EXIT_CODE = 70


class Watchdog:
    """A thread that looks whether the loop still ticks.

    It counts its own looks, not the clock: a process that was itself suspended is not taken for one that stands still.
    """

    def __init__(self, *, limit_seconds: float, on_stall: Callable[[], None]) -> None:
        self._limit_seconds = limit_seconds
        self._on_stall = on_stall
        self._ticks = 0
        self._stopped = threading.Event()
        self._ticking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Watch the running loop until :meth:`stop`. Where it stands, ``on_stall`` runs; if that returns, we end."""
        self._ticking = asyncio.create_task(self._tick(), name="watchdog")
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()
        if self._ticking is not None:
            self._ticking.cancel()

    async def _tick(self) -> None:
        while True:
            self._ticks += 1
            await asyncio.sleep(LOOK_SECONDS)

    def _watch(self) -> None:
        ticks, looks = -1, 0
        while looks * LOOK_SECONDS < self._limit_seconds:
            if self._stopped.wait(LOOK_SECONDS):
                return
            looks = looks + 1 if self._ticks == ticks else 0
            ticks = self._ticks
        # In a thread of its own: a log that nobody reads any more may be what the loop stands at.
        words = threading.Thread(target=_say_where, daemon=True)
        words.start()
        words.join(LAST_WORDS_SECONDS)
        try:
            self._on_stall()
        finally:
            os._exit(STALLED_EXIT_CODE)


def _say_where() -> None:
    """Past logging, whose lock may be held. Files, lines and functions; no values."""
    os.write(2, b"the event loop stands still: an executor blocks it, so this worker will be replaced. It is at:\n")
    faulthandler.dump_traceback(file=2)
