"""`scripts/bench`: real servers, fsync on, the full schema; every figure stands beside a floor of the same run."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter

import psycopg

from mqworker import MessageQueue, Settings, load_settings
from mqworker.devserver import DevServers
from mqworker.migrate import upgrade
from tests.bench import floor

ENQUEUE_BATCH = 1000
DRAIN_LIMIT_SECONDS = 300.0
LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Figures:
    """Messages a second. ``life`` is enqueue_many and drain together; the ratios are against the bare SQL floor."""

    messages: int
    chats: int
    floor_life: float
    enqueue_many: float
    drain: float
    life: float

    @property
    def ratio(self) -> float:
        return self.life / self.floor_life


async def measure(settings: Settings, messages: int, chats: int) -> Figures:
    """One run on empty tables: the floor, then the same number of messages through one worker process."""
    url = settings.database_url.get_secret_value().replace("+psycopg", "")
    empty(url)
    floor_life = await asyncio.to_thread(floor.life_per_second, url, messages)
    empty(url)
    async with MessageQueue(settings) as queue:
        worker = await start_worker(settings, queue)
        try:
            await once(queue, 200, 100)  # warm: plans, scripts, connections
            empty(url)
            began = perf_counter()
            stop(worker, signal.SIGSTOP)
            await fill(queue, messages, chats)
            filled = perf_counter()
            stop(worker, signal.SIGCONT)
            await drained(queue, messages)
            ended = perf_counter()
        finally:
            worker.kill()
            worker.wait()
    return Figures(
        messages,
        chats,
        floor_life,
        enqueue_many=messages / (filled - began),
        drain=messages / (ended - filled),
        life=messages / (ended - began),
    )


def empty(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE message_queue_items, message_queue_chats")


async def once(queue: MessageQueue, messages: int, chats: int) -> None:
    await fill(queue, messages, chats)
    await drained(queue, messages)


async def fill(queue: MessageQueue, messages: int, chats: int) -> None:
    for start in range(0, messages, ENQUEUE_BATCH):
        numbers = range(start, min(start + ENQUEUE_BATCH, messages))
        await queue.enqueue_many([message(n % chats) for n in numbers])


def message(chat: int) -> dict[str, object]:
    return {"instance": "bench", "client_id": 7, "chat_id": f"chat-{chat}", "payload": {"text": "hello"}}


async def drained(queue: MessageQueue, messages: int) -> None:
    """Return when all is sent. Asked rarely: to count 20,000 rows every 10 ms would cost the server a core."""
    deadline = perf_counter() + DRAIN_LIMIT_SECONDS
    while (await queue.get_stats("bench")).completed < messages:
        if perf_counter() > deadline:
            raise SystemExit(f"not all of {messages} messages were sent within {DRAIN_LIMIT_SECONDS:g} s")
        await asyncio.sleep(LOOK_SECONDS)


async def start_worker(settings: Settings, queue: MessageQueue) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "MQWORKER_APP": "tests.bench.app:registry"}
    for name in ("database_url", "redis_url"):
        environment[f"MQWORKER_{name.upper()}"] = getattr(settings, name).get_secret_value()
    environment |= {"MQWORKER_DELAY_MIN_SECONDS": "0", "MQWORKER_DELAY_MAX_SECONDS": "0"}
    command = [sys.executable, "-m", "mqworker", "worker", "--log-level", "WARNING"]
    return await asyncio.to_thread(subprocess.Popen, command, env=environment)


def stop(worker: subprocess.Popen[bytes], number: signal.Signals) -> None:
    worker.send_signal(number)


def show(runs: list[Figures]) -> None:
    """One line a run, then the median."""
    print(f"{'chats':>7} {'messages':>9} {'floor/s':>9} {'enqueue/s':>10} {'drain/s':>9} {'life/s':>8} {'of floor':>9}")
    for run in runs:
        print(
            f"{run.chats:>7} {run.messages:>9} {run.floor_life:>9.0f} {run.enqueue_many:>10.0f} {run.drain:>9.0f} "
            f"{run.life:>8.0f} {run.ratio:>9.2f}"
        )


async def bench(arguments: argparse.Namespace, servers: DevServers) -> list[Figures]:
    settings = load_settings(
        _env_file=None,
        database_url=servers.database_url,
        redis_url=servers.redis_url,
        delay_min_seconds=0,
        delay_max_seconds=0,
    )
    await asyncio.to_thread(upgrade, settings.database_url.get_secret_value())
    return [await measure(settings, arguments.messages, arguments.chats) for _ in range(arguments.runs)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--chats", type=int, default=1_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    with DevServers(durable=True) as servers:
        runs = asyncio.run(bench(arguments, servers))
    if arguments.json:
        print(json.dumps([{**asdict(run), "ratio": run.ratio} for run in runs]))
        return
    show(runs)
    print(f"median: {median(run.life for run in runs):.0f} a second, {median(r.ratio for r in runs):.2f} of the floor")


if __name__ == "__main__":
    main()
