"""Proves the checker: every mutant must be found, every control be clean. Some at a time, each a run of its own."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.chaos.fleet import ROOT
from tests.chaos.mutants import MUTANTS
from tests.chaos.plan import Plan

AT_ONCE = 3
LIMIT_SECONDS = 240.0
# A bug that is a race does not show itself in every half minute: it is looked for again, by other seeds.
TRIES = 3


@dataclass(frozen=True)
class Finding:
    """What became of one mutant: the promises that were seen broken, with how often."""

    name: str
    breaches: dict[str, int]
    seconds: float
    failed: str = ""

    @property
    def good(self) -> bool:
        """A mutant was found as what it is; a control broke nothing."""
        expected = MUTANTS[self.name].found_as
        found = {name for name, times in self.breaches.items() if times} - MUTANTS[self.name].excused
        return not self.failed and (bool(found & expected) if expected else not found)


def plan_of(name: str, seed: int) -> Plan:
    """The run in which a mutant is looked for."""
    return replace(MUTANTS[name].plan, seed=seed, mutant=name)


async def prove(names: Sequence[str], seed: int, console: Console) -> bool:
    """Run the mutants named; whether the checker was right about each."""
    free = asyncio.Semaphore(AT_ONCE)
    findings = await asyncio.gather(*(_look_for(name, seed, free) for name in names))
    table = Table("mutant", "seconds", "seen broken", "", title="The checker, proved")
    for one in findings:
        seen = ", ".join(f"{name} {times}" for name, times in one.breaches.items() if times)
        verdict = ("found" if MUTANTS[one.name].found_as else "clean") if one.good else "WRONG"
        row = (one.name, f"{one.seconds:.0f}", one.failed or seen, verdict)
        table.add_row(*row, style="" if one.good else "red")
    console.print(table)
    wrong = [one.name for one in findings if not one.good]
    console.print(Text(f"{len(findings) - len(wrong)} of {len(findings)} right", style="red" if wrong else "green"))
    return not wrong


async def _look_for(name: str, seed: int, free: asyncio.Semaphore) -> Finding:
    """What became of it: a mutant is looked for until it is found, a control must be clean at once."""
    tries = TRIES if MUTANTS[name].found_as else 1
    finding = await _try(name, seed, free)
    for number in range(1, tries):
        if finding.good:
            break
        finding = await _try(name, seed + number, free)
    return finding


async def _try(name: str, seed: int, free: asyncio.Semaphore) -> Finding:
    async with free:
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
            output = await _run(name, seed, Path(folder))
            path = Path(folder) / "result.json"
            result = json.loads(path.read_text()) if path.exists() else {"breaches": {}, "missing": {}}
        counts = {promise: len(found) for promise, found in result["breaches"].items()}
        failed = f"too little was seen: {result['missing']}" if result["missing"] else ""
        return Finding(name, counts, time.monotonic() - begun, failed if counts else output[-400:])


async def _run(name: str, seed: int, folder: Path) -> str:
    arguments = ["--mutant", name, "--seed", str(seed), "--keep", str(folder), "--json", str(folder / "result.json")]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *["-m", "tests.chaos", *arguments],
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return f"no result within {LIMIT_SECONDS:g} s"
    return output.decode(errors="replace")
