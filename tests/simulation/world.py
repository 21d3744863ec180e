"""One run: real workers and producers, a gateway, two servers in memory, and what a scenario lets break."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar
from uuid import UUID

from mqworker.broker import Keys
from mqworker.broker.connection import ANSWER_TIMEOUT_SECONDS
from mqworker.runtime import Runtime, redis_outage
from mqworker.testing.memory.broker import MemoryBroker, RedisServer
from mqworker.testing.memory.store import open_memory_store
from mqworker.testing.memory.tables import OPEN_STATUSES, Row, Tables
from tests.simulation.gateway import Gateway
from tests.simulation.loop import Process, State, VirtualLoop
from tests.simulation.producer import Producer
from tests.simulation.scenario import GATEWAY_SECONDS, SETTINGS, Break, Fault, Scenario, Step
from tests.simulation.server import Server

POLL_SECONDS = 0.25
LOOK_SECONDS = 0.05
LONGEST_PATIENCE_SECONDS = 2.0

Event = tuple[Any, ...]
"""When, what, and the facts of it."""


@dataclass(slots=True)
class Worker:
    """One worker's place; whoever fills it has a process of its own."""

    number: int
    life: int
    process: Process
    runtime: Runtime
    leaving: bool = False


@dataclass(slots=True)
class Run:
    """What happened, for the judge."""

    scenario: Scenario
    bound_seconds: float
    history: list[Event] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    """What a part of a worker raised that nobody expected."""
    counts: Counter[str] = field(default_factory=Counter)
    rows: dict[UUID, Row] = field(default_factory=dict)
    calm_at: float = 0.0
    """When the last fault was over and the last producer done."""
    ended_at: float = 0.0
    late: str = ""
    """What was not done within the bound."""
    steps: int = 0


