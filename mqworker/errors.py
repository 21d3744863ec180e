"""Every error that mqworker raises, in one tree.

    MqWorkerError
    ├── ConfigError (ValueError)        the settings cannot work; raised at start
    ├── SchemaBehind                    the database needs `mqworker migrate`
    ├── ServerNotFound                  no PostgreSQL or Redis binary to start for development
    ├── InvalidMessage (ValueError)     the input is refused; nothing was stored
    ├── Conflict                        the id or instance is already used for something else
    ├── NotFound (LookupError)          no such message
    ├── QueueClosed                     used before start, after close, or from another event loop
    ├── StorageUnavailable              PostgreSQL cannot be reached; nothing was stored
    │   └── StorageReadOnly             PostgreSQL accepts no writes at the moment
    ├── StatementFailed                 PostgreSQL refused a statement: a bug, or a schema changed by hand
    ├── EnqueueUncertain                the connection broke during the commit: ask again with the same id
    └── ExecutorError                   what an executor may raise to say more than "it failed"
        ├── PermanentError              no retry can help: FAILED now
        └── RetryAfter                  the provider named a wait: no attempt counted

No message of these carries a password, a payload or the text of a message.
"""

from __future__ import annotations

import math
from typing import Literal
from uuid import UUID

Scope = Literal["chat", "instance"]


class MqWorkerError(Exception):
    """Base of every error that mqworker raises."""


class ConfigError(MqWorkerError, ValueError):
    """The settings cannot work together; the text names the inequality that they break."""


class SchemaBehind(MqWorkerError):
    """The database schema is not the one that this code needs."""


class ServerNotFound(MqWorkerError):
    """No server binary was found; the text says what to install."""


class InvalidMessage(MqWorkerError, ValueError):
    """The input was refused before anything was stored.

    ``field`` is a path such as ``payload.items[3]``, ``index`` the place in a batch (``None`` for a single message).
    """

    def __init__(self, field: str, reason: str, *, index: int | None = None) -> None:
        self.field = field
        self.reason = reason
        self.index = index
        place = "" if index is None else f"message {index}: "
        super().__init__(f"{place}{field}: {reason}")

    def at(self, index: int) -> InvalidMessage:
        """The same refusal, naming the place in a batch."""
        return InvalidMessage(self.field, self.reason, index=index)


class Conflict(MqWorkerError):
    """The id (or the instance) already belongs to something else."""


class NotFound(MqWorkerError, LookupError):
    """There is no message with this id (it may have been cleaned)."""


class QueueClosed(MqWorkerError):
    """The queue is not open: use ``async with MessageQueue() as queue``."""


class StorageUnavailable(MqWorkerError):
    """PostgreSQL cannot be reached; nothing was stored, the call may be repeated."""


class StorageReadOnly(StorageUnavailable):
    """PostgreSQL accepts no writes at the moment (read-only, or its disk is full); nothing was stored."""


class StatementFailed(MqWorkerError):
    """PostgreSQL refused a statement: a bug, or a schema changed by hand.

    ``sqlstate`` is PostgreSQL's code. The text names a constraint, or is the server's own without a row's content.
    """

    def __init__(self, sqlstate: str, reason: str) -> None:
        self.sqlstate = sqlstate
        super().__init__(f"SQLSTATE {sqlstate}: {reason}")


class EnqueueUncertain(MqWorkerError):
    """The connection broke while the insert was being committed.

    ``message_ids`` are the ids that may or may not be stored: enqueue them again with the same ids
    (``message_id=``); a message that is already there is returned, not doubled.
    """

    def __init__(self, message_ids: list[UUID]) -> None:
        self.message_ids = message_ids
        shown = ", ".join(str(i) for i in message_ids[:3]) + (", ..." if len(message_ids) > 3 else "")
        super().__init__(
            f"the connection to PostgreSQL broke during the commit of {len(message_ids)} message(s) ({shown}): "
            "they may or may not be stored; enqueue again with the same ids"
        )


class ExecutorError(MqWorkerError):
    """What an executor raises to say more than "it failed"."""


class PermanentError(ExecutorError):
    """No retry can help (a bad number, a refused template): the message is FAILED now."""


class RetryAfter(ExecutorError):
    """The provider named a wait: no attempt is counted and ``scope`` waits for ``seconds``.

    ``scope="chat"`` holds this chat only, ``scope="instance"`` every chat of the account.
    """

    def __init__(self, seconds: float, scope: Scope = "chat", reason: str = "") -> None:
        if not math.isfinite(seconds) or seconds < 0:
            raise ValueError(f"RetryAfter.seconds must be a finite number >= 0, got {seconds!r}")
        if scope not in ("chat", "instance"):
            raise ValueError(f"RetryAfter.scope must be 'chat' or 'instance', got {scope!r}")
        self.seconds = float(seconds)
        self.scope: Scope = scope
        super().__init__(reason or f"the provider asks to wait {seconds:g} s ({scope})")
