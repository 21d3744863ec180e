"""Feeds the processor: lease due chats from Redis, claim their heads in PostgreSQL, many of each in one call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from structlog.contextvars import bind_contextvars

from mqworker.broker import Broker, BrokerUnavailable, Entry, Finish, Lease, Leased, Wake
from mqworker.errors import StatementFailed, StorageUnavailable
from mqworker.flights import Flight, Flights, Onward
from mqworker.lifecycle import Settlement
from mqworker.outage import Outage
from mqworker.processor import Processor
from mqworker.settler import Settler
from mqworker.store import Claim, NotNow, Store, Waiting
from mqworker.tally import Tally

log = logging.getLogger(__name__)

LEASE_BATCH = 500
LONGEST_SLEEP_SECONDS = 1.0
AWAY_PAUSE_SECONDS = 0.2
UNCLAIMED_WAIT_SECONDS = 0.5
# Most sends end sooner. What is leased in a reply that is lost must not stand still for a whole lease; the leases of
# sends that take longer the keeper lengthens.
FIRST_LOCK_SECONDS = 3.0


class Dispatcher:
    """One loop: take accounts, lease chats, claim messages, start sends."""

    def __init__(
        self,
        *,
        flights: Flights,
        onward: Onward,
        store: Store,
        broker: Broker,
        wake: Wake,
        processor: Processor,
        settler: Settler,
        tally: Tally,
        postgres: Outage,
        redis: Outage,
        claim_seconds: float,
        on_memory_lost: Callable[[], None],
        on_unknown_instance: Callable[[str], None],
        on_return: Callable[[], None],
    ) -> None:
        self._flights = flights
        self._onward = onward
        self._store = store
        self._broker = broker
        self._wake = wake
        self._processor = processor
        self._settler = settler
        self._tally = tally
        self._postgres = postgres
        self._redis = redis
        self._claim_seconds = claim_seconds
        self._on_memory_lost = on_memory_lost
        self._on_unknown_instance = on_unknown_instance
        self._on_return = on_return
        self._stopping = False
        self._may_have_strays = False
        # A claim that is under way would look like a stray: what it took would be given back, and sent all the same.
        self._claiming = asyncio.Lock()

    def stop(self) -> None:
        """Lease nothing more; what is in flight goes on."""
        self._stopping = True
        self._onward.close()
        self._wake.ring()

    async def run(self) -> None:
        """Run until stopped."""
        while not self._stopping:
            try:
                wait = await self.run_once()
            except BrokerUnavailable as error:
                await self._wait_for_redis(error)
            except StorageUnavailable as error:
                self._postgres.noticed(error)
                await self._wake.wait(AWAY_PAUSE_SECONDS)
            else:
                if wait > 0:
                    await self._wake.wait(min(wait, LONGEST_SLEEP_SECONDS))
            await self._flights.wait_for_room()

    async def run_once(self) -> float:
        """One round; return for how many seconds nothing is due (0: look again at once)."""
        if self._may_have_strays:
            await self._release_strays()
        # Redis may have failed the settler alone: its chats would stay locked until their leases end.
        await self._settler.pay_owed()
        taken = await self._broker.take()
        if not taken.remembers:
            self._on_memory_lost()
        if not taken.instances:
            return LONGEST_SLEEP_SECONDS if taken.wait_seconds is None else taken.wait_seconds
        leased = await self._lease(taken.instances)
        # Beside the claim: a message must not wait for one more round trip.
        parking = asyncio.create_task(self._park(taken.guard, leased))
        try:
            leases = [lease for one in leased for lease in one.leases]
            if leases:
                await self._claim(leases)
        finally:
            await parking
        # How long to sleep only a take can tell that finds nothing: other accounts may be due before these.
        return 0.0

    async def go_on(self) -> None:
        """Run until stopped: claim the next messages of chats that may go again at once."""
        while leases := await self._onward.take(LEASE_BATCH):
            if self._stopping:
                await self._settler.tell([Finish(lease.chat, lease.token, 0.0) for lease in leases])
                continue
            try:
                await self._claim(leases)
            except StorageUnavailable as error:
                self._postgres.noticed(error)
            except BrokerUnavailable:
                log.debug("Redis was not told of chats that had nothing to go on with")  # it is owed

    async def _release_strays(self) -> None:
        """What a claim took whose answer was lost: without this it would cost its message an attempt that none made."""
        async with self._claiming:
            held = [flight.claim for flight in self._flights.all()]
            strays = await self._store.claims.release_strays(held)
            self._may_have_strays = False
        if strays:
            log.info("claims whose answer was lost are given back", extra={"messages": strays})

    async def _lease(self, instances: list[str]) -> list[Leased]:
        room = min(self._flights.room, LEASE_BATCH)
        if room <= 0:
            # Chats that went on took it since we looked: these accounts are due still.
            return [Leased(instance, known=True, wait_seconds=0.0, leases=[]) for instance in instances]
        leased = await self._broker.lease(instances, max_chats=room, lock_seconds=FIRST_LOCK_SECONDS)
        for one in leased:
            if not one.known:
                self._on_unknown_instance(one.instance)
        return leased

    async def _park(self, guard: str, leased: list[Leased]) -> None:
        await self._broker.park(guard, {one.instance: _parked_seconds(one) for one in leased})

    async def _claim(self, leases: list[Lease]) -> None:
        """Claim and start; give back the leases of chats that may not go now."""
        async with self._claiming:
            answers = await self._ask(leases)
        empty: list[Lease] = []
        waiting: list[Finish] = []
        scheduled: list[Entry] = []
        for lease, answer in zip(leases, answers, strict=True):
            if isinstance(answer, Claim):
                continue
            if answer.scheduled is not None:
                # Redis took it for due: its clock runs ahead, or it is stale. It is told again, and the chat forgotten,
                # since a chat that waited for it would hold up what comes meanwhile.
                scheduled.append(_entry(answer.scheduled))
                empty.append(lease)
            elif answer.reason == "empty":
                empty.append(lease)
            else:
                waiting.append(Finish(lease.chat, lease.token, answer.wait_seconds))
        if scheduled:
            await self._broker.announce(scheduled, wake=False)
        await self._let_go(empty, waiting)

    async def _ask(self, leases: list[Lease]) -> list[Claim | NotNow]:
        """Claim, and start what was claimed: until then it counts as a stray."""
        begun = asyncio.get_running_loop().time()
        try:
            answers = await self._store.claims.claim([lease.chat for lease in leases], self._processor.executor_names)
        except (StorageUnavailable, StatementFailed):
            self._may_have_strays = True
            # Not ours any more: let them be leased again soon, by us or by a worker that reaches PostgreSQL.
            await self._settler.tell([Finish(lease.chat, lease.token, UNCLAIMED_WAIT_SECONDS) for lease in leases])
            raise
        self._postgres.over()
        late = asyncio.get_running_loop().time() - begun > self._claim_seconds
        for lease, answer in zip(leases, answers, strict=True):
            if isinstance(answer, Claim):
                self._start(Flight(answer, lease), late=late)
        self._tally.count_claims(answers)
        return answers

    async def _let_go(self, empty: list[Lease], waiting: list[Finish]) -> None:
        try:
            due_seconds = await self._broker.let_go(empty=empty, waiting=waiting)
        except BrokerUnavailable:
            self._settler.owe([*waiting, *(Finish(lease.chat, lease.token, 0.0) for lease in empty)])
            raise
        if due_seconds is not None:
            self._wake.ring_in(due_seconds)

    def _start(self, flight: Flight, *, late: bool) -> None:
        self._flights.add(flight)
        if late:
            # We stood still, or the answer did: another worker may have the message by now, so nothing may be sent.
            log.warning("the claim came too late and is given back", extra=flight.facts)
        if late or self._stopping:
            self._settler.put(flight, Settlement.released())
            return
        flight.task = asyncio.create_task(self._fly(flight))

    async def _fly(self, flight: Flight) -> None:
        # What the executor logs by itself says of which message it is, too.
        bind_contextvars(**flight.facts)
        log.debug("processing", extra=flight.facts)
        clock = asyncio.get_running_loop().time
        flight.attempt_began = clock()
        try:
            settlement = await self._processor.attempt(flight.claim)
        except asyncio.CancelledError:
            # The lease is lost, or the worker ends with the send undone: not ours to settle.
            self._flights.remove(flight)
            raise
        flight.attempt_ended = clock()
        self._settler.put(flight, settlement)

    async def _wait_for_redis(self, error: BrokerUnavailable) -> None:
        """Say it once, wait, and on return tell Redis what it missed. Sends in flight go on meanwhile."""
        self._redis.noticed(error)
        while not self._stopping:
            await self._wake.wait(AWAY_PAUSE_SECONDS)
            try:
                await self._broker.ping()
                await self._settler.pay_owed()
            except BrokerUnavailable:
                continue
            self._redis.over()
            self._on_return()
            return


def _parked_seconds(leased: Leased) -> float | None:
    """When to look at an account again: soon where Redis lacks its messages, since whoever learns them may die."""
    if leased.known:
        return leased.wait_seconds
    return min(LONGEST_SLEEP_SECONDS if leased.wait_seconds is None else leased.wait_seconds, LONGEST_SLEEP_SECONDS)


def _entry(message: Waiting) -> Entry:
    return Entry(message.chat, message.seq, message.id, message.priority, message.due_seconds)
