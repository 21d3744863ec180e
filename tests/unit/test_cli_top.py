"""The screen of `top`: it fits, and says what it leaves out."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from mqworker.cli.top import FRAME_LINES, _screen
from mqworker.overview import Line, View

WIDTH, HEIGHT = 80, 24


def drawn(view: View, *, instance: str | None = None, trouble: str = "") -> list[str]:
    console = Console(file=StringIO(), width=WIDTH, height=HEIGHT, color_system=None)
    console.print(_screen(view, instance, trouble, rows=HEIGHT - FRAME_LINES))
    assert isinstance(console.file, StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def many(number: int) -> list[Line]:
    return [
        Line(f"account {n} with a name that is far too long for a terminal", 10**6, 0, 1e6, 1000, 9)
        for n in range(number)
    ]


def test_what_does_not_fit_is_counted() -> None:
    screen = drawn(View(many(1000), 4.2))
    assert len(screen) <= HEIGHT
    assert max(map(len, screen)) <= WIDTH
    assert "and 982 more" in screen
    assert "1000000000 waiting (counted 4s ago)" in screen[0]
    assert screen[3].startswith("account 0 with a name")
    assert screen[3].split()[-5:] == ["1000000", "1000000", "11d", "1000", "9"]


def test_nothing_is_left_out_where_all_fits() -> None:
    screen = drawn(View(many(18), 0.0))
    assert len(screen) <= HEIGHT
    assert not [line for line in screen if " more" in line]


def test_a_first_count_that_goes_on() -> None:
    screen = drawn(View([Line("shop", 3, 2)], None))
    assert "still counting" in screen[0]
    assert screen[3].split() == ["shop", "5+", "3+", "0s", "0", "0"]


def test_one_accounts_chats() -> None:
    screen = drawn(View([Line("a\nb\x1b[2J", 1)], 0.0), instance="shop")
    assert screen[0].endswith("shop")
    assert screen[2].startswith("chat")
    assert screen[3].startswith("a\\u000ab\\u001b[2J")


def test_trouble_stands_first_and_the_counts_stay() -> None:
    screen = drawn(View([Line("shop", 5)], 9.0), trouble="PostgreSQL cannot be reached (57P01)")
    assert screen[0] == "PostgreSQL cannot be reached (57P01)"
    assert screen[3].startswith("shop")
