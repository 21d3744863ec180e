"""``scripts/chaos``: break everything for some minutes, then say what was lost."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from mqworker.cli.running import ended_by_signals
from tests.chaos.history import read
from tests.chaos.mutants import MUTANTS
from tests.chaos.plan import GAPLESS, Plan, lanes, least_of
from tests.chaos.proving import plan_of, prove
from tests.chaos.report import Report, report, show
from tests.chaos.run import carry_out


def main() -> int:
    options = _options()
    # SIGTERM too must end in order: what a fault has stopped would stay so for ever.
    with ended_by_signals() as ending:
        try:
            return _do(options)
        except KeyboardInterrupt:
            return ending.exit_code


def _do(options: argparse.Namespace) -> int:
    console = Console(width=None if sys.stdout.isatty() else 100)
    if options.check:
        return _tell(report(read(options.check)), options, console)
    if options.mutants is not None:
        return 0 if asyncio.run(prove(options.mutants or list(MUTANTS), options.seed, console)) else 1
    plan = plan_of(options.mutant, options.seed) if options.mutant else _plan(options)
    folder = options.keep or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    # The servers may run as another user.
    folder.chmod(0o755)
    console.print(f"chaos: seed {plan.seed}, {plan.minutes:g} minutes, {plan.workers} workers; history in {folder}")
    asyncio.run(carry_out(plan, folder))
    result = report(read(folder))
    code = _tell(result, options, console)
    if code == 0 and not options.keep:
        shutil.rmtree(folder)
    return code


def _plan(options: argparse.Namespace) -> Plan:
    return Plan(
        seed=options.seed,
        minutes=options.minutes,
        workers=options.workers,
        rate=options.rate,
        lanes=lanes(options.workers),
        least=least_of(options.minutes),
        **(GAPLESS if options.gapless else {}),
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/chaos",
        description="Run producers, workers and servers, break them at random, and check every promise.",
    )
    parser.add_argument("--minutes", type=float, default=2.0, help="how long faults are made (default: 2)")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3)), help="which faults (default: any)")
    parser.add_argument("--workers", type=int, default=5, help="worker processes (default: 5)")
    parser.add_argument("--rate", type=float, default=60.0, help="messages a second (default: 60)")
    parser.add_argument("--gapless", action="store_true", help="no gaps between the sends of a chat")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the history stays, also of a clean run")
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="only read the history of an earlier run")
    parser.add_argument("--mutants", nargs="*", metavar="NAME", help="prove the checker with all mutants, or these")
    parser.add_argument("--mutant", choices=MUTANTS, metavar="NAME", help="one run with one bug put in")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there, too")
    return parser.parse_args()


def _tell(result: Report, options: argparse.Namespace, console: Console) -> int:
    show(result, console)
    if options.json:
        options.json.write_text(json.dumps(asdict(result), indent=1))
    return 0 if result.verdict == "CLEAN" else 1


if __name__ == "__main__":
    sys.exit(main())
