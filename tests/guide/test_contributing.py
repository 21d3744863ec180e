"""What the pages for contributors name exists."""

from __future__ import annotations

import re

import pytest

import mqworker
from mqworker.cli.app import command
from tests.guide.pages import CHANGELOG, CONTRIBUTING, ROOT

NAMED = sorted(
    set(re.findall(r"`((?:\.ci|scripts|tests|mqworker|docs|models|migrations)/[^\s`]*)", CONTRIBUTING.read_text()))
)


@pytest.mark.parametrize("path", NAMED)
def test_its_paths_exist(path: str) -> None:
    made_then = "NAME" in path or "NUMBER" in path
    assert made_then or list(ROOT.glob(path)), path


def test_every_room_is_in_the_table() -> None:
    table = CONTRIBUTING.read_text().split("## Rooms")[1].split("## ")[0]
    described = set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines() if "|" in line)))
    rooms = {path.stem for path in (ROOT / "mqworker").iterdir() if path.suffix in ("", ".py")}
    assert described <= rooms
    small = {"migrations", "migrate", "outage", "tasks", "tally"}
    assert {room for room in rooms - described if not room.startswith("__")} == small


def test_the_changelog_ends_with_this_version_and_its_commands() -> None:
    version = mqworker.__version__
    text = CHANGELOG.read_text()
    assert re.findall(r"^## \[(.+?)\]", text, re.M)[:2] == ["Unreleased", version]
    (told,) = re.findall(r"^- Commands: ((?:.|\n  )+)\.$", text, re.M)
    assert set(re.findall(r"`([\w-]+)`", told)) == set(command().commands)
