"""The worker of the bench: its executor does nothing."""

from __future__ import annotations

from mqworker import ExecutorRegistry, Message

registry = ExecutorRegistry()


@registry.executor()
async def nothing(message: Message) -> None:
    """Send nothing."""
