"""The demo's own processes, each under a guard: they end with the demo, however that ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGKILL, SIGTERM

from mqworker.devserver import guard
from mqworker.errors import MqWorkerError

TAIL_LINES = 15
# The guard asks, and kills after its own patience.
STOP_SECONDS = 2 * guard.PATIENCE_SECONDS + 5


class HelperFailed(MqWorkerError):
    """A process of the demo ended by itself; the text ends with the last lines of its log."""


class Helper:
    """One process: a Python module with arguments, its output in a log file."""

    def __init__(self, name: str, module: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self._log = folder / f"{name.replace(' ', '-')}.log"
        signals = f"{int(SIGTERM)},{int(SIGKILL)}"
        owner = [str(os.getpid()), "-1", "-1", signals]
        with self._log.open("ab") as output:
            self._guard = subprocess.Popen(  # noqa: S603
                [sys.executable, "-I", "-S", guard.__file__, *owner, sys.executable, "-m", *module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                # No .env of the user's is here.
                cwd=folder,
                env=dict(environment),
                # Ctrl-C is for us: a worker that got it as well would be told twice, and not wait for its sends.
                start_new_session=True,
            )
        assert self._guard.stdout is not None
        with self._guard.stdout as pipe:
            self.pid = int(pipe.readline().strip() or 0)

    @property
    def running(self) -> bool:
        return self._guard.poll() is None

    def must_run(self) -> None:
        """Raise :class:`HelperFailed` where it has ended by itself."""
        if not self.running:
            raise HelperFailed(f"the {self.name} ended with exit code {self._guard.returncode}:\n{self.tail()}")

    def ask_to_end(self) -> None:
        """Tell it to stop; it may be asked again."""
        pipe = self._guard.stdin
        if pipe is not None and not pipe.closed:
            try:
                pipe.write(b"\n")
                pipe.close()
            except BrokenPipeError:
                pass  # it has ended already

    def stop(self) -> int:
        """Ask and wait; its exit code."""
        self.ask_to_end()
        return self._guard.wait(STOP_SECONDS)

    def tail(self) -> str:
        """The last lines that it printed."""
        lines = self._log.read_bytes().decode(errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:]) or "(it printed nothing)"
