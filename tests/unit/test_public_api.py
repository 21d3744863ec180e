"""What `import mqworker` promises: a name that goes, or comes by accident, is seen here."""

from __future__ import annotations

import ast
from pathlib import Path

import mqworker
from mqworker.errors import MqWorkerError

NAMES = [
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


def test_the_public_names_are_these() -> None:
    assert mqworker.__all__ == NAMES


def test_each_is_there_under_its_own_name() -> None:
    for name in NAMES:
        assert getattr(mqworker, name).__name__ == name


def test_type_checkers_see_the_same_names() -> None:
    """They read the imports under TYPE_CHECKING, programs get the names when they first use them."""
    module = ast.parse(Path(mqworker.__file__).read_text())
    (block,) = [node for node in module.body if isinstance(node, ast.If)]
    imported = [alias.name for node in ast.walk(block) if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(imported) == sorted(NAMES)


def test_what_is_raised_can_be_caught_at_once() -> None:
    raised = {"ConfigError", "Conflict", "EnqueueUncertain", "InvalidMessage", "NotFound", "QueueClosed"}
    raised |= {"SchemaBehind", "StorageReadOnly", "StorageUnavailable"}
    assert all(issubclass(getattr(mqworker, name), MqWorkerError) for name in raised)
