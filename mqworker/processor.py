"""One message's attempt: run the executor with a timeout, say what came of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from types import CoroutineType

from mqworker.errors import ExecutorError
from mqworker.executors import Executor
from mqworker.lifecycle import Failed, Outcome, Policy, Sent, Settlement, TimedOut, Undecodable, provider_id_of, settle
from mqworker.message import Message
from mqworker.store import Claim


class Processor:
    """Runs executors and decides, with ``lifecycle``, what becomes of their messages. Writes nothing."""

    def __init__(self, executors: Mapping[str, Executor], policy: Policy, *, timeout_seconds: float) -> None:
        self._executors = executors
        self._policy = policy
        self._timeout_seconds = timeout_seconds

    @property
    def executor_names(self) -> list[str]:
        """The executors that this worker has; it claims no message for another."""
        return list(self._executors)

    async def attempt(self, claim: Claim) -> Settlement:
        """Try to send one claimed message. Raises CancelledError where its task is cancelled from outside."""
        outcome: Outcome
        if claim.undecodable is not None:
            outcome = Undecodable(claim.undecodable)
        else:
            outcome = await self._execute(claim.message)
        try:
            return self._settle(outcome, claim.message)
        except BaseException as error:
            # A subclass of RetryAfter that never called __init__, say: without a settlement the message would stay
            # in flight, its lease renewed, as long as the worker lives.
            return self._settle(Failed(ExecutorError(f"what it raised cannot be read ({_kind(error)})")), claim.message)

    def _settle(self, outcome: Outcome, message: Message) -> Settlement:
        return settle(outcome, message, self._policy, gap_draw=random.random(), backoff_draw=random.random())

    async def _execute(self, message: Message) -> Outcome:
        limit = asyncio.timeout(self._timeout_seconds)
        try:
            async with limit:
                return Sent(provider_id_of(_awaited(await self._executors[message.executor](message))))
        except TimeoutError as error:
            return TimedOut(self._timeout_seconds) if limit.expired() else Failed(error)
        except asyncio.CancelledError as error:
            # Ours to pass on where somebody cancelled this task; else the executor made it up, and that is a failure.
            if _is_being_cancelled():
                raise
            return Failed(error)
        except BaseException as error:
            # SystemExit and the like too: a message must not end the worker that tries it.
            return Failed(error)


def _awaited(answer: object) -> object:
    if type(answer) is CoroutineType:
        # Nothing was sent, and COMPLETED would lose the message.
        answer.close()
        raise ExecutorError("the executor returned a coroutine that was never awaited: write `return await ...`")
    return answer


def _kind(error: BaseException) -> str:
    kind = type(error)
    return kind.__name__ if type(kind) is type else "an error of a class with a metaclass"


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
