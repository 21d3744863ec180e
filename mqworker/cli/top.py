"""`mqworker top`: counts that go on, on a terminal; or once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mqworker.cli.ages import short_age
from mqworker.cli.rooms import opened_rooms
from mqworker.cli.running import ended_by_signals, run
from mqworker.cli.table import new_table, put_table
from mqworker.cli.talk import in_one_line, put_json
from mqworker.errors import StorageUnavailable
from mqworker.overview import Line, Overview, View
from mqworker.validation import check_instance

REFRESH_SECONDS = 2.0
# Beside the rows: title, head, what does not fit, foot, and the empty lines between them.
FRAME_LINES = 6
FOOT = "q ends. failed: in the last hour, of the newest 10,000 failures"


def show(instance: str | None, *, once: bool, as_json: bool) -> None:
    """Show the counts once, or until `q` or Ctrl-C."""
    if instance is not None:
        check_instance(instance)
    if once or as_json:
        _put(run(_look_once(instance)), instance, as_json=as_json)
        return
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        raise typer.BadParameter(
            "is needed where there is nothing to draw on: stderr is no terminal", param_hint="--once"
        )
    with ended_by_signals(), contextlib.suppress(KeyboardInterrupt):  # which is how it ends, too
        run(_go_on(instance, console))


async def _look_once(instance: str | None) -> View:
    async with opened_rooms() as rooms:
        return await Overview(rooms.store.census(instance)).look_at_all()


def _put(view: View, instance: str | None, *, as_json: bool) -> None:
    if not as_json:
        put_table(_table(view.lines, instance))
        return
    for line in view.lines:
        put_json(
            ({"instance": line.name} if instance is None else {"instance": instance, "chat_id": line.name})
            | _facts(line)
        )


def _facts(line: Line) -> dict[str, object]:
    return {
        "pending": line.pending,
        "due": line.due,
        "oldest_due_seconds": round(line.oldest_due_seconds, 3),
        "in_flight": line.in_flight,
        "failed_last_hour": line.failed_last_hour,
    }


async def _go_on(instance: str | None, console: Console) -> None:
    ended = asyncio.Event()
    async with opened_rooms() as rooms:
        overview = Overview(rooms.store.census(instance))
        view, trouble = await overview.look(), ""
        with Live(console=console, screen=True, auto_refresh=False) as live, _ended_by_key(ended):
            while not ended.is_set():
                live.update(_screen(view, instance, trouble, rows=console.height - FRAME_LINES), refresh=True)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), REFRESH_SECONDS)
                try:
                    view, trouble = await overview.look(), ""
                except StorageUnavailable as error:
                    trouble = str(error)  # the counts stay as they were


@contextlib.contextmanager
def _ended_by_key(ended: asyncio.Event) -> Iterator[None]:
    """Have `q` end it; keys are neither shown nor left for the shell."""
    if not sys.stdin.isatty():
        yield
        return
    keyboard, loop = sys.stdin.fileno(), asyncio.get_running_loop()
    before = termios.tcgetattr(keyboard)
    tty.setcbreak(keyboard)
    loop.add_reader(keyboard, lambda: ended.set() if b"q" in os.read(keyboard, 64).lower() else None)
    try:
        yield
    finally:
        loop.remove_reader(keyboard)
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _screen(view: View, instance: str | None, trouble: str, *, rows: int) -> Group:
    hidden = len(view.lines) - rows
    shown = view.lines if hidden <= 0 else view.lines[:rows]
    table = _table(shown, instance, counting=view.counted_seconds_ago is None)
    table.expand = True
    more = Text(f"and {hidden} more" if hidden > 0 else "", style="dim")
    return Group(_title(view, instance, trouble), Text(), table, more, Text(), Text(FOOT, style="dim"))


def _title(view: View, instance: str | None, trouble: str) -> Text:
    if trouble:
        return Text(trouble, style="red", no_wrap=True, overflow="ellipsis")
    whose = "all accounts" if instance is None else in_one_line(instance)
    waiting, flying = sum(line.pending for line in view.lines), sum(line.in_flight for line in view.lines)
    ago = view.counted_seconds_ago
    counted = "still counting" if ago is None else f"counted {short_age(ago)} ago"
    text = f"{time.strftime('%H:%M:%S')}  {flying} in flight, {waiting} waiting ({counted})  {whose}"
    return Text(text, no_wrap=True, overflow="ellipsis")


def _table(lines: Sequence[Line], instance: str | None, *, counting: bool = False) -> Table:
    table = new_table()
    table.add_column("account" if instance is None else "chat", no_wrap=True, overflow="ellipsis", ratio=1)
    for name in ("pending", "due now", "oldest", "in flight", "failed"):
        table.add_column(name, justify="right", no_wrap=True)
    more = "+" if counting else ""
    for line in lines:
        table.add_row(
            Text(in_one_line(line.name)),
            f"{line.pending}{more}",
            f"{line.due}{more}",
            short_age(line.oldest_due_seconds) if line.due else "",
            str(line.in_flight),
            Text(str(line.failed_last_hour), style="red" if line.failed_last_hour else ""),
        )
    return table
