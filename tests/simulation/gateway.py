"""The chat gateway: it does to each attempt what the scenario says, and its word on what was sent is the truth."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from uuid import UUID

from mqworker.errors import PermanentError, RetryAfter
from mqworker.executors import Executor
from mqworker.flights import Flights
from mqworker.message import Message
from mqworker.testing.memory.line import Line
from mqworker.testing.memory.tables import Note
from tests.simulation.scenario import ACCOUNT_WAIT_SECONDS, CHAT_WAIT_SECONDS, Deed, Letter

_SENDING = (Deed.SEND, Deed.FAIL_SENT, Deed.HANG_SENT)


class Gateway:
    """It is reached over a line of its own: a request that was sent arrives, whatever becomes of the worker."""

    def __init__(self, line: Line, letters: Sequence[Letter], note: Note) -> None:
        self._line = line
        self._note = note
        self._deeds = {letter.id: list(letter.deeds) for letter in letters}

    def executor(self, flights: Callable[[], Flights]) -> Executor:
        """The executor of one worker; its flights tell under which claim it sends."""

        async def send(message: Message) -> str:
            claim_id = _claim_of(flights())
            self._note("send", message.id, claim_id)
            try:
                await self._attempt(message.id, claim_id)
            except BaseException as error:
                self._note("sent", message.id, claim_id, type(error).__name__)
                raise
            self._note("sent", message.id, claim_id, "")
            return "p-1"

        return send

    async def _attempt(self, message_id: UUID, claim_id: UUID) -> None:
        deeds = self._deeds[message_id]
        deed = deeds.pop(0) if deeds else Deed.SEND
        # The request is under way, and perhaps accepted; then its reply is under way.
        await self._line.call([lambda: self._note("accept", message_id, claim_id) if deed in _SENDING else None])
        match deed:
            case Deed.FAIL | Deed.FAIL_SENT:
                raise OSError("no answer from the gateway")
            case Deed.PERMANENT:
                raise PermanentError("no such number")
            case Deed.WAIT_CHAT:
                raise RetryAfter(CHAT_WAIT_SECONDS)
            case Deed.WAIT_ACCOUNT:
                raise RetryAfter(ACCOUNT_WAIT_SECONDS, scope="instance")
            case Deed.CANCEL:
                raise asyncio.CancelledError
            case Deed.HANG | Deed.HANG_SENT:
                await asyncio.Event().wait()
            case Deed.STUBBORN:
                await _never()
            case Deed.SEND:
                return


async def _never() -> None:
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue  # an executor that ignores its cancellation


def _claim_of(flights: Flights) -> UUID:
    task = asyncio.current_task()
    return next(flight.claim.claim_id for flight in flights.all() if flight.task is task)
