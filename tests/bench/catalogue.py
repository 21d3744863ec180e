"""All benchmarks, in the order in which they run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.bench import backlog, cleaning, enqueue, idle, life, memory, pace
from tests.bench.figures import Figure
from tests.bench.room import Room

SOAK = "soak"


@dataclass(frozen=True)
class Benchmark:
    """One run measures everything that its ratios compare.

    ``most_runs`` bounds --runs where a run takes minutes; ``quick`` says whether --quick runs it.
    """

    name: str
    measure: Callable[[Room], Awaitable[list[Figure]]]
    most_runs: int = 100
    quick: bool = False

    @property
    def line(self) -> str:
        return self.measure.__doc__ or ""


BENCHMARKS = {
    one.name: one
    for one in (
        Benchmark("life", life.life, quick=True),
        Benchmark("drain", life.drain, quick=True),
        Benchmark("two-workers", life.two_workers),
        Benchmark("enqueue", enqueue.enqueue, quick=True),
        Benchmark("latency", pace.latency),
        Benchmark("hot", pace.hot, quick=True),
        Benchmark("paced", pace.paced, most_runs=1),
        Benchmark("rebuild", backlog.rebuilding, most_runs=1),
        Benchmark("sweeps", backlog.sweeps, most_runs=1),
        Benchmark("instances", life.instances, quick=True),
        Benchmark("redis-memory", memory.redis_memory, most_runs=1),
        Benchmark("idle", idle.idle, most_runs=1),
        Benchmark("worker-memory", memory.worker_memory, most_runs=1),
        Benchmark("clean", cleaning.clean, most_runs=1),
    )
}
