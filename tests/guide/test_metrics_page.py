"""The page about metrics against the code."""

from __future__ import annotations

import re

from mqworker.observe.checks import CHECKS
from mqworker.observe.metrics import ACCOUNTS_SHOWN, FAMILIES
from mqworker.observe.survey import EVERY_SECONDS as SURVEY_EVERY_SECONDS
from mqworker.observe.survey import HOLD_SECONDS, PAGE, SHARE
from mqworker.tally import ACCOUNTS_NAMED
from tests.deployed import PAGE as METRICS_PAGE

TEXT = METRICS_PAGE.read_text()


def test_the_table_is_that_of_the_code() -> None:
    table = TEXT.split("<!-- metrics -->\n")[1].split("\n\n")[0]
    lines = [
        f"| `{one.name}` | {one.kind} | {', '.join(f'`{label}`' for label in one.labels)} | {one.help} |"
        for one in FAMILIES
    ]
    assert table.splitlines()[2:] == lines


def test_its_figures_are_those_of_the_code() -> None:
    plain = " ".join(TEXT.split())
    assert f"the first {ACCOUNTS_NAMED} accounts" in plain
    assert f"at most {2 * ACCOUNTS_SHOWN} accounts" in plain
    assert f"within {HOLD_SECONDS:.0f} s of its end" in plain
    assert f"in pages of {PAGE:,} messages" in plain
    assert f"anew every {SURVEY_EVERY_SECONDS:.0f} s" in plain
    assert SHARE == 1 / 20


def test_it_names_the_checks() -> None:
    described = TEXT.split("The checks are")[1].split("\n\n")[0]
    assert re.findall(r"`(\w+)`", described) == list(CHECKS)
