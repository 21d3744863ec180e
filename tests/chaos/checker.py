"""Decides from a run's history whether a promise was broken. Pure; each breach is a line of text."""

from __future__ import annotations

import signal
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise

from tests.chaos.history import CLOCK_TOLERANCE_SECONDS, TERMINAL, Change, Claim, Fault, Run, Send

# What a statement reads of a moment ago: the same clock, another process.
ORDER_TOLERANCE_SECONDS = 0.001
# A claim can be on its way when the fault ends that breaks it.
FAULT_MARGIN_SECONDS = 0.5


def check(run: Run) -> dict[str, list[str]]:
    """Every breach, by the promise that it breaks; the lists of a clean run are empty."""
    return {name: list(predicate(run)) for name, predicate in PREDICATES.items()}


def lost(run: Run) -> Iterator[str]:
    """P1, P2: an accepted message has a row, which has ended; what is COMPLETED was taken by the gateway."""
    accepted = {send.message_id for send in run.sends if send.accepted}
    cancelled = {cancel.key for cancel in run.cancels}
    for told in run.told.values():
        if told.result == "ok" and told.key not in run.rows:
            yield f"{told.key} was accepted and has no row"
    for row in run.rows.values():
        if row.status not in TERMINAL:
            yield f"{row.key} is still {row.status}"
        if row.status == "COMPLETED" and row.id not in accepted:
            yield f"{row.key} is COMPLETED and the gateway never took it"
        if row.status == "CANCELLED" and row.key not in cancelled:
            yield f"{row.key} is CANCELLED and nobody asked for that"
        permanent = (row.error or "").startswith("PermanentError")
        if row.status == "FAILED" and row.retry_count < row.max_retries and not permanent:
            yield f"{row.key} is FAILED after {row.retry_count} of {row.max_retries} attempts: {row.error}"


def invented(run: Run) -> Iterator[str]:
    """Nothing that was refused or rolled back exists, and nothing exists twice."""
    ids = {row.id for row in run.rows.values()}
    yield from (f"{send.message_id} was sent and has no row" for send in run.sends if send.message_id not in ids)
    yield from (f"{key} has two rows" for key in run.doubled_keys)
    for key in run.rows:
        if key not in run.told:
            yield f"{key} has a row and was never enqueued"
        elif run.told[key].result == "no":
            yield f"{key} has a row, and its producer was told that nothing was stored"


def mixed_up(run: Run) -> Iterator[str]:
    """The gateway gets what was enqueued, for the chat that it was enqueued for."""
    told_of = {row.id: run.told.get(row.key) for row in run.rows.values()}
    for row in run.rows.values():
        told = told_of[row.id]
        if told and told.chat != row.chat:
            yield f"{row.key} stands in {row.chat} and was enqueued for {told.chat}"
    for send in run.sends:
        told = told_of.get(send.message_id)
        if told and (send.chat, send.digest) != (told.chat, told.digest):
            yield f"{told.key} for {told.chat} was sent to {send.chat}, payload {send.digest} instead of {told.digest}"


def overlapping(run: Run) -> Iterator[str]:
    """P4: one claim of a chat at a time; a send lies within its claim unless that was lost."""
    for claims in run.of_chats().values():
        for a, b in pairwise(claims):
            if b.start < a.end:
                yield f"{b.key} was claimed while {a.key} was in flight in {a.chat}"
    for claim in run.claims:
        for send in claim.sends:
            if not claim.lost and (send.end is None or send.end > claim.end + CLOCK_TOLERANCE_SECONDS):
                yield f"{claim.key} was settled ({claim.how}) while its send went on"
    for sends in _sends_by_chat(run).values():
        for x, y in pairwise(filter(_stands, sends)):
            if x.end is None or y.start < x.end:
                yield f"{y.message_id} was sent while {x.message_id} was being sent in {x.chat}"


def reclaimed_early(run: Run) -> Iterator[str]:
    """P4: only a claim whose lease has ended is taken back, and nobody else's is written over."""
    for claim in run.claims:
        if claim.how == "stolen":
            yield f"{claim.key} was claimed twice without an end between"
        if claim.how == "reclaimed" and claim.lease_was is not None and claim.end_seen < claim.lease_was:
            yield f"{claim.key} was taken back {claim.lease_was - claim.end_seen:.3f} s before its lease ended"


