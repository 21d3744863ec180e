"""scripts/audit, with a pip-audit that answers as told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "audit"
CLEAN = {"name": "redis", "version": "5.3.1", "vulns": []}
SKIPPED = {"name": "arq", "skip_reason": "Dependency not found"}
BAD = {"name": "jinja2", "version": "2.10", "vulns": [{"id": "PYSEC-2019-217", "fix_versions": ["2.10.1"]}]}
UNREACHABLE = "requests.exceptions.ConnectionError: Max retries exceeded"


def audit(
    folder: Path, *, packages: Sequence[Mapping[str, object]] | None = None, code: int = 0, stderr: str = ""
) -> tuple[int, str]:
    report = json.dumps({"dependencies": packages, "fixes": []}) if packages is not None else ""
    fake = folder / "pip-audit"
    fake.write_text(
        f"#!{sys.executable}\nimport sys\nassert sys.argv[2].endswith('constraints.txt')\n"
        f"print({report!r}, end='')\nprint({stderr!r}, file=sys.stderr)\nsys.exit({code})\n"
    )
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    run = subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True, check=False)
    return run.returncode, run.stdout.strip()


def test_nothing_known(tmp_path: Path) -> None:
    assert audit(tmp_path, packages=[CLEAN]) == (0, "")


def test_a_finding_fails(tmp_path: Path) -> None:
    code, told = audit(tmp_path, packages=[CLEAN, BAD, SKIPPED], code=1)
    assert code == 1
    assert "vulnerable: jinja2 2.10: PYSEC-2019-217" in told


def test_an_index_without_vulnerability_data_is_no_clean_bill(tmp_path: Path) -> None:
    assert audit(tmp_path, packages=[SKIPPED, CLEAN]) == (
        0,
        "not audited: 1 of 2 packages, the service knows nothing of arq",
    )


def test_without_a_network_it_passes_and_says_so(tmp_path: Path) -> None:
    code, told = audit(tmp_path, code=1, stderr=f"Traceback (most recent call last):\n{UNREACHABLE}")
    assert (code, told) == (0, f"not audited: {UNREACHABLE}")


@pytest.mark.parametrize("stderr", ["", "ERROR: requirements file constraints.txt is invalid"])
def test_any_other_failure_fails(tmp_path: Path, stderr: str) -> None:
    code, told = audit(tmp_path, code=1, stderr=stderr)
    assert code == 1
    assert told.startswith("the audit failed: ")
