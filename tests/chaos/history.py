"""What a run left behind, read into one timeline: calls, changes of rows, sends, faults. Times are seconds of the wall
clock."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

# The gateway's clock and the wall clock are compared once at the start; what both say of one moment differs a little.
CLOCK_TOLERANCE_SECONDS = 0.005
TERMINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED", "DELETED"})

Result = Literal["ok", "no", "unknown"]
End = Literal["sent", "failed attempt", "cancelled", "final", "deferred", "released", "reclaimed", "stolen"]


@dataclass(slots=True)
class Told:
    """What a producer knows of one message. ``known_at``: its enqueue had returned by then."""

    key: str
    chat: str
    priority: int
    result: Result = "unknown"
    known_at: float | None = None
    answers: int = 0
    refusals: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Cancel:
    key: str
    answered_at: float
    result: str


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a row. ``seen`` is when its statement began, ``at`` when the change was written."""

    at: float
    seen: float
    key: str
    seq: int
    chat: str
    priority: int
    was: str | None
    now: str
    claim_id: str | None
    pid: int
    retry_count: int
    max_retries: int
    lease_was: float | None
    due: float | None
    error: str | None


@dataclass(slots=True)
class Claim:
    """A message in a worker's hands, from the change that claimed it to the one that ended it."""

    key: str
    chat: str
    pid: int
    attempt: int
    start: float
    seen: float
    end: float = float("inf")
    end_seen: float = float("inf")
    how: End | None = None
    error: str = ""
    lease_was: float | None = None
    sends: list[Send] = field(default_factory=list)

    @property
    def timed_out(self) -> bool:
        return self.error.startswith("TimeoutError")

    @property
    def lost(self) -> bool:
        """The worker no longer held it when it ended, or had given the send up: its send may go on."""
        return self.how in (None, "reclaimed") or self.timed_out


@dataclass(slots=True)
class Send:
    """One request at the gateway."""

    message_id: str
    chat: str
    pid: int
    attempt: int
    start: float
    end: float | None = None
    status: int | None = None
    claim: Claim | None = None
    digest: str = ""

    @property
    def accepted(self) -> bool:
        return self.status == 201


@dataclass(frozen=True, slots=True)
class Fault:
    kind: str
    start: float
    end: float
    pid: int = 0
    slot: str = ""
    code: int | None = None
    statement: str = ""
    rows: int = 0
    key: str = ""
    link: str = ""


@dataclass(frozen=True, slots=True)
class Life:
    """A process, from when it began to work (0: it never did) until its end."""

    slot: str
    pid: int
    start: float
    end: float
    code: int


@dataclass(frozen=True, slots=True)
class Row:
    id: str
    key: str
    chat: str
    status: str
    retry_count: int
    max_retries: int
    error: str | None


@dataclass
class Run:
    """Everything of one run."""

    facts: Mapping[str, Any]
    told: dict[str, Told]
    cancels: list[Cancel]
    rows: dict[str, Row]
    doubled_keys: list[str]
    changes: list[Change]
    claims: list[Claim]
    sends: list[Send]
    faults: list[Fault]
    lives: list[Life]
    verdicts: Mapping[str, int]
    log_lines: Mapping[str, int]

    def of_chats(self) -> dict[str, list[Claim]]:
        """The claims of each chat, by their beginning."""
        chats: dict[str, list[Claim]] = defaultdict(list)
        for claim in sorted(self.claims, key=lambda claim: claim.start):
            chats[claim.chat].append(claim)
        return chats

    def held_by(self, pid: int, start: float, end: float) -> list[Claim]:
        """The claims that a process held at some moment between the two."""
        return [claim for claim in self.claims if claim.pid == pid and claim.start <= end and claim.end > start]


LOG_LINES = {
    "late settle, nothing changed": "late settles refused",
    "lease lost, the send is cancelled": "sends given up with their lease",
    "the claim came too late": "claims that came too late",
    "rebuilt: Redis knows": "rebuilds",
    "this worker will be replaced": "workers replaced",
    "Traceback": "tracebacks",
    "failed, KeyError: 'mqworker:": "cron jobs that arq ran twice",
}


