"""What the demo sends: the lines of a file, refused before any server starts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mqworker.cli.lines import InputUnreadable, LineRefused, opened
from mqworker.message import ChatKey

SAMPLE = Path(__file__).parent.parent / "sample.jsonl"
LONGEST_WAIT_SECONDS = 300
TEXT_CHARACTERS = 200


@dataclass(frozen=True)
class Planned:
    """One line of the file: ``message`` is what is enqueued, ``text`` what people are shown of it."""

    message: dict[str, Any]
    text: str
    max_retries: int

    @property
    def chat(self) -> ChatKey:
        return ChatKey(self.message["instance"], self.message["chat_id"])

    @property
    def priority(self) -> int:
        return int(self.message.get("priority", 0))

    @property
    def scheduled_at(self) -> datetime | None:
        value = self.message.get("scheduled_at")
        return value if isinstance(value, datetime) else None


async def load(file: Path | None, *, default_max_retries: int) -> list[Planned]:
    """The messages of the file, or of the sample. Raises :class:`LineRefused` and :class:`InputUnreadable`."""
    plan: list[Planned] = []
    with opened(str(file or SAMPLE)) as source:
        if source.size is None:
            raise InputUnreadable(f"{file} is not a regular file: the demo reads it twice")
        await source.check(default_max_retries)
        async for batch in source.batches():
            for number, message in zip(batch.numbers, batch.messages, strict=True):
                _must_fit_the_demo(number, message)
                attempts: Any = message.get("max_retries")
                plan.append(Planned(message, shown_text(message["payload"]), attempts or default_max_retries))
    if not plan:
        raise InputUnreadable(f"{file} holds no message")
    return plan


def _must_fit_the_demo(number: int, message: dict[str, Any]) -> None:
    if message.get("executor", "default") != "default":
        raise LineRefused(f"line {number}: executor: the demo's workers have 'default' only")
    due = message.get("scheduled_at")
    if isinstance(due, datetime) and (due - datetime.now(UTC)).total_seconds() > LONGEST_WAIT_SECONDS:
        raise LineRefused(f"line {number}: scheduled_at: the demo waits {LONGEST_WAIT_SECONDS} s at most")


def shown_text(payload: Any) -> str:
    """What to show of a payload: its text, else its JSON."""
    text = payload.get("text") if isinstance(payload, dict) else None
    if not isinstance(text, str):
        text = json.dumps(payload, ensure_ascii=False)
    return text[:TEXT_CHARACTERS]
