"""Worker processes: what `mqworker worker` runs, with the bench's executor, and what the kernel says of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from mqworker.testing.waiting import eventually
from tests.bench.filling import fill, until_completed
from tests.bench.room import NO_GAPS, Room

ROOT = Path(__file__).parents[2]
START_SECONDS = 60.0
STOP_SECONDS = 20.0
WARM_MESSAGES = 400

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_names = count(1)


@dataclass(frozen=True)
class Notes:
    """What a worker wrote down: how long messages were under way, and its claims (when, how many milliseconds)."""

    latencies_ms: list[float]
    claims: list[tuple[int, float]]


class Worker:
    """One process."""

    def __init__(self, environment: dict[str, str], notes: Path | None) -> None:
        self._notes = notes
        self._process = subprocess.Popen(
            # A worker that ends under load warns of each message that it gives back.
            [sys.executable, "-m", "mqworker", "worker", "--log-level", "ERROR"],
            env=environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
        )

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    @property
    def resident_bytes(self) -> int:
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    @property
    def cpu_seconds(self) -> float:
        return cpu_seconds(self._process.pid)

    async def stop(self) -> None:
        """SIGTERM and a bounded wait; kill -9 for one that does not end, also when we are told to end ourselves."""
        self.go_on()
        self._process.terminate()
        try:
            await asyncio.to_thread(self._process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            print("bench: a worker did not end in time and was killed", file=sys.stderr)
        finally:
            self._process.kill()
            self._process.wait()

    def notes(self) -> Notes:
        """What it noted; only after its end."""
        assert self._notes is not None, "this worker was not told to take notes"
        noted = json.loads(self._notes.read_text())
        return Notes(noted["latencies_ms"], [(at, took) for at, took in noted["claims"]])


def cpu_seconds(pid: int) -> float:
    """What a process has used of the cores so far."""
    # The name stands in parentheses and may hold spaces and parentheses itself.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


@asynccontextmanager
async def workers(
    room: Room, number: int, *, warm: bool = True, notes: bool = False, settings: Mapping[str, object] = NO_GAPS
) -> AsyncIterator[list[Worker]]:
    """Worker processes, by default after a few messages: with plans, scripts and connections made. They end here."""
    started: list[Worker] = []
    try:
        started.extend(_start(room, notes, settings) for _ in range(number))
        if warm:
            await _warm(room, number)
        yield started
    finally:
        await asyncio.gather(*(worker.stop() for worker in started))


@asynccontextmanager
async def one_worker(
    room: Room, *, warm: bool = True, notes: bool = False, settings: Mapping[str, object] = NO_GAPS
) -> AsyncIterator[Worker]:
    async with workers(room, 1, warm=warm, notes=notes, settings=settings) as (worker,):
        yield worker


def _start(room: Room, notes: bool, settings: Mapping[str, object]) -> Worker:
    # What the caller's own environment sets is not what we measure.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MQWORKER_")}
    chosen: dict[str, object] = {
        "database_url": room.database_url,
        "redis_url": room.redis_url,
        "app": "tests.bench.app:registry",
        **NO_GAPS,
        **settings,
    }
    environment = {**inherited, **{f"MQWORKER_{key.upper()}": str(value) for key, value in chosen.items()}}
    path = room.folder / f"notes-{next(_names)}.json" if notes else None
    if path is not None:
        environment["BENCH_NOTES"] = str(path)
    return Worker(environment, path)


async def _warm(room: Room, number: int) -> None:
    async def all_listen() -> bool:
        ((_, listeners),) = await room.redis.pubsub_numsub("mq:wake")
        return int(listeners) >= number

    await eventually(all_listen, f"{number} workers listen", timeout_seconds=START_SECONDS)
    async with room.queue() as queue:
        await fill(queue, WARM_MESSAGES * number, 100)
    await until_completed(room, WARM_MESSAGES * number)
    await room.forget()
