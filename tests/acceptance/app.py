"""The application of the worker processes: it posts to the gateway of the test."""

from __future__ import annotations

from mqworker import ExecutorRegistry
from mqworker.executors import ready_made
from mqworker.settings import load_settings

registry = ExecutorRegistry()
registry.register("default", ready_made("webhook", load_settings()))
