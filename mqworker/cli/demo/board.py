"""Where each chat stands, by what the gateway has seen so far. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mqworker.cli.demo.plan import Planned
from mqworker.message import ChatKey
from mqworker.testing.history import Attempt
from mqworker.testing.verdict import is_final_refusal


@dataclass
class Row:
    """One chat's line of the table."""

    chat: ChatKey
    total: int = 0
    in_flight: int = 0
    sent: int = 0
    failed: int = 0
    last_gap: float | None = None
    last_end: float | None = None
    last_text: str = ""

    @property
    def waiting(self) -> int:
        return self.total - self.sent - self.failed - self.in_flight

    @property
    def done(self) -> bool:
        return self.sent + self.failed == self.total


class Board:
    """The rows of all chats, in the order in which the file names them."""

    def __init__(self, plan: Mapping[str, Planned]) -> None:
        self._plan = plan
        self._tries: Counter[str] = Counter()
        self._rows: dict[ChatKey, Row] = {}
        for planned in plan.values():
            self._rows.setdefault(planned.chat, Row(planned.chat)).total += 1
        self.one_instance = len({chat.instance for chat in self._rows}) == 1

    @property
    def rows(self) -> list[Row]:
        return list(self._rows.values())

    def sum(self) -> Row:
        """All chats together."""
        rows = self.rows
        return Row(
            ChatKey("", ""),
            total=sum(row.total for row in rows),
            in_flight=sum(row.in_flight for row in rows),
            sent=sum(row.sent for row in rows),
            failed=sum(row.failed for row in rows),
        )

    def name(self, chat: ChatKey) -> str:
        return chat.chat_id if self.one_instance else f"{chat.instance} {chat.chat_id}"

    def apply(self, news: Iterable[Attempt]) -> bool:
        """Take what began or ended; whether there was anything."""
        some = False
        for attempt in news:
            some = True
            if attempt.chat in self._rows and attempt.message_id in self._plan:
                self._apply(self._rows[attempt.chat], attempt)
        return some

    def _apply(self, row: Row, attempt: Attempt) -> None:
        planned = self._plan[attempt.message_id]
        if attempt.ended_at is None:
            row.in_flight += 1
            row.last_text = planned.text
            row.last_gap = None if row.last_end is None else attempt.started_at - row.last_end
            return
        row.in_flight -= 1
        row.last_end = attempt.ended_at
        if attempt.sent:
            row.sent += 1
            return
        self._tries[attempt.message_id] += attempt.status != 429
        if is_final_refusal(attempt) or self._tries[attempt.message_id] >= planned.max_retries:
            row.failed += 1
