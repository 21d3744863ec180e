"""`mqworker errors`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from rich.text import Text

from mqworker.cli.ages import short_age
from mqworker.cli.running import run
from mqworker.cli.table import new_table, put_table
from mqworker.cli.talk import in_one_line, put_json, say
from mqworker.queue import MessageQueue
from mqworker.store import ErrorCount


def count_errors(instance: str | None, *, limit: int, as_json: bool) -> None:
    """Print the errors, the most frequent first."""
    counts = run(_counts(instance, limit))
    if as_json:
        for one in counts:
            put_json(asdict(one))
    elif counts:
        _put_counts(counts)
    else:
        say("no errors")


async def _counts(instance: str | None, limit: int) -> Sequence[ErrorCount]:
    async with MessageQueue() as queue:
        return await queue.error_summary(instance, limit=limit)


def _put_counts(counts: Sequence[ErrorCount]) -> None:
    table = new_table()
    table.add_column("count", justify="right")
    table.add_column("last", justify="right", no_wrap=True)
    table.add_column("error", no_wrap=True, overflow="ellipsis", ratio=1)
    now = datetime.now(UTC)
    for one in counts:
        ago = short_age((now - one.last_seen_at).total_seconds())
        table.add_row(str(one.count), ago, Text(in_one_line(one.error)))
    put_table(table)
