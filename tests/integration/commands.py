"""Commands run inside the test: as a shell would see them, without the second that a process takes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from mqworker.cli import main


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> list[Any]:
        """Its lines of JSON."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def one(self) -> Any:
        """Its only line of JSON."""
        (one,) = self.data
        return one


Mqworker = Callable[..., Coroutine[Any, Any, Ran]]


def runner(capsys: pytest.CaptureFixture[str]) -> Mqworker:
    """What runs a command, which must end with the code given."""

    async def run(*arguments: str, code: int = 0) -> Ran:
        # In a thread: the command has an event loop of its own.
        ended = await asyncio.to_thread(_exit_code, arguments)
        captured = capsys.readouterr()
        ran = Ran(ended, captured.out, captured.err)
        assert ran.code == code, ran
        return ran

    return run


def _exit_code(arguments: Sequence[str]) -> int:
    try:
        main(arguments)
    except SystemExit as ended:
        return int(str(ended.code))
