"""Wait for a condition instead of for a time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

POLL_SECONDS = 0.01

Value = TypeVar("Value")


def wait_until(predicate: Callable[[], Value], description: str, timeout_seconds: float = 10) -> Value:
    """What ``predicate`` returns once that is true; AssertionError with ``description`` if it never is."""
    deadline = time.monotonic() + timeout_seconds
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(_failure(description, timeout_seconds, value))
        time.sleep(POLL_SECONDS)
    return value


@overload
async def eventually(
    predicate: Callable[[], Awaitable[Value | None]], description: str, timeout_seconds: float = ...
) -> Value: ...
@overload
async def eventually(
    predicate: Callable[[], Value | None], description: str, timeout_seconds: float = ...
) -> Value: ...
async def eventually(predicate: Callable[[], Any], description: str, timeout_seconds: float = 10) -> Any:
    """``wait_until`` for coroutines: ``predicate`` may be a plain or an async function."""
    deadline = time.monotonic() + timeout_seconds
    while not (value := await _answer(predicate())):
        if time.monotonic() > deadline:
            raise AssertionError(_failure(description, timeout_seconds, value))
        await asyncio.sleep(POLL_SECONDS)
    return value


async def _answer(answer: Any) -> Any:
    return await answer if inspect.isawaitable(answer) else answer


def _failure(description: str, timeout_seconds: float, value: object) -> str:
    return f"not within {timeout_seconds:g} s: {description} (last answer: {value!r})"
