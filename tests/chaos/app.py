"""The application of the worker processes: it posts to the gateway, and misbehaves where a message says so."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from mqworker import ExecutorRegistry, Message
from mqworker.executors import WebhookExecutor
from mqworker.settings import load_settings
from mqworker.store import Claim, NotNow
from mqworker.store.claims import Claims
from tests.chaos.audit import write_line
from tests.chaos.mutants import mutate

FOLDER = Path(os.environ["CHAOS_FOLDER"])
VERDICTS_EVERY_SECONDS = 0.5

settings = load_settings()
BLOCK_SECONDS = 1.5 * settings.lease_seconds
# The pid tells the gateway, and so the checker, which claim a send belongs to.
webhook = WebhookExecutor(
    f"{settings.webhook_url.get_secret_value()}?worker={os.getpid()}",
    timeout_seconds=settings.executor_timeout_seconds,
    max_connections=settings.max_chats,
)


class Rude(BaseException):
    """No Exception: an ``except Exception`` around an executor lets it through."""


class Unprintable:
    """Nothing that a provider id or a row could hold."""

    def __str__(self) -> str:
        raise ValueError("cannot be printed")


async def send(message: Message) -> Any:
    """Send it, and then do what ``payload["rude"]`` says."""
    answer = await webhook(message)
    rude = message.payload.get("rude")
    if rude is None:
        return answer
    at, seconds = time.time(), BLOCK_SECONDS if rude == "block the loop" else 0.0
    facts = {"start": at, "end": at + seconds, "pid": os.getpid(), "key": message.payload["key"]}
    write_line(FOLDER / "faults.jsonl", kind=f"executor: {rude}", **facts)
    return await RUDE[rude]()


async def _hang() -> None:
    await asyncio.Event().wait()


async def _ignore_cancellation() -> None:
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue


async def _raise_base() -> None:
    raise Rude("not an Exception")


async def _exit() -> None:
    raise SystemExit(3)


async def _die() -> None:
    os._exit(9)


async def _block() -> None:
    time.sleep(BLOCK_SECONDS)  # the whole event loop stands, renewals too


async def _block_for_ever() -> None:
    while True:
        time.sleep(1)  # only the watchdog's thread can end this


async def _garbage() -> object:
    return Unprintable()


async def _huge_error() -> None:
    raise RuntimeError("\x00\ud800 Authorization: Bearer abcdefghijkl " + "x" * 5_000_000)


RUDE: dict[str, Callable[[], Awaitable[object]]] = {
    "hang": _hang,
    "ignore cancellation": _ignore_cancellation,
    "raise BaseException": _raise_base,
    "sys.exit": _exit,
    "os._exit": _die,
    "block the loop": _block,
    "block for ever": _block_for_ever,
    "return garbage": _garbage,
    "raise 5 MB": _huge_error,
}

registry = ExecutorRegistry()
registry.register("default", send)


def _count_verdicts(path: Path) -> None:
    """Note what the claims answered: a run in which Redis never proposed wrongly has shown nothing about that."""
    claim = Claims.claim
    seen: Counter[str] = Counter()
    noted_at = time.monotonic()

    async def counted(self: Claims, chats: Sequence[Any], executors: Sequence[str]) -> list[Claim | NotNow]:
        nonlocal noted_at
        answers = await claim(self, chats, executors)
        seen.update("claimed" if isinstance(answer, Claim) else answer.reason for answer in answers)
        if time.monotonic() - noted_at > VERDICTS_EVERY_SECONDS:
            noted_at = time.monotonic()
            write_line(path, worker=os.getpid(), **seen)
            seen.clear()
        return answers

    Claims.claim = counted  # type: ignore[method-assign]


_count_verdicts(FOLDER / "verdicts.jsonl")
if mutant := os.environ["CHAOS_MUTANT"]:
    mutate(mutant)
