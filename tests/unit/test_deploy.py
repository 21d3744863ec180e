"""The files for Prometheus and Grafana against the code: each metric and label in them is one that a worker has."""

from __future__ import annotations

import re

import pytest

from mqworker.observe.checks import CHECKS
from mqworker.observe.metrics import FAMILIES
from mqworker.tally import OUTCOMES, REASONS, SWEEPS
from tests.deployed import CASES, RULES, Alert, alerts, dashboard, dashboard_queries, queries, selectors

PROMETHEUS_OWN = {"job", "instance", "le"}
PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes"}
VALUES = {"check": CHECKS, "outcome": OUTCOMES, "reason": REASONS, "state": ("due", "later"), "sweep": SWEEPS}
"""All that these labels can say."""


def known_names() -> dict[str, set[str]]:
    """The names under which Prometheus stores our metrics, each with its labels."""
    known: dict[str, set[str]] = {name: set(PROMETHEUS_OWN) for name in PROCESS}
    for family in FAMILIES:
        for suffix in ("_bucket", "_count", "_sum") if family.kind == "histogram" else ("",):
            known[family.name + suffix] = {*family.labels, *PROMETHEUS_OWN}
    return known


def test_every_alert_and_panel_is_read() -> None:
    assert len(alerts()) == RULES.read_text().count(" alert: ")
    assert len(dashboard_queries()) > 20


@pytest.mark.parametrize("query", queries())
def test_a_query_names_what_there_is(query: str) -> None:
    known, found = known_names(), list(selectors(query))
    assert found, "it asks for something of ours"
    grouped = {label for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", query) for label in re.findall(r"\w+", group)}
    for name, matchers in found:
        assert name in known
        assert {label for label, _ in matchers} <= known[name]
        assert grouped <= known[name]
        for label, value in matchers:
            if label in VALUES and "$" not in value:
                assert set(value.split("|")) <= set(VALUES[label])


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {name for query in dashboard_queries() for name, _ in selectors(query)}
    missing = [f.name for f in FAMILIES if not {f.name, f"{f.name}_bucket", f"{f.name}_sum"} & shown]
    assert missing == []


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_an_alert_is_tried_and_says_only_what_it_knows(alert: Alert) -> None:
    assert f'{{alertname="{alert.name}"}}' in CASES.read_text(), "promtool sees it fire"
    grouped = re.search(r"by \(([^)]*)\)", alert.query)
    known = re.findall(r"\w+", grouped[1]) if grouped else ["instance", "job", "check"]
    assert set(re.findall(r"\$labels\.(\w+)", alert.text)) <= set(known)
    assert re.search(r"severity: (critical|warning)\n", alert.text)
    assert "summary: " in alert.text
    assert "description: " in alert.text


def test_panels_say_what_they_show_and_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["description"]
