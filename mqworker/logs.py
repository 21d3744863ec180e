"""How a worker's log looks. The library itself only writes records; whoever runs it decides where they go."""

from __future__ import annotations

import logging
import logging.config
import sys
from typing import Any

import structlog


def configure_logging(level: str = "INFO", *, json: bool = False) -> None:
    """Send mqworker's records, and the warnings of others, to stderr: for people, or one JSON object a line."""
    stamp = structlog.processors.TimeStamper(fmt="iso" if json else "%H:%M:%S.%f", utc=json)
    shared: list[Any] = [structlog.stdlib.add_log_level, structlog.stdlib.ExtraAdder(), stamp]
    renderer: Any
    if json:
        shared += [structlog.stdlib.add_logger_name, structlog.processors.format_exc_info]
        renderer = structlog.processors.JSONRenderer()
    else:
        # structlog's own choice shows local variables, and with them the text of messages.
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
        )
    formatter = {
        "()": structlog.stdlib.ProcessorFormatter,
        "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        "foreign_pre_chain": shared,
    }
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"mqworker": formatter},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "mqworker"}},
            "loggers": {"mqworker": {"level": level}, "arq": {"level": "WARNING"}},
            "root": {"level": "WARNING", "handlers": ["stderr"]},
        }
    )


def is_configured() -> bool:
    """Whether somebody gave mqworker's records a place to go."""
    return logging.getLogger("mqworker").hasHandlers()
