"""The alert rules as Prometheus reads them: valid, and firing where they should; the dashboard's queries are valid too.

promtool is in no wheel, so these are not among the tests that ``scripts/test`` runs on a fresh machine. CI installs
Debian's package ``prometheus`` and runs them by name: ``scripts/test tests/acceptance/debian``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tests.deployed import CASES, PAGE, RULES, alerts, dashboard_queries


def promtool(*arguments: object) -> str:
    """What it says; it must be content."""
    tool = shutil.which("promtool")
    assert tool, "promtool is not installed: apt-get install --no-install-recommends prometheus"
    run = subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_the_rules_are_valid() -> None:
    assert f"SUCCESS: {len(alerts())} rules found" in promtool("check", "rules", RULES)


def test_each_alert_fires_where_it_should_and_none_where_all_is_well() -> None:
    assert "SUCCESS" in promtool("test", "rules", CASES)


def test_every_query_of_the_dashboard_is_valid(tmp_path: Path) -> None:
    lines = ["groups:", "  - name: dashboard", "    rules:"]
    for number, query in enumerate(dashboard_queries()):
        plain = query.replace("$__rate_interval", "5m")
        lines += [f"      - record: query:{number}", f"        expr: '{plain}'"]
    rules = tmp_path / "dashboard.yml"
    rules.write_text("\n".join(lines) + "\n")
    assert f"SUCCESS: {len(dashboard_queries())} rules found" in promtool("check", "rules", rules)


def test_the_scrape_configuration_on_the_page_is_valid(tmp_path: Path) -> None:
    block = re.search(r"```yaml\n(scrape_configs:.*?)```", PAGE.read_text(), re.DOTALL)
    assert block
    configuration = tmp_path / "prometheus.yml"
    configuration.write_text(block[1])
    shutil.copy(RULES, tmp_path)
    promtool("check", "config", configuration)
