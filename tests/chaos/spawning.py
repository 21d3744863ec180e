"""Starts worker and producer processes from a server that has imported everything: 50 ms each, not 2 s of a core.

The standard library's fork server: a process without threads, forked from for each new one. What runs in it is what
``python -m arq ...`` runs; its pid, its signals and its exit code are its own.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

PRELOADED = [
    "__main__",
    "arq.cli",
    "mqworker.worker",
    "mqworker.executors.webhook",
    "mqworker.queue",
    "sqlalchemy.dialects.postgresql.psycopg",
    "uvloop",
]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


def spawn(arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> ForkServerProcess:
    """Run ``python -m arguments...`` in a new process whose output goes to ``log``."""
    log.touch()
    process = _context.Process(target=_run, args=(list(arguments), dict(environment), str(log)))
    process.start()
    return process


def _run(arguments: list[str], environment: dict[str, str], log: str) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(environment)
    # A worker that replaces itself starts the command that these name.
    sys.orig_argv = [sys.executable, "-m", *arguments]
    sys.argv = list(arguments)
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
