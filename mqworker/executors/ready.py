"""The executors that come with mqworker, by name."""

from __future__ import annotations

import json
import re
import sys

from mqworker.errors import ConfigError
from mqworker.executors.registry import Executor
from mqworker.executors.webhook import WebhookExecutor
from mqworker.message import Message
from mqworker.settings import Settings

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


async def console(message: Message) -> None:
    """Print one line per message to stdout, the payload with it.

    A tool for development: seeing the text is its purpose. All else in mqworker keeps payloads out of sight.
    """
    payload = json.dumps(message.payload, ensure_ascii=False, default=str)
    line = f"{message.instance} {message.chat_id} {message.id} attempt {message.attempt} {payload}"
    # A row put in by plain SQL may hold what moves a terminal's cursor.
    line = _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", line)
    # A stdout that is not UTF-8 must not cost an attempt.
    encoding = sys.stdout.encoding or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def ready_made(name: str, settings: Settings) -> Executor:
    """The executor ``console`` or ``webhook``; :class:`ConfigError` for another name or an unfit URL."""
    if name == "console":
        return console
    if name == "webhook":
        return _webhook(settings)
    raise ConfigError(f"no ready-made executor {name[:80]!r}: there are console and webhook")


def _webhook(settings: Settings) -> WebhookExecutor:
    url = settings.webhook_url.get_secret_value()
    if not url:
        raise ConfigError("MQWORKER_WEBHOOK_URL must be set for the executor webhook")
    return WebhookExecutor(url, timeout_seconds=settings.executor_timeout_seconds, max_connections=settings.max_chats)
