"""Replaces a worker's process whose event loop stands still: nothing that runs in the loop could.

An executor that blocks (``time.sleep``, a synchronous client without a timeout) stops the renewals of every send beside
it. Their leases end and other workers take over; this process would stand for ever, and hold its place in the fleet.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable

LOOK_SECONDS = 0.5
# A process that was itself suspended finds its last tick long ago; its loop ticks again before the third look.
LOOKS = 3


class Watchdog:
    """A thread that looks whether the loop still ticks. What it says goes past logging, whose lock may be held."""

    def __init__(self, *, limit_seconds: float, on_stall: Callable[[], None]) -> None:
        self._limit_seconds = limit_seconds
        self._on_stall = on_stall
        self._ticked_at = time.monotonic()
        self._stopped = threading.Event()
        self._ticking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Watch the running loop until :meth:`stop`."""
        self._ticking = asyncio.create_task(self._tick(), name="watchdog")
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()
        if self._ticking is not None:
            self._ticking.cancel()

    async def _tick(self) -> None:
        while True:
            self._ticked_at = time.monotonic()
            await asyncio.sleep(LOOK_SECONDS)

    def _watch(self) -> None:
        late_looks = 0
        while late_looks < LOOKS:
            if self._stopped.wait(LOOK_SECONDS):
                return
            late = time.monotonic() - self._ticked_at > self._limit_seconds
            late_looks = late_looks + 1 if late else 0
        os.write(2, b"the event loop stands still: an executor blocks it. This worker will be replaced. It is at:\n")
        # Files, lines and functions; no values.
        faulthandler.dump_traceback(file=sys.__stderr__.fileno() if sys.__stderr__ else 2)
        self._on_stall()
