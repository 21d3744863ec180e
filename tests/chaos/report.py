"""A run's result as a table for people, and as facts for programs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from tests.chaos.checker import check
from tests.chaos.history import Run
from tests.chaos.plan import KINDS
from tests.chaos.recovery import Felt, felt

SHOWN = 5
# A claim's answer names the chats asked for, not those claimed: it cannot be counted.
COMMITS = ("insert", "settle", "commit")


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
    faults = Counter(fault.kind for fault in run.faults)
    hows = Counter(claim.how for claim in run.claims)
    accepted = Counter(send.message_id for send in run.sends if send.accepted)
    kills = [fault for fault in run.faults if fault.kind == "worker kill -9"]
    hit = [run.held_by(fault.pid, fault.start, fault.start) for fault in kills]
    return {
        "messages": sum(told.result == "ok" for told in run.told.values()),
        "enqueues refused": sum(told.result == "no" for told in run.told.values()),
        "enqueues without an answer": sum(told.result == "unknown" for told in run.told.values()),
        "sends": len(run.sends),
        **{f"rows {status}": n for status, n in Counter(row.status for row in run.rows.values()).items()},
        "claims": len(run.claims),
        "claims reclaimed": hows["reclaimed"],
        "claims released": hows["released"],
        "failed attempts retried": hows["failed attempt"],
        "workers killed": len(kills),
        "workers killed with sends in flight": sum(bool(held) for held in hit),
        "sends in flight when killed": sum(len(held) for held in hit),
        "zombies": sum(
            any(claim.how == "reclaimed" for claim in run.held_by(fault.pid, fault.start, fault.start))
            for fault in run.faults
            if fault.kind == "zombie"
        ),
        "late settles refused": run.log_lines["late settles refused"],
        "sends given up with their lease": run.log_lines["sends given up with their lease"],
        "stale proposals": sum(run.verdicts.get(verdict, 0) for verdict in ("empty", "in_flight")),
        "Redis losses": sum(faults[kind] for kind in KINDS["Redis losses"]),
        "rebuilds": run.log_lines["rebuilds"],
        "PostgreSQL crashes": sum(faults[kind] for kind in KINDS["PostgreSQL crashes"]),
        "ambiguous commits": sum(
            f.kind == "link lose answer" and f.statement in COMMITS and f.rows > 0 for f in run.faults
        ),
        "workers replaced": run.log_lines["workers replaced"],
        "claims that came too late": run.log_lines["claims that came too late"],
        "tracebacks": run.log_lines["tracebacks"],
        "sent twice or more (explained)": sum(number > 1 for number in accepted.values()),
    }


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
