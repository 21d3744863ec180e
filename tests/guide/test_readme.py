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
from tests.guide.pages import README, README_PT_BR, ROOT, blocks, headings, named, shell_environment, table

BOTH = pytest.mark.parametrize("page", [README, README_PT_BR], ids=["English", "Português"])
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
    english, portuguese = README.read_text(), README_PT_BR.read_text()
    assert [line.split()[0] for line in headings(README)] == [line.split()[0] for line in headings(README_PT_BR)]
    for pattern in (r"\]\(([^)]+)\)", r"^\|(?=.*\|)", r"`([A-Z_]{3,})`", r"^- ", r"<!-- (test: .*|settings) -->"):
        found = [sorted(re.findall(pattern, text, re.M)) for text in (english, portuguese)]
        assert _without_each_other(found[0]) == _without_each_other(found[1]), pattern


def _without_each_other(words: list[str]) -> list[str]:
    return [word for word in words if word not in (README.name, README_PT_BR.name)]


def test_the_languages_have_the_same_code() -> None:
    english, portuguese = (
        [
            (block.name, block.language, [re.sub(r'"[^"]*"', '""', line.rstrip()) for line in block.lines])
            for block in page
        ]
        for page in (blocks(README), blocks(README_PT_BR))
    )
    assert english == portuguese


@BOTH
def test_its_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert link.startswith("https://") or (ROOT / link).exists(), link
