"""What the gateway saw: its log as attempts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mqworker.message import ChatKey


@dataclass(frozen=True, slots=True)
class Attempt:
    """One send as the gateway saw it; without an end it was still going on, or the gateway was stopped.

    ``number`` is what the worker said, ``status`` the gateway's answer, ``in_chat`` how many sends of the chat were
    going on when this one began, itself included. Times are seconds on one clock.
    """

    message_id: str
    chat: ChatKey
    number: int
    started_at: float
    ended_at: float | None = None
    status: int | None = None
    in_chat: int = 1

    @property
    def sent(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


class History:
    """A gateway's log, read as it grows: :meth:`read` takes what is new."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._attempts: dict[str, Attempt] = {}
        self._url = ""

    @property
    def url(self) -> str:
        """The gateway's address; empty before it is ready."""
        return self._url

    @property
    def attempts(self) -> list[Attempt]:
        """All attempts so far, by their start."""
        return sorted(self._attempts.values(), key=lambda attempt: attempt.started_at)

    def read(self) -> list[Attempt]:
        """What began or ended since the last call, in the order of the log."""
        return [attempt for line in self._new_lines() if (attempt := self._take(json.loads(line))) is not None]

    def _new_lines(self) -> Iterable[bytes]:
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.splitlines()

    def _take(self, event: dict[str, Any]) -> Attempt | None:
        if event["event"] == "ready":
            self._url = event["url"]
            return None
        request = event["request"]
        if event["event"] == "start":
            self._attempts[request] = Attempt(
                message_id=event["id"],
                chat=ChatKey(event["instance"], event["chat_id"]),
                number=event["attempt"],
                started_at=event["at"],
                in_chat=event["in_chat"],
            )
        else:
            self._attempts[request] = replace(self._attempts[request], ended_at=event["at"], status=event["status"])
        return self._attempts[request]
