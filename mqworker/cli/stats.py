"""`mqworker stats`."""

from __future__ import annotations

from dataclasses import asdict

from mqworker.cli.running import run
from mqworker.cli.talk import put, put_json
from mqworker.message import QueueStats
from mqworker.queue import MessageQueue


def count(instance: str, client_id: int | None, *, as_json: bool) -> None:
    """Print the five counts of an account, or of one client's messages in it."""
    counts = asdict(run(_counts(instance, client_id)))
    if as_json:
        put_json(counts)
        return
    width = max(len(str(number)) for number in counts.values())
    for state, number in counts.items():
        put(f"{state:<10} {number:>{width}}")


async def _counts(instance: str, client_id: int | None) -> QueueStats:
    async with MessageQueue() as queue:
        return await queue.get_stats(instance, client_id)
