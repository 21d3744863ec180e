"""docs/TESTING.md: its tests are run by pytest, and its table is that of the code."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mqworker import testing
from tests.guide.pages import ROOT, TESTING, blocks, named, shell_environment, table

PYTEST_ASYNCIO = "asyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\naddopts = -p no:anyio\n"
ANYIO = "anyio_mode = auto\naddopts = -p no:asyncio\n"
ON_ASYNCIO = "import pytest\n\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n"


@pytest.fixture
def serverless(tmp_path: Path) -> dict[str, str]:
    """An environment that names no servers, as a project of theirs may have it."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MQWORKER_")}
    return shell_environment(inherited, tmp_path)


@pytest.mark.parametrize("runner", [PYTEST_ASYNCIO, ANYIO], ids=["pytest-asyncio", "anyio"])
def test_its_tests_pass(tmp_path: Path, serverless: dict[str, str], runner: str) -> None:
    examples = named(TESTING)
    for name, block in examples.items():
        (tmp_path / name).write_text(block.text)
    (tmp_path / "conftest.py").write_text(ON_ASYNCIO)
    (tmp_path / "pytest.ini").write_text(f"[pytest]\nfilterwarnings = error\n{runner}")
    # The plugin is named, since a checkout need not be installed.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "mqworker.testing.plugin", "-p", "no:cacheprovider"]
    run = subprocess.run(command, cwd=tmp_path, env=serverless, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{sum(block.text.count('def test_') for block in examples.values())} passed" in run.stdout


def test_each_of_its_blocks_is_run() -> None:
    assert {block.name for block in blocks(TESTING)} == set(named(TESTING))


def test_the_table_names_every_answer_and_its_arguments() -> None:
    shown = dict(re.findall(r"`(\w+)\((.*?)\)`", " ".join(answer for answer, _ in table(TESTING, "answers"))))
    assert sorted(shown) == [name for name in testing.__all__ if inspect.isfunction(getattr(testing, name))]
    for name, arguments in shown.items():
        parameters = inspect.signature(getattr(testing, name)).parameters.values()
        assert arguments == ", ".join(_shown(parameter) for parameter in parameters)


def _shown(parameter: inspect.Parameter) -> str:
    default = parameter.default
    if default is parameter.empty:
        return parameter.name
    return f"{parameter.name}={default:g}" if isinstance(default, float) else f"{parameter.name}={default}"


def test_the_plugin_costs_a_run_without_it_nothing(serverless: dict[str, str]) -> None:
    code = "import sys, mqworker.testing.plugin; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=ROOT, env=serverless, capture_output=True, text=True, check=True, timeout=60)
    assert not {"sqlalchemy", "redis", "httpx", "mqworker.queue"} & set(run.stdout.split())
