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

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "TESTING.md").read_text()


PYTEST_ASYNCIO = "asyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\naddopts = -p no:anyio\n"
ANYIO = "anyio_mode = auto\naddopts = -p no:asyncio\n"
ON_ASYNCIO = "import pytest\n\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n"


@pytest.mark.parametrize("runner", [PYTEST_ASYNCIO, ANYIO], ids=["pytest-asyncio", "anyio"])
def test_its_tests_pass(tmp_path: Path, runner: str) -> None:
    examples = re.findall(r"<!-- test: (\w+\.py) -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    for name, code in examples:
        (tmp_path / name).write_text(code)
    (tmp_path / "conftest.py").write_text(ON_ASYNCIO)
    (tmp_path / "pytest.ini").write_text(f"[pytest]\nfilterwarnings = error\n{runner}")
    # As in a project of theirs: no server in the environment. The plugin is named, as a checkout need not be installed.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MQWORKER_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "mqworker.testing.plugin", "-p", "no:cacheprovider"]
    run = subprocess.run(
        command, cwd=tmp_path, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{PAGE.count('def test_')} passed" in run.stdout
    assert len(examples) == PAGE.count("```python")


def test_the_table_names_every_answer_and_its_arguments() -> None:
    shown = re.findall(r"^\| `(\w+)\((.*?)\)` \|", PAGE, re.MULTILINE)
    names = [name for name in testing.__all__ if inspect.isfunction(getattr(testing, name))]
    assert sorted(name for name, _ in shown) == names
    for name, arguments in shown:
        parameters = inspect.signature(getattr(testing, name)).parameters.values()
        told = [p.name if p.default is p.empty else f"{p.name}={_number(p.default)}" for p in parameters]
        assert arguments == ", ".join(told)


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_the_plugin_costs_a_run_without_it_nothing() -> None:
    code = "import sys, mqworker.testing.plugin; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert not {"sqlalchemy", "redis", "httpx", "mqworker.queue"} & set(run.stdout.split())
