"""How long each kind of fault was felt: from its end until delivery went on. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from mqworker.clockwork import LEAST_HOLD_SECONDS
from tests.chaos.history import Claim, Run

# While one of these lasts no worker can lease or claim.
BLOCKING = (
    "PostgreSQL kill -9",
    "PostgreSQL kill one backend",
    "PostgreSQL read-only",
    "PostgreSQL freeze",
    "Redis kill, empty restart",
    "Redis kill, stale restart",
    "Redis freeze",
    "Redis memory full",
)
RESUMING = (*BLOCKING, "Redis FLUSHALL")
TAKING = ("worker kill -9", "zombie")
RESUME_BOUND_SECONDS = 5.0
# Two cores shared by everything: a process that should run may have to wait this long for its turn.
NOISE_SECONDS = 2.0
MOVED_SHARE = 0.9
FEW_CHATS = 5


@dataclass(slots=True)
class Felt:
    """What one kind of fault did: how often, how often measurable, the worst of it beside its bound."""

    kind: str
    times: int = 0
    seconds: list[float] = field(default_factory=list)
    bound_seconds: float | None = None

    @property
    def worst_seconds(self) -> float | None:
        return max(self.seconds, default=None)

    @property
    def over(self) -> bool:
        return self.bound_seconds is not None and (self.worst_seconds or 0.0) > self.bound_seconds


def felt(run: Run) -> list[Felt]:
    """One line for every kind of fault that was done."""
    kinds: dict[str, Felt] = {}
    for fault in run.faults:
        kinds.setdefault(fault.kind, Felt(fault.kind)).times += 1
    for kind, seconds in _resumed(run).items():
        kinds[kind].seconds, kinds[kind].bound_seconds = seconds, RESUME_BOUND_SECONDS
    for kind, seconds in _taken_over(run).items():
        kinds[kind].seconds, kinds[kind].bound_seconds = seconds, _take_over_bound(run.facts)
    if "SIGTERM" in kinds:
        kinds["SIGTERM"].seconds = [fault.end - fault.start for fault in run.faults if fault.kind == "SIGTERM"]
        # The drain itself ends in time; its process then closes what it holds, and must be given a turn for that.
        kinds["SIGTERM"].bound_seconds = run.facts["drain_seconds"] + NOISE_SECONDS
    return sorted(kinds.values(), key=lambda one: one.kind.lower())


def _take_over_bound(facts: Mapping[str, float]) -> float:
    # P6: lease + one sweep; the worker that sweeps may be the one that was killed, or be cut off: another takes over.
    return facts["lease_seconds"] + facts["reclaim_every_seconds"] + LEAST_HOLD_SECONDS + NOISE_SECONDS


# A lost worker: until the claims that it held are taken back.


def _taken_over(run: Run) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    by_pid: dict[int, list[Claim]] = defaultdict(list)
    for claim in run.claims:
        by_pid[claim.pid].append(claim)
    closed = [*_without_reclaim(run), *_without_workers(run)]
    for fault in run.faults:
        if fault.kind not in TAKING:
            continue
        for claim in by_pid[fault.pid]:
            held = claim.start <= fault.start < claim.end
            if held and claim.how == "reclaimed" and not _meets(closed, fault.start, claim.end):
                found[fault.kind].append(claim.end - fault.start)
    return found


def _without_reclaim(run: Run) -> list[tuple[float, float]]:
    """When nothing may be taken back: PostgreSQL away, and one lease after it started again (DESIGN: renew first)."""
    grace = run.facts["lease_seconds"] + run.facts["reclaim_every_seconds"]
    return [(f.start, f.end + grace) for f in run.faults if f.kind.startswith("PostgreSQL")]


def _meets(intervals: list[tuple[float, float]], start: float, end: float) -> bool:
    return any(a <= end and b >= start for a, b in intervals)


def _without_workers(run: Run, least: float = 1) -> list[tuple[float, float]]:
    """When fewer than ``least`` workers ran: the others were frozen, had ended, or had not begun to work."""
    workers = [life for life in run.lives if life.slot.startswith("worker") and life.start]
    steps = [step for life in workers for step in ((life.start, 1), (life.end, -1))]
    stopped = [f for f in run.faults if f.kind in ("zombie", "short stop")]
    steps += [step for f in stopped for step in ((f.start, -1), (f.end, 1))]
    closed: list[tuple[float, float]] = []
    number, since = 0, 0.0
    for at, step in sorted(steps):
        if number < least <= number + step:
            closed.append((since, at))
        if number + step < least <= number:
            since = at
        number += step
    return closed


# A server that was away: until the chats that waited have moved.


def _resumed(run: Run) -> dict[str, list[float]]:
    blocking = [(f.start, f.end) for f in run.faults if f.kind in BLOCKING]
    # Nor is it this fault's doing while most of the workers are frozen or dead.
    blocking = sorted([*blocking, *_without_workers(run, run.facts["workers"] / 2)])
    waits = _Waits(run)
    found: dict[str, list[float]] = defaultdict(list)
    for fault in run.faults:
        if fault.kind in RESUMING:
            begins = _open_again(fault.end, blocking)
            moved = waits.until_moved(begins)
            if moved is None:
                continue
            # The next outage ends what can be seen of this recovery; one that had its time by then has failed.
            seen = min([start - begins for start, _ in blocking if start > begins], default=float("inf"))
            if moved <= seen or seen > RESUME_BOUND_SECONDS:
                found[fault.kind].append(min(moved, seen))
    return found


def _open_again(at: float, blocking: list[tuple[float, float]]) -> float:
    """The first moment from ``at`` on at which no server is away and there is a worker."""
    for start, end in blocking:
        if start <= at < end:
            at = end
    return at


class _Waits:
    """Which chats wait at a moment, and when each is claimed next."""

    def __init__(self, run: Run) -> None:
        self._starts: dict[str, list[float]] = defaultdict(list)
        self._intervals: list[tuple[float, float, str]] = []
        pending: dict[str, float] = {}
        self._lease = run.facts["lease_seconds"]
        for change in run.changes:
            if change.now == "PROCESSING":
                self._starts[change.chat].append(change.at)
            since = pending.pop(change.key, None)
            if since is not None:
                self._intervals.append((since, change.at, change.chat))
            # What was scheduled, or failed and backs off, waits by itself.
            if change.now == "PENDING" and change.due is None and change.retry_count == 0:
                pending[change.key] = change.at
        self._held: list[Claim] = [claim for claim in run.claims if claim.how == "reclaimed"]
        self._intervals.sort()
        self._longest = max((end - start for start, end, _ in self._intervals), default=0.0)

    def until_moved(self, at: float) -> float | None:
        """Seconds until nine of ten waiting chats were claimed; None where too few waited to say anything."""
        lost = {claim.chat for claim in self._held if claim.start <= at + self._lease and claim.end >= at}
        chats = {chat for start, end, chat in self._around(at) if start <= at < end and chat not in lost}
        if len(chats) < FEW_CHATS:
            return None
        moves = sorted(self._next(chat, at) - at for chat in chats)
        return moves[int(MOVED_SHARE * (len(moves) - 1))]

    def _around(self, at: float) -> list[tuple[float, float, str]]:
        low = bisect_right(self._intervals, (at - self._longest, 0.0, ""))
        return self._intervals[low : bisect_right(self._intervals, (at, float("inf"), ""))]

    def _next(self, chat: str, at: float) -> float:
        starts = self._starts[chat]
        place = bisect_right(starts, at)
        return starts[place] if place < len(starts) else float("inf")
