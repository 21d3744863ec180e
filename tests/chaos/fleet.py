"""The processes of a run: the gateway, workers in slots, producers in slots. Each is ended by its own pid only."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from mqworker.devserver import DevServers
from mqworker.testing.waiting import eventually
from tests.chaos.audit import write_line
from tests.chaos.plan import Plan
from tests.chaos.proxy import HOST, Link
from tests.chaos.spawning import spawn

ROOT = Path(__file__).parents[2]
START_SECONDS = 60.0
STARTED = "worker started"


class GatewayProcess:
    """The provider's place: never faulted, the truth about what was sent."""

    def __init__(self, folder: Path) -> None:
        arguments = ["--log", str(folder / "gateway.jsonl"), "--send-seconds", "0.01", "0.3"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mqworker.testing.gateway", *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)
        assert self._process.stdout is not None
        self._process.stdout.close()


@dataclass(eq=False)
class Slot:
    """A place for one process after another, with a link of its own to each server."""

    name: str
    arguments: list[str]
    environment: dict[str, str]
    postgres: Link
    redis: Link
    folder: Path
    says: str
    process: ForkServerProcess | None = None
    generation: int = 0
    busy: bool = False
    noted_ready: bool = False
    logs: list[Path] = field(default_factory=list)

    @property
    def pid(self) -> int:
        assert self.process is not None
        assert self.process.pid is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.is_alive()

    def start(self) -> None:
        """Start the next process of this slot."""
        self.generation += 1
        self.noted_ready = False
        log = self.folder / f"{self.name}.{self.generation}.log"
        self.logs.append(log)
        arguments = [word.replace("{generation}", str(self.generation)) for word in self.arguments]
        self.process = spawn(arguments, self.environment, log)
        self._note("started")

    def is_ready(self) -> bool:
        return not self.alive or self.says in self.logs[-1].read_text(errors="replace")

    async def ready(self) -> None:
        """Wait until the process works, or has ended."""
        await eventually(self.is_ready, f"{self.name} works", timeout_seconds=START_SECONDS)

    def signal(self, number: signal.Signals) -> None:
        if self.alive:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, and bury it."""
        self.signal(signal.SIGKILL)
        self.bury()

    def bury(self) -> int:
        """Wait for its end; returns its exit code."""
        assert self.process is not None
        self.process.join()
        code = self.process.exitcode
        assert code is not None
        self._note("ended", code=code)
        return code

    def look(self) -> None:
        """Note when the process begins to work: a recovery cannot begin before there is somebody to recover."""
        if not self.noted_ready and self.alive and self.is_ready():
            self.noted_ready = True
            self._note("ready")

    def _note(self, event: str, **facts: object) -> None:
        path = self.folder / "processes.jsonl"
        write_line(path, slot=self.name, pid=self.pid, at=time.time(), event=event, **facts)

    async def stop(self, timeout_seconds: float) -> int | None:
        """SIGTERM; its exit code, None where it did not end in time."""
        self.signal(signal.SIGTERM)
        deadline = time.monotonic() + timeout_seconds
        while self.alive and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        return None if self.alive else self.bury()


class Fleet:
    """All processes of a run."""

    def __init__(self, plan: Plan, servers: DevServers, folder: Path) -> None:
        self._plan = plan
        self._servers = servers
        self._folder = folder
        self.workers: list[Slot] = []
        self.producers: list[Slot] = []
        self._closing = False

    async def start(self) -> None:
        self.gateway = GatewayProcess(self._folder)
        for number in range(self._plan.workers):
            self.workers.append(await self._worker(number))
        for number in range(self._plan.producers):
            self.producers.append(await self._producer(number))
        for slots in (self.workers, self.producers):
            for slot in slots:
                slot.start()
            for slot in slots:
                await slot.ready()
                assert slot.alive, f"{slot.name} does not start: see {slot.logs[-1]}"

    async def keep_alive(self) -> None:
        """Start again what ended by itself: a message can end its worker."""
        while True:
            await asyncio.sleep(0.1)
            for slot in [*self.workers, *self.producers]:
                slot.look()
                if not slot.busy and not slot.alive:
                    slot.bury()
                    slot.start()

    async def aclose(self) -> None:
        """End everything that still runs."""
        for slot in [*self.workers, *self.producers]:
            slot.signal(signal.SIGCONT)
            if slot.alive:
                slot.kill()
            await slot.postgres.aclose()
            await slot.redis.aclose()
        self.gateway.stop()

    async def _worker(self, number: int) -> Slot:
        return await self._slot(f"worker-{number}", ["arq", "mqworker.worker.WorkerSettings"], STARTED)

    async def _producer(self, number: int) -> Slot:
        rate = self._plan.rate / self._plan.producers
        history = str(self._folder / f"producer-{number}.jsonl")
        arguments = ["tests.chaos.producer", str(self._plan.seed), f"{number}.{{generation}}", str(rate), history]
        return await self._slot(f"producer-{number}", arguments, "ready")

    async def _slot(self, name: str, arguments: list[str], says: str) -> Slot:
        assert self._servers.postgres is not None
        assert self._servers.redis is not None
        postgres = await Link(f"{name} to PostgreSQL", self._servers.postgres.port, postgres=True).start()
        redis = await Link(f"{name} to Redis", self._servers.redis.port, postgres=False).start()
        return Slot(name, arguments, self._environment(postgres, redis), postgres, redis, self._folder, says)

    def _environment(self, postgres: Link, redis: Link) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("MQWORKER_")}
        settings: dict[str, object] = {
            **self._plan.settings,
            "database_url": f"postgresql://postgres:{CANARY_PASSWORD}@{HOST}:{postgres.port}/postgres",
            "redis_url": f"redis://{HOST}:{redis.port}/0",
            "webhook_url": self.gateway.url,
            "app": "tests.chaos.app:registry",
            "log_level": "DEBUG",  # each late settle is counted, and at INFO they are rationed
        }
        chaos: dict[str, object] = {
            "FOLDER": self._folder,
            "MUTANT": self._plan.mutant,
            "INSTANCES": self._plan.instances,
            "CHATS": self._plan.chats,
            "RUDE_SHARE": self._plan.rude_share,
            "PRIORITISED": self._plan.prioritised,
            "SCRIPT": self._plan.script,
        }
        return {
            **inherited,
            **{f"MQWORKER_{key.upper()}": str(value) for key, value in settings.items()},
            **{f"CHAOS_{key}": str(value) for key, value in chaos.items()},
            "PYTHONUNBUFFERED": "1",
        }


# The server trusts everybody; the password is there to be found where it must not be.
CANARY_PASSWORD = "CANARYthePasswordOfADatabase"
