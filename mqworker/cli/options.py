"""What the commands' options share."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

Status = Literal["PENDING", "PROCESSING", "COMPLETED", "FAILED", "CANCELLED"]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
AsJsonLines = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Instance = Annotated[str | None, typer.Option(help="Only this sending account's.")]
OneInstance = Annotated[str, typer.Option(help="The sending account.")]
