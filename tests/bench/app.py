"""The worker of the bench: its executor does nothing, or waits as a provider would; its notes are written at its end.

Kept in memory until then: a file that is written while the clock runs would be measured with the rest.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from mqworker import ExecutorRegistry, Message
from mqworker.message import ChatKey
from mqworker.store import Claim, NotNow
from mqworker.store.claims import Claims

registry = ExecutorRegistry()
notes = os.environ.get("BENCH_NOTES")
latencies_ms: list[float] = []
claims: list[tuple[int, float]] = []


@registry.executor()
async def send(message: Message) -> None:
    """Send nothing; take ``seconds`` where the payload names them, note how long ago ``at`` was."""
    payload = message.payload
    if notes and "at" in payload:
        latencies_ms.append((time.monotonic_ns() - payload["at"]) / 1e6)
    if "seconds" in payload:
        await asyncio.sleep(payload["seconds"])


def _time_claims() -> None:
    """Note when each claim began and how many milliseconds it took."""
    claim = Claims.claim

    async def timed(self: Claims, chats: Sequence[ChatKey], executors: Sequence[str]) -> list[Claim | NotNow]:
        began = time.monotonic_ns()
        answers = await claim(self, chats, executors)
        claims.append((began, (time.monotonic_ns() - began) / 1e6))
        return answers

    Claims.claim = timed  # type: ignore[method-assign]


def _write(path: Path) -> None:
    path.write_text(json.dumps({"latencies_ms": latencies_ms, "claims": claims}))


if notes:
    _time_claims()
    atexit.register(_write, Path(notes))
