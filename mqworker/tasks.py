"""How tasks go on, and how they are ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

log = logging.getLogger(__name__)

AGAIN_SECONDS = 0.5
RESTART_PAUSE_SECONDS = 1.0


async def for_ever(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """Run a part of the worker; a bug in it is told in full and the part starts again, since no other does its work."""
    while True:
        try:
            return await run()
        except Exception:
            log.exception("%s failed and starts again", name)
            await asyncio.sleep(RESTART_PAUSE_SECONDS)


async def end_tasks(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended.

    Once is not enough before Python 3.12: asyncio.wait_for, which redis-py sends with, can lose a cancellation.
    """
    pending = set(tasks)
    while pending:
        for task in tasks:  # in their order, not in a set's: it is the same in every run
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN_SECONDS)
