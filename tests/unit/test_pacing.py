"""The gap between two sends of a chat."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.pacing import PacingPolicy

BOUNDS = st.floats(0, 1e6)
DRAWS = st.floats(0, 1, exclude_max=True)


def test_default_is_half_a_second_to_two() -> None:
    assert PacingPolicy().gap_seconds(0.0) == 0.5
    assert PacingPolicy().gap_seconds(0.5) == 1.25


@given(BOUNDS, BOUNDS, DRAWS)
def test_a_gap_lies_within_its_bounds(one: float, other: float, draw: float) -> None:
    least, most = sorted((one, other))
    gap = PacingPolicy(least, most).gap_seconds(draw)
    assert least <= gap <= most or gap == pytest.approx(most)


def test_gaps_are_drawn_evenly() -> None:
    dice = random.Random(1)
    gaps = [PacingPolicy().gap_seconds(dice.random()) for _ in range(5000)]
    assert statistics.fmean(gaps) == pytest.approx(1.25, abs=0.03)
    assert sum(gap < 0.875 for gap in gaps) / len(gaps) == pytest.approx(0.25, abs=0.03)


def test_no_pacing() -> None:
    assert PacingPolicy(0, 0).gap_seconds(0.9) == 0
