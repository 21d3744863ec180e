"""The names of the metrics, and what an account's label shows of it."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from mqworker.observe.metrics import ACCOUNTS_SHOWN, FAMILIES, SETTLED, _outcomes, _shown, account_label
from mqworker.observe.survey import Backlog
from mqworker.store import AccountBacklog
from mqworker.tally import Tally


def test_names_follow_the_conventions() -> None:
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)
    for family in FAMILIES:
        assert re.fullmatch(r"mqworker_[a-z_]+", family.name)
        assert family.help.endswith(".")
        assert not {"instance", "job", "le", "quantile"} & set(family.labels), "Prometheus' own"
        assert not {"chat", "chat_id", "client", "client_id", "phone"} & set(family.labels)


@pytest.mark.parametrize(
    ("instance", "label"),
    [
        ("shop-1", "shop-1"),
        ("shop 2024-01-15", "shop 2024-01-15"),
        ("123456789", "123456789"),
        ("123e4567-e89b-12d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174000"),
        ("5511999990001", "*0001"),
        ("+55 (11) 99999-0001", "*0001"),
        ("5511999990001@c.us", "*0001@c.us"),
        ("shop-5511999990001", "shop-*0001"),
        ("bot_5511999990001_5511999990002", "bot_*0001_*0002"),
        ("٥٥١١٩٩٩٩٩٠٠٠١", "*٠٠٠١"),
    ],
)
def test_of_a_telephone_number_in_an_accounts_name_four_digits_are_left(instance: str, label: str) -> None:
    assert account_label(instance) == label


def test_accounts_with_the_same_label_are_added_up() -> None:
    tally = Tally()
    tally.outcomes = {"5511999990001": Counter(sent=2), "5521999990001": Counter(sent=3), "": Counter(sent=1)}
    assert _outcomes(tally) == {("*0001", "sent"): 5, ("", "sent"): 1}
    assert [(sample.labels, sample.value) for sample in SETTLED.of(_outcomes(tally)).samples] == [
        ({"account": "*0001", "outcome": "sent"}, 5),
        ({"account": "", "outcome": "sent"}, 1),
    ]


def test_of_many_accounts_the_deepest_and_the_oldest_are_shown() -> None:
    backlog = Backlog(0.0)
    backlog.add([AccountBacklog(f"deep-{n}", n, 0, 1.0) for n in range(1000, 10_000)])
    backlog.add([AccountBacklog(f"old-{n}", 1, 0, float(n)) for n in range(1000, 10_000)])
    shown = {one.instance for one in _shown(backlog)}
    names = range(10_000 - ACCOUNTS_SHOWN, 10_000)
    assert shown == {*(f"deep-{n}" for n in names), *(f"old-{n}" for n in names)}
