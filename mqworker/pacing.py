"""The gap between two sends of one chat. Pure: a random number in, seconds out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PacingPolicy:
    """A gap drawn evenly from ``min_seconds`` to ``max_seconds`` for every pair of sends, like a person's."""

    min_seconds: float = 0.5
    max_seconds: float = 2.0

    def gap_seconds(self, draw: float) -> float:
        """The gap for ``draw`` from [0, 1)."""
        return self.min_seconds + draw * (self.max_seconds - self.min_seconds)
