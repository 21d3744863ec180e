"""What the two servers have in common: start, stop, kill, pause, and one port for life."""

from __future__ import annotations

import random
import socket
import time
from abc import ABC, abstractmethod
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, Signals
from typing import ClassVar

from mqworker.devserver.error import DevServerError
from mqworker.devserver.find import Binaries
from mqworker.devserver.guard import PATIENCE_SECONDS, send
from mqworker.devserver.launch import Guarded, Log, Place

HOST = "127.0.0.1"
START_TIMEOUT_SECONDS = 60.0
PORT_ATTEMPTS = 5

# Below the range from which systems draw the ports of outgoing connections. A client that keeps trying to
# reach a stopped server on a port of that range ends up connected to itself, and the port is gone.
_PORTS = range(20_000, 32_000)


class Server(ABC):
    """One supervised server on 127.0.0.1. ``DevServers`` makes it; one thread at a time may use it.

    The server ends when this process does, however it ends. Its port stays the same from the first start on.
    """

    name: ClassVar[str]
    # The first is also what the server gets if its guard dies.
    _stop_signals: ClassVar[tuple[Signals, ...]]

    def __init__(self, place: Place, binaries: Binaries) -> None:
        self._place = place
        self._binaries = binaries
        self._process: Guarded | None = None
        self._port: int | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """The address for clients."""

    @property
    def binaries(self) -> Path:
        """The folder of the server's programs."""
        return self._binaries.folder

    @property
    def port(self) -> int:
        """The TCP port; DevServerError before the first start."""
        if self._port is None:
            raise DevServerError(f"{self.name} was not started yet")
        return self._port

    @property
    def pid(self) -> int:
        """The server's process; DevServerError while it does not run."""
        return self._running_process().pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    def start(self) -> None:
        """Start and wait until it accepts connections; does nothing if it runs.

        Raises DevServerError with the last lines of the log if it ends or takes more than a minute.
        """
        if self.running:
            return
        self.stop()  # lets go of one that ended by itself
        self._prepare()
        if self._port is not None:
            self._start_on(self._port)
            return
        for attempt in range(1, PORT_ATTEMPTS + 1):
            port = self._remembered_port() or free_port()
            try:
                self._start_on(port)
            except DevServerError:
                # Somebody may have taken the port after we looked; any other failure would only come again.
                if attempt == PORT_ATTEMPTS or is_free(port):
                    raise
                continue
            self._port = port
            self._port_file().write_text(f"{port}\n")
            return

    def stop(self) -> None:
        """End it in order and wait; does nothing if it does not run. DevServerError if it cannot be ended."""
        process, self._process = self._process, None
        if process is not None:
            process.ask_to_end()
            process.wait(PATIENCE_SECONDS * (len(self._stop_signals) + 1))

    def kill(self) -> None:
        """End it as a crash would: SIGKILL to all its processes. ``start`` recovers on the same port."""
        process = self._running_process()
        # Stopped first, so that it neither starts more children nor sees them die one by one.
        send(process.pid, SIGSTOP)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while process.running and time.monotonic() < deadline:
            for pid in process.processes():
                send(pid, SIGKILL)
            time.sleep(0.002)
        process.wait(PATIENCE_SECONDS)
        self._process = None

    def restart(self) -> None:
        """Stop and start, on the same port."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze all its processes: connections stay open, nothing answers. Returns when they stand still."""
        process = self._running_process()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while moving := [pid for pid, state in process.processes().items() if state not in "Tt"]:
            if time.monotonic() > deadline:
                raise DevServerError(f"{self.name} could not be paused: processes {moving} go on")
            # The server before its children, and again until none is left: it may be starting one.
            for pid in sorted(moving, key=lambda pid: pid != process.pid):
                send(pid, SIGSTOP)
            time.sleep(0.001)

    def resume(self) -> None:
        """Undo ``pause``."""
        for pid in self._running_process().processes():
            send(pid, SIGCONT)

    @abstractmethod
    def _prepare(self) -> None:
        """Make the data folder ready; remove what a killed server left."""

    @abstractmethod
    def _command(self, port: int) -> list[str]: ...

    @abstractmethod
    def _is_ready(self, pid: int, port: int) -> bool:
        """Whether this very process accepts connections."""

    def _start_on(self, port: int) -> None:
        log = self._log()
        process = self._process = Guarded(self._command(port), self._place, log, self._stop_signals)
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not self._is_ready(process.pid, port):
            late = time.monotonic() > deadline
            if late or not process.running:
                self.stop()
                why = f"was not ready in {START_TIMEOUT_SECONDS:g} s" if late else "ended while it started"
                raise DevServerError(f"{self.name} {why}; the end of {log.path}:\n{log.tail()}")
            time.sleep(0.005)

    def _run_to_end(self, command: list[str]) -> tuple[int, str]:
        """Run a helper program as the server's user, under a guard: exit code and the end of its output."""
        log = self._log()
        process = Guarded(command, self._place, log, (Signals.SIGTERM, SIGKILL))
        try:
            return process.wait(START_TIMEOUT_SECONDS), log.tail()
        finally:
            process.ask_to_end()

    def _log(self) -> Log:
        return Log(self._place.folder.path / f"{self.name.lower()}.log")

    def _port_file(self) -> Path:
        return self._place.folder.path / f"{self.name.lower()}.port"

    def _remembered_port(self) -> int | None:
        """The port of the last owner, so that addresses which people noted down go on working."""
        try:
            port = int(self._port_file().read_text())
        except (OSError, ValueError):
            return None
        return port if is_free(port) else None

    def _running_process(self) -> Guarded:
        if self._process is None or not self._process.running:
            raise DevServerError(f"{self.name} does not run")
        return self._process


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        # As the servers do it: connections that are closing do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A loopback port that was free a moment ago; DevServerError if none is."""
    # A generator of its own: tests that seed the shared one would all get the same port.
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        if is_free(port):
            return port
    raise DevServerError(f"no free port between {_PORTS.start} and {_PORTS.stop - 1}")
