"""Two plots as SVG, by our own few lines: rate against chats, rate against what waits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tests.bench.figures import Figure, number

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 80, 20, 50, 60
COLOURS = ("#0969da", "#cf222e", "#1a7f37", "#8250df")
PLOTS = {
    "chats": ("Rate by number of chats", "chats"),
    "backlog": ("Rate by number of waiting messages", "messages waiting"),
}

Lines = dict[str, list[tuple[int, float]]]


def write(figures: Iterable[Figure], folder: Path) -> list[Path]:
    """An SVG for each plot that has points."""
    folder.mkdir(parents=True, exist_ok=True)
    known = list(figures)
    written = []
    for plot, (title, axis) in PLOTS.items():
        if lines := _lines(known, plot):
            written.append(folder / f"rate-by-{plot}.svg")
            written[-1].write_text(svg(title, axis, lines))
    return written


def _lines(figures: Sequence[Figure], plot: str) -> Lines:
    lines: Lines = {}
    for figure in figures:
        for point in figure.points:
            if point.plot == plot:
                lines.setdefault(point.line, []).append((point.x, figure.median))
    return {line: sorted(points) for line, points in lines.items()}


def svg(title: str, axis: str, lines: Lines) -> str:
    """A plot whose x grows by powers of ten and whose y begins at nothing."""
    places = sorted({x for points in lines.values() for x, _ in points})
    top = _round_up(max(y for points in lines.values() for _, y in points))
    across, up = _across(places[0], places[-1]), _up(top)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(WIDTH / 2, 24, title, size=16),
        _text(WIDTH / 2, HEIGHT - 14, axis),
        _text(LEFT, TOP - 12, "messages a second"),
    ]
    for step in range(5):
        y = up(top * step / 4)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#d0d7de"/>')
        parts.append(_text(LEFT - 8, y + 4, number(top * step / 4), anchor="end"))
    parts += [_text(across(x), HEIGHT - BOTTOM + 20, f"{x:,}") for x in places]
    for place, (line, points) in enumerate(lines.items()):
        colour = COLOURS[place % len(COLOURS)]
        parts += _line([(across(x), up(y)) for x, y in points], colour)
        parts.append(_text(WIDTH - RIGHT, TOP - 12 + 16 * place, line, anchor="end", colour=colour))
    return "\n".join([*parts, "</svg>", ""])


def _across(first: int, last: int) -> Callable[[float], float]:
    span = math.log10(last / first) or 1.0
    return lambda x: LEFT + 30 + (WIDTH - LEFT - RIGHT - 60) * math.log10(x / first) / span


def _up(top: float) -> Callable[[float], float]:
    return lambda y: HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / top


def _line(points: Sequence[tuple[float, float]], colour: str) -> list[str]:
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in points]
    return [f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>', *dots]


def _text(x: float, y: float, words: str, *, size: int = 13, anchor: str = "middle", colour: str = "#24292f") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}">{words}</text>'


def _round_up(value: float) -> float:
    """The next number whose first digit is all that it has, so that four steps of the axis read well."""
    power = 10.0 ** math.floor(math.log10(value))
    return math.ceil(value / power) * power
