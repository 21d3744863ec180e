"""A producer process: it enqueues as an application would, and logs each call before it and its answer after it.

``python -m tests.chaos.producer SEED NUMBER RATE HISTORY``; chats and shares come from the environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from mqworker import EnqueueUncertain, MessageQueue, StorageUnavailable
from mqworker.settings import load_settings
from mqworker.store.connections import CONNECT_ARGS
from mqworker.testing.gateway import digest
from tests.chaos.mutants import mutate

CANARY = "CANARYtheTextOfAMessage"
MAX_RETRIES = 4
MAX_RETRIES_RUDE = 2
"""Each attempt may cost a worker."""
AT_ONCE = 40
SHARES = {"one": 66, "own id": 14, "many": 9, "in a session": 4, "rolled back": 2, "cancel": 5}
LONG = "longer than a lease"
USUAL: list[tuple[float, dict[str, Any]]] = [
    (0.05, {"fail_times": 1}),
    (0.02, {"fail_times": 2}),
    (0.01, {"fail_always": "permanent"}),
    (0.003, {"fail_always": "temporary"}),
    (0.01, {"retry_after": 1}),
    (0.01, {"send_seconds": LONG}),
]
SCRIPTS: dict[str, list[tuple[float, dict[str, Any]]]] = {
    "usual": USUAL,
    "slow": [(0.2, {"send_seconds": LONG}), (0.3, {"send_seconds": 0.5, "fail_times": 2}), *USUAL],
    "failing": [(0.6, {"send_seconds": 0.01, "fail_times": 2})],
}
# Of the scripts in which many messages fail: a cancel must meet one in flight.
MANY_CANCELS = SHARES | {"cancel": 30}
RUDE = [
    "hang",
    "ignore cancellation",
    "raise BaseException",
    "sys.exit",
    "os._exit",
    "block the loop",
    "block for ever",
    "return garbage",
    "raise 5 MB",
]


class Producer:
    """Draws operations from a seed and does them, some at once."""

    def __init__(self, queue: MessageQueue, engine: AsyncEngine, seed: str, history: Path) -> None:
        self._queue = queue
        self._engine = engine
        self._random = random.Random(seed)
        self._name = seed
        self._numbers = count(1)
        self._file = history.open("a", buffering=1, encoding="utf-8")
        self._instances = int(os.environ["CHAOS_INSTANCES"])
        self._chats = int(os.environ["CHAOS_CHATS"])
        self._rude_share = float(os.environ["CHAOS_RUDE_SHARE"])
        self._prioritised = float(os.environ["CHAOS_PRIORITISED"])
        self._script = SCRIPTS[os.environ["CHAOS_SCRIPT"]]
        self._shares = SHARES if self._script is USUAL else MANY_CANCELS
        self._long_seconds = 1.4 * load_settings().lease_seconds
        self._recent: list[tuple[str, UUID]] = []

    def _write(self, **facts: object) -> None:
        self._file.write(json.dumps(facts) + "\n")

    def message(self) -> dict[str, Any]:
        """The arguments of one enqueue; ``payload["key"]`` is what the checker knows it by."""
        draw = self._random
        chat = draw.randrange(self._chats)
        payload: dict[str, Any] = {"key": f"{self._name}:{next(self._numbers)}", "text": CANARY}
        pick = draw.random()
        for share, script in self._script:
            if pick < share:
                payload |= {key: self._long_seconds if value is LONG else value for key, value in script.items()}
                break
            pick -= share
        else:
            if draw.random() < self._rude_share:
                payload["rude"] = draw.choice(RUDE)
        message = {
            "instance": f"account-{chat % self._instances}",
            "client_id": 7,
            "chat_id": f"{chat}@c.us",
            "payload": payload,
            "max_retries": MAX_RETRIES_RUDE if "rude" in payload else MAX_RETRIES,
        }
        if draw.random() < self._prioritised:
            message["priority"] = draw.choice([-5, 1, 5, 10])
        if draw.random() < 0.04:
            message["scheduled_at"] = datetime.now(UTC) + timedelta(seconds=draw.uniform(-1, 4))
        return message

    async def act(self) -> int:
        """One operation; returns how many messages it was about."""
        match self._random.choices(list(self._shares), list(self._shares.values()))[0]:
            case "one":
                await self._one()
            case "own id":
                await self._with_own_id()
            case "many":
                return await self._many()
            case "in a session":
                await self._in_session(commit=True)
            case "rolled back":
                await self._in_session(commit=False)
            case _:
                await self._cancel()
        return 1

    async def _call(self, kind: str, messages: list[dict[str, Any]], work: Awaitable[list[UUID]]) -> str:
        """Log a call and its answer: ok, no (definitely not stored) or unknown."""
        call = next(self._numbers)
        told = [
            (m["payload"]["key"], f"{m['instance']}/{m['chat_id']}", m.get("priority", 0), digest(m["payload"]))
            for m in messages
        ]
        self._write(event="call", call=f"{self._name}:{call}", kind=kind, at=time.time(), messages=told)
        try:
            ids = await work
        except EnqueueUncertain:
            result: str = "unknown"
        except StorageUnavailable:
            result = "no"
        else:
            result = "ok"
            self._recent = [*self._recent[-40:], *zip((m["payload"]["key"] for m in messages), ids, strict=True)]
        self._write(event="answer", call=f"{self._name}:{call}", at=time.time(), result=result)
        return result

    async def _one(self) -> None:
        message = self.message()

        async def work() -> list[UUID]:
            return [(await self._queue.enqueue(**message)).id]

        await self._call("enqueue", [message], work())

    async def _with_own_id(self) -> None:
        """As a careful caller does: the same id again until the answer is definite, and now and then once more."""
        message = self.message()
        message["message_id"] = UUID(int=self._random.getrandbits(128), version=4)
        again = self._random.random() < 0.2

        async def work() -> list[UUID]:
            return [(await self._queue.enqueue(**message)).id]

        while await self._call("enqueue", [message], work()) != "ok" or again:
            again = False
            await asyncio.sleep(0.1)

    async def _many(self) -> int:
        messages = [self.message() for _ in range(self._random.randint(2, 20))]

        async def work() -> list[UUID]:
            return [one.id for one in await self._queue.enqueue_many(messages)]

        await self._call("enqueue_many", messages, work())
        return len(messages)

    async def _in_session(self, *, commit: bool) -> None:
        message = self.message()

        async def work() -> list[UUID]:
            async with AsyncSession(self._engine) as session:
                try:
                    enqueued = await self._queue.enqueue(**message, session=session)
                except Exception as error:
                    # Whatever it was: the transaction has not been committed.
                    raise StorageUnavailable("not stored") from error
                if not commit:
                    with suppress(SQLAlchemyError, OSError):  # then the server has rolled it back
                        await session.rollback()
                    raise StorageUnavailable("rolled back")
                try:
                    await session.commit()
                except (SQLAlchemyError, OSError) as error:
                    raise EnqueueUncertain([enqueued.id]) from error
                return [enqueued.id]

        await self._call("enqueue in a session", [message], work())

    async def _cancel(self) -> None:
        if not self._recent:
            return
        key, message_id = self._random.choice(self._recent)
        self._write(event="cancel", key=key, at=time.time())
        try:
            result: str = await self._queue.cancel(message_id)
        except StorageUnavailable:
            result = "unknown"
        self._write(event="cancelled", key=key, at=time.time(), result=result)


async def run(seed: str, number: str, rate: float, history: Path) -> None:
    """Act at ``rate`` messages a second until told to stop; then finish what is under way."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    if mutant := os.environ["CHAOS_MUTANT"]:
        mutate(mutant)
    settings = load_settings()
    engine = create_async_engine(settings.database_url.get_secret_value(), connect_args=CONNECT_ARGS)
    free = asyncio.Semaphore(AT_ONCE)
    async with MessageQueue(settings) as queue, asyncio.TaskGroup() as group:
        producer = Producer(queue, engine, f"{seed}-{number}", history)
        print("ready", flush=True)
        credit, last = 0.0, time.monotonic()
        while not stopping.is_set():
            await free.acquire()
            task = group.create_task(producer.act())
            task.add_done_callback(lambda _: free.release())
            # Even draws would be a metronome; people come in bursts.
            credit += random.expovariate(rate / MESSAGES_AN_ACT)
            pause = credit - (time.monotonic() - last)
            if pause > 0:
                await asyncio.sleep(pause)
    await engine.dispose()


# The mean of act()'s answer over SHARES.
MESSAGES_AN_ACT = 1.9

if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], sys.argv[2], float(sys.argv[3]), Path(sys.argv[4])))
