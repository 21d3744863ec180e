"""A run's result as a table for people, and as facts for programs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from tests.chaos.checker import check, without_cause
from tests.chaos.history import Run
from tests.chaos.plan import KINDS
from tests.chaos.recovery import Felt, felt

SHOWN = 5
# A claim's answer names the chats asked for, not those claimed: it cannot be counted.
COMMITS = ("insert", "settle", "commit")


# Redis proposed a chat in which nothing waits, or where something is in flight.
STALE = ("empty", "in_flight")


@dataclass(frozen=True)
class Report:
    """What was seen, what was broken, and whether the run saw enough to mean anything."""

    counts: dict[str, int]
    breaches: dict[str, list[str]]
    felt: list[Felt]
    missing: dict[str, str]
    facts: dict[str, Any]

    @property
    def clean(self) -> bool:
        return not any(self.breaches.values()) and not any(one.over for one in self.felt)

    @property
    def verdict(self) -> str:
        if not self.clean:
            return "BROKEN"
        return "VACUOUS: too little was seen" if self.missing else "CLEAN"


def report(run: Run) -> Report:
    counts = _counts(run)
    least: dict[str, int] = run.facts["least"]
    missing = {what: f"{counts[what]} of {number}" for what, number in least.items() if counts[what] < number}
    return Report(counts, check(run), felt(run), missing, dict(run.facts))


def _counts(run: Run) -> dict[str, int]:
    return {**_messages(run), **_claims(run), **_faulted(run), **_noticed(run)}


def _messages(run: Run) -> dict[str, int]:
    """What went in, and what became of it."""
    results = Counter(told.result for told in run.told.values())
    accepted = Counter(send.message_id for send in run.sends if send.accepted)
    return {
        "messages": results["ok"],
        "enqueues refused": results["no"],
        "enqueues without an answer": results["unknown"],
        **{f"rows {status}": number for status, number in Counter(row.status for row in run.rows.values()).items()},
        "sends": len(run.sends),
        "sent twice or more (explained)": sum(number > 1 for number in accepted.values()),
    }


def _claims(run: Run) -> dict[str, int]:
    """How the claims ended."""
    hows = Counter(claim.how for claim in run.claims)
    return {
        "claims": len(run.claims),
        "claims reclaimed": hows["reclaimed"],
        "claims reclaimed without a fault to explain it": len(without_cause(run)),
        "claims released": hows["released"],
        "failed attempts retried": hows["failed attempt"],
    }


def _faulted(run: Run) -> dict[str, int]:
    """What was done to processes and servers, and how much of it met something under way."""
    faults = Counter(fault.kind for fault in run.faults)
    kills = [run.held_by(f.pid, f.start, f.start) for f in run.faults if f.kind in KINDS["workers killed"]]
    frozen = [run.held_by(f.pid, f.start, f.start) for f in run.faults if f.kind in KINDS["zombies"]]
    lost_answers = [fault for fault in run.faults if fault.kind == "link lose answer"]
    return {
        "workers killed": len(kills),
        "workers killed that held claims": sum(bool(held) for held in kills),
        "claims held by killed workers": sum(map(len, kills)),
        "zombies": sum(any(claim.how == "reclaimed" for claim in held) for held in frozen),
        "Redis losses": sum(faults[kind] for kind in KINDS["Redis losses"]),
        "PostgreSQL crashes": sum(faults[kind] for kind in KINDS["PostgreSQL crashes"]),
        "ambiguous commits": sum(fault.statement in COMMITS and fault.rows > 0 for fault in lost_answers),
    }


def _noticed(run: Run) -> dict[str, int]:
    """What the workers said of it."""
    return {**run.log_lines, "stale proposals": sum(run.verdicts.get(verdict, 0) for verdict in STALE)}


def show(result: Report, console: Console) -> None:
    """Print it."""
    console.print(Group(_counted(result), _faults(result), _promises(result)))
    for name, breaches in result.breaches.items():
        for breach in breaches[:SHOWN]:
            console.print(Text(f"{name}: {breach}", style="red"))
    for what, number in result.missing.items():
        console.print(Text(f"too little: {what}: {number}", style="yellow"))
    facts = result.facts
    console.print(
        f"seed {facts['seed']}, {facts['minutes']:g} minutes; "
        f"all had ended {facts['quiet_seconds']:.1f} s after the last fault"
    )
    console.print(Text(result.verdict, style="bold green" if result.verdict == "CLEAN" else "bold red"))


def _counted(result: Report) -> Table:
    table = Table("seen", "number", title="What happened")
    table.columns[1].justify = "right"
    for what, number in result.counts.items():
        table.add_row(what, f"{number:,}")
    return table


def _faults(result: Report) -> Table:
    table = Table("fault", "times", "measured", "median s", "worst s", "bound s", title="Recovery")
    for column in table.columns[1:]:
        column.justify = "right"
    for one in result.felt:
        ordered = sorted(one.seconds)
        median = f"{ordered[len(ordered) // 2]:.2f}" if ordered else ""
        worst = f"{ordered[-1]:.2f}" if ordered else ""
        bound = "" if one.bound_seconds is None else f"{one.bound_seconds:g}"
        style = "red" if one.over else ""
        table.add_row(one.kind, f"{one.times:,}", f"{len(ordered) or ''}", median, worst, bound, style=style)
    return table


def _promises(result: Report) -> Table:
    table = Table("broken promise", "times", title="Promises")
    table.columns[1].justify = "right"
    for name, breaches in result.breaches.items():
        table.add_row(name, f"{len(breaches):,}", style="red" if breaches else "")
    return table
