"""Tables of data on stdout: cut to a terminal's width, whole where a program or a file takes them."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from mqworker.cli.talk import put

# Wider than any row of ours.
FILE_WIDTH = 2000


def new_table(*, header: bool = True) -> Table:
    """A table without lines."""
    return Table(box=None, show_header=header, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))


def put_table(table: Table) -> None:
    """Print it."""
    console = Console(highlight=False)
    if sys.stdout.isatty():
        table.expand = True  # one column, with a ratio, takes what is left
    else:
        console.width = FILE_WIDTH
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        put(line.rstrip())
