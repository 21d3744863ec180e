"""A durable message queue for chat gateways: one message at a time per chat, in order, at a human pace.

Producers use :class:`MessageQueue`; workers run the executors of an :class:`ExecutorRegistry`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mqworker.errors import (
        ConfigError,
        Conflict,
        EnqueueUncertain,
        InvalidMessage,
        MqWorkerError,
        NotFound,
        PermanentError,
        QueueClosed,
        RetryAfter,
        SchemaBehind,
        StorageReadOnly,
        StorageUnavailable,
    )
    from mqworker.executors import ExecutorRegistry
    from mqworker.message import Enqueued, Message, QueueStats
    from mqworker.queue import Client, Initialized, MessageQueue
    from mqworker.settings import Settings, load_settings

__version__ = "0.1.0"

__all__ = [
    "Client",
    "ConfigError",
    "Conflict",
    "EnqueueUncertain",
    "Enqueued",
    "ExecutorRegistry",
    "Initialized",
    "InvalidMessage",
    "Message",
    "MessageQueue",
    "MqWorkerError",
    "NotFound",
    "PermanentError",
    "QueueClosed",
    "QueueStats",
    "RetryAfter",
    "SchemaBehind",
    "Settings",
    "StorageReadOnly",
    "StorageUnavailable",
    "load_settings",
]

_ROOMS = {
    "mqworker.executors": {"ExecutorRegistry"},
    "mqworker.message": {"Enqueued", "Message", "QueueStats"},
    "mqworker.queue": {"Client", "Initialized", "MessageQueue"},
    "mqworker.settings": {"Settings", "load_settings"},
}


def __getattr__(name: str) -> Any:
    # At the first use and not here: SQLAlchemy and its company take a second, which `mqworker --help` need not wait.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = next((room for room, names in _ROOMS.items() if name in names), "mqworker.errors")
    value = globals()[name] = getattr(import_module(room), name)
    return value
