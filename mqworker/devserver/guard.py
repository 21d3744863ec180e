"""The guard: a small process between us and one server, which ends the server when we end.

Run as ``python -I -S guard.py OWNER UID GID SIGNALS COMMAND...``: it starts COMMAND, writes its pid to
standard output, and ends it when standard input delivers anything (a byte, or its end because the owner was
killed). SIGNALS are sent one after the other, each with PATIENCE_SECONDS to work. UID -1 keeps the user.

Why a process and not PR_SET_PDEATHSIG alone: that signal fires when the *thread* that started the server
ends, and servers may be started from a pool of threads. The guard has one thread, so between guard and server
it is exact: it covers a guard that is killed itself.

This file imports nothing of mqworker, so that it starts in milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from typing import NoReturn

PATIENCE_SECONDS = 10.0
ORPHAN_SECONDS = 1.0
POLL_SECONDS = 0.25

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def process_table() -> dict[int, tuple[int, str]]:
    """Every process as pid -> (parent's pid, state letter)."""
    if not os.path.isdir("/proc/self"):
        return _process_table_by_ps()
    table: dict[int, tuple[int, str]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:
                    # The name stands in parentheses and may hold spaces and parentheses itself.
                    state, parent = file.read().rpartition(b")")[2].split()[:2]
            except (OSError, ValueError):
                continue  # it ended while we looked
            table[int(entry)] = (int(parent), state.decode())
    return table


def _process_table_by_ps() -> dict[int, tuple[int, str]]:
    command = ["ps", "-A", "-o", "pid=,ppid=,stat="]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
    rows = (line.split() for line in listing.splitlines())
    return {int(pid): (int(parent), state[0]) for pid, parent, state in rows}


def is_alive(pid: int) -> bool:
    """Whether the process runs. One that ended and that nobody has waited for does not."""
    return process_table().get(pid, (0, "Z"))[1] not in "ZX"


def descendants(root: int) -> dict[int, str]:
    """Every live process below ``root`` as pid -> state letter (``T`` is stopped)."""
    table = process_table()
    found: dict[int, str] = {}
    parents = {root}
    while parents:
        below = {pid: state for pid, (parent, state) in table.items() if parent in parents and pid not in found}
        parents = set(below)
        found |= {pid: state for pid, state in below.items() if state not in "ZX"}
    return found


def send(pid: int, number: int) -> None:
    """Signal a process that may have ended already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def main(arguments: list[str]) -> int:
    """Start the command, watch over it, return its exit code."""
    owner, uid, gid = (int(word) for word in arguments[:3])
    stop_signals = [int(word) for word in arguments[3].split(",")]
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    # Orphans of a killed server come to us, so that somebody waits for them even where process 1 does not.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    child_ended = _pipe_written_at_sigchld()
    guard = os.getpid()
    server = os.fork()
    if server == 0:
        _become_server(guard, uid, gid, stop_signals[0], arguments[4:])
    os.write(1, f"{server}\n".encode())
    os.dup2(2, 1)
    code = _watch(server, owner, child_ended, stop_signals)
    _bury_orphans()
    return code


def _become_server(guard: int, uid: int, gid: int, death_signal: int, command: list[str]) -> NoReturn:
    try:
        os.dup2(2, 1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.umask(0o077)
        if uid >= 0:
            os.setgroups([gid])
            os.setgid(gid)
            os.setuid(uid)
        # After the change of user, which clears it.
        _prctl(_PR_SET_PDEATHSIG, death_signal)
        if os.getppid() == guard:
            os.execv(command[0], command)  # noqa: S606
    except BaseException as error:
        os.write(2, f"cannot start {command[0]} as user id {uid}: {error}\n".encode())
    os._exit(127)


def _watch(server: int, owner: int, child_ended: int, stop_signals: list[int]) -> int:
    """Wait for the server's end; when the owner asks or is gone, bring it about. Returns the exit code."""
    steps = list(stop_signals)
    next_step_at: float | None = None
    while True:
        code = _reap(server)
        if code is not None:
            return code
        waits_on = [child_ended] if next_step_at is not None else [child_ended, 0]
        readable, _, _ = select.select(waits_on, [], [], POLL_SECONDS)
        if child_ended in readable:
            os.read(child_ended, 4096)
        # The parent's pid counts too: a forked child of the owner may keep the pipe open after its end.
        if next_step_at is None and (0 in readable or os.getppid() != owner):
            next_step_at = time.monotonic()
        if next_step_at is not None and time.monotonic() >= next_step_at and steps:
            _end(server, steps.pop(0))
            next_step_at = time.monotonic() + PATIENCE_SECONDS


def _reap(server: int) -> int | None:
    """Wait for whatever has ended; the exit code if the server is among it."""
    code: int | None = None
    try:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return code
            if pid == server:
                code = abs(os.waitstatus_to_exitcode(status))
    except ChildProcessError:
        return code


def _end(server: int, number: int) -> None:
    below = descendants(os.getpid())
    for pid in below:
        # A stopped process acts on no other signal.
        send(pid, signal.SIGKILL if number == signal.SIGKILL else signal.SIGCONT)
    send(server, number)


def _bury_orphans() -> None:
    """Wait for what the server left behind (a killed postmaster's backends); kill it when it lingers."""
    deadline = time.monotonic() + ORPHAN_SECONDS
    try:
        while True:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                if time.monotonic() > deadline:
                    for orphan in descendants(os.getpid()):
                        send(orphan, signal.SIGKILL)
                time.sleep(0.005)
    except ChildProcessError:
        return


def _pipe_written_at_sigchld() -> int:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    return reader


def _prctl(option: int, value: int) -> None:
    """Linux only; elsewhere the pipe from the owner has to do alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
