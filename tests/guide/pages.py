"""The pages for people as tests read them: marked blocks, tables, headings.

A block that a test runs has its name in a comment above it::

    <!-- test: bot.py -->
    ```python
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
README_PT_BR = ROOT / "README.pt-BR.md"
GUIDE = ROOT / "docs" / "GUIDE.md"
TESTING = ROOT / "docs" / "TESTING.md"
CLI = ROOT / "docs" / "CLI.md"
OPERATIONS = ROOT / "docs" / "OPERATIONS.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
CHANGELOG = ROOT / "CHANGELOG.md"

_BLOCK = re.compile(r"^(?:<!-- test: (?P<name>[^\n]+?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block; ``name`` is empty where it has no mark."""

    name: str
    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        """What there is to run: without comments and empty lines."""
        lines = (re.sub(r"(^|\s+)# .*$", "", line) for line in self.text.splitlines())
        return [line for line in lines if line.strip()]


def blocks(page: Path) -> list[Block]:
    """All blocks of a page."""
    return [Block(found["name"] or "", found["language"], found["text"]) for found in _BLOCK.finditer(page.read_text())]


def named(page: Path) -> dict[str, Block]:
    """The marked blocks of a page by their names, each of which stands for one."""
    marked = [block for block in blocks(page) if block.name]
    by_name = {block.name: block for block in marked}
    assert len(by_name) == len(marked), f"two blocks of {page.name} have the same name"
    return by_name


def headings(page: Path) -> list[str]:
    """The levels and words of a page's headings, what stands in blocks left out."""
    return re.findall(r"^#+ .+$", _BLOCK.sub("", page.read_text()), re.M)


def table(page: Path, mark: str) -> list[list[str]]:
    """The cells of the rows of the table below ``<!-- mark -->``."""
    text = page.read_text().split(f"<!-- {mark} -->\n")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return rows[2:]


def shell_environment(environment: dict[str, str], home: Path) -> dict[str, str]:
    """For commands as people type them: this Python's programs first, the tree that is tested, a home of their own."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    return environment | {"PATH": programs, "PYTHONPATH": str(ROOT), "HOME": str(home)}
