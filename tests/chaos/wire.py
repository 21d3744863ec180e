"""Just enough of PostgreSQL's protocol to know which statement a client has under way, and when its answer is whole.

https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

PREFACES = {80877103, 80877104}  # SSLRequest, GSSENCRequest: answered with one byte
READY = b"Z"
COMPLETE = b"C"
IDLE = b"I"

# A line that each statement has and no other.
MARKS = {
    b"INSERT INTO message_queue_items": "insert",
    b"WITH heads AS": "claim",
    b"WITH told AS": "settle",
    b"COMMIT": "commit",
}


def kind_of(sql: bytes) -> str:
    """Which of our statements this is; "other" for the rest."""
    return next((kind for mark, kind in MARKS.items() if mark in sql), "other")


class Requests:
    """Follows one client: :meth:`feed` it what the client sent, it answers with the kinds of statements begun."""

    def __init__(self) -> None:
        self._buffer = b""
        self._started = False
        self._prepared: dict[bytes, str] = {}

    def feed(self, data: bytes) -> list[str]:
        self._buffer += data
        return [kind for kind in self._kinds() if kind]

    def _kinds(self) -> Iterator[str | None]:
        while not self._started:
            if len(self._buffer) < 8:
                return
            length, code = struct.unpack("!II", self._buffer[:8])
            if len(self._buffer) < length:
                return
            self._buffer = self._buffer[length:]
            self._started = code not in PREFACES
        for kind, body in self._messages():
            yield self._statement(kind, body)

    def _messages(self) -> Iterator[tuple[bytes, bytes]]:
        while len(self._buffer) >= 5:
            (length,) = struct.unpack("!I", self._buffer[1:5])
            if len(self._buffer) < 1 + length:
                return
            kind, body = self._buffer[:1], self._buffer[5 : 1 + length]
            self._buffer = self._buffer[1 + length :]
            yield kind, body

    def _statement(self, kind: bytes, body: bytes) -> str | None:
        match kind:
            case b"P":
                name, sql, _ = body.split(b"\0", 2)
                self._prepared[name] = kind_of(sql)
                return None
            case b"B":
                return self._prepared.get(body.split(b"\0", 2)[1], "other")
            case b"Q":
                return kind_of(body)
            case _:
                return None


class Answer:
    """One answer, collected until PostgreSQL says that it is ready again: only then has the statement committed."""

    def __init__(self) -> None:
        self._buffer = b""
        self.rows = 0
        self.whole = False

    def feed(self, data: bytes) -> bool:
        """Take more of it; return whether it is whole."""
        self._buffer += data
        while len(self._buffer) >= 5 and not self.whole:
            (length,) = struct.unpack("!I", self._buffer[1:5])
            if len(self._buffer) < 1 + length:
                break
            self._take(self._buffer[:1], self._buffer[5 : 1 + length])
            self._buffer = self._buffer[1 + length :]
        return self.whole

    def _take(self, kind: bytes, body: bytes) -> None:
        if kind == COMPLETE:
            last = body.rstrip(b"\0").split(b" ")[-1]
            # COMMIT names no number, and did something.
            self.rows += int(last) if last.isdigit() else 1
        if kind == READY:
            self.whole = True
            if body != IDLE:
                self.rows = 0  # within a transaction nothing has committed yet
