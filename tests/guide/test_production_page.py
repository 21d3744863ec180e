"""The page about production against the code, the files that it speaks of and the measured figures."""

from __future__ import annotations

import inspect
import re
import shlex

import pytest

import mqworker
from mqworker.cli.app import command
from mqworker.digest import EVERY_SECONDS
from mqworker.logs import RATION_LINES, RATION_SECONDS
from mqworker.settings import Settings
from mqworker.store import Store
from mqworker.tally import OUTCOMES
from tests.containers import ROOT, compose, image_environment, the

PAGE = ROOT / "docs" / "PRODUCTION.md"
TEXT = PAGE.read_text()
PLAIN = " ".join(TEXT.split())
PERFORMANCE = (ROOT / "docs" / "PERFORMANCE.md").read_text()

FIGURES = {
    "one worker sends some ([0-9,]+) messages a second": "4,000 paced chats",
    "a worker took some ([0-9,]+) MB": "a worker, 1,000 chats in flight",
    "some ([0-9,]+) bytes for a chat with one message waiting": "a chat with one message waiting",
    "some ([0-9,]+) for one in flight": "a chat with one message in flight",
    "some ([0-9,]+) for each further message": "a message, 100 a chat",
    "A million messages took some ([0-9,]+) MB": "rebuild, Redis",
    "a million messages took some ([0-9,]+) s": "rebuild",
    "bare SQL did some ([0-9,]+) lives": "SQL floor, beside 20,000 in 1,000 chats",
}


def number(text: str) -> float:
    return float(text.replace(",", ""))


@pytest.mark.parametrize(("said", "measured"), FIGURES.items(), ids=FIGURES.values())
def test_a_figure_is_of_the_measured_order(said: str, measured: str) -> None:
    """Round ones, to plan by: they need not follow each run."""
    figure = re.search(said, PLAIN)
    row = re.search(rf"^\| [\w-]+ \| {re.escape(measured)} \| ([0-9,.]+) ", PERFORMANCE, re.MULTILINE)
    assert figure, said
    assert row, measured
    assert 2 / 3 < number(figure[1]) / number(row[1]) < 3 / 2


def test_every_setting_that_it_names_exists() -> None:
    named = set(re.findall(r"MQWORKER_([A-Z_]+)", TEXT))
    assert len(named) > 10
    assert named <= {name.upper() for name in Settings.model_fields}


def test_the_defaults_that_it_names_are_those() -> None:
    named = re.findall(r"`MQWORKER_([A-Z_]+)`\** \((\d+)\)", TEXT)
    assert {name for name, _ in named} == {"MAX_CHATS", "RETENTION_DAYS", "DRAIN_SECONDS"}
    for name, value in named:
        assert Settings.model_fields[name.lower()].default == float(value)


@pytest.mark.parametrize("typed", sorted(set(re.findall(r"`mqworker ([^`]+)`", TEXT))))
def test_a_command_that_it_names_is_taken(typed: str) -> None:
    name, *arguments = shlex.split(typed)
    assert command().commands[name].make_context(name, arguments).command.name == name


def test_its_numbers_are_those_of_the_code() -> None:
    pool_size = inspect.signature(Store.open).parameters["pool_size"].default
    assert f"A worker keeps at most {pool_size} connections" in PLAIN
    assert f"is {pool_size} × (workers + producer processes)" in PLAIN
    assert f"every {EVERY_SECONDS:.0f} s `settled`" in PLAIN
    assert f"first {RATION_LINES} of a kind in {RATION_SECONDS:.0f} s" in PLAIN
    assert all(f"`{outcome}`" in TEXT for outcome in OUTCOMES)
    delay = [Settings.model_fields[f"delay_{end}_seconds"].default for end in ("min", "max")]
    assert f"every {sum(delay) / 2:g} s plus the time" in PLAIN


def test_what_it_says_of_containers_is_in_their_files() -> None:
    assert f"FROM mqworker:{mqworker.__version__}\n" in TEXT
    assert f"runs as user {the('USER').rest}," in PLAIN
    assert f"probes on port {image_environment()['MQWORKER_PROBE_PORT']}" in PLAIN
    valkey = compose()["configs"]["valkey"]["content"]
    for line in ("appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction", "stream-node-max-bytes 256"):
        assert f"`{line}`" in TEXT
        assert f"{line}\n" in valkey


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)", TEXT))))
def test_where_it_points_there_is_something(link: str) -> None:
    assert (PAGE.parent / link).exists()
