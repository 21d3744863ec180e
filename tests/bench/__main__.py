"""`scripts/bench`: real servers, fsync on, the full schema; every figure stands beside a floor of the same run."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from mqworker.cli.running import ended_by_signals, run
from mqworker.devserver import DevServers
from mqworker.devserver.servers import DATABASE_URL_VARIABLE, REDIS_URL_VARIABLE
from tests.bench import plots
from tests.bench.catalogue import BENCHMARKS, SOAK, Benchmark
from tests.bench.figures import Figure, merged
from tests.bench.report import Result, facts, machine, missed, show
from tests.bench.room import Room
from tests.bench.soak import soak

QUICK_SCALE = 0.1
LEAST_SCALE = 0.06
SOAK_MINUTES = 30.0


def main() -> int:
    options = _options()
    if options.list:
        for benchmark in _known(SOAK_MINUTES).values():
            print(f"{benchmark.name:14} {benchmark.line}")
        return 0
    if any(os.environ.get(name) for name in (DATABASE_URL_VARIABLE, REDIS_URL_VARIABLE)):
        # Nobody's own servers: what is in them would be deleted.
        print(f"bench brings its own servers and empties them: unset {DATABASE_URL_VARIABLE} and {REDIS_URL_VARIABLE}")
        return 2
    with ended_by_signals() as ending:
        try:
            return run(_bench(options))
        except KeyboardInterrupt:
            return ending.exit_code


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description="Measure on real servers, each figure beside its floor and its target."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which benchmarks (default: all but the soak)")
    parser.add_argument("--list", action="store_true", help="name the benchmarks and end")
    parser.add_argument("--runs", type=int, default=3, help="of each; the slowest take one only (default: 3)")
    parser.add_argument("--quick", action="store_true", help="small and under two minutes; 1 if a ratio is far off")
    parser.add_argument("--scale", type=float, help="how large, against what the targets speak of (default: 1)")
    parser.add_argument(
        "--soak",
        type=float,
        nargs="?",
        const=SOAK_MINUTES,
        metavar="MINUTES",
        help="soak, for 30 minutes or so many (10 at least)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="write two plots there, as SVG")
    options = parser.parse_args()
    if unknown := set(options.names) - set(_known(SOAK_MINUTES)):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; see --list")
    if options.runs < 1:
        parser.error("--runs must be 1 or more")
    if options.scale is not None and options.scale < LEAST_SCALE:
        parser.error(f"--scale must be {LEAST_SCALE:g} or more: with less, 20,000 chats are as few as 1,000")
    return options


def _known(soak_minutes: float) -> dict[str, Benchmark]:
    measure = partial(soak, minutes=soak_minutes)
    measure.__doc__ = soak.__doc__
    return {**BENCHMARKS, SOAK: Benchmark(SOAK, measure, most_runs=1)}


def _chosen(options: argparse.Namespace) -> list[Benchmark]:
    known = _known(options.soak or SOAK_MINUTES)
    if options.names:
        return [known[name] for name in dict.fromkeys(options.names)]
    if options.soak:
        return [known[SOAK]]
    return [one for one in BENCHMARKS.values() if one.quick or not options.quick]


async def _bench(options: argparse.Namespace) -> int:
    console = Console(width=None if sys.stdout.isatty() else 120)
    scale = options.scale or (QUICK_SCALE if options.quick else 1.0)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, DevServers(durable=True) as servers:
        room = await Room(servers, Path(folder), scale=scale).open()
        try:
            told = await machine(room)
            console.print(", ".join(f"{name} {value}" for name, value in told.items()), highlight=False)
            results = [await _result(benchmark, room, options, console) for benchmark in _chosen(options)]
        finally:
            await room.aclose()
    if options.json:
        options.json.write_text(json.dumps(facts(results, told), indent=1))
    if options.plots:
        plots.write([figure for result in results for figure in result.figures], options.plots)
    return _verdict(results, options, console)


async def _result(benchmark: Benchmark, room: Room, options: argparse.Namespace, console: Console) -> Result:
    """Measure it and print it at once: what comes later may take an hour."""
    runs: list[list[Figure]] = []
    failure = ""
    with console.status(f"{benchmark.name}: {benchmark.line}"):
        try:
            while len(runs) < (1 if options.quick else min(options.runs, benchmark.most_runs)):
                runs.append(await benchmark.measure(room))
            if options.quick and missed(_judged(runs, room, quick=True)):
                # A neighbour may have had the machine: only who misses twice has missed.
                runs = [await benchmark.measure(room)]
        except AssertionError as error:
            failure = str(error)
    result = Result(benchmark.name, _judged(runs, room, quick=options.quick), failure)
    show(result, console)
    return result


def _judged(runs: list[list[Figure]], room: Room, *, quick: bool) -> list[Figure]:
    """The figures with the targets that hold here: quickly only ratios, with room; at another scale only ratios."""
    figures = merged(runs)
    if quick:
        return [replace(one, target=one.target and one.target.with_room()) for one in figures]
    if room.scale != 1:
        return [one if one.is_ratio else replace(one, target=None) for one in figures]
    return figures


def _verdict(results: list[Result], options: argparse.Namespace, console: Console) -> int:
    """0 where all was measured, whatever the figures; --quick also wants its ratios."""
    failed = [f"{result.benchmark} could not be measured" for result in results if result.failure]
    misses = missed(figure for result in results for figure in result.figures)
    for line in (*failed, *misses):
        console.print(line, highlight=False, soft_wrap=True)
    return int(bool(failed) or (options.quick and bool(misses)))


if __name__ == "__main__":
    sys.exit(main())
