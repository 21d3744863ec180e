"""What one worker has counted since its start: plain numbers, added to where things happen, read by whoever shows them.

No metrics library here: adding to its objects costs more than a microsecond each, and a message is counted in five
places. A batch is counted in one go, at some 1.5 µs a message.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

from mqworker.flights import Flight
from mqworker.lifecycle import Settlement
from mqworker.store import Claim, NotNow, Settled

BOUNDS_SECONDS = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0
)  # fmt: skip
"""The upper bounds of every histogram's buckets, those of the default gap among them."""
OUTCOMES = ("sent", "retry", "put_off", "failed", "cancelled", "released")
"""What a settle made of a message. ``put_off``: the provider named a wait; ``released``: given back untried."""
REASONS = ("empty", "in_flight", "waits", "executor", "contended")
"""Why a chat that Redis proposed gave no message: those of :class:`NotNow`."""
SWEEPS = ("reclaim", "reconcile", "rebuild", "clean", "clean-instances")
ACCOUNTS_NAMED = 100
"""Accounts that are counted one by one: the first that a worker settled for. Those after them are counted together,
under "", so that ten thousand accounts do not become sixty thousand numbers."""


class Histogram:
    """How many durations fell under which bound, each counted once; the last bucket has no bound."""

    __slots__ = ("buckets", "sum_seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS_SECONDS) + 1)
        self.sum_seconds = 0.0

    def add(self, seconds: float) -> None:
        self.buckets[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        self.sum_seconds += seconds

    @property
    def count(self) -> int:
        return sum(self.buckets)


class Tally:
    """The numbers of one worker. They only grow."""

    def __init__(self) -> None:
        self.claims = 0
        self.wrong_proposals: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        self.claim_lags = Histogram()
        self.outcomes: dict[str, Counter[str]] = {}
        self.late_settles = 0
        self.first_sends = Histogram()
        self.attempts = Histogram()
        self.gaps = Histogram()
        self.sweeps = {name: Histogram() for name in SWEEPS}
        self.swept_messages: Counter[str] = Counter(dict.fromkeys(SWEEPS, 0))

    def count_claims(self, answers: Sequence[Claim | NotNow]) -> None:
        """Count what PostgreSQL answered to Redis' proposals."""
        add_lag = self.claim_lags.add
        for answer in answers:
            if isinstance(answer, Claim):
                self.claims += 1
                add_lag(answer.lag_seconds)
            else:
                self.wrong_proposals[answer.reason] += 1

    def count_settles(self, batch: Sequence[tuple[Flight, Settlement, Settled]]) -> None:
        """Count a batch of settlements that were written."""
        for flight, settlement, settled in batch:
            if settled.status is None:
                self.late_settles += 1
                continue
            outcome = _outcome(settlement, settled.status)
            self._of_account(flight.claim.message.instance)[outcome] += 1
            if settlement.gap_seconds is None:
                continue
            self.gaps.add(settlement.gap_seconds)
            self.attempts.add(flight.attempt_ended - flight.attempt_began)
            # Put off, its first send is still to come. Whatever else came of it counts an attempt, or ends it.
            if outcome != "put_off" and flight.claim.message.retry_count == 0:
                self.first_sends.add(flight.claim.waited_seconds + flight.attempt_began - flight.started)

    def count_sweep(self, sweep: str, seconds: float, messages: int) -> None:
        """Count one pass of a sweep and the messages that it was for."""
        self.sweeps.setdefault(sweep, Histogram()).add(seconds)
        self.swept_messages[sweep] += messages

    def _of_account(self, instance: str) -> Counter[str]:
        counts = self.outcomes.get(instance)
        if counts is None:
            name = instance if len(self.outcomes) < ACCOUNTS_NAMED else ""
            counts = self.outcomes.setdefault(name, Counter())
        return counts


def _outcome(settlement: Settlement, status: str) -> str:
    match status:
        case "COMPLETED":
            return "sent"
        case "PENDING" if settlement.counts_attempt:
            return "retry"
        case "PENDING":
            return "released" if settlement.gap_seconds is None else "put_off"
        case _:
            return status.lower()
