"""Draws faults from the seed and does them: one lane a kind of target, so that faults of different lanes meet."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import redis.asyncio as redis

from mqworker.devserver import DevServers
from tests.chaos.audit import write_line
from tests.chaos.fleet import Fleet, Slot
from tests.chaos.plan import KINDS, Lane, Plan

TERMINATE_SOME = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE application_name = 'mqworker' AND random() < 0.6
"""
HOLDERS = "SELECT DISTINCT worker FROM message_queue_items WHERE status = 'PROCESSING'"
LOOKS = 20
DRAIN_MARGIN_SECONDS = 5.0
A_BACKEND = "SELECT pid FROM pg_stat_activity WHERE application_name = 'mqworker' ORDER BY random() LIMIT 1"

Fault = Callable[[str, random.Random], Awaitable[None]]


class Faults:
    """Every fault, by name. Each notes what it did and when, and has healed what it broke when it returns."""

    def __init__(self, plan: Plan, servers: DevServers, fleet: Fleet, folder: Path) -> None:
        assert servers.postgres is not None
        assert servers.redis is not None
        self._plan = plan
        self._postgres, self._redis = servers.postgres, servers.redis
        self._fleet = fleet
        self._folder = folder
        self._lease = plan.settings["lease_seconds"]
        self._done: Counter[str] = Counter()

    @property
    def enough(self) -> bool:
        """Whether as much was done as makes the run count. Not every worker that was frozen held something."""
        done = {what: sum(self._done[kind] for kind in kinds) for what, kinds in KINDS.items()}
        done["zombies"] = int(done["zombies"] / 1.4)
        return all(done[what] >= self._plan.least.get(what, 0) for what in done)

    def _note(self, kind: str, start: float, **facts: object) -> None:
        self._done[kind] += 1
        write_line(self._folder / "faults.jsonl", kind=kind, start=start, end=time.time(), **facts)

    # Workers

    @contextmanager
    def _a_worker(self, draw: random.Random) -> Iterator[Slot | None]:
        idle = [slot for slot in self._fleet.workers if not slot.busy and slot.alive and slot.is_ready()]
        # Somebody must be left to take over.
        slot = draw.choice(idle) if len(idle) > 1 else None
        if slot is None:
            yield None
            return
        slot.busy = True
        try:
            yield slot
        finally:
            slot.busy = False

    async def worker(self, kind: str, draw: random.Random) -> None:
        with self._a_worker(draw) as slot:
            if slot is None:
                await asyncio.sleep(0.3)
                return
            match kind:
                case "kill -9":
                    await self._kill(slot, "worker kill -9")
                case "zombie":
                    await self._until_it_holds_something(slot)
                    await self._freeze(slot, "zombie", self._lease + draw.uniform(0.8, 2.0))
                case "short stop":
                    await self._freeze(slot, "short stop", draw.uniform(0.1, 0.4) * self._lease)
                case "SIGTERM":
                    await self._terminate(slot)
                case _:
                    await self._terminate_in_haste(slot, draw.uniform(0.05, 0.5))
            if not slot.alive:
                slot.start()

    async def _until_it_holds_something(self, slot: Slot) -> None:
        """A worker frozen with nothing in its hands shows nothing. Gives up after some looks."""
        for _ in range(LOOKS):
            if any(f":{slot.pid}:" in name for name in await self._holders()):
                return
            await asyncio.sleep(0.05)

    async def _holders(self) -> list[str]:
        try:
            return [str(name) for (name,) in await self._sql(HOLDERS)]
        except psycopg.OperationalError:
            return []  # PostgreSQL is being broken at the moment

    async def _kill(self, slot: Slot, kind: str) -> None:
        start, pid = time.time(), slot.pid
        slot.kill()
        self._note(kind, start, pid=pid, slot=slot.name)

    async def _freeze(self, slot: Slot, kind: str, seconds: float) -> None:
        start, pid = time.time(), slot.pid
        slot.signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        slot.signal(signal.SIGCONT)
        self._note(kind, start, pid=pid, slot=slot.name)

    async def _terminate(self, slot: Slot) -> None:
        """A worker that does not end in time is killed, and has no exit code: the checker minds."""
        start, pid = time.time(), slot.pid
        code = await slot.stop(self._plan.settings["drain_seconds"] + DRAIN_MARGIN_SECONDS)
        self._note("SIGTERM", start, pid=pid, slot=slot.name, code=code)
        if code is None:
            slot.kill()

    async def _terminate_in_haste(self, slot: Slot, patience_seconds: float) -> None:
        start, pid = time.time(), slot.pid
        if await slot.stop(patience_seconds) is None:
            slot.kill()
        self._note("SIGTERM, then kill", start, pid=pid, slot=slot.name)

    async def stop_all(self) -> None:
        """The end of the run: every worker is told to stop in order, with nothing left to do."""
        for slot in self._fleet.workers:
            slot.busy = True
            await self._terminate(slot)

    async def producer(self, _kind: str, draw: random.Random) -> None:
        slot = draw.choice(self._fleet.producers)
        slot.busy = True
        await self._kill(slot, "producer kill -9")
        slot.start()
        await slot.ready()
        slot.busy = False

    # Redis

    def _redis_client(self) -> redis.Redis:
        client: redis.Redis = redis.Redis.from_url(self._redis.url)
        return client

    async def redis(self, kind: str, draw: random.Random) -> None:
        start = time.time()
        match kind:
            case "FLUSHALL":
                async with self._redis_client() as client:
                    await client.flushall()
            case "SCRIPT FLUSH":
                async with self._redis_client() as client:
                    await client.script_flush()
            case "kill, empty restart":
                await self._restart_redis(draw.uniform(0.0, 1.5))
            case "kill, stale restart":
                await self._restart_stale(draw)
                return
            case "freeze":
                await asyncio.to_thread(self._redis.pause)
                await asyncio.sleep(draw.uniform(0.3, 3.0))
                self._redis.resume()
            case _:
                await self._fill_memory(draw.uniform(0.5, 2.0))
        self._note(f"Redis {kind}", start)

    async def _restart_redis(self, away_seconds: float) -> None:
        await asyncio.to_thread(self._redis.kill)
        (self._redis.data_folder / "dump.rdb").unlink(missing_ok=True)
        await asyncio.sleep(away_seconds)
        await asyncio.to_thread(self._redis.start)

    async def _restart_stale(self, draw: random.Random) -> None:
        """What it knew some seconds ago comes back: a failover to a replica that lagged."""
        async with self._redis_client() as client:
            await client.save()
        dump, copy = self._redis.data_folder / "dump.rdb", self._redis.data_folder / "stale.rdb"
        shutil.copy2(dump, copy)
        await asyncio.sleep(draw.uniform(0.5, 4.0))
        start = time.time()
        await asyncio.to_thread(self._redis.kill)
        copy.rename(dump)
        _as_owner_of(self._redis.data_folder, dump)
        await asyncio.to_thread(self._redis.start)
        dump.unlink()
        self._note("Redis kill, stale restart", start)

    async def _fill_memory(self, seconds: float) -> None:
        async with self._redis_client() as client:
            await client.config_set("maxmemory", "1mb")
            await asyncio.sleep(seconds)
            await client.config_set("maxmemory", "0")

    # PostgreSQL

    async def _sql(self, *statements: str) -> list[tuple[object, ...]]:
        rows: list[tuple[object, ...]] = []
        async with await psycopg.AsyncConnection.connect(self._postgres.url, autocommit=True) as connection:
            for statement in statements:
                cursor = await connection.execute(statement.encode())
                rows = await cursor.fetchall() if cursor.description else []
        return rows

    async def postgres(self, kind: str, draw: random.Random) -> None:
        start = time.time()
        match kind:
            case "kill -9":
                await asyncio.to_thread(self._postgres.kill)
                await asyncio.to_thread(self._postgres.start)
            case "kill one backend":
                backends = await self._sql(A_BACKEND)
                if not backends:
                    return
                os.kill(int(str(backends[0][0])), signal.SIGKILL)
                await self._until_postgres_answers()
            case "terminate backends":
                await self._sql(TERMINATE_SOME)
            case "read-only":
                await self._sql("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
                await asyncio.sleep(draw.uniform(0.3, 1.5))
                await self._sql(
                    "SET default_transaction_read_only = off",
                    "ALTER SYSTEM RESET default_transaction_read_only",
                    "SELECT pg_reload_conf()",
                )
            case _:
                await asyncio.to_thread(self._postgres.pause)
                await asyncio.sleep(draw.uniform(0.3, 2.5))
                self._postgres.resume()
        self._note(f"PostgreSQL {kind}", start)

    async def _until_postgres_answers(self) -> None:
        """The whole cluster starts again when one backend is killed."""
        deadline = time.monotonic() + 30
        while True:
            await asyncio.sleep(0.05)
            try:
                await self._sql("SELECT 1")
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
            else:
                return

    # Links

    async def link(self, kind: str, draw: random.Random) -> None:
        slot = draw.choice([*self._fleet.workers, *self._fleet.producers])
        link = draw.choice([slot.postgres, slot.redis])
        start = time.time()
        match kind:
            case "lose answer":
                await self._lose_answer(slot, draw)
                return
            case "reset":
                link.reset()
            case "latency":
                link.slow_down(0.03, 0.07)
                await asyncio.sleep(draw.uniform(1.0, 4.0))
            case "black hole":
                link.hold()
                await asyncio.sleep(draw.uniform(0.5, 4.0))
            case _:
                link.hold(requests=False)
                await asyncio.sleep(draw.uniform(0.5, 4.0))
        link.heal()
        self._note(f"link {kind}", start, link=link.name, slot=slot.name)

    async def _lose_answer(self, slot: Slot, draw: random.Random) -> None:
        """An ambiguous commit: the statement was done, its client never hears of it."""
        on_redis = draw.random() < 0.15
        link = slot.redis if on_redis else slot.postgres
        producer = slot in self._fleet.producers
        kinds = frozenset(
            {"redis"} if on_redis else {"insert", "commit"} if producer else {draw.choice(["claim", "settle"])}
        )
        lost = asyncio.Event()

        def dropped(kind: str, rows: int) -> None:
            lost.set()
            self._note("link lose answer", time.time(), link=link.name, slot=slot.name, statement=kind, rows=rows)

        link.lose_answer(kinds, dropped)
        try:
            async with asyncio.timeout(3):
                await lost.wait()
        except TimeoutError:
            pass  # nothing of that kind was asked for
        finally:
            link.heal()


def _as_owner_of(folder: Path, path: Path) -> None:
    owner = folder.stat()
    if os.geteuid() == 0:
        os.chown(path, owner.st_uid, owner.st_gid)


class Nemesis:
    """Runs every lane until it is stopped; what a lane draws is the same for the same seed."""

    def __init__(self, plan: Plan, faults: Faults) -> None:
        self._plan = plan
        self._faults = faults

    async def run(self, stopping: asyncio.Event) -> None:
        """Return when stopped and when every fault under way has healed."""
        async with asyncio.TaskGroup() as group:
            group.create_task(stopping.wait())
            for name, lane in self._plan.lanes.items():
                group.create_task(self._lane(name, lane, stopping))

    async def _lane(self, name: str, lane: Lane, stopping: asyncio.Event) -> None:
        draw = random.Random(f"{self._plan.seed}:{name}")
        targets: dict[str, Fault] = {
            "worker": self._faults.worker,
            "Redis": self._faults.redis,
            "PostgreSQL": self._faults.postgres,
            "link": self._faults.link,
            "producer": self._faults.producer,
        }
        fault = targets[name.split()[0]]
        while not stopping.is_set():
            try:
                async with asyncio.timeout(draw.uniform(*lane.rest_seconds)):
                    await stopping.wait()
            except TimeoutError:
                await fault(draw.choices(list(lane.faults), list(lane.faults.values()))[0], draw)
