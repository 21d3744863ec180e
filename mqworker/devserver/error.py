"""The one error of this room beside ``mqworker.errors.ServerNotFound``."""

from __future__ import annotations

from mqworker.errors import MqWorkerError


class DevServerError(MqWorkerError, RuntimeError):
    """A development server could not be started or stopped; the text ends with the last lines of its log."""