def read(folder: Path) -> Run:
    """Read the folder of a finished run."""
    facts = json.loads((folder / "run.json").read_text())
    rows, doubled = _rows(folder)
    changes = [_change(line) for line in lines(folder / "changes.jsonl")]
    claims = _claims(changes)
    told, cancels = _told(folder)
    sends = _sends(folder, facts["gateway_offset"])
    _match(sends, claims, {row.id: row.key for row in rows.values()})
    faults = [_fault(line) for line in lines(folder / "faults.jsonl")]
    counts = (_verdicts(folder), _count_lines(folder))
    return Run(facts, told, cancels, rows, doubled, changes, claims, sends, faults, _lives(folder), *counts)


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON lines of a file; none where there is no file."""
    if path.exists():
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)


def _told(folder: Path) -> tuple[dict[str, Told], list[Cancel]]:
    told: dict[str, Told] = {}
    calls: dict[str, list[Told]] = {}
    cancels: list[Cancel] = []
    for path in sorted(folder.glob("producer-*.jsonl")):
        for line in lines(path):
            match line["event"]:
                case "call":
                    calls[line["call"]] = [_called(told, *message) for message in line["messages"]]
                case "answer":
                    for message in calls[line["call"]]:
                        _take(message, line["result"], line["at"])
                case "cancel":
                    cancels.append(Cancel(line["key"], float("inf"), "unknown"))
                case "cancelled":
                    cancels.append(Cancel(line["key"], line["at"], line["result"]))
    for message in told.values():
        # A definite refusal of every call, and none unanswered.
        if message.result != "ok" and message.refusals == message.answers:
            message.result = "no"
    return told, cancels


def _called(told: dict[str, Told], key: str, chat: str, priority: int, digest: str) -> Told:
    message = told.setdefault(key, Told(key, chat, priority, digest=digest))
    message.answers += 1
    return message


def _take(message: Told, result: Result, at: float) -> None:
    if result == "ok" and message.result != "ok":
        message.result, message.known_at = "ok", at
    message.refusals += result == "no"


def _rows(folder: Path) -> tuple[dict[str, Row], list[str]]:
    rows: dict[str, Row] = {}
    doubled = []
    for line in lines(folder / "rows.jsonl"):
        names = ("id", "key", "chat", "status", "retry_count", "max_retries", "error")
        row = Row(**{name: line[name] for name in names})
        if row.key in rows:
            doubled.append(row.key)
        rows[row.key] = row
    return rows, doubled


def _change(line: dict[str, Any]) -> Change:
    worker = line["worker"] or ""
    pid = int(worker.split(":")[1]) if worker.count(":") == 2 else 0
    names = ("at", "seen", "key", "seq", "chat", "priority", "was", "now", "claim_id", "retry_count", "max_retries")
    more = ("lease_was", "due", "error")
    return Change(**{name: line[name] for name in (*names, *more)}, pid=pid)


def _claims(changes: list[Change]) -> list[Claim]:
    claims: list[Claim] = []
    held: dict[str, tuple[Claim, Change]] = {}
    for change in changes:
        if change.was == "PROCESSING" and change.key in held:
            claim, begun = held.pop(change.key)
            claim.end, claim.end_seen, claim.how = change.at, change.seen, _how(begun, change)
            claim.error, claim.lease_was = change.error or "", change.lease_was
        if change.now == "PROCESSING":
            attempt = change.retry_count + 1
            claim = Claim(change.key, change.chat, change.pid, attempt, change.at, change.seen)
            held[change.key] = (claim, change)
            claims.append(claim)
    return claims


def _how(begun: Change, ended: Change) -> End:
    if ended.now == "PROCESSING":
        return "stolen"
    if ended.claim_id is None:
        return "reclaimed"
    if ended.now == "COMPLETED":
        return "sent"
    if ended.now == "CANCELLED":
        return "cancelled"
    if ended.now in TERMINAL:
        return "final"
    if ended.retry_count > begun.retry_count:
        return "failed attempt"
    return "released" if ended.error is None else "deferred"


def _sends(folder: Path, offset: float) -> list[Send]:
    sends: dict[str, Send] = {}
    for line in lines(folder / "gateway.jsonl"):
        if line["event"] == "start":
            chat = f"{line['instance']}/{line['chat_id']}"
            pid = int(line["query"].removeprefix("worker=") or 0)
            send = Send(line["id"], chat, pid, line["attempt"], line["at"] + offset, digest=line["digest"])
            sends[line["request"]] = send
        elif line["event"] == "end":
            send = sends[line["request"]]
            send.end, send.status = line["at"] + offset, line["status"]
    return sorted(sends.values(), key=lambda send: send.start)


def _match(sends: list[Send], claims: list[Claim], keys: Mapping[str, str]) -> None:
    """Find each send's claim: the last one of its message, worker and attempt that began before it."""
    candidates: dict[tuple[str, int, int], list[Claim]] = defaultdict(list)
    for claim in claims:
        candidates[claim.key, claim.pid, claim.attempt].append(claim)
    for send in sends:
        key = keys.get(send.message_id, "")
        begun = [
            claim
            for claim in candidates[key, send.pid, send.attempt]
            if claim.start <= send.start + CLOCK_TOLERANCE_SECONDS
        ]
        if begun:
            send.claim = begun[-1]
            send.claim.sends.append(send)


def _fault(line: dict[str, Any]) -> Fault:
    names = ("kind", "start", "end", "pid", "slot", "code", "statement", "rows", "key", "link")
    return Fault(**{name: line[name] for name in names if name in line})


def _lives(folder: Path) -> list[Life]:
    lives: list[Life] = []
    begun: dict[int, float] = {}
    for line in lines(folder / "processes.jsonl"):
        if line["event"] == "ready":
            begun[line["pid"]] = line["at"]
        elif line["event"] == "ended":
            lives.append(Life(line["slot"], line["pid"], begun.pop(line["pid"], 0.0), line["at"], line["code"]))
    return lives


def _verdicts(folder: Path) -> Mapping[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for line in lines(folder / "verdicts.jsonl"):
        for verdict, number in line.items():
            if verdict != "worker":
                counts[verdict] += number
    return counts


def _count_lines(folder: Path) -> Mapping[str, int]:
    counts: dict[str, int] = dict.fromkeys(LOG_LINES.values(), 0)
    for path in [*folder.glob("worker-*.log"), *folder.glob("producer-*.log")]:
        with path.open(errors="replace") as file:
            for line in file:
                for mark, name in LOG_LINES.items():
                    counts[name] += mark in line
    return counts
