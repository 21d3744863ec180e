"""Before a command takes away what cannot be brought back."""

from __future__ import annotations

import sys

import typer

from mqworker.cli.exits import Exit
from mqworker.cli.talk import printable, say


def must_agree(question: str, *, yes: bool) -> None:
    """Return if the user agrees; where nobody can be asked, only ``--yes`` is agreement."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter("is needed where nobody can be asked: stdin is no terminal", param_hint="--yes")
    if not typer.confirm(printable(question), err=True):
        say("nothing was changed")
        raise typer.Exit(Exit.FAILED)
