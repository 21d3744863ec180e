"""What a worker's log shows of an exception: where it was, and no value."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from mqworker.logs import configure_logging
from tests.canaries import found

CANARY = "CANARYofALocalVariable"


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("", "mqworker", "arq")]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


def fail_with(text: str) -> None:
    payload = {"text": text}
    raise RuntimeError(len(payload))


@pytest.mark.parametrize("json", [False, True], ids=["for people", "json"])
def test_a_traceback_shows_no_local_variable(json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(json=json)
    try:
        fail_with(CANARY)
    except RuntimeError:
        logging.getLogger("mqworker.test").exception("it failed")
    output = capsys.readouterr().err
    assert "fail_with" in output
    assert found([CANARY], output) == []
