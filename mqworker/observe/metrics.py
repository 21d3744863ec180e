"""A worker's numbers as Prometheus families, made when they are asked for.

Labels: an account's label is called ``account`` and not ``instance``, because that is what Prometheus itself calls the
target that it scraped: ours would come out as ``exported_instance``. No histogram has it. No label holds a chat, a
client or a telephone number, not even where an account is named by one.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from heapq import nlargest
from itertools import accumulate
from typing import ClassVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from mqworker.observe.checks import CHECKS, Checks
from mqworker.observe.survey import Backlog, Survey
from mqworker.runtime import Runtime
from mqworker.store import AccountBacklog
from mqworker.tally import BOUNDS_SECONDS, Histogram, Tally

ACCOUNTS_SHOWN = 50
"""So many accounts with the most due messages are shown, and as many with the oldest one."""


Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name, what it says, and the names of its labels."""

    name: str
    help: str
    labels: Labels = ()
    kind: ClassVar[str]


class Counted(Family):
    """A number that only grows."""

    kind = "counter"

    def of(self, values: Mapping[Labels, float]) -> Metric:
        metric = CounterMetricFamily(self.name, self.help, labels=self.labels)
        for labels, value in values.items():
            metric.add_metric(labels, value)
        return metric


class Measured(Family):
    """A number as it is at the moment."""

    kind = "gauge"

    def of(self, values: Mapping[Labels, float]) -> Metric:
        metric = GaugeMetricFamily(self.name, self.help, labels=self.labels)
        for labels, value in values.items():
            metric.add_metric(labels, value)
        return metric


class Timed(Family):
    """Durations, by the bucket that each fell into."""

    kind = "histogram"

    def of(self, values: Mapping[Labels, Histogram]) -> Metric:
        metric = HistogramMetricFamily(self.name, self.help, labels=self.labels)
        bounds = [*map(str, BOUNDS_SECONDS), "+Inf"]
        for labels, histogram in values.items():
            buckets = list(zip(bounds, accumulate(histogram.buckets), strict=True))
            metric.add_metric(labels, buckets, histogram.sum_seconds)
        return metric


CLAIMED = Counted("mqworker_messages_claimed_total", "Messages taken to be sent.")
WRONG_PROPOSALS = Counted(
    "mqworker_wrong_proposals_total", "Chats that Redis proposed and that gave no message, by why not.", ("reason",)
)
SETTLED = Counted(
    "mqworker_messages_settled_total",
    "What became of claimed messages: sent, retry, put_off, failed, cancelled, released. "
    "The first 100 accounts of a worker are counted by name, the others together.",
    ("account", "outcome"),
)
LATE_SETTLES = Counted(
    "mqworker_late_settles_total", "Settles that changed nothing: the claim had been taken back meanwhile."
)
FIRST_SEND = Timed(
    "mqworker_first_send_delay_seconds",
    "From enqueue (or from when a schedule was due) to the first attempt that was not put off.",
)
CLAIM_LAG = Timed(
    "mqworker_claim_lag_seconds", "How long a message stood that nothing held up: it was due, its gap and backoff over."
)
ATTEMPT = Timed("mqworker_attempt_seconds", "How long executors took; its count is the number of attempts.")
GAP = Timed("mqworker_gap_seconds", "The gap given to a chat after an attempt; claim_lag is what was added to it.")
SWEEP = Timed("mqworker_sweep_seconds", "How long the passes of a sweep took that this worker ended.", ("sweep",))
SWEPT = Counted(
    "mqworker_sweep_messages_total",
    "Messages of those passes: reclaimed, reconciled (lost announces found), rebuilt, cleaned.",
    ("sweep",),
)
IN_FLIGHT = Measured("mqworker_in_flight_messages", "Messages that this worker has claimed and not yet settled.")
IN_FLIGHT_LIMIT = Measured("mqworker_in_flight_limit_messages", "How many it may have: MQWORKER_MAX_CHATS.")
CHECK = Measured("mqworker_check_failing", "1 for each check of /readyz that fails, else 0.", ("check",))
BACKLOG = Measured(
    "mqworker_backlog_messages",
    "Waiting messages of all accounts: due now, or later (by schedule or backoff). From the worker that surveys.",
    ("state",),
)
OLDEST = Measured(
    "mqworker_oldest_due_age_seconds", "For how long the longest due message of all accounts has been due."
)
ACCOUNTS = Measured("mqworker_backlog_accounts", "Accounts in which a message waits, shown by name or not.")
ACCOUNT_BACKLOG = Measured(
    "mqworker_account_backlog_messages",
    "Waiting messages by account: the 50 with the most that is due, and the 50 with the oldest.",
    ("account", "state"),
)
ACCOUNT_OLDEST = Measured(
    "mqworker_account_oldest_due_age_seconds", "The age of the oldest due message of the same accounts.", ("account",)
)
SURVEY_AGE = Measured(
    "mqworker_survey_age_seconds", "How long ago the survey began that the backlog metrics come from."
)

