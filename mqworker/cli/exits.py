"""What a command's exit code says; no other code is used."""

from __future__ import annotations

from enum import IntEnum

from mqworker.errors import InvalidMessage, MqWorkerError, StorageUnavailable


class Exit(IntEnum):
    """The codes, for scripts."""

    DONE = 0
    FAILED = 1
    """Something went wrong, or was not all as asked for: one line on stderr, or the answer itself, says what."""
    USAGE = 2
    """The command was called in a wrong way; nothing was done."""
    AWAY = 3
    """PostgreSQL or Redis cannot be reached, or accepts nothing at the moment: the same call may succeed later."""
    INTERRUPTED = 130
    """Ctrl-C; 128 and a signal's number where another one ended a command."""


class RedisAway(MqWorkerError):
    """Redis cannot be used, and the command can do nothing without it."""


def exit_code(error: MqWorkerError) -> Exit:
    """The code for an error, or for what it came of."""
    match error:
        case StorageUnavailable() | RedisAway():
            return Exit.AWAY
        case InvalidMessage():
            return Exit.USAGE
        case _ if isinstance(error.__cause__, StorageUnavailable):
            return Exit.AWAY
        case _:
            return Exit.FAILED
