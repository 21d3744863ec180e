"""Writes settlements in batches, then lets their chats go. Whatever gathers while one batch is written is the next."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import replace
from itertools import islice

from mqworker.broker import Broker, BrokerUnavailable, Entry, Finish, Wake
from mqworker.errors import StatementFailed, StorageUnavailable
from mqworker.flights import Flight, Flights, Onward
from mqworker.lifecycle import Settlement
from mqworker.outage import Outage
from mqworker.store import Settled, Store
from mqworker.tally import Tally

log = logging.getLogger(__name__)

BATCH = 500
OWED = 20_000
"""Finishes kept while Redis is away; what is beyond them reconcile finds."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 1.0
LATE_WAIT_SECONDS = 0.1
# Two transactions met, the server lacks something, or its system failed it: the same settle may be written later.
PASSING = ("40", "53", "58")


class Settler:
    """Settles in the database first; only then does Redis hear of it."""

    def __init__(
        self,
        flights: Flights,
        onward: Onward,
        store: Store,
        broker: Broker,
        wake: Wake,
        tally: Tally,
        postgres: Outage,
    ) -> None:
        self._flights = flights
        self._onward = onward
        self._store = store
        self._broker = broker
        self._wake = wake
        self._tally = tally
        self._postgres = postgres
        self._waiting: deque[tuple[Flight, Settlement]] = deque()
        self._came = asyncio.Event()
        self._owed: deque[Finish] = deque(maxlen=OWED)

    def put(self, flight: Flight, settlement: Settlement) -> None:
        """Hand over what is to be written; the flight stays in flight until it is."""
        self._waiting.append((flight, settlement))
        self._came.set()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            await self._came.wait()
            self._came.clear()
            while self._waiting:
                # Half of all chats in play at most: while these are written the others are claimed and sent. All in one
                # batch, few chats would go round in step, and each server and this process wait for the others.
                most = min(BATCH, (len(self._flights) + len(self._onward)) // 2 + 1)
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), most))]
                await self._write(batch)

    async def _write(self, batch: list[tuple[Flight, Settlement]]) -> None:
        try:
            answers = await self._settle(batch)
            settled = [
                (flight, settlement, answer) for (flight, settlement), answer in zip(batch, answers, strict=True)
            ]
            # Before the log, which one odd message could break for all.
            await self.tell([self._finish(*one) for one in settled])
            self._tally.count_settles(settled)
            for one in settled:
                self._report(*one)
        finally:
            # Also where a bug raised: what stays in flight has its lease renewed for ever.
            for flight, _ in batch:
                self._flights.remove(flight)

    async def _settle(self, batch: list[tuple[Flight, Settlement]]) -> list[Settled]:
        """Write a batch, for as long as it takes PostgreSQL to come back."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                answers = await self._store.claims.settle([(flight.claim, s) for flight, s in batch])
            except StorageUnavailable as error:
                self._postgres.noticed(error)
            except StatementFailed as error:
                if len(batch) > 1:
                    return [settled for one in batch for settled in await self._settle([one])]
                if not error.sqlstate.startswith(PASSING):
                    return [self._unwritable(batch[0][0], error)]
            else:
                self._postgres.over()
                return answers
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _unwritable(self, flight: Flight, error: StatementFailed) -> Settled:
        # Its claim ends with its lease and counts as an attempt, so it cannot go round for ever.
        log.error("a settlement was refused by PostgreSQL", extra={**flight.facts, "reason": str(error)})
        return Settled(None)

    def _report(self, flight: Flight, settlement: Settlement, settled: Settled) -> None:
        match settled.status:
            case None:
                log.info("late settle, nothing changed: the claim was taken back", extra=flight.facts)
            case "COMPLETED":
                if log.isEnabledFor(logging.DEBUG):
                    log.debug("processed", extra=flight.facts)
            case "PENDING":
                facts = {**flight.facts, "retry_in_seconds": round(settled.wait_seconds, 3), "error": settlement.error}
                log.warning("retry" if settlement.counts_attempt else "put off", extra=facts)
            case _:
                log.error(settled.status.lower(), extra={**flight.facts, "error": settlement.error})

    async def tell(self, finishes: list[Finish]) -> None:
        """Let chats go again; where Redis is away it is told later."""
        try:
            due_seconds = await self._broker.finish(finishes)
        except BrokerUnavailable:
            self.owe(finishes)
        else:
            if due_seconds is not None:
                self._wake.ring_in(due_seconds)

    def owe(self, finishes: list[Finish]) -> None:
        """Keep for later what Redis could not be told."""
        self._owed.extend(finishes)

    async def pay_owed(self) -> None:
        """Tell Redis what it missed. Raises :class:`BrokerUnavailable`."""
        while self._owed:
            part = list(islice(self._owed, BATCH))
            await self._broker.finish(part)
            for _ in part:
                self._owed.popleft()

    def _finish(self, flight: Flight, settlement: Settlement, settled: Settled) -> Finish:
        chat, token = flight.lease.chat, flight.lease.token
        message = flight.claim.message
        entry = Entry(chat, flight.claim.seq, message.id, message.priority)
        gap = settlement.gap_seconds or 0.0
        match settled.status:
            case None:
                return Finish(chat, token, LATE_WAIT_SECONDS)
            case "PENDING":
                return Finish(chat, token, settled.wait_seconds, gap, kept=entry)
            case _ if gap == 0 and self._go_on(flight):
                return Finish(chat, token, None, done=entry)
            case _:
                return Finish(chat, token, gap, gap, done=entry)

    def _go_on(self, flight: Flight) -> bool:
        """Have the chat's next message claimed at once, if there is one and no other chat waits for its place."""
        if flight.lease.depth <= 1 or self._flights.room <= 0 or self._onward.closed:
            return False
        self._onward.put(replace(flight.lease, depth=flight.lease.depth - 1))
        return True
