"""``python -m tests.simulation --seed N --trace`` replays one seed, ``--seeds N --processes P`` plays many."""

from __future__ import annotations

import argparse
import sys
from time import monotonic

from tests.simulation.batch import Batch, play, play_in_processes

PROGRESS_SECONDS = 10.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="play this seed alone")
    parser.add_argument("--trace", action="store_true", help="print all that happened in it")
    parser.add_argument("--seeds", type=int, default=2000, help="how many seeds to play")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return _one(arguments.seed, trace=arguments.trace)
    return _many(range(arguments.first, arguments.first + arguments.seeds), arguments.processes)


def _one(seed: int, *, trace: bool) -> int:
    run, judge = play(seed)
    if trace:
        print(run.scenario)
        for time, kind, *facts in run.history:
            print(f"{time:12.6f} {kind:10} {' '.join(map(str, facts))}")
    for violation in judge.violations:
        print(f"BROKEN {violation}")
    seconds = run.ended_at - run.calm_at
    print(
        f"seed {seed}: {len(run.rows)} messages, {run.steps} steps, all done {seconds:.1f} s after the last fault "
        f"(at most {run.bound_seconds:.1f} s), {len(judge.violations)} promises broken"
    )
    return 1 if judge.violations else 0


def _many(seeds: range, processes: int) -> int:
    began = told = monotonic()
    shown = 0

    def progress(batch: Batch) -> None:
        nonlocal told, shown
        for seed, violations in batch.broken[shown:]:
            print(
                f"BROKEN seed {seed}: {violations[0]}\n  python -m tests.simulation --seed {seed} --trace", flush=True
            )
        shown = len(batch.broken)
        if monotonic() - told > PROGRESS_SECONDS:
            told = monotonic()
            print(f"{batch.seeds}/{len(seeds)} seeds, {len(batch.broken)} broken", flush=True)

    batch = play_in_processes(seeds, processes, progress)
    seconds = monotonic() - began
    for event, number in sorted(batch.counts.items()):
        print(f"{number:10} {event}")
    for event in batch.missing:
        print(f"VACUOUS it never happened: {event}")
    print(
        f"{batch.seeds} seeds in {seconds:.0f} s ({1000 * seconds / batch.seeds:.1f} ms each, {processes} processes), "
        f"{len(batch.broken)} broken, {len(batch.missing)} events missing"
    )
    return 1 if batch.broken or batch.missing else 0


if __name__ == "__main__":
    sys.exit(main())
