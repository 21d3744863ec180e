"""Worker processes of a test: started, killed, stopped, and never left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from mqworker.testing.waiting import eventually

ROOT = Path(__file__).parents[2]
STARTED = re.compile(r"worker started")


class WorkerProcess:
    """One `arq mqworker.worker.WorkerSettings` process; its log is a file."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "arq", "mqworker.worker.WorkerSettings"],
                cwd=ROOT,
                env={**environment, "MQWORKER_APP": "tests.acceptance.app:registry"},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    @property
    def text(self) -> str:
        """All that it has logged."""
        return self.log.read_text(errors="replace")

    async def started(self) -> WorkerProcess:
        """Wait until it works."""
        await eventually(lambda: STARTED.search(self.text), f"{self.log.name} starts", timeout_seconds=20)
        return self

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it lives."""
        if self.process.poll() is None:
            os.kill(self.process.pid, number)

    def kill(self) -> None:
        """kill -9, and wait for its end."""
        self.send(signal.SIGKILL)
        self.process.wait()

    async def exit_code(self, timeout_seconds: float = 20) -> int:
        """Wait for its end."""
        await eventually(
            lambda: self.process.poll() is not None, f"{self.log.name} ends", timeout_seconds=timeout_seconds
        )
        return self.process.returncode
