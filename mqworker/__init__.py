"""A durable message queue for chat gateways: one message at a time per chat, in order, at a human pace.

Producers use :class:`MessageQueue`; workers run the executors of an :class:`ExecutorRegistry`.
"""

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
