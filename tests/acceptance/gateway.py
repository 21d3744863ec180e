"""The provider's place in the tests: it is never faulted, and what it saw is the truth about what was sent."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from tests.acceptance.loopback import LoopbackServer


@dataclass(slots=True)
class Send:
    """One request: ``end`` is when its answer was written, ``None`` while it is open."""

    chat_id: str
    message_id: str
    attempt: int
    start: float
    end: float | None = None
    status: int | None = None
    body: dict[str, Any] = field(default_factory=dict)


@dataclass
class Gateway(LoopbackServer):
    """An HTTP server.

    A message's payload says how it is answered: ``fail_times`` (500 that many times), ``status`` (always that one),
    ``hold_seconds`` (how long an answer takes).
    """

    sends: list[Send] = field(default_factory=list)
    accepted: set[str] = field(default_factory=set)
    _seen: Counter[str] = field(default_factory=Counter)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/send"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await _request(reader):
                message_id, body = request
                status = await self._answer(message_id, body)
                reply = json.dumps({"id": f"p-{message_id}"}).encode()
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(reply), reply))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # its worker was killed
        finally:
            writer.close()

    async def _answer(self, message_id: str, body: dict[str, Any]) -> int:
        payload = body.get("payload", {})
        chat_id = body["chat_id"] if "chat_id" in body else body["to"]
        send = Send(chat_id, message_id, body.get("attempt", 1), monotonic(), body=body)
        self.sends.append(send)
        self._seen[send.message_id] += 1
        await asyncio.sleep(payload.get("hold_seconds", 0))
        failing = self._seen[send.message_id] <= payload.get("fail_times", 0)
        status: int = 500 if failing else payload.get("status", 201)
        if status == 201:
            self.accepted.add(send.message_id)
        send.status, send.end = status, monotonic()
        return status

    def has_accepted(self, message_id: str) -> bool:
        return message_id in self.accepted

    def has_delivered(self, number: int) -> bool:
        return len(self.accepted) >= number

    @property
    def delivered(self) -> list[Send]:
        """The sends that the gateway accepted."""
        return [send for send in self.sends if send.status == 201]


async def _request(reader: asyncio.StreamReader) -> tuple[str, dict[str, Any]] | None:
    head = await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b""
    if not head:
        return None
    headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
    body: dict[str, Any] = json.loads(await reader.readexactly(int(headers[b"content-length"])))
    return headers[b"idempotency-key"].decode(), body