class _Ear(logging.Handler):
    def __init__(self, hear: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._hear = hear

    def emit(self, record: logging.LogRecord) -> None:
        self._hear(record)


@contextlib.contextmanager
def listening(hear: Callable[[logging.LogRecord], None]) -> Iterator[None]:
    """Have ``hear`` get what the worker logs, and nobody else."""
    logger = logging.getLogger("mqworker")
    kept = logger.level, logger.propagate
    handler = _Ear(hear)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = kept


class World:
    """Everything of one run."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        rng = Random(scenario.seed)
        self.loop = VirtualLoop(rng)  # type: ignore[abstract] # no sockets, no threads, no signals
        self.rng = rng
        self.run = Run(scenario, scenario.recovery_seconds)
        gaps: dict[str, float] = {} if scenario.paced else {"delay_min_seconds": 0.0, "delay_max_seconds": 0.0}
        self.settings = SETTINGS.model_copy(update={"max_chats": scenario.max_chats, **gaps})
        self.tables = Tables(self.loop.time, rng, self.note)
        self.tables.contention = scenario.contention
        self.redis = RedisServer(self.loop.time)
        if scenario.is_calm:  # filled before: a rebuild breaks leases, and who loses one may wait a little
            self.redis.memory.set(Keys().epoch, self.redis.run_id)
        slowest, loss = scenario.slowest_seconds, scenario.loss
        self.store_line = Server(self.loop, rng, "PostgreSQL", slowest_seconds=slowest, loss=loss)
        self.redis_line = Server(
            self.loop, rng, "Redis", slowest_seconds=slowest, loss=loss, patience_seconds=ANSWER_TIMEOUT_SECONDS
        )
        gateway_line = Server(self.loop, rng, "the gateway", slowest_seconds=GATEWAY_SECONDS, loss=0.0)
        self.gateway = Gateway(gateway_line, scenario.letters, self.note)
        self.workers: list[Worker] = []
        self.producers: list[Process] = []

    def note(self, kind: str, *facts: Any) -> None:
        if not self.loop.is_closed():  # what stands still for ever is closed after the end
            self.run.history.append((self.loop.time(), kind, *facts))

    def play(self) -> Run:
        """Play the scenario to its end. The seed of ``random`` is part of it: the worker draws its gaps there."""
        state = random.getstate()
        random.seed(self.scenario.seed)
        try:
            with listening(self._hear):
                self.loop.run(self._main())
        finally:
            random.setstate(state)
        self._write_up()
        return self.run

    def _hear(self, record: logging.LogRecord) -> None:
        """What the worker logs is counted; an exception with its traceback is a defect of the worker."""
        if self.loop.is_closed():
            return
        self.run.counts[f"log: {record.msg}"] += 1
        self.note("log", record.name, record.getMessage())
        if record.exc_info:
            self.run.complaints.append(f"{record.getMessage()}: {record.exc_info[1]!r}")

    def _write_up(self) -> None:
        run = self.run
        run.steps, run.rows = self.loop.steps, self.tables.items
        run.complaints += self.loop.complaints
        for server in (self.store_line, self.redis_line):
            run.counts.update({f"{server.name}: {what}": number for what, number in server.counts.items()})
        run.counts.update({f"claim: {verdict}": number for verdict, number in self.tables.verdicts.items()})

    async def _main(self) -> None:
        self.workers = [self._hire(number) for number in range(self.scenario.workers)]
        producers = [self._produce(number, steps) for number, steps in enumerate(self.scenario.producers)]
        await asyncio.gather(*producers, *map(self._break, self.scenario.faults))
        for server in (self.store_line, self.redis_line):
            server.quiet()
        self.run.calm_at = self.loop.time()
        self.note("calm")
        while unfinished := self._unfinished():
            if self.loop.time() > self.run.calm_at + self.run.bound_seconds:
                self.run.late = unfinished
                break
            await asyncio.sleep(POLL_SECONDS)
        self.run.ended_at = self.loop.time()

    def _unfinished(self) -> str:
        if self._is_open():
            return "not all messages have ended"
        if view := self._redis_view():
            return f"Redis still holds {view}"
        return ""

    def _is_open(self) -> bool:
        return any(row.status in OPEN_STATUSES for row in self.tables.items.values())

    def _redis_view(self) -> list[str]:
        """What Redis holds of chats; at the end that must be nothing.

        Left out: an account that was announced but never pointed to, because the announce was cut off between the
        two, its producer died, and its messages have ended. The entries lie there until the account's next message.
        """
        memory = self.redis.memory
        heard_of = {Keys().of(instance).chat for instance in memory.instances}
        view = []
        for prefix, account in memory.accounts.items():
            held = [*account.leased, *account.scheduled]
            held += [chat for chat in list(account.locks) if account.lock(chat, memory.now)]
            lanes = {*account.streams, *account.sorted}
            if prefix in heard_of or held or lanes != set(account.ready):
                view += [*held, *lanes, *account.ready]
        return view

    # workers

    def _hire(self, number: int, life: int = 1) -> Worker:
        """Start a worker; each life is a process of its own."""
        name = f"w{number}.{life}"
        process = Process(self.loop, name)
        send = self.gateway.executor(lambda: runtime.flights)
        runtime = Runtime(
            self.settings,
            {"default": send, "other": send} if self.scenario.others[number] else {"default": send},
            name=name,
            store=open_memory_store(self.tables, self.store_line, self.settings, worker=name),
            broker=MemoryBroker(self.redis, self.redis_line, owner=name),
            redis=redis_outage(),
        )
        worker = Worker(number, life, process, runtime)
        process.run(runtime.start)
        process.spawn(self._leave_if_stuck(worker))
        return worker

    def _end(self, worker: Worker) -> None:
        if worker.process.state is not State.DEAD:
            self.note("end", worker.process.name, len(worker.runtime.flights))
            worker.process.crash()
            self.tables.abandon(worker.process.name)

    def _replace(self, worker: Worker) -> None:
        """Another process in its place."""
        if self.workers[worker.number] is worker:
            self._end(worker)
            self.workers[worker.number] = self._hire(worker.number, worker.life + 1)

    async def _leave_if_stuck(self, worker: Worker) -> None:
        await worker.runtime.must_be_replaced.wait()
        self.note("stuck", worker.process.name)
        await self._leave(worker)

    async def _leave(self, worker: Worker) -> None:
        """What the shell around a worker does when it is told to stop, once."""
        if worker.leaving:
            return
        worker.leaving = True
        self.note("drain", worker.process.name, len(worker.runtime.flights))
        await worker.runtime.drain()
        await worker.runtime.aclose()
        self.note("left", worker.process.name)
        # From outside: this very task ends with its process.
        self.loop.later(0.0, self._replace, worker)

    # producers

    async def _produce(self, number: int, steps: Sequence[Step]) -> None:
        process = Process(self.loop, f"p{number}")
        self.producers.append(process)
        store = open_memory_store(self.tables, self.store_line, self.settings, worker=process.name)
        broker = MemoryBroker(self.redis, self.redis_line, owner=process.name)
        task = process.spawn(Producer(store, broker, self.rng, self.note).run(steps))
        while not task.done() and process.state is State.RUNNING:
            await asyncio.sleep(POLL_SECONDS)
        if task.done():
            task.result()

    # faults

    async def _break(self, fault: Fault) -> None:
        await asyncio.sleep(fault.at_seconds)
        if fault.in_flight and fault.kind in (Break.CRASH, Break.FREEZE, Break.DRAIN):
            await self._until_in_flight(fault.worker)
        self.note("fault", fault.kind.name, fault.worker)
        await self._FAULTS[fault.kind](self, fault)
        self.note("mended", fault.kind.name, fault.worker)

    async def _until_in_flight(self, number: int) -> None:
        patience = self.loop.time() + LONGEST_PATIENCE_SECONDS
        while self.loop.time() < patience and not len(self.workers[number].runtime.flights):
            await asyncio.sleep(LOOK_SECONDS)

    async def _crash(self, fault: Fault) -> None:
        worker = self.workers[fault.worker]
        if worker.process.state is not State.DEAD:
            self._end(worker)
            await asyncio.sleep(fault.seconds)
            self._replace(worker)

    async def _freeze(self, fault: Fault) -> None:
        process = self.workers[fault.worker].process
        process.freeze()
        await asyncio.sleep(fault.seconds)
        process.thaw()

    async def _drain(self, fault: Fault) -> None:
        worker = self.workers[fault.worker]
        worker.process.spawn(self._leave(worker))
        while self.workers[worker.number] is worker:
            await asyncio.sleep(POLL_SECONDS)

    async def _cut(self, fault: Fault) -> None:
        server = self.store_line if fault.kind is Break.CUT_STORE else self.redis_line
        name = self.workers[fault.worker].process.name
        server.cut.add(name)
        await asyncio.sleep(fault.seconds)
        server.cut.discard(name)

    async def _flush(self, fault: Fault) -> None:
        self.redis.flush()

    async def _redis_restarts(self, fault: Fault) -> None:
        old = self.redis.snapshot() if fault.kind is Break.STALE else None
        await asyncio.sleep(fault.seconds / 2)
        self.redis_line.refuse()
        self.redis_line.restart()
        self.redis.restart(old)
        await asyncio.sleep(fault.seconds / 2)
        self.redis_line.come_back()

    async def _away(self, fault: Fault) -> None:
        server = self.redis_line if fault.kind is Break.REDIS_AWAY else self.store_line
        server.refuse()
        server.restart()
        await asyncio.sleep(fault.seconds)
        server.come_back()
        if fault.kind is Break.STORE_RESTARTS:
            self.tables.started_at = self.loop.time()

    async def _hang(self, fault: Fault) -> None:
        server = self.redis_line if fault.kind is Break.REDIS_HANGS else self.store_line
        server.hang()
        await asyncio.sleep(fault.seconds)
        server.come_back()

    async def _kill_producer(self, fault: Fault) -> None:
        self.producers[fault.worker % len(self.producers)].crash()

    _FAULTS: ClassVar = {
        Break.CRASH: _crash,
        Break.FREEZE: _freeze,
        Break.DRAIN: _drain,
        Break.CUT_STORE: _cut,
        Break.CUT_REDIS: _cut,
        Break.FLUSH: _flush,
        Break.EMPTY: _redis_restarts,
        Break.STALE: _redis_restarts,
        Break.REDIS_AWAY: _away,
        Break.REDIS_HANGS: _hang,
        Break.STORE_AWAY: _away,
        Break.STORE_RESTARTS: _away,
        Break.STORE_HANGS: _hang,
        Break.PRODUCER: _kill_producer,
    }
