"""How tasks are ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

AGAIN_SECONDS = 0.5


async def end_tasks(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended.

    Once is not enough before Python 3.12: asyncio.wait_for, which redis-py sends with, can lose a cancellation.
    """
    pending = set(tasks)
    while pending:
        for task in tasks:  # in their order, not in a set's: it is the same in every run
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN_SECONDS)
