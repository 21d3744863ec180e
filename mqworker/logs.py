"""How a worker's log looks. The library itself only writes records; whoever runs it decides where they go.

Each line of a worker says which ``worker``, and each one about a message its ``instance``, ``chat_id``, ``message_id``
and ``attempt``: ours by what they are given, an executor's own by the context that its send runs in.
"""

from __future__ import annotations

import logging
import logging.config
import os
import re
import sys
from collections import Counter
from io import StringIO
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, WrappedLogger

RATION_LINES = 20
RATION_SECONDS = 10.0

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


class Ration(logging.Filter):
    """Lets through the first :data:`RATION_LINES` of a kind in :data:`RATION_SECONDS`, of lines about single messages.

    With a provider away each of a thousand attempts a second fails. All are counted (see :mod:`mqworker.digest`), and
    what became of a message stands in its row.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ends = 0.0
        self._lines: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("mqworker.") or not hasattr(record, "message_id"):
            return True
        if record.created >= self._ends:
            self._ends = record.created + RATION_SECONDS
            self._lines.clear()
        self._lines[record.msg] += 1
        if self._lines[record.msg] == RATION_LINES:
            record.more = "not shown for up to 10 s"
        return self._lines[record.msg] <= RATION_LINES


def configure_logging(level: str = "INFO", *, json: bool = False, app: str = "") -> None:
    """Send mqworker's records, and the warnings of others, to stderr: for people, or one JSON object a line.

    ``app`` is the setting of that name: the loggers of its package get the same level. structlog goes the same way,
    unless the app has configured it itself.
    """
    first, last = _processors(json=json)
    formatter = {
        "()": structlog.stdlib.ProcessorFormatter,
        "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        # The context first: what a record was given is nearer to what it tells of.
        "foreign_pre_chain": [structlog.contextvars.merge_contextvars, structlog.stdlib.ExtraAdder(), *first],
    }
    package = app.partition(":")[0].partition(".")[0]
    loggers = {"arq": {"level": "WARNING"}, **{name: {"level": level} for name in ("mqworker", package) if name}}
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"mqworker": formatter},
            "filters": {"ration": {"()": Ration}},
            "handlers": {
                "stderr": {
                    "class": "logging.StreamHandler",
                    "formatter": "mqworker",
                    "filters": [] if level == "DEBUG" else ["ration"],
                }
            },
            "loggers": loggers,
            "root": {"level": "WARNING", "handlers": ["stderr"]},
        }
    )
    if not structlog.is_configured():
        _configure_structlog(first)


def _processors(*, json: bool) -> tuple[list[Any], list[Any]]:
    """What is done to each event, and what makes a line of it."""
    stamp = structlog.processors.TimeStamper(fmt="iso" if json else "%H:%M:%S.%f", utc=json)
    first: list[Any] = [structlog.stdlib.add_log_level, stamp]
    if json:
        first.append(structlog.stdlib.add_logger_name)
        return first, [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    renderer = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty() and not os.environ.get("NO_COLOR"), pad_event_to=0, exception_formatter=_traceback
    )
    return first, [_printable, renderer]


def _printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """No control character reaches a terminal: a provider's error, or a row put in by hand, may hold one."""
    return {key: _escaped(value) if isinstance(value, str) else value for key, value in event.items()}


def _traceback(output: TextIO, error: ExcInfo) -> None:
    """Without local variables, which structlog's own choice shows, and with them the text of messages."""
    text = StringIO()
    structlog.dev.plain_traceback(text, error)
    output.write(_escaped(text.getvalue()))


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _configure_structlog(first: list[Any]) -> None:
    """Have an executor's structlog end where its standard logging does."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *first,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


def is_configured() -> bool:
    """Whether somebody gave mqworker's records a place to go."""
    return logging.getLogger("mqworker").hasHandlers()
