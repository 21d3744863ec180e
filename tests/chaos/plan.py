"""What one run does: how much, how long, how often each fault, and what it must have seen to mean anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# The proportions of the defaults, made short: a lease that ends after 2 s is lost fifteen times as often.
PROFILE: dict[str, float] = {
    "delay_min_seconds": 0.05,
    "delay_max_seconds": 0.15,
    "backoff_base_seconds": 0.2,
    "backoff_cap_seconds": 1.0,
    "executor_timeout_seconds": 4.0,
    "lease_seconds": 2.0,
    "renew_seconds": 0.6,
    "reclaim_every_seconds": 0.5,
    "reconcile_every_seconds": 1.0,
    "drain_seconds": 10.0,
    "max_chats": 40,
}

# Few chats, so that more than one message waits in each: the next one follows under the same lease.
GAPLESS: dict[str, Any] = {
    "chats": 60,
    "settings": {**PROFILE, "delay_min_seconds": 0.0, "delay_max_seconds": 0.0},
}

Weights = Mapping[str, float]

WORKER_FAULTS: Weights = {"kill -9": 52, "zombie": 31, "short stop": 5, "SIGTERM": 9, "SIGTERM, then kill": 3}
REDIS_FAULTS: Weights = {
    "FLUSHALL": 24,
    "kill, empty restart": 24,
    "kill, stale restart": 16,
    "SCRIPT FLUSH": 12,
    "freeze": 12,
    "memory full": 12,
}
POSTGRES_FAULTS: Weights = {
    "kill -9": 52,
    "kill one backend": 10,
    "terminate backends": 20,
    "read-only": 9,
    "freeze": 9,
}
LINK_FAULTS: Weights = {
    "lose answer": 46,
    "reset": 18,
    "latency": 14,
    "black hole": 12,
    "answers held": 10,
}
PRODUCER_FAULTS: Weights = {"kill -9": 1}


@dataclass(frozen=True)
class Lane:
    """One stream of faults: what, and how many seconds of rest between two."""

    faults: Weights
    rest_seconds: tuple[float, float]


WORKERS_A_LANE = 1.5
"""So that some workers are left alone at any time."""


def lanes(workers: int) -> dict[str, Lane]:
    """The lanes of a run with that many workers."""
    numbers = range(1, max(1, int(workers / WORKERS_A_LANE)) + 1)
    return {
        **{f"worker {number}": Lane(WORKER_FAULTS, (0.8, 2.2)) for number in numbers},
        "Redis": Lane(REDIS_FAULTS, (1.5, 4.0)),
        "PostgreSQL": Lane(POSTGRES_FAULTS, (5.0, 11.0)),
        "link": Lane(LINK_FAULTS, (0.3, 2.0)),
        "producer": Lane(PRODUCER_FAULTS, (20.0, 60.0)),
    }


@dataclass(frozen=True)
class Plan:
    """One run. ``rate`` is messages a second over all producers; ``least`` is what makes the run count."""

    seed: int
    minutes: float
    workers: int = 5
    producers: int = 2
    rate: float = 60.0
    instances: int = 4
    chats: int = 240
    rude_share: float = 0.004
    prioritised: float = 0.1
    script: Literal["usual", "slow", "failing"] = "usual"
    """What the messages are like: many take longer than a lease to send, or fail at first."""
    steady: bool = False
    """Nothing is done to any process, so no claim may ever be taken back."""
    lanes: Mapping[str, Lane] = field(default_factory=dict)
    settings: Mapping[str, float] = field(default_factory=lambda: PROFILE)
    least: Mapping[str, int] = field(default_factory=dict)
    mutant: str = ""
    drop_index: bool = False
    wake_seconds: float = float("inf")
    """A message of a free chat that waits longer than this was forgotten; only where no fault explains it."""
    quiet_seconds: float = 180.0
    """How long the queue may take to empty after the last fault."""


# Which faults count as what.
KINDS = {
    "workers killed": ("worker kill -9",),
    "zombies": ("zombie",),
    "Redis losses": ("Redis FLUSHALL", "Redis kill, empty restart", "Redis kill, stale restart"),
    "PostgreSQL crashes": ("PostgreSQL kill -9", "PostgreSQL kill one backend"),
}

# A run with less than this a minute would have shown little.
LEAST_A_MINUTE = {
    "messages": 1500,
    "workers killed": 10,
    "workers killed that held claims": 6,
    "claims reclaimed": 10,
    "zombies": 4,
    "late settles refused": 1,
    "stale proposals": 20,
    "failed attempts retried": 50,
    "Redis losses": 2,
    "PostgreSQL crashes": 1,
    "ambiguous commits": 1,
}


def least_of(minutes: float) -> dict[str, int]:
    """What a run of that length must have seen."""
    return {what: max(1, int(number * minutes)) for what, number in LEAST_A_MINUTE.items()}
