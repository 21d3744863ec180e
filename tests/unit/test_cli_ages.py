"""Lengths of time as people write and read them."""

from __future__ import annotations

from datetime import timedelta

import pytest
import typer

from mqworker.cli.ages import parse_age, short_age


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("30s", timedelta(seconds=30)),
        ("15m", timedelta(minutes=15)),
        ("1.5h", timedelta(minutes=90)),
        ("7d", timedelta(days=7)),
    ],
)
def test_written(text: str, age: timedelta) -> None:
    assert parse_age(text, "--older-than") == age


@pytest.mark.parametrize("text", ["", "7", "h", "7 d", "-7d", "7w", "7D", "1e3s", "٣s", "1h30m", "inf"])
def test_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="30s, 15m, 12h, 7d"):
        parse_age(text, "--older-than")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-3, "0s"),
        (0.9, "0s"),
        (119, "119s"),
        (120, "2m"),
        (7199, "119m"),
        (7200, "2h"),
        (172_799, "47h"),
        (172_800, "2d"),
        (9999 * 86_400, "9999d"),
    ],
)
def test_read(seconds: float, shown: str) -> None:
    assert short_age(seconds) == shown
