"""What stands in the files for Prometheus and Grafana, and on the page about metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RULES = ROOT / "deploy" / "prometheus" / "mqworker.rules.yml"
CASES = ROOT / "tests" / "acceptance" / "debian" / "mqworker.rules.test.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "mqworker.json"
PAGE = ROOT / "docs" / "METRICS.md"


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule: its name, its expression, and the whole of its text."""

    name: str
    query: str
    text: str


def alerts() -> list[Alert]:
    return [_alert(text) for text in RULES.read_text().split("- alert: ")[1:]]


def _alert(text: str) -> Alert:
    """Its expression stands on the line of ``expr:``, or in the deeper block below it."""
    found = re.search(r"^( +)expr: (?:\|\n((?:\1  .*\n)+)|(.*)\n)", text, re.MULTILINE)
    assert found, text
    return Alert(text.split()[0], found[2] or found[3], text)


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return loaded


def dashboard_queries() -> list[str]:
    """The expressions of all panels."""
    return [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]


def queries() -> list[str]:
    """All expressions of both files."""
    variables = [one["query"]["query"] for one in dashboard()["templating"]["list"] if one["type"] == "query"]
    return [*(alert.query for alert in alerts()), *dashboard_queries(), *variables]


def selectors(query: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Each metric of a query with its matchers: label and value."""
    for name, matchers in re.findall(r"\b((?:mqworker|process)_\w+)(?:\{(.*?)\})?", query):
        yield name, re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', matchers)