def taken_from_the_living(run: Run) -> Iterator[str]:
    """In a run whose machine is not overloaded: a claim is only taken back where something was done to its worker."""
    if run.facts["steady"]:
        for claim in without_cause(run):
            yield f"{claim.key} was taken back from process {claim.pid}, which was well"


def without_cause(run: Run) -> list[Claim]:
    """The reclaimed claims that nothing explains: no fault of the worker, of its way to PostgreSQL, of PostgreSQL."""
    everywhere: list[Fault] = []
    of: dict[str | int, list[Fault]] = defaultdict(list)
    for fault in run.faults:
        if fault.kind.startswith("PostgreSQL"):
            everywhere.append(fault)
        elif fault.link.endswith("PostgreSQL"):
            of[fault.slot].append(fault)
        else:
            of[fault.pid].append(fault)
    slots = {life.pid: life.slot for life in run.lives}
    return [
        claim
        for claim in run.claims
        if claim.how == "reclaimed"
        and not any(_met(fault, claim) for fault in of[claim.pid])
        and not any(_met(fault, claim) for fault in of[slots.get(claim.pid, "")])
        and not any(_met(fault, claim) for fault in everywhere)
    ]


def _met(fault: Fault, claim: Claim) -> bool:
    return fault.start <= claim.end and fault.end >= claim.start - FAULT_MARGIN_SECONDS


def reordered(run: Run) -> Iterator[str]:
    """P3: a claim takes the head of all that was there and due when its statement began."""
    chats: dict[str, list[tuple[float, int, Change | str]]] = defaultdict(list)
    for told in run.told.values():
        if told.known_at is not None:
            chats[told.chat].append((told.known_at + ORDER_TOLERANCE_SECONDS, 0, told.key))
    for change in run.changes:
        chats[change.chat].append((change.seen if change.now == "PROCESSING" else change.at, 1, change))
    for events in chats.values():
        yield from _reordered_in(sorted(events, key=lambda event: event[:2]))


def _reordered_in(events: list[tuple[float, int, Change | str]]) -> Iterator[str]:
    known: set[str] = set()
    waiting: dict[str, Change] = {}
    for at, _, event in events:
        if isinstance(event, str):
            known.add(event)
        elif event.now == "PENDING":
            waiting[event.key] = event
        else:
            waiting.pop(event.key, None)
            if event.now == "PROCESSING":
                for other in waiting.values():
                    if other.key in known and _is_due(other, at) and _place(other) < _place(event):
                        yield f"{event.key} was claimed before {other.key} in {event.chat}"


def _is_due(change: Change, at: float) -> bool:
    return change.due is None or change.due <= at


def _place(change: Change) -> tuple[int, int]:
    return (-change.priority, change.seq)


def wrongly_counted(run: Run) -> Iterator[str]:
    """An attempt is counted once, also where its worker died; never more than allowed; what has ended stays so."""
    before: dict[str, int] = {}
    for change in run.changes:
        step = change.retry_count - before.get(change.key, 0)
        before[change.key] = change.retry_count
        taken_back = change.was == "PROCESSING" and change.now != "PROCESSING" and change.claim_id is None
        if step not in (0, 1) or (taken_back and step != 1):
            yield f"{change.key}: {change.was} to {change.now} counted {step} attempts"
        if change.retry_count > change.max_retries:
            yield f"{change.key} was tried {change.retry_count} of {change.max_retries} times"
        if change.was in TERMINAL:
            yield f"{change.key} had ended ({change.was}) and became {change.now}"


