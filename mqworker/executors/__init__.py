"""What sends a message: the user's own executors in a registry, and ready-made ones."""

from mqworker.executors.loader import load_registry
from mqworker.executors.ready import console, ready_made
from mqworker.executors.registry import Executor, ExecutorRegistry
from mqworker.executors.webhook import WebhookExecutor

__all__ = ["Executor", "ExecutorRegistry", "WebhookExecutor", "console", "load_registry", "ready_made"]