FAMILIES: tuple[Family, ...] = (
    CLAIMED, WRONG_PROPOSALS, CLAIM_LAG, SETTLED, LATE_SETTLES, FIRST_SEND, ATTEMPT, GAP, SWEEP, SWEPT,
    IN_FLIGHT, IN_FLIGHT_LIMIT, CHECK, BACKLOG, OLDEST, ACCOUNTS, ACCOUNT_BACKLOG, ACCOUNT_OLDEST, SURVEY_AGE,
)  # fmt: skip


class WorkerCollector(Collector):
    """Reads what one worker has counted and found."""

    def __init__(self, runtime: Runtime, checks: Checks, survey: Survey) -> None:
        self._runtime = runtime
        self._checks = checks
        self._survey = survey

    def describe(self) -> list[Metric]:
        """Nothing is asked before the worker has started."""
        return []

    def collect(self) -> Iterator[Metric]:
        yield from _counted(self._runtime.tally)
        yield IN_FLIGHT.of({(): len(self._runtime.flights)})
        yield IN_FLIGHT_LIMIT.of({(): self._runtime.settings.max_chats})
        failing = self._checks.failing
        yield CHECK.of({(name,): name in failing for name in CHECKS})
        if (backlog := self._survey.latest) is not None:
            yield from _backlog(backlog)


def _counted(tally: Tally) -> Iterator[Metric]:
    yield CLAIMED.of({(): tally.claims})
    yield WRONG_PROPOSALS.of({(reason,): count for reason, count in tally.wrong_proposals.items()})
    yield CLAIM_LAG.of({(): tally.claim_lags})
    yield SETTLED.of(_outcomes(tally))
    yield LATE_SETTLES.of({(): tally.late_settles})
    yield FIRST_SEND.of({(): tally.first_sends})
    yield ATTEMPT.of({(): tally.attempts})
    yield GAP.of({(): tally.gaps})
    yield SWEEP.of({(name,): histogram for name, histogram in tally.sweeps.items()})
    yield SWEPT.of({(name,): count for name, count in tally.swept_messages.items()})


def _outcomes(tally: Tally) -> Counter[Labels]:
    # Accounts whose labels are the same are added up.
    counts: Counter[Labels] = Counter()
    for instance, outcomes in tally.outcomes.items():
        for outcome, count in outcomes.items():
            counts[account_label(instance), outcome] += count
    return counts


def _backlog(backlog: Backlog) -> Iterator[Metric]:
    yield BACKLOG.of({("due",): backlog.due, ("later",): backlog.later})
    yield OLDEST.of({(): backlog.oldest_due_seconds})
    yield ACCOUNTS.of({(): len(backlog.accounts)})
    yield SURVEY_AGE.of({(): asyncio.get_running_loop().time() - backlog.began})
    messages: Counter[Labels] = Counter()
    ages: dict[Labels, float] = {}
    for one in _shown(backlog):
        account = account_label(one.instance)
        messages[account, "due"] += one.due
        messages[account, "later"] += one.later
        ages[(account,)] = max(ages.get((account,), 0.0), one.oldest_due_seconds)
    yield ACCOUNT_BACKLOG.of(messages)
    yield ACCOUNT_OLDEST.of(ages)


def _shown(backlog: Backlog) -> list[AccountBacklog]:
    accounts = backlog.accounts.values()
    deepest = nlargest(ACCOUNTS_SHOWN, accounts, key=lambda one: one.due)
    oldest = nlargest(ACCOUNTS_SHOWN, accounts, key=lambda one: one.oldest_due_seconds)
    return list({one.instance: one for one in (*deepest, *oldest)}.values())


_UUID_OR_NUMBER = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(\+?\d(?:[ ().-]{0,2}\d){9,})")


def account_label(instance: str) -> str:
    """An account's name as a label. Of a telephone number in it the last four digits are left: ``*0001@c.us``."""
    return _UUID_OR_NUMBER.sub(_masked, instance)


def _masked(found: re.Match[str]) -> str:
    digits = [sign for sign in found[0] if sign.isdigit()]
    return "*" + "".join(digits[-4:]) if found[1] else found[0]
