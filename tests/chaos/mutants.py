"""Bugs put in on purpose."""

from __future__ import annotations


def mutate(name: str) -> None:
    """Put one bug into this process."""
    raise SystemExit(f"no mutant {name!r}")
