"""What the demo shows while it runs: a table per chat on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mqworker.cli.demo.board import Board, Row
from mqworker.cli.talk import printable, say

LINE_EVERY_SECONDS = 2.0
# What the table itself needs beside its rows.
FRAME_LINES = 9


class View:
    """Draws the board on stderr."""

    def __init__(self, board: Board, console: Console | None = None) -> None:
        self._board = board
        self._console = console or Console(stderr=True, highlight=False)
        self._began = time.monotonic()
        self._said_at = self._began
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, *, last: bool = False) -> None:
        """Show the board as it is now."""
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
        elif last or time.monotonic() - self._said_at >= LINE_EVERY_SECONDS:
            self._said_at = time.monotonic()
            say(self._line())

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _line(self) -> str:
        row = self._board.sum()
        return (
            f"{self._seconds():5.1f} s  {row.sent} of {row.total} sent, {row.in_flight} in flight, "
            f"{row.waiting} waiting, {row.failed} failed"
        )

    def _table(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("\nchat", no_wrap=True, overflow="ellipsis", max_width=24)
        for name in ("\nwaiting", "in\nflight", "\nsent", "\nfailed", "last\ngap"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("last\ntext", no_wrap=True, overflow="ellipsis", ratio=1)
        rows, hidden = self._visible_rows()
        for row in rows:
            table.add_row(*self._cells(row, self._board.name(row.chat)))
        if hidden:
            table.add_row(Text(f"and {hidden} chats more", style="dim"))
        table.add_section()
        table.add_row(*self._cells(self._board.sum(), f"{self._seconds():.0f} s"), style="bold")
        return table

    def _visible_rows(self) -> tuple[list[Row], int]:
        """As many as fit; those that have something to do first, where not all do."""
        rows, room = self._board.rows, max(3, self._console.height - FRAME_LINES)
        if len(rows) <= room:
            return rows, 0
        rows.sort(key=lambda row: (row.done, not row.in_flight))
        return rows[:room], len(rows) - room

    def _cells(self, row: Row, name: str) -> list[Text]:
        gap = "" if row.last_gap is None else f"{row.last_gap:.2f} s"
        return [
            Text(printable(name), style="dim" if row.done else ""),
            _number(row.waiting, ""),
            _number(row.in_flight, "bold yellow"),
            _number(row.sent, "green"),
            _number(row.failed, "bold red"),
            Text(gap),
            Text(printable(row.last_text).replace("\n", " "), style="dim" if row.done else ""),
        ]


def _number(value: int, style: str) -> Text:
    return Text(str(value), style=style if value else "dim")
