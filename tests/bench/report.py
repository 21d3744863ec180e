"""A run's figures as a table for people, and as facts for programs."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.bench.figures import Figure, number
from tests.bench.room import Room


@dataclass(frozen=True)
class Result:
    """What became of one benchmark; ``failure`` says why it could not be measured."""

    benchmark: str
    figures: list[Figure]
    failure: str = ""


def show(result: Result, console: Console) -> None:
    """Print it."""
    table = Table(title=result.benchmark, title_justify="left")
    table.add_column("figure", width=52)
    for name, width in (("median", 20), ("range", 16), ("target", 8), ("met", 4)):
        table.add_column(name, width=width, justify="right")
    for figure in result.figures:
        table.add_row(figure.name, f"{number(figure.median)} {figure.unit}", _range(figure), *_verdict(figure))
    console.print(table)
    if result.failure:
        console.print(Text(f"{result.benchmark} could not be measured: {result.failure}", style="red"))


def _range(figure: Figure) -> str:
    if len(figure.values) < 2:
        return ""
    return f"{number(min(figure.values))} - {number(max(figure.values))}"


def _verdict(figure: Figure) -> tuple[str, Text]:
    if figure.target is None:
        return "", Text()
    return figure.target.words, Text("yes", style="green") if figure.is_met else Text("NO", style="bold red")


def missed(figures: Iterable[Figure]) -> list[str]:
    """The targets that were not reached, a line each."""
    return [
        f"{figure.name}: {number(figure.median)} {figure.unit}, not {figure.target.words}"
        for figure in figures
        if figure.target is not None and not figure.is_met
    ]


async def machine(room: Room) -> dict[str, Any]:
    """What the figures were measured on."""
    server = await room.redis.info("server")
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "postgresql": await room.scalar("SHOW server_version"),
        "fsync": await room.scalar("SHOW fsync"),
        "redis": server.get("valkey_version") or server["redis_version"],
        "scale": room.scale,
    }


def facts(results: list[Result], machine: dict[str, Any]) -> dict[str, Any]:
    """The same for programs."""
    return {
        "machine": machine,
        "benchmarks": {
            result.benchmark: {
                "failure": result.failure or None,
                "figures": [_facts(figure) for figure in result.figures],
            }
            for result in results
        },
    }


def _facts(figure: Figure) -> dict[str, Any]:
    measured = asdict(figure)
    target = measured.pop("target")
    return {
        **measured,
        "median": figure.median,
        "is_ratio": figure.is_ratio,
        "target": target and {"bound": target["bound"], "at": "least" if target["is_least"] else "most"},
        "met": figure.is_met,
    }
