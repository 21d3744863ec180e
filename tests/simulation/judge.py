"""Whether a run kept the promises: one look along its history, then one at what is left at its end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from mqworker.message import ChatKey
from mqworker.testing.memory.tables import Row
from tests.simulation.scenario import SETTINGS, Letter
from tests.simulation.world import Run

FINAL = ("COMPLETED", "FAILED", "CANCELLED")
EXACT_SECONDS = 2e-6
"""What rounding to PostgreSQL's microseconds may cost."""

SLOW_END_SECONDS = 8.0
"""What a worker may take to stop beyond its patience with its sends: it may stand still in the middle of it."""


@dataclass(slots=True)
class Send:
    """One call of the executor; ``error`` is the name of what it raised, "" for nothing, ``None`` while it runs."""

    claim: Claimed
    error: str | None = None
    accepted: bool = False
    ended_at: float = 0.0


@dataclass(slots=True, eq=False)
class Claimed:
    """One claim; it ends by its settle, or is lost to a reclaim."""

    message: Story
    worker: str
    ended: str | None = None
    send: Send | None = None

    @property
    def is_lost(self) -> bool:
        return self.ended == "lost"


@dataclass(slots=True, eq=False)
class Story:
    """All that happened to one message."""

    letter: Letter
    seq: int = 0
    asked_at: float | None = None
    accepted_at: float | None = None
    status: str = "PENDING"
    attempts: int = 0
    free_at: float = 0.0
    claims: list[Claimed] = field(default_factory=list)

    @property
    def rank(self) -> tuple[int, int]:
        return -self.letter.priority, self.seq


