"""Promises P1 to P6 over thousands of runs in virtual time, each drawn from its seed."""

from __future__ import annotations

import pytest

from tests.simulation.batch import Batch, play, play_in_processes

SEEDS = 2000
PROCESSES = 2


@pytest.fixture(scope="module")
def batch() -> Batch:
    return play_in_processes(range(SEEDS), PROCESSES)


def test_every_run_keeps_the_promises(batch: Batch) -> None:
    told = [
        f"{violations[0]}; replay: python -m tests.simulation --seed {seed} --trace"
        for seed, violations in sorted(batch.broken)
    ]
    assert not told, "\n".join(told)


def test_all_that_can_break_did_break(batch: Batch) -> None:
    assert batch.seeds == SEEDS
    assert not batch.missing


@pytest.mark.parametrize("seed", [3, 11, 1864])
def test_a_seed_gives_the_same_run_every_time(seed: int) -> None:
    (first, judge), (second, _) = play(seed), play(seed)
    assert first.history == second.history
    assert first.steps == second.steps
    assert not judge.violations
