"""Virtualenvs of a test: empty ones, given what a wheel declares to need and nothing else."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


class Virtualenv:
    """An empty virtualenv without pip."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, symlinks=True)
        self.bin = folder / "bin"
        (self.packages,) = folder.glob("lib/python*/site-packages")

    def install(self, wheel: Path) -> None:
        """Install a wheel alone, as pip does it."""
        options = ["--no-deps", "--no-index", "--disable-pip-version-check", "--quiet"]
        command = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install", *options, str(wheel)]
        subprocess.run(command, check=True, timeout=120)

    def link(self, distributions: list[Distribution]) -> None:
        """Make installed distributions importable here, by links to them: as good as a copy, and at once."""
        for one in distributions:
            for name in sorted({file.parts[0] for file in one.files or ()} - {"..", "__pycache__"}):
                place = self.packages / name
                if not place.exists():
                    place.symlink_to(Path(str(one.locate_file(name))))


def needed_by(requirements: list[str]) -> list[Distribution]:
    """All that these requirements bring, theirs included, from what is installed here."""
    found: dict[tuple[str, str], Distribution] = {}
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        wanted = waiting.pop()
        # "" is the distribution itself, the others its extras: each brings requirements of its own.
        for extra in ("", *wanted.extras):
            key = (canonicalize_name(wanted.name), extra)
            if key not in found:
                found[key] = distribution(wanted.name)
                waiting += _requirements(found[key], extra)
    return list({name: one for (name, _), one in found.items()}.values())


def _requirements(one: Distribution, extra: str) -> Iterator[Requirement]:
    for text in one.requires or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement
