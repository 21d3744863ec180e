"""Random histories of the public API, step by step against a small model, on the real servers.

``STATE_MACHINE_EXAMPLES`` and ``STATE_MACHINE_STEPS`` make the run larger: 600 examples of 20 steps take ten minutes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import run_state_machine_as_test

from mqworker.settings import Settings
from tests.integration.machine import World
from tests.integration.queue_machine import QueueMachine

EXAMPLES = int(os.environ.get("STATE_MACHINE_EXAMPLES", "50"))
STEPS = int(os.environ.get("STATE_MACHINE_STEPS", "12"))


@pytest.fixture
def world(settings: Settings) -> Iterator[World]:
    with World(settings) as made:
        yield made


def run(world: World, **changes: Any) -> None:
    # What an explanation costs, a line by line trace of every driver, buys nothing here.
    options: dict[str, Any] = {"phases": [Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink]}
    options |= {"max_examples": EXAMPLES, "stateful_step_count": STEPS, "deadline": None, "report_multiple_bugs": False}
    options |= {"suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large], **changes}
    machine: type[QueueMachine] = type("QueueMachine", (QueueMachine,), {"world": world})
    run_state_machine_as_test(machine, settings=hypothesis_settings(**options))


def test_random_histories_agree_with_the_model(world: World) -> None:
    run(world)


@pytest.mark.parametrize(
    ("statement", "sound", "broken"),
    [
        ("statements.SETTLE", "i.id = told.id AND i.claim_id = told.claim_id", "i.id = told.id"),
        ("statements.SETTLE", "WHERE gap IS NOT NULL", "WHERE false"),
        ("statements.CLAIM", "ORDER BY i.priority DESC, i.seq", "ORDER BY i.seq"),
        ("statements.RECLAIM", "2147483646) + 1", "2147483646)"),
        ("admin.CANCEL", "locked.was IN ('PENDING', 'PROCESSING')", "locked.was = 'PENDING'"),
        ("pages.FIRST_PAGE", "WHERE status = 'PENDING'", "WHERE status = 'PENDING' AND priority <= 0"),
    ],
)
def test_the_model_finds_bugs(
    world: World, monkeypatch: pytest.MonkeyPatch, statement: str, sound: str, broken: str
) -> None:
    """The same histories over a statement with one guard taken out: they must stumble over it."""
    name = f"mqworker.store.{statement}"
    module, _, attribute = name.rpartition(".")
    whole = getattr(sys.modules[module], attribute)
    assert sound in whole
    monkeypatch.setattr(name, whole.replace(sound, broken))
    with pytest.raises(AssertionError):
        run(world, max_examples=300, phases=[Phase.generate], database=None, derandomize=True)
