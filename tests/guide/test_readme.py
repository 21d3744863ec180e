"""The README in both languages: its examples and tables, run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mqworker import MessageQueue, Settings
from mqworker.devserver.server import free_port
from mqworker.settings import load_settings
from mqworker.testing.waiting import eventually, wait_until
from tests.guide.conftest import Spawn
from tests.guide.pages import (
    CHANGELOG,
    CONTRIBUTING,
    README,
    README_PT_BR,
    ROOT,
    Block,
    blocks,
    headings,
    named,
    shell_environment,
    table,
)

BOTH = pytest.mark.parametrize("page", [README, README_PT_BR], ids=["English", "Português"])
PAGES = [README, README_PT_BR, CONTRIBUTING, CHANGELOG, *sorted((ROOT / "docs").glob("**/*.md"))]
# What a checkout has and a test's folder has not.
SET_UP = ("scripts/bootstrap", ". .venv/bin/activate")


def typed(page: Path, name: str) -> list[str]:
    """The lines of a terminal, after what sets the folder up."""
    return [line for line in named(page)[name].lines if line.strip() not in SET_UP]


async def test_a_newcomers_message_reaches_their_webhook(tmp_path: Path, state_folder: Path, spawn: Spawn) -> None:
    """An empty folder, an empty home, nothing in the environment: what the README says is all that there is."""
    environment = shell_environment({"PATH": os.defpath, "LANG": "C.UTF-8"}, tmp_path)
    port = str(free_port())
    (tmp_path / "hook.py").write_text(named(README)["hook.py"].text.replace("8080", port))
    (servers,), (hook,) = typed(README, "terminal 1"), typed(README, "terminal 2")
    spawn(servers.replace("mqworker dev", f"mqworker dev --state-folder {state_folder}"), environment)
    wait_until(lambda: "REDIS_URL" in _text(tmp_path / ".env"), "the servers are up", timeout_seconds=60)
    spawn(f"{hook} > hook.txt", environment)
    *before, worker = (line.replace("8080", port) for line in typed(README, "terminal 3"))
    for line in before:
        subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, check=True, timeout=60)
    spawn(worker, environment)
    wait_until(lambda: '"attempt":1' in _text(tmp_path / "hook.txt"), "the webhook has it", timeout_seconds=60)
    (tmp_path / "shop.py").write_text(named(README)["shop.py"].text)
    subprocess.run(["python", "shop.py"], cwd=tmp_path, env=environment, check=True, timeout=60)
    settings = load_settings(_env_file=tmp_path / ".env")
    async with MessageQueue(settings) as queue:

        async def all_are_sent() -> bool:
            return (await queue.get_stats("shop-1", 7)).completed == 3

        await eventually(all_are_sent, "three messages are COMPLETED", timeout_seconds=30)
    assert len(_text(tmp_path / "hook.txt").splitlines()) == 3


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@BOTH
def test_the_settings_table_is_the_settings(page: Path) -> None:
    shown: dict[str, str] = {}
    for names, defaults, *_ in table(page, "settings"):
        values = [value.strip(" `") for value in defaults.split(",")]
        shown |= zip(re.findall(r"`([A-Z_]+)`", names), values, strict=True)
    actual = {name.upper(): _plain(field.default) for name, field in Settings.model_fields.items()}
    assert set(shown) == set(actual)
    for name, default in actual.items():
        assert shown[name] == default or float(shown[name]) == float(default), name


def _plain(default: Any) -> str:
    value = default.get_secret_value() if hasattr(default, "get_secret_value") else default
    return "" if value is None else str(value)


def test_the_languages_say_the_same() -> None:
    assert [line.split()[0] for line in headings(README)] == [line.split()[0] for line in headings(README_PT_BR)]
    # Links, rows, points, settings, marks and every number, whatever separates its thousands.
    for pattern in (
        r"\]\(([^)]+)\)",
        r"^\|(?=.*\|)",
        r"^- ",
        r"`([A-Z_]{3,})`",
        r"<!-- (test: .*|settings) -->",
        r"\d+",
    ):
        english, portuguese = (sorted(re.findall(pattern, _told(page), re.M)) for page in (README, README_PT_BR))
        assert english == portuguese, pattern


def _told(page: Path) -> str:
    """What a page says, its sources and its link to the other language left out."""
    text = re.sub(r"<!-- Sources.*?-->", "", page.read_text(), flags=re.S)
    return re.sub(r"^\*\[.*\]\(README.*\)\*$", "", text, flags=re.M)


def test_the_languages_have_the_same_code() -> None:
    english, portuguese = ([_code(block) for block in blocks(page)] for page in (README, README_PT_BR))
    assert english == portuguese


def _code(block: Block) -> tuple[str, str, list[str]]:
    """A block without what is said in it: comments, texts."""
    return block.name, block.language, [re.sub(r'"[^"]*"', '""', line.rstrip()) for line in block.lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        assert link.startswith("https://") or (page.parent / link).exists(), link
    anchors = {re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in headings(page)}
    assert set(re.findall(r"\]\(#([^)]+)\)", page.read_text())) <= anchors
