"""What the demo says at its end: the counts, each chat's order and gaps, and what was wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mqworker.cli.demo.plan import Planned
from mqworker.cli.talk import printable
from mqworker.message import ChatKey, QueueStats
from mqworker.testing.history import Attempt
from mqworker.testing.verdict import Gaps, Problem, gaps_of, summary

# Beyond, a chat is told in one line: nobody reads ten thousand.
MOST_LINES = 200
MOST_PROBLEMS = 20


@dataclass(frozen=True)
class Outcome:
    """All that the demo knows when it is over. ``plan`` goes by the message's id."""

    plan: Mapping[str, Planned]
    attempts: Sequence[Attempt]
    counts: QueueStats
    problems: Sequence[Problem]
    seconds: float


def facts(outcome: Outcome) -> dict[str, object]:
    """The same in short, for programs."""
    problems = [{"kind": problem.kind, "text": str(problem)} for problem in outcome.problems[:MOST_PROBLEMS]]
    counts = {**asdict(outcome.counts), "problems": len(outcome.problems)}
    return {**counts, "first_problems": problems, "seconds": round(outcome.seconds, 1)}


def report(outcome: Outcome, console: Console | None = None) -> None:
    """Print it to stdout."""
    console = console or Console(highlight=False, soft_wrap=False)
    chats: dict[ChatKey, list[Attempt]] = {planned.chat: [] for planned in outcome.plan.values()}
    for attempt in outcome.attempts:
        chats.setdefault(attempt.chat, []).append(attempt)
    short = len(outcome.plan) > MOST_LINES
    for chat, attempts in chats.items():
        _print_chat(console, chat, attempts, outcome.plan, short=short)
    console.print(Text("  ".join(f"{name} {count}" for name, count in asdict(outcome.counts).items()), style="bold"))
    _print_verdict(console, outcome, [gap for attempts in chats.values() for gap in gaps_of(attempts)])


def _print_chat(
    console: Console, chat: ChatKey, attempts: Sequence[Attempt], plan: Mapping[str, Planned], *, short: bool
) -> None:
    sent = sum(attempt.sent for attempt in attempts)
    title = Text(printable(chat.chat_id), style="bold")
    title.append(f"  {sent} sent, {_gap_text(summary(gaps_of(attempts)))}", style="not bold")
    console.print(title, no_wrap=True, overflow="ellipsis")
    if short:
        return
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(justify="right", width=4)
    table.add_column(justify="right", width=4)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column(no_wrap=True, justify="right")
    for place, (message_id, tries) in enumerate(_by_message(attempts).items(), 1):
        planned = plan.get(message_id)
        text = printable(planned.text).replace("\n", " ") if planned else message_id
        priority = f"{planned.priority:+}" if planned and planned.priority else ""
        table.add_row(str(place), Text(priority, style="cyan"), Text(text), _note(tries))
    console.print(table)
    console.print()


def _by_message(attempts: Sequence[Attempt]) -> dict[str, list[Attempt]]:
    """Each message once, in the order in which they began."""
    tries: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        tries[attempt.message_id].append(attempt)
    return tries


def _note(tries: Sequence[Attempt]) -> Text:
    if not tries[-1].sent:
        status = tries[-1].status
        return Text(f"not sent: {'no answer' if status is None else f'HTTP {status}'}", style="red")
    return Text(f"sent at attempt {len(tries)}", style="yellow") if len(tries) > 1 else Text("")


def _gap_text(gaps: Gaps | None) -> str:
    if gaps is None:
        return "no gap"
    return f"gaps from {gaps.least:.2f} to {gaps.most:.2f} s"


def _print_verdict(console: Console, outcome: Outcome, gaps: Sequence[float]) -> None:
    for problem in outcome.problems[:MOST_PROBLEMS]:
        console.print(Text(printable(str(problem)), style="red"), soft_wrap=True)
    if len(outcome.problems) > MOST_PROBLEMS:
        console.print(f"... and {len(outcome.problems) - MOST_PROBLEMS} more")
    if outcome.problems:
        kinds = sorted({problem.kind for problem in outcome.problems})
        console.print(Text(f"BROKEN PROMISES: {len(outcome.problems)} ({', '.join(kinds)})", style="bold red"))
        return
    console.print(Text("Nothing was lost, reordered, doubled or too fast.", style="bold green"))
    if total := summary(gaps):
        console.print(f"{total.count} {_gap_text(total)}, mean {total.mean:.2f} s; {outcome.seconds:.0f} s in all")