class Judge:
    """Reads a history in its order; ``violations`` is what it found."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.violations: list[str] = list(run.complaints)
        self.counts: Counter[str] = Counter(run.counts)
        self._now = 0.0
        self._stories = {letter.id: Story(letter) for letter in run.scenario.letters}
        self._chats: dict[ChatKey, list[Story]] = defaultdict(list)
        self._claims: dict[UUID, Claimed] = {}
        self._in_flight: dict[ChatKey, Claimed] = {}
        self._sending: dict[ChatKey, list[Send]] = defaultdict(list)
        self._chat_free_at: dict[ChatKey, float] = defaultdict(float)
        self._account_free_at: dict[str, float] = defaultdict(float)
        self._last_send_at: dict[ChatKey, float] = defaultdict(float)
        self._draining: dict[str, float] = {}
        self._changed_at: dict[ChatKey, float] = defaultdict(float)
        """When a chat last lost what it had in flight, or at the head of its line."""
        self._unannounced = run.scenario.unannounced

    def judge(self) -> list[str]:
        """Every promise that was broken, in words."""
        for time, kind, *facts in self.run.history:
            self._now = time
            look: Callable[..., None] | None = getattr(self, f"_see_{kind}", None)
            if look is not None:
                look(*facts)
        self._judge_end()
        return self.violations

    def _blame(self, promise: str, what: str) -> None:
        self.violations.append(f"{promise}: {what} at {self._now:.6f}")

    # enqueue

    def _see_enqueue(self, message_id: UUID) -> None:
        story = self._stories[message_id]
        story.asked_at = self._now if story.asked_at is None else story.asked_at

    def _see_insert(self, message_id: UUID, chat: ChatKey, seq: int) -> None:
        story = self._stories[message_id]
        if story.asked_at is None:
            self._blame("no phantom", f"{message_id} was stored and never enqueued")
        for other in self._chats[chat]:
            if other.accepted_at is not None and other.accepted_at < (story.asked_at or 0.0) and other.seq > seq:
                self._blame("P3 order", f"{message_id} got seq {seq} after {other.letter.id} had {other.seq}")
        story.seq = seq
        self._chats[chat].append(story)

    def _see_enqueued(self, message_id: UUID, seq: int, deduplicated: bool) -> None:
        story = self._stories[message_id]
        if story.seq != seq:
            self._blame("P1 durable", f"enqueue of {message_id} returned seq {seq}, its row has {story.seq}")
        if story.accepted_at is None:
            story.accepted_at = self._now
        self.counts["repeats recognised"] += deduplicated

    def _see_cancelled(self, message_id: UUID, result: str) -> None:
        status = self._stories[message_id].status
        if result == "cancelled" and status != "CANCELLED":
            self._blame("cancel", f"{message_id} is {status} although its cancel came in time")

    def _see_cancel(self, message_id: UUID, chat: ChatKey, was: str) -> None:
        story = self._stories[message_id]
        if was == "PENDING":
            self._finish(story, "CANCELLED")
            self._changed_at[chat] = self._now
        else:
            self.counts["cancelled in flight"] += 1

    def _finish(self, story: Story, status: str) -> None:
        if story.status in FINAL:
            self._blame("final is final", f"{story.letter.id} went from {story.status} to {status}")
        story.status = status

    # claims

    def _see_claim(self, message_id: UUID, chat: ChatKey, claim_id: UUID, worker: str, began: float) -> None:
        story = self._stories[message_id]
        claim = self._claims[claim_id] = Claimed(story, worker)
        if chat in self._in_flight:
            self._blame("P4 one at a time", f"{message_id} was claimed while another of {chat} was in flight")
        if story.status in FINAL:
            self._blame("final is final", f"{message_id} was claimed although {story.status}")
        free_at = max(self._chat_free_at[chat], self._account_free_at[chat.instance], story.free_at)
        if self._now < free_at - EXACT_SECONDS:
            self._blame("P5 pace", f"{message_id} was claimed {free_at - self._now:.3f} s before its time")
        self._judge_order(story, chat, began)
        self._judge_pickup(story, chat, free_at)
        story.status = "PROCESSING"
        story.claims.append(claim)
        self._in_flight[chat] = claim

    def _judge_pickup(self, story: Story, chat: ChatKey, free_at: float) -> None:
        """In calm nobody waits for a timer: what was announced goes as soon as it may."""
        scenario = self.run.scenario
        if not scenario.is_calm or story.letter.id in self._unannounced:
            return
        times = [free_at, self._changed_at[chat], story.accepted_at or self._now, story.letter.due_at or 0.0]
        waited = self._now - max(times)
        if waited > scenario.pickup_seconds:
            self._blame("P6 recovery", f"{story.letter.id} waited {waited:.3f} s for nothing")

    def _judge_order(self, story: Story, chat: ChatKey, began: float) -> None:
        """Nothing that outranks it may wait; what was not yet returned when the claim began does not count."""
        due_at = story.letter.due_at
        if due_at is not None and due_at > self._now:
            self._blame("schedule", f"{story.letter.id} was claimed {due_at - self._now:.3f} s before it was due")
        for other in self._chats[chat]:
            if other.rank >= story.rank or other.status in FINAL:
                if other.free_at > self._now and other.rank > story.rank and other.status == "PENDING":
                    self.counts["passed one that backs off"] += 1
                continue
            known = other.accepted_at is not None and other.accepted_at < began
            due = other.letter.due_at is None or other.letter.due_at <= self._now
            if known and due:
                self._blame("P3 order", f"{story.letter.id} was claimed before {other.letter.id}")

    def _see_settle(
        self,
        message_id: UUID,
        chat: ChatKey,
        claim_id: UUID,
        status: str,
        counted: bool,
        backoff: float,
        gap: float | None,
        account_wait: float,
    ) -> None:
        story, claim = self._stories[message_id], self._claims[claim_id]
        self._end_claim(story, chat, claim, "settled")
        self._finish(story, status)
        story.attempts += counted
        story.free_at = self._now + backoff
        sent = claim.send is not None and claim.send.accepted
        if status == "COMPLETED" and not sent:
            self._blame("P2 honestly", f"{message_id} was settled as sent, and was not")
        if gap is None:
            self.counts["released"] += 1
            if claim.send is not None:
                self._blame("P5 pace", f"{message_id} was sent and settled without a gap")
            return
        if gap < self.run.scenario.least_gap_seconds:
            self._blame("P5 pace", f"{message_id} was settled with a gap of {gap}")
        self._chat_free_at[chat] = self._now + gap
        account = self._account_free_at
        account[chat.instance] = max(account[chat.instance], self._now + account_wait)

    def _see_reclaim(self, message_id: UUID, chat: ChatKey, claim_id: UUID, status: str) -> None:
        story, claim = self._stories[message_id], self._claims[claim_id]
        self._end_claim(story, chat, claim, "lost")
        self._finish(story, status)
        story.attempts += 1
        story.free_at = self._now
        self._chat_free_at[chat] = self._now + self.run.scenario.least_gap_seconds
        if self.run.scenario.is_calm:
            self._blame("P2 honestly", f"{message_id} was taken back from a worker that lives")
        self.counts[f"reclaimed {status}"] += 1

    def _end_claim(self, story: Story, chat: ChatKey, claim: Claimed, ending: str) -> None:
        if claim.ended is not None or self._in_flight.get(chat) is not claim:
            self._blame("fencing", f"a claim of {story.letter.id} was {ending} that had ended ({claim.ended})")
        self._in_flight.pop(chat, None)
        claim.ended = ending
        self._changed_at[chat] = self._now

    def _see_late(self, message_id: UUID, claim_id: UUID) -> None:
        claim = self._claims[claim_id]
        self.counts["late settles refused"] += claim.is_lost
        if claim.ended is None:
            self._blame("fencing", f"a settle of {message_id} was refused although its claim was not lost")

    def _see_repeat(self, message_id: UUID, claim_id: UUID) -> None:
        self.counts["settles repeated"] += 1
        if self._claims[claim_id].is_lost:
            self._blame("fencing", f"a settle of {message_id} under a lost claim was taken for a repeat")

    # sends

    def _see_send(self, message_id: UUID, claim_id: UUID) -> None:
        claim = self._claims[claim_id]
        story, chat = claim.message, claim.message.letter.chat
        self.counts["sends"] += 1
        self.counts["sends begun after their lease was lost"] += claim.is_lost
        if (
            not claim.is_lost
            and self._now < self._last_send_at[chat] + self.run.scenario.least_gap_seconds - EXACT_SECONDS
        ):
            self._blame("P5 pace", f"{message_id} was sent {self._now - self._last_send_at[chat]:.3f} s after the last")
        for other in self._sending[chat]:
            if not (other.claim.is_lost or claim.is_lost):
                self._blame("P4 one at a time", f"{message_id} was sent while {other.claim.message.letter.id} was")
        for earlier in story.claims:
            if earlier is not claim and earlier.send is not None and not (earlier.is_lost or earlier.send.error):
                self._blame("P2 honestly", f"{message_id} was sent again and the first send had not failed")
        claim.send = Send(claim)
        self._sending[chat].append(claim.send)

    def _see_accept(self, message_id: UUID, claim_id: UUID) -> None:
        send = self._claims[claim_id].send
        assert send is not None
        send.accepted = True

    def _see_sent(self, message_id: UUID, claim_id: UUID, error: str) -> None:
        claim = self._claims[claim_id]
        chat = claim.message.letter.chat
        assert claim.send is not None
        claim.send.error = error
        self._sending[chat].remove(claim.send)
        if not claim.is_lost:
            self._last_send_at[chat] = self._now
        self.counts[f"sends ended by {error or 'their reply'}"] += 1

    # workers

    def _see_end(self, worker: str, flights: int) -> None:
        crashed = worker not in self._draining
        self.counts["crashes"] += crashed
        self.counts["crashes with messages in flight"] += crashed and flights > 0
        for sending in self._sending.values():
            sending[:] = [send for send in sending if send.claim.worker != worker]

    def _see_drain(self, worker: str, flights: int) -> None:
        self._draining[worker] = self._now
        self.counts["drains"] += 1
        self.counts["drains with messages in flight"] += flights > 0

    def _see_left(self, worker: str) -> None:
        seconds = self._now - self._draining[worker]
        if seconds > SETTINGS.drain_seconds + SLOW_END_SECONDS:
            self._blame("drain", f"{worker} took {seconds:.1f} s to stop")

    def _see_stuck(self, worker: str) -> None:
        self.counts["workers replaced"] += 1

    def _see_fault(self, kind: str, worker: int) -> None:
        self.counts[f"fault {kind}"] += 1

    def _see_duty(self, name: str, owner: str) -> None:
        self.counts[f"duty {name}"] += 1

    def _see_uncertain(self, message_id: UUID) -> None:
        self.counts["enqueues uncertain"] += 1

    def _see_conflict(self, message_id: UUID) -> None:
        self.counts["conflicts"] += 1

    # the end

    def _judge_end(self) -> None:
        rows = self.run.rows
        for story in self._stories.values():
            row = rows.get(story.letter.id)
            if row is not None:
                self._judge_row(story, row)
            elif story.accepted_at is not None:
                self._blame("P1 durable", f"{story.letter.id} was accepted and is not there")
        if self.run.late:
            self._blame("P6 recovery", f"{self.run.late} within {self.run.bound_seconds:.1f} s of the last fault")

    def _judge_row(self, story: Story, row: Row) -> None:
        message_id, sends = story.letter.id, [claim.send for claim in story.claims if claim.send is not None]
        if row.status not in FINAL and not self.run.late:
            self._blame("P1 durable", f"{message_id} is {row.status} at the end")
        if row.status != story.status:
            self._blame("history", f"{message_id} is {row.status}, by its history {story.status}")
        if row.retry_count != story.attempts or story.attempts > story.letter.max_retries:
            self._blame(
                "attempts", f"{message_id}: {story.attempts} of {story.letter.max_retries}, {row.retry_count} counted"
            )
        if row.status == "COMPLETED" and not any(send.accepted for send in sends):
            self._blame("P2 honestly", f"{message_id} is COMPLETED and was never sent")
        permanent = any(send.error == "PermanentError" for send in sends)
        if row.status == "FAILED" and row.retry_count < row.max_retries and not permanent:
            self._blame("attempts", f"{message_id} is FAILED after {row.retry_count} of {row.max_retries}")
