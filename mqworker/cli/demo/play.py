"""The demo's course: gateway, enqueue, two workers, watch until all is settled, judge."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mqworker.cli.demo.board import Board
from mqworker.cli.demo.helper import Helper
from mqworker.cli.demo.plan import Planned
from mqworker.cli.demo.report import Outcome
from mqworker.cli.demo.view import View
from mqworker.cli.talk import say
from mqworker.message import QueueStats
from mqworker.queue import MessageQueue
from mqworker.settings import Settings
from mqworker.store import StoredMessage
from mqworker.testing.gateway import now
from mqworker.testing.history import History
from mqworker.testing.verdict import Expected, judge

WORKERS = 2
# A gateway takes a moment for each message, as real ones do.
SEND_SECONDS = ("0.15", "0.6")
# A message that a file has fail ten times must not wait for minutes.
BACKOFF_CAP_SECONDS = 10
LOOK_SECONDS = 0.1
COUNT_SECONDS = 0.5
# So long without a send, with messages that are due: something is lost.
STALL_SECONDS = 60.0
BATCH = 1000


class Play:
    """One run on servers that are up and migrated; ``folder`` is for logs and is thrown away."""

    def __init__(self, plan: Sequence[Planned], settings: Settings, folder: Path) -> None:
        self._planned = plan
        self._settings = settings
        self._folder = folder
        self._history = History(folder / "gateway.jsonl")
        self._plan: dict[str, Planned] = {}
        self._expected: list[Expected] = []

    async def run(self) -> Outcome:
        """From the first process to the verdict."""
        with ExitStack() as stack:
            gateway = stack.enter_context(_stopped_at_the_end([self._start_gateway()]))
            await self._until_gateway_answers(gateway[0])
            queue = MessageQueue(self._settings)
            async with queue:
                # All of them before the first worker: the order is promised among those that wait.
                await self._enqueue(queue)
                say(f"enqueued {len(self._plan)} messages; starting {WORKERS} workers ...")
                began = time.monotonic()
                with _stopped_at_the_end([self._start_worker(number) for number in range(1, WORKERS + 1)]) as workers:
                    await self._watch(queue, [*gateway, *workers])
                self._history.read()
                return await self._judge(queue, time.monotonic() - began)

    def _start_gateway(self) -> Helper:
        log = str(self._folder / "gateway.jsonl")
        arguments = ["mqworker.testing.gateway", "--log", log, "--send-seconds", *SEND_SECONDS]
        return Helper("gateway", arguments, clean_environment(), self._folder)

    def _start_worker(self, number: int) -> Helper:
        environment = clean_environment() | {
            "MQWORKER_DATABASE_URL": self._settings.database_url.get_secret_value(),
            "MQWORKER_REDIS_URL": self._settings.redis_url.get_secret_value(),
            "MQWORKER_WEBHOOK_URL": self._history.url,
            "MQWORKER_BACKOFF_CAP_SECONDS": str(BACKOFF_CAP_SECONDS),
        }
        return Helper(f"worker {number}", ["mqworker", "worker", "--executor", "webhook"], environment, self._folder)

    async def _until_gateway_answers(self, gateway: Helper) -> None:
        while not self._history.url:
            gateway.must_run()
            self._history.read()
            await asyncio.sleep(LOOK_SECONDS / 2)

    async def _enqueue(self, queue: MessageQueue) -> None:
        for start in range(0, len(self._planned), BATCH):
            batch = self._planned[start : start + BATCH]
            for planned, enqueued in zip(
                batch, await queue.enqueue_many([planned.message for planned in batch]), strict=True
            ):
                if not enqueued.deduplicated:
                    self._plan[str(enqueued.id)] = planned
                    self._expected.append(_expected(str(enqueued.id), enqueued.seq, planned))

    async def _watch(self, queue: MessageQueue, helpers: Sequence[Helper]) -> None:
        """Show the board until everything is settled, or nothing moves any more."""
        board = Board(self._plan)
        moved_at = counted_at = time.monotonic()
        with View(board) as view:
            while True:
                if board.apply(self._history.read()) or self._something_is_due_later():
                    moved_at = time.monotonic()
                view.update()
                for helper in helpers:
                    helper.must_run()
                if time.monotonic() - counted_at > COUNT_SECONDS:
                    counts = await self._counts(queue)
                    counted_at = time.monotonic()
                    if not counts.pending + counts.processing or counted_at - moved_at > STALL_SECONDS:
                        break
                await asyncio.sleep(LOOK_SECONDS)
            board.apply(self._history.read())
            view.update(last=True)

    def _something_is_due_later(self) -> bool:
        return any(message.due_at is not None and message.due_at > now() for message in self._expected)

    @property
    def _instances(self) -> list[str]:
        return list(dict.fromkeys(planned.chat.instance for planned in self._planned))

    async def _counts(self, queue: MessageQueue) -> QueueStats:
        each = [await queue.get_stats(instance) for instance in self._instances]
        return QueueStats(
            pending=sum(stats.pending for stats in each),
            processing=sum(stats.processing for stats in each),
            completed=sum(stats.completed for stats in each),
            failed=sum(stats.failed for stats in each),
            cancelled=sum(stats.cancelled for stats in each),
        )

    async def _judge(self, queue: MessageQueue, seconds: float) -> Outcome:
        statuses = {key: status for instance in self._instances for key, status in await _statuses(queue, instance)}
        attempts = self._history.attempts
        problems = judge(self._expected, statuses, attempts, least_gap_seconds=self._settings.delay_min_seconds)
        return Outcome(self._plan, attempts, await self._counts(queue), problems, seconds)


async def _statuses(queue: MessageQueue, instance: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    last: StoredMessage | None = None
    while page := await queue.list(instance, after=last, limit=1000):
        found += [(str(message.id), message.status) for message in page]
        last = page[-1]
    return found


def _expected(message_id: str, seq: int, planned: Planned) -> Expected:
    due = planned.scheduled_at
    return Expected(
        message_id,
        planned.chat,
        seq,
        planned.priority,
        planned.max_retries,
        None if due is None else due.timestamp() - time.time() + now(),
    )


@contextmanager
def _stopped_at_the_end(helpers: Sequence[Helper]) -> Iterator[Sequence[Helper]]:
    """Stop them, all at the same time, and wait until they are gone."""
    try:
        yield helpers
    finally:
        for helper in helpers:
            helper.ask_to_end()
        for helper in helpers:
            helper.stop()


def clean_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without the user's settings, and without proxies, which do not lead to this machine."""
    return {
        name: value
        for name, value in (os.environ if environment is None else environment).items()
        if not name.startswith("MQWORKER_") and not name.lower().endswith("_proxy")
    }
