"""What a worker counts of each message: once, under the right name, and never one name too many."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any, get_args, get_type_hints
from uuid import uuid4

import pytest

from mqworker.broker import Lease
from mqworker.flights import Flight
from mqworker.lifecycle import Settlement
from mqworker.message import ChatKey
from mqworker.store import Claim, NotNow, Settled
from mqworker.tally import ACCOUNTS_NAMED, BOUNDS_SECONDS, OUTCOMES, REASONS, Histogram, Tally
from tests.unit.samples import MESSAGE

CHAT = ChatKey("shop", "a")
GAP = 0.7


def claim(*, lag_seconds: float = 0.0, **changes: Any) -> Claim:
    """A message that was enqueued 10 s before its claim."""
    message = replace(MESSAGE, **{"instance": "shop", "retry_count": 0, **changes})
    return Claim(uuid4(), 1, message, waited_seconds=10.0, lag_seconds=lag_seconds)


def flight(**changes: Any) -> Flight:
    """One whose executor began a quarter of a second after its claim and took 2 s."""
    held = claim(**changes)
    return Flight(held, Lease(CHAT, "token"), started=100.0, attempt_began=100.25, attempt_ended=102.25)


def settled(one: Flight, settlement: Settlement, status: str | None) -> Tally:
    tally = Tally()
    tally.count_settles([(one, settlement, Settled(status))])
    return tally


SENT = Settlement.completed(GAP, None)
RETRY = Settlement.retry(GAP, 5.0, "no")
FAILED = Settlement.failed(GAP, "no")
PUT_OFF = Settlement.deferred(60.0, 0.0, "slow down")
RELEASED = Settlement.released()


@pytest.mark.parametrize(
    ("settlement", "status", "outcome"),
    [
        (SENT, "COMPLETED", "sent"),
        (RETRY, "PENDING", "retry"),
        (RETRY, "CANCELLED", "cancelled"),
        (PUT_OFF, "PENDING", "put_off"),
        (FAILED, "FAILED", "failed"),
        (FAILED, "CANCELLED", "cancelled"),
        (RELEASED, "PENDING", "released"),
    ],
)
def test_what_becomes_of_a_message(settlement: Settlement, status: str, outcome: str) -> None:
    tally = settled(flight(), settlement, status)
    assert outcome in OUTCOMES
    assert tally.outcomes == {"shop": {outcome: 1}}
    assert tally.late_settles == 0
    was_tried, is_first = outcome != "released", outcome not in ("released", "put_off")
    assert (tally.attempts.count, tally.attempts.sum_seconds) == (was_tried, 2.0 * was_tried)
    assert (tally.gaps.count, tally.gaps.sum_seconds) == (was_tried, settlement.gap_seconds or 0.0)
    assert (tally.first_sends.count, tally.first_sends.sum_seconds) == (is_first, 10.25 * is_first)


def test_a_late_settle_is_nothing_else() -> None:
    tally = settled(flight(), SENT, None)
    assert (tally.late_settles, tally.outcomes, tally.attempts.count) == (1, {}, 0)


def test_only_the_first_counted_attempt_is_a_first_send() -> None:
    assert settled(flight(retry_count=1), SENT, "COMPLETED").first_sends.count == 0


def test_why_a_proposal_was_wrong() -> None:
    tally = Tally()
    tally.count_claims([claim(lag_seconds=0.5), NotNow("empty", 0.0), NotNow("waits", 1.0), NotNow("empty", 0.0)])
    assert (tally.claims, tally.claim_lags.sum_seconds) == (1, 0.5)
    assert tally.wrong_proposals == {"empty": 2, "waits": 1, "in_flight": 0, "executor": 0, "contended": 0}


def test_the_reasons_are_those_of_the_claim() -> None:
    assert get_args(get_type_hints(NotNow)["reason"]) == REASONS


def test_sweeps() -> None:
    tally = Tally()
    tally.count_sweep("reclaim", 0.25, 3)
    tally.count_sweep("reclaim", 0.5, 4)
    assert (tally.sweeps["reclaim"].count, tally.sweeps["reclaim"].sum_seconds) == (2, 0.75)
    assert tally.swept_messages["reclaim"] == 7
    assert tally.sweeps["clean"].count == 0, "what never ran is there, at 0"


@pytest.mark.parametrize(
    ("seconds", "place"), [(0.0, 0), (0.001, 0), (0.0011, 1), (0.5, 8), (14_400, -2), (14_401, -1)]
)
def test_a_bucket_holds_its_upper_bound(seconds: float, place: int) -> None:
    histogram = Histogram()
    histogram.add(seconds)
    assert len(histogram.buckets) == len(BOUNDS_SECONDS) + 1
    assert histogram.buckets[place] == 1


def test_the_accounts_after_the_first_ones_are_counted_together() -> None:
    tally = Tally()
    for _ in range(2):
        for n in range(ACCOUNTS_NAMED + 50):
            tally.count_settles([(flight(instance=f"shop-{n}"), SENT, Settled("COMPLETED"))])
    assert len(tally.outcomes) == ACCOUNTS_NAMED + 1
    assert tally.outcomes[f"shop-{ACCOUNTS_NAMED - 1}"] == {"sent": 2}
    assert tally.outcomes[""] == {"sent": 100}


def test_a_worker_that_nobody_asks_loads_no_metrics_library() -> None:
    code = "import sys, mqworker.runtime; print('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
