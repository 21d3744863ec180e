"""Lengths of time as people write and read them."""

from __future__ import annotations

import re
from datetime import timedelta

import typer

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_AGE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhd])", re.ASCII)


def parse_age(text: str, option: str) -> timedelta:
    """``30s``, ``15m``, ``12h``, ``7d``."""
    found = _AGE.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no length of time: 30s, 15m, 12h, 7d", param_hint=option)
    return timedelta(seconds=float(found[1]) * _SECONDS[found[2]])


def short_age(seconds: float) -> str:
    """At most four characters while it is less than 3 years: ``59s``, ``3h``, ``12d``."""
    whole = max(int(seconds), 0)
    if whole < 120:
        return f"{whole}s"
    unit = next(unit for unit, most in (("m", 120 * 60), ("h", 48 * 3600), ("d", float("inf"))) if whole < most)
    return f"{whole // _SECONDS[unit]}{unit}"
