"""What a check says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from mqworker.errors import MqWorkerError

State = Literal["ok", "fixed", "warn", "fail", "away"]
Repair = Callable[[], Awaitable[str]]


class NotRepaired(MqWorkerError):
    """A repair did nothing; the text says why."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, and what to do. ``repair`` does it, where that is safe, and says what it did."""

    check: str
    state: State
    found: str
    todo: str = ""
    repair: Repair | None = None
