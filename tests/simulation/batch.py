"""Many seeds: what they did, and which of them broke a promise."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tests.simulation.judge import Judge
from tests.simulation.scenario import draw_scenario
from tests.simulation.world import Run, World

CHUNK = 50


@dataclass(slots=True)
class Batch:
    """What a number of seeds came to; ``broken`` are seeds with what they broke."""

    seeds: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    broken: list[tuple[int, list[str]]] = field(default_factory=list)

    def add(self, other: Batch) -> None:
        self.seeds += other.seeds
        self.counts.update(other.counts)
        self.broken += other.broken

    @property
    def missing(self) -> list[str]:
        """What a batch must have seen to prove anything, and did not see."""
        return [event for event in EVENTS if not self.counts[event]]


EVENTS = (
    "crashes with messages in flight",
    "drains with messages in flight",
    "workers replaced",
    "sends",
    "sends ended by CancelledError",
    "sends ended by OSError",
    "sends ended by PermanentError",
    "sends ended by RetryAfter",
    "late settles refused",
    "settles repeated",
    "released",
    "reclaimed PENDING",
    "reclaimed FAILED",
    "reclaimed CANCELLED",
    "cancelled in flight",
    "passed one that backs off",
    "repeats recognised",
    "conflicts",
    "enqueues uncertain",
    "claim: claimed",
    "claim: empty",
    "claim: in_flight",
    "claim: waits",
    "claim: executor",
    "claim: contended",
    "PostgreSQL: ambiguous",
    "PostgreSQL: refused",
    "Redis: ambiguous",
    "Redis: refused",
    "duty rebuild",
    "log: rebuilt: Redis knows all waiting messages",
    "log: reconciled: announces that had been lost",
    "log: lease lost, the send is cancelled",
)
"""Each must have happened: a batch in which nothing was lost to a crash says nothing of crashes."""


def play(seed: int) -> tuple[Run, Judge]:
    """Play one seed and judge it."""
    run = World(draw_scenario(seed)).play()
    judge = Judge(run)
    judge.judge()
    return run, judge


def play_all(seeds: Iterable[int]) -> Batch:
    """Play seeds in this process."""
    batch = Batch()
    for seed in seeds:
        _, judge = play(seed)
        batch.seeds += 1
        batch.counts.update(judge.counts)
        if judge.violations:
            batch.broken.append((seed, judge.violations))
    return batch


def play_in_processes(
    seeds: Sequence[int], processes: int, progress: Callable[[Batch], None] = lambda batch: None
) -> Batch:
    """Play seeds in several processes; ``progress`` is told now and then what is done so far."""
    chunks = [seeds[start : start + CHUNK] for start in range(0, len(seeds), CHUNK)]
    batch = Batch()
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        for part in pool.imap_unordered(play_all, chunks):
            batch.add(part)
            progress(batch)
    return batch
