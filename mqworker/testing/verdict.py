"""Judge a history: was anything lost, reordered, doubled, too fast or overlapping? Pure, no I/O.

Order is judged by what the promise says: within a chat (priority descending, seq ascending), where a retried message
keeps its place. It holds among messages that were there before the first of them was sent, so enqueue all of them
before the workers start.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from mqworker.message import ChatKey
from mqworker.testing.history import Attempt

Kind = Literal["lost", "reordered", "doubled", "too fast", "overlapping", "unknown"]

# When a scheduled message is due, and when a worker learns of it, are not the same moment.
DUE_TOLERANCE_SECONDS = 2.0
# The answers that say that no retry can help, as the executor `webhook` reads them.
_FINAL_STATUSES = frozenset(range(400, 500)) - {408, 425, 429}


@dataclass(frozen=True, slots=True)
class Expected:
    """A message that was enqueued. ``due_at`` is on the gateway's clock, None for at once."""

    message_id: str
    chat: ChatKey
    seq: int
    priority: int = 0
    max_retries: int = 3
    due_at: float | None = None

    @property
    def place(self) -> tuple[int, int]:
        """Smaller goes first."""
        return (-self.priority, self.seq)


@dataclass(frozen=True, slots=True)
class Problem:
    """A broken promise, with the chat that it was broken in."""

    kind: Kind
    chat: ChatKey
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.chat.chat_id}: {self.text}"


@dataclass(frozen=True, slots=True)
class Gaps:
    """From the end of one attempt to the start of the next in its chat, in seconds."""

    count: int
    least: float
    most: float
    mean: float


def judge(
    expected: Sequence[Expected],
    statuses: Mapping[str, str],
    attempts: Sequence[Attempt],
    *,
    least_gap_seconds: float,
) -> list[Problem]:
    """All that is wrong; empty if nothing is.

    ``statuses`` says for each message's id what its row says in the end; ``attempts`` is what the gateway saw.
    """
    by_id = {message.message_id: message for message in expected}
    tries: dict[str, list[Attempt]] = defaultdict(list)
    chats: dict[ChatKey, list[Attempt]] = defaultdict(list)
    for attempt in sorted(attempts, key=lambda attempt: attempt.started_at):
        tries[attempt.message_id].append(attempt)
        chats[attempt.chat].append(attempt)
    problems = [_unknown(attempt) for attempt in attempts if attempt.message_id not in by_id]
    for message in expected:
        problems += _fate(message, statuses.get(message.message_id), tries[message.message_id])
    for line in chats.values():
        problems += _pace(line, least_gap_seconds)
        problems += _order([a for a in line if a.message_id in by_id], by_id)
    return problems


def gaps_of(attempts: Iterable[Attempt]) -> list[float]:
    """The gaps of one chat, in their order."""
    line = sorted(attempts, key=lambda attempt: attempt.started_at)
    return [b.started_at - a.ended_at for a, b in pairwise(line) if a.ended_at is not None]


def summary(gaps: Sequence[float]) -> Gaps | None:
    """The numbers of some gaps; None where there are none."""
    return Gaps(len(gaps), min(gaps), max(gaps), sum(gaps) / len(gaps)) if gaps else None


def is_final_refusal(attempt: Attempt) -> bool:
    """Whether the gateway's answer says that no retry can help."""
    return attempt.status in _FINAL_STATUSES


def _unknown(attempt: Attempt) -> Problem:
    return Problem("unknown", attempt.chat, f"message {attempt.message_id} was sent and never enqueued")


def _fate(message: Expected, status: str | None, tries: Sequence[Attempt]) -> list[Problem]:
    """Each message was sent once, or failed for a reason that the gateway knows of."""
    name = f"message {message.message_id}"
    problems: list[Problem] = []
    sent = [index for index, attempt in enumerate(tries) if attempt.sent]
    if sent and sent[0] < len(tries) - 1:
        problems.append(
            Problem("doubled", message.chat, f"{name} was tried again after it was sent ({len(tries)} times in all)")
        )
    elif (counted := _counted(tries)) > message.max_retries:
        text = f"{name} was tried {counted} times, {message.max_retries} are its most"
        problems.append(Problem("doubled", message.chat, text))
    if reason := _lost(message, status, tries, bool(sent)):
        problems.append(Problem("lost", message.chat, f"{name} {reason}"))
    return problems


def _lost(message: Expected, status: str | None, tries: Sequence[Attempt], sent: bool) -> str | None:
    if status is None:
        return "has no row"
    if status == "CANCELLED":
        return None if not sent else "was sent, but its row says CANCELLED"
    if status == "COMPLETED":
        return None if sent else "is COMPLETED, but the gateway never took it"
    if status != "FAILED":
        return f"is still {status}"
    if sent:
        return "was sent, but its row says FAILED"
    refused = any(is_final_refusal(attempt) for attempt in tries[-1:])
    if not refused and (counted := _counted(tries)) < message.max_retries:
        return f"is FAILED after {counted} of {message.max_retries} attempts"
    return None


def _counted(tries: Sequence[Attempt]) -> int:
    """Attempts that cost one: a gateway that asks to wait takes none."""
    return sum(attempt.status != 429 for attempt in tries)


def _pace(line: Sequence[Attempt], least_gap_seconds: float) -> list[Problem]:
    problems: list[Problem] = []
    busy_until, before = float("-inf"), ""
    for attempt in line:
        gap = attempt.started_at - busy_until
        text = f"message {attempt.message_id} began"
        if gap < 0 or attempt.in_chat > 1:
            problems.append(Problem("overlapping", attempt.chat, f"{text} while {before} was being sent"))
        elif gap < least_gap_seconds:
            problems.append(Problem("too fast", attempt.chat, f"{text} {gap:.3f} s after {before}"))
        # One without an end ended no earlier than it began.
        ended_at = attempt.started_at if attempt.ended_at is None else attempt.ended_at
        busy_until, before = max(busy_until, ended_at), f"message {attempt.message_id}"
    return problems


def _order(line: Sequence[Attempt], by_id: Mapping[str, Expected]) -> list[Problem]:
    """No attempt may begin after one of a message that it should have gone before."""
    problems: list[Problem] = []
    last: Expected | None = None
    for index, attempt in enumerate(line):
        message = by_id[attempt.message_id]
        passed_by = last
        if message.due_at is not None:
            # It stands outside the line until it is due; only what began after that has passed it.
            due_at = message.due_at + DUE_TOLERANCE_SECONDS
            later = [by_id[other.message_id] for other in line[:index] if other.started_at > due_at]
            passed_by = max(later, key=lambda other: other.place, default=None)
        if passed_by is not None and passed_by.place > message.place:
            text = f"message {message.message_id} was sent after {passed_by.message_id}"
            problems.append(Problem("reordered", attempt.chat, text))
        if last is None or message.place > last.place:
            last = message
    return problems
