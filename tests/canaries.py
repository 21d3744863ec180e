"""Secrets that were planted, looked for in all that a run left behind."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from pathlib import Path

EDGE = 64
"""Bytes of a place that are shown around a find."""


def found(canaries: Iterable[str], *places: str | bytes | Path) -> list[str]:
    """Each canary in each place, as a line that says where; a path is a file, or a folder with all below it.

    A canary is found as it is, in hexadecimal, and in base64 (a header of Basic authentication), whatever stands
    around it. It should be one word of ASCII letters and digits, so that no escaping changes it.
    """
    forms = {canary: _forms(canary) for canary in canaries}
    assert forms, "there is nothing to look for"
    assert places, "there is nowhere to look"
    return [
        f"{canary} in {name}: {_around(data, data.index(form), len(form))}"
        for name, data in _contents(places)
        for canary, of_canary in forms.items()
        for form in of_canary
        if form in data
    ]


def _forms(canary: str) -> list[bytes]:
    assert canary.isascii(), canary
    assert canary.isalnum(), canary
    data = canary.encode()
    return [data, data.hex().encode(), *(_within_base64(data, before) for before in range(3))]


def _within_base64(data: bytes, before: int) -> bytes:
    """What of ``data`` stands in base64 when ``before`` bytes stand before it, but for what its neighbours change."""
    encoded = base64.b64encode(bytes(before) + data)
    last = (before + len(data)) // 3 * 4
    return encoded[0 if before == 0 else 4 : last]


def _contents(places: Iterable[str | bytes | Path]) -> Iterator[tuple[str, bytes]]:
    for number, place in enumerate(places, start=1):
        if isinstance(place, Path):
            assert place.exists(), f"{place} is not there to be looked at"
            for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
                if file.is_file():
                    yield str(file), file.read_bytes()
        else:
            yield f"text {number}", place.encode(errors="replace") if isinstance(place, str) else place


def _around(data: bytes, start: int, length: int) -> str:
    return data[max(start - EDGE, 0) : start + length + EDGE].decode(errors="replace").replace("\n", "\\n")
