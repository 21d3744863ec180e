"""Start a command under its guard, and read what it logs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

from mqworker.devserver import guard
from mqworker.devserver.account import ENVIRONMENT, Account
from mqworker.devserver.error import DevServerError
from mqworker.devserver.folders import StateFolder

LOG_TAIL_LINES = 20


@dataclass(frozen=True)
class Place:
    """Where servers run: their folder, and the user that they run as."""

    folder: StateFolder
    account: Account


class Log:
    """A log file, with the place at which the current start began."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begin = path.stat().st_size if path.exists() else 0

    def tail(self) -> str:
        """The last lines since the start, for an error message."""
        with self.path.open("rb") as file:
            file.seek(self._begin)
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:]) or "(its log is empty)"


class Guarded:
    """A running command: ``pid`` is its own, the guard's is ours to wait for."""

    def __init__(self, command: Sequence[str], place: Place, log: Log, stop_signals: Sequence[Signals]) -> None:
        """Start it; DevServerError if not even the guard started."""
        account = place.account
        identity = (account.uid, account.gid) if account.switch else (-1, -1)
        numbers = ",".join(str(int(number)) for number in stop_signals)
        with log.path.open("ab") as output:
            self._guard = subprocess.Popen(  # noqa: S603
                [
                    sys.executable,
                    "-I",
                    "-S",
                    guard.__file__,
                    str(os.getpid()),
                    *map(str, identity),
                    numbers,
                    *command,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                cwd=place.folder.path,
                env=ENVIRONMENT,
                pass_fds=(place.folder.lock,),
                # Ctrl-C in a terminal is for us: we drain first and stop the servers after that.
                start_new_session=True,
            )
        assert self._guard.stdout is not None
        with self._guard.stdout as pipe:
            answer = pipe.readline().strip()
        if not answer.isdigit():
            self.wait(guard.PATIENCE_SECONDS)
            raise DevServerError(f"{command[0]} was not started:\n{log.tail()}")
        self.pid = int(answer)

    @property
    def running(self) -> bool:
        return self._guard.poll() is None

    def processes(self) -> dict[int, str]:
        """The command and all below it as pid -> state letter."""
        return guard.descendants(self._guard.pid)

    def ask_to_end(self) -> None:
        """Have the guard end the command, gently at first."""
        pipe = self._guard.stdin
        if pipe is None or pipe.closed:
            return
        try:
            # A byte and not the end of the pipe alone: a forked child of ours may hold it open.
            pipe.write(b"\n")
            pipe.close()
        except BrokenPipeError:
            pass  # it has ended already

    def wait(self, timeout_seconds: float) -> int:
        """Wait until the command and all below it have ended; its exit code. DevServerError when late."""
        try:
            code = self._guard.wait(timeout_seconds)
        except subprocess.TimeoutExpired as error:
            raise DevServerError(f"the guard {self._guard.pid} did not end in {timeout_seconds:g} s") from error
        self.ask_to_end()  # closes our end of the pipe
        return code
