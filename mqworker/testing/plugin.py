"""The pytest plugin: a fixture ``mq``, for async tests of any runner of asyncio and for plain ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mqworker.testing.sandbox import Sandbox


@pytest.fixture
def mq() -> Sandbox:
    """All of mqworker in memory and in virtual time, new for each test; see docs/TESTING.md."""
    # Here and not above: pytest loads the plugin in every run, with tests of ours or without.
    from mqworker.testing.sandbox import Sandbox

    return Sandbox()
