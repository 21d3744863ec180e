"""What a benchmark hands back: figures, and what each of them is to reach."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

RATIO = "ratio"
PER_SECOND = "a second"


@dataclass(frozen=True)
class Target:
    """A bound, and on which side of it a figure must be.

    ``quick`` is the same with room for noise: what ``--quick`` fails on. Only ratios have one, because an absolute time
    says nothing about a machine that nobody knows.
    """

    bound: float
    is_least: bool
    quick: float | None = None

    def is_met(self, value: float) -> bool:
        return value >= self.bound if self.is_least else value <= self.bound

    @property
    def words(self) -> str:
        return f"{'≥' if self.is_least else '≤'} {number(self.bound)}"

    def with_room(self) -> Target | None:
        """The target that a noisy machine must reach, too."""
        return None if self.quick is None else Target(self.quick, self.is_least)


def at_least(bound: float, *, quick: float | None = None) -> Target:
    return Target(bound, is_least=True, quick=quick)


def at_most(bound: float, *, quick: float | None = None) -> Target:
    return Target(bound, is_least=False, quick=quick)


@dataclass(frozen=True)
class Point:
    """Where a figure stands in a plot: on the line ``line`` of the plot ``plot``, at ``x``."""

    plot: str
    line: str
    x: int


@dataclass(frozen=True)
class Figure:
    """One thing that was measured, with a value a run."""

    name: str
    unit: str
    values: tuple[float, ...]
    target: Target | None = None
    points: tuple[Point, ...] = ()

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def is_ratio(self) -> bool:
        return self.unit == RATIO

    @property
    def is_met(self) -> bool | None:
        """Whether the median reaches the target; None where there is none."""
        return None if self.target is None else self.target.is_met(self.median)


def rate(name: str, per_second: float, target: Target | None = None, points: tuple[Point, ...] = ()) -> Figure:
    """Messages a second, of one run."""
    return Figure(name, PER_SECOND, (per_second,), target, points)


def ratio(name: str, value: float, target: Target | None = None) -> Figure:
    """How two measurements of the same run compare."""
    return Figure(name, RATIO, (value,), target)


def figure(name: str, value: float, unit: str, target: Target | None = None) -> Figure:
    """Anything else, of one run."""
    return Figure(name, unit, (value,), target)


def merged(runs: Iterable[Sequence[Figure]]) -> list[Figure]:
    """The figures of several runs of one benchmark, each with the values of all."""
    together: dict[str, Figure] = {}
    for one in (each for run in runs for each in run):
        known = together.get(one.name)
        together[one.name] = replace(one, values=(*known.values, *one.values)) if known else one
    return list(together.values())


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that ``percent`` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]


def number(value: float) -> str:
    """Three digits are as many as a noisy machine is good for."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
