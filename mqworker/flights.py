"""What this worker holds at the moment: a bounded set of claims, whose leases are renewed while they are sent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from dataclasses import dataclass, field

from mqworker.broker import Broker, BrokerUnavailable, Lease
from mqworker.errors import StorageUnavailable
from mqworker.outage import Outage
from mqworker.store import Claim, Store

log = logging.getLogger(__name__)

RENEW_BATCH = 500
AGAIN_SECONDS = 1.0
LOCK_LOOK_SECONDS = 0.5
LOCK_ENDS_SOON_SECONDS = 2.0


def _now() -> float:
    return asyncio.get_running_loop().time()


@dataclass(slots=True, eq=False)
class Flight:
    """One claimed message on its way."""

    claim: Claim
    lease: Lease
    started: float = field(default_factory=_now)
    task: asyncio.Task[None] | None = None
    # When its executor began and ended; both 0 where it was not asked.
    attempt_began: float = 0.0
    attempt_ended: float = 0.0

    @property
    def facts(self) -> dict[str, object]:
        """What a log line says of it: ids and chat, never content."""
        message = self.claim.message
        return {
            "message_id": str(message.id),
            "instance": message.instance,
            "chat_id": message.chat_id,
            "attempt": message.attempt,
        }


class Flights:
    """At most ``capacity`` chats in flight. A chat that waits for its gap is not in flight."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._flights: dict[Flight, None] = {}
        self._landed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, flight: Flight) -> bool:
        return flight in self._flights

    @property
    def room(self) -> int:
        """How many more there is room for."""
        return self._capacity - len(self._flights)

    def all(self) -> list[Flight]:
        return list(self._flights)

    def add(self, flight: Flight) -> None:
        self._flights[flight] = None

    def remove(self, flight: Flight) -> None:
        """Take a flight out; a repeat changes nothing."""
        self._flights.pop(flight, None)
        self._landed.set()

    async def wait_for_room(self) -> None:
        """Return when there is room for another."""
        while self.room <= 0:
            self._landed.clear()
            await self._landed.wait()

    async def wait_a_while(self, timeout_seconds: float) -> None:
        """Return when something landed, or after ``timeout_seconds``."""
        self._landed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._landed.wait()


class Onward:
    """Leased chats that may send their next message at once: it is claimed without a way through Redis.

    For chats without a gap, where each round trip counts; all others wait in Redis for their time.
    """

    def __init__(self) -> None:
        self._leases: deque[Lease] = deque()
        self._taken = 0
        self._came = asyncio.Event()
        self.closed = False

    def __len__(self) -> int:
        """Those that wait, and those last taken."""
        return len(self._leases) + self._taken

    def put(self, lease: Lease) -> None:
        self._leases.append(lease)
        self._came.set()

    def close(self) -> None:
        """Nothing is put in any more; what is in is still taken out."""
        self.closed = True
        self._came.set()

    async def take(self, limit: int) -> list[Lease]:
        """At most ``limit``, as soon as there is one; none once it is closed and empty.

        Called again when those taken before are in flight, or are not.
        """
        self._taken = 0
        while not self._leases and not self.closed:
            self._came.clear()
            await self._came.wait()
        self._taken = min(len(self._leases), limit)
        return [self._leases.popleft() for _ in range(self._taken)]


class LeaseKeeper:
    """Renews the leases of what is in flight, and finds the sends that do not end."""

    def __init__(
        self,
        flights: Flights,
        store: Store,
        broker: Broker,
        postgres: Outage,
        *,
        renew_seconds: float,
        lock_seconds: float,
    ) -> None:
        self._flights = flights
        self._store = store
        self._broker = broker
        self._postgres = postgres
        self._renew_seconds = renew_seconds
        self._lock_seconds = lock_seconds

    async def run(self) -> None:
        """Run until cancelled."""
        pause_seconds = self._renew_seconds
        while True:
            await asyncio.sleep(pause_seconds)
            renewed = await self.run_once()
            # While PostgreSQL is away, again and soon: an untaken claim may still be renewed on its return.
            pause_seconds = self._renew_seconds if renewed else min(AGAIN_SECONDS, self._renew_seconds / 4)

    async def run_once(self) -> bool:
        """Renew all leases once; false where PostgreSQL could not be reached for some."""
        flights, reached = self._flights.all(), True
        for start in range(0, len(flights), RENEW_BATCH):
            try:
                await self._renew(flights[start : start + RENEW_BATCH])
            except StorageUnavailable as error:
                self._postgres.noticed(error)
                reached = False
        return reached

    async def _renew(self, flights: list[Flight]) -> None:
        kept = await self._store.claims.renew([flight.claim for flight in flights])
        for flight in flights:
            if flight.claim.claim_id not in kept:
                self._give_up(flight)

    async def keep_locks(self) -> None:
        """Run until cancelled: lock in Redis for longer what takes longer than most sends do.

        Apart from the renewals: a Redis that hangs must not let the rows' leases end.
        """
        while True:
            await asyncio.sleep(LOCK_LOOK_SECONDS)
            soon = _now() + LOCK_ENDS_SOON_SECONDS
            if ending := [flight for flight in self._flights.all() if flight.lease.until < soon]:
                await self._lock(ending)

    async def _lock(self, flights: list[Flight]) -> None:
        try:
            await self._broker.renew([f.lease for f in flights], lock_seconds=self._lock_seconds)
        except BrokerUnavailable:
            log.debug("Redis was not told of renewed leases")  # its locks are hints; the rows' leases hold

    def _give_up(self, flight: Flight) -> None:
        # Settled a moment ago, or taken over by another worker: then going on could only send it twice.
        if flight in self._flights and flight.task is not None and not flight.task.done():
            log.warning("lease lost, the send is cancelled", extra=flight.facts)
            flight.task.cancel()

    def stuck(self, *, longer_than_seconds: float) -> list[Flight]:
        """The flights whose executor has run longer than that: it ignores its cancellation."""
        limit = _now() - longer_than_seconds
        return [
            flight
            for flight in self._flights.all()
            if flight.started < limit and flight.task is not None and not flight.task.done()
        ]
