"""One line every ten seconds about what a worker did: at a thousand messages a second nobody reads a line for each."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from mqworker.flights import Flights
from mqworker.tally import OUTCOMES, Tally

log = logging.getLogger(__name__)

EVERY_SECONDS = 10.0


class Digest:
    """Tells what a worker has counted since it told it last. An idle worker is silent."""

    def __init__(self, tally: Tally, flights: Flights) -> None:
        self._tally = tally
        self._flights = flights
        self._told: Counter[str] = Counter()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            self.tell()

    def tell(self) -> None:
        """Log what came since the last time, if anything did."""
        counted = Counter(late=self._tally.late_settles)
        for outcomes in self._tally.outcomes.values():
            counted.update(outcomes)
        new, self._told = counted - self._told, counted
        if new:
            numbers = {name: new[name] for name in (*OUTCOMES, "late")}
            log.info("settled", extra={**numbers, "in_flight": len(self._flights)})
