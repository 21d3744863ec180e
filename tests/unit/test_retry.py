"""Backoff: full jitter, capped, never an exception: a settle that raises leaves its message stuck."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mqworker.retry import RetryPolicy

ABOVE_ZERO = st.floats(0, 1e308, exclude_min=True, allow_subnormal=True)


def test_ceilings_double_up_to_the_cap() -> None:
    policy = RetryPolicy(base_seconds=2, cap_seconds=300)
    assert [policy.ceiling_seconds(n) for n in range(1, 10)] == [2, 4, 8, 16, 32, 64, 128, 256, 300]


def test_a_cap_that_a_doubling_meets() -> None:
    assert [RetryPolicy(1, 8).ceiling_seconds(n) for n in (3, 4, 5)] == [4, 8, 8]


@pytest.mark.parametrize("failures", [0, -1, -(10**9)])
def test_no_failure_counts_as_one(failures: int) -> None:
    assert RetryPolicy().ceiling_seconds(failures) == 2


def test_the_draw_spreads_from_zero() -> None:
    policy = RetryPolicy(base_seconds=2, cap_seconds=300)
    dice = random.Random(1)
    waits = [policy.backoff_seconds(3, dice.random()) for _ in range(5000)]
    assert policy.backoff_seconds(3, 0.0) == 0
    assert statistics.fmean(waits) == pytest.approx(4, abs=0.15)
    assert max(waits) < 8


@given(ABOVE_ZERO, ABOVE_ZERO, st.integers(-5, 10**30), st.floats(0, 1, exclude_max=True))
@example(2.0, 300.0, 2**1000, 0.99)
@example(5e-324, 1e308, 2097, 0.99)
@example(1e308, 5e-324, 1, 0.99)
def test_never_overflows(base: float, cap: float, failures: int, draw: float) -> None:
    policy = RetryPolicy(base, cap)
    ceiling = policy.ceiling_seconds(failures)
    assert math.isfinite(ceiling)
    assert 0 < ceiling <= cap
    assert 0 <= policy.backoff_seconds(failures, draw) <= ceiling


@given(st.floats(1e-3, 1e3), st.floats(1, 1e6), st.integers(1, 200))
def test_never_shrinks(base: float, factor: float, failures: int) -> None:
    policy = RetryPolicy(base, base * factor)
    assert policy.ceiling_seconds(failures) <= policy.ceiling_seconds(failures + 1)