def unexplained(run: Run) -> Iterator[str]:
    """P2: each send belongs to one claim; a second one follows a failure that was reported, or a lost claim."""
    by_message: dict[str, list[Send]] = defaultdict(list)
    for send in run.sends:
        by_message[send.message_id].append(send)
        if send.claim is None:
            yield f"{send.message_id} was sent by process {send.pid} without a claim"
    for claim in run.claims:
        if len(claim.sends) > 1:
            yield f"{claim.key} was sent {len(claim.sends)} times in one attempt"
        if claim.how == "sent" and not any(send.accepted and _ended_by(send, claim) for send in claim.sends):
            yield f"{claim.key} was settled as sent before the gateway had taken it"
    for sends in by_message.values():
        # By their claims: a worker that was frozen before it sent does so long after another has.
        for send in sorted(sends, key=lambda one: one.claim.start if one.claim else 0.0)[:-1]:
            if send.accepted and send.claim and send.claim.how not in ("reclaimed", "failed attempt"):
                yield f"{send.message_id} was sent again though its claim ended as {send.claim.how}"


SETTLED_AS = {
    201: ("sent",),
    400: ("final", "cancelled"),
    429: ("deferred", "cancelled"),
    500: ("failed attempt", "final", "cancelled"),
}
"""How an attempt may end by what the gateway answered; only a failing one may be cancelled meanwhile."""


def settled_otherwise(run: Run) -> Iterator[str]:
    """A claim ends as the gateway's answer says, and only what was given back has none."""
    rude = {fault.key for fault in run.faults if fault.kind.startswith("executor:")}
    for claim in run.claims:
        if claim.lost or claim.key in rude or claim.error.startswith("ExecutorError: webhook: the connection broke"):
            continue
        answers = [send.status for send in claim.sends]
        if not answers:
            # What is given back after its cancel ends there.
            if claim.how not in ("released", "cancelled") and not claim.error.startswith(
                "ExecutorError: webhook: cannot connect"
            ):
                yield f"{claim.key} ended as {claim.how} without a send"
        elif answers[-1] is not None and claim.how not in SETTLED_AS[answers[-1]]:
            yield f"{claim.key} ended as {claim.how} though the gateway answered {answers[-1]}"


def _ended_by(send: Send, claim: Claim) -> bool:
    return send.end is not None and send.end <= claim.end + CLOCK_TOLERANCE_SECONDS


def too_fast(run: Run) -> Iterator[str]:
    """P5: the gap between the end of an attempt and the start of the next, in the rows and at the gateway."""
    least: float = run.facts["delay_min_seconds"]
    for change in run.changes:
        if change.now == "PROCESSING" and change.due is not None and change.due > change.seen:
            yield f"{change.key} was claimed {change.due - change.seen:.3f} s before it was due"
    for claims in run.of_chats().values():
        for a, b in pairwise(claims):
            gap = b.seen - a.end_seen
            if a.how != "released" and gap < least and b.start >= a.end:
                yield f"{b.key} was claimed {gap:.4f} s after {a.key} in {b.chat}"
    for sends in _sends_by_chat(run).values():
        for x, y in pairwise(filter(_stands, sends)):
            if x.end is not None:
                gap = y.start - x.end
                if 0 <= gap < least - CLOCK_TOLERANCE_SECONDS:
                    yield f"{y.message_id} was sent {gap:.4f} s after {x.message_id} in {y.chat}"


def cancelled_and_claimed(run: Run) -> Iterator[str]:
    """A cancel that has returned: no attempt begins afterwards, whatever it answered."""
    answered: dict[str, float] = {}
    for cancel in run.cancels:
        if cancel.result != "unknown":
            answered[cancel.key] = min(cancel.answered_at, answered.get(cancel.key, cancel.answered_at))
    for claim in run.claims:
        if claim.seen > answered.get(claim.key, float("inf")):
            yield f"{claim.key} was claimed {claim.seen - answered[claim.key]:.3f} s after its cancel had returned"


ENDING = ("executor: os._exit", "executor: block for ever")
"""What ends a worker with a code of its own, also while it drains."""


def drained_badly(run: Run) -> Iterator[str]:
    """SIGTERM: the worker finishes what it holds and ends with 0; nothing of it is taken back later."""
    for fault in run.faults:
        if fault.kind != "SIGTERM":
            continue
        died = any(other.kind in ENDING and other.pid == fault.pid for other in run.faults)
        if fault.code != 0 and not died and not _was_starting_over(run, fault):
            yield f"{fault.slot} (process {fault.pid}) ended with {fault.code} after SIGTERM"
        for claim in run.held_by(fault.pid, fault.start, fault.end):
            if claim.how == "reclaimed" and not _disturbed(run, fault.slot, claim):
                yield f"{claim.key} was taken back from {fault.slot}, which was told to stop in order"


