"""When a failed message may be tried again. Pure: a number of failures and a random number in, seconds out."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Full-jitter exponential backoff, capped.

    The wait is drawn evenly from zero to ``base * 2**(failures - 1)`` seconds, at most ``cap``: it spreads a crowd
    that failed together better than a fixed or half-fixed wait does (Brooker, "Exponential Backoff And Jitter",
    AWS Architecture Blog, 2015).
    """

    base_seconds: float = 2.0
    cap_seconds: float = 300.0

    def ceiling_seconds(self, failures: int) -> float:
        """The largest wait after ``failures`` failed attempts (1 or more)."""
        # In log space: 2.0**1100 raises OverflowError, and a settle that raises leaves its message stuck.
        doublings_to_cap = math.log2(self.cap_seconds) - math.log2(self.base_seconds)
        doublings = max(failures, 1) - 1
        if doublings >= doublings_to_cap:
            return self.cap_seconds
        return min(math.ldexp(self.base_seconds, doublings), self.cap_seconds)

    def backoff_seconds(self, failures: int, draw: float) -> float:
        """The wait after ``failures`` failed attempts, for ``draw`` from [0, 1)."""
        return draw * self.ceiling_seconds(failures)