def _was_starting_over(run: Run, fault: Fault) -> bool:
    """Whether SIGTERM met a worker that was replacing itself: it had drained, and the new one did not listen yet."""
    stuck = any(f.kind == "executor: ignore cancellation" and f.pid == fault.pid for f in run.faults)
    return fault.code == -signal.SIGTERM and stuck and not run.held_by(fault.pid, fault.start, fault.end)


KILLS = ("worker kill -9", "producer kill -9", "SIGTERM, then kill")


def ended_by_itself(run: Run) -> Iterator[str]:
    """No process ends but by a signal, or by an executor that ends it; none has an error that nobody expected."""
    killed = {fault.pid for fault in run.faults if fault.kind in KILLS}
    told = {fault.pid for fault in run.faults if fault.kind == "SIGTERM"}
    died = {fault.pid for fault in run.faults if fault.kind in ENDING}
    for life in run.lives:
        if life.pid not in killed | told | died and life.slot.startswith("worker"):
            yield f"{life.slot} (process {life.pid}) ended by itself with {life.code}"
    # Where Redis lost the mark of a running cron job, arq starts it again and tells of its end twice.
    tracebacks = run.log_lines["tracebacks"] - run.log_lines["cron jobs that arq ran twice"]
    if tracebacks:
        yield f"{tracebacks} tracebacks in the logs"


def _disturbed(run: Run, slot: str, claim: Claim) -> bool:
    """Whether something else than SIGTERM befell that worker or PostgreSQL while the claim stood."""
    return any(
        _met(fault, claim) and (fault.slot == slot or fault.pid == claim.pid or fault.kind.startswith("PostgreSQL"))
        for fault in run.faults
        if fault.kind != "SIGTERM"
    )


def woken_late(run: Run) -> Iterator[str]:
    """In a run without faults no announce gets lost: a message of a free chat is claimed within a moment."""
    bound: float = run.facts["wake_seconds"]
    known = {told.key: told.known_at for told in run.told.values()}
    due = {change.key: change.due for change in run.changes if change.was is None}
    free_at: dict[str, float] = {}
    for claim in sorted(run.claims, key=lambda claim: claim.start):
        backoff = run.facts["backoff_cap_seconds"] if claim.attempt > 1 else 0.0
        begins = max(
            free_at.get(claim.chat, 0.0) + backoff, known.get(claim.key) or float("inf"), due.get(claim.key) or 0.0
        )
        free_at[claim.chat] = claim.end + run.facts["delay_max_seconds"]
        if claim.start - begins > bound:
            yield f"{claim.key} waited {claim.start - begins:.2f} s in a free chat"


def left_behind(run: Run) -> Iterator[str]:
    """When nothing waits, Redis holds nothing of a chat; no secret and no text of a message can be read anywhere."""
    yield from (f"Redis still holds {key}" for key in run.facts["redis_left"])
    yield from run.facts["canaries"]


def _stands(send: Send) -> bool:
    """Sent under a claim that was not lost, and while it stood: a worker that was frozen sends whenever it wakes."""
    return send.claim is not None and not send.claim.lost and send.start <= send.claim.end


def _sends_by_chat(run: Run) -> dict[str, list[Send]]:
    chats: dict[str, list[Send]] = defaultdict(list)
    for send in run.sends:
        chats[send.chat].append(send)
    return chats


PREDICATES: dict[str, Callable[[Run], Iterator[str]]] = {
    "lost": lost,
    "invented": invented,
    "mixed up": mixed_up,
    "reordered": reordered,
    "overlapping": overlapping,
    "reclaimed early": reclaimed_early,
    "taken from the living": taken_from_the_living,
    "unexplained sends": unexplained,
    "settled otherwise": settled_otherwise,
    "wrongly counted": wrongly_counted,
    "too fast": too_fast,
    "claimed after cancel": cancelled_and_claimed,
    "drained badly": drained_badly,
    "ended by itself": ended_by_itself,
    "woken late": woken_late,
    "left behind": left_behind,
}
