"""A chat gateway on loopback for demonstrations and tests: it takes what the executor `webhook` posts.

Run as ``python -m mqworker.testing.gateway --log FILE``, or within a test::

    async with Gateway(log_path) as gateway:
        ...  # MQWORKER_WEBHOOK_URL=gateway.url

It answers 201 with an ``id``. A payload may script it, by keys of its own:

    "send_seconds": 3           this message takes so long
    "fail_times": 2             500 twice, then sent
    "fail_always": "permanent"  400 (or "temporary": 500) each time
    "retry_after": 2            429 with that ``Retry-After`` at the first attempt

Every attempt is two JSON lines in the log, ``start`` and ``end``, with the time on one clock that does not jump;
:mod:`mqworker.testing.history` reads them. Whatever follows a ``?`` in the URL is logged as ``query``: who sent it.
Of a payload only a digest is logged. Only the standard library is used.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any, Self, TextIO

HOST = "127.0.0.1"
HEAD_BYTES = 65_536
BODY_BYTES = 4 * 1024 * 1024
_REASONS = {200: "OK", 201: "Created", 400: "Bad Request", 429: "Too Many Requests", 500: "Internal Server Error"}


def now() -> float:
    """Seconds on a clock that never jumps and goes on while the machine sleeps; the same for all its processes."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


def digest(payload: object) -> str:
    """A short word for a payload: the same for the same content, and nothing of it can be read from it."""
    text = json.dumps(payload, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Gateway:
    """The server. ``send_seconds`` is the range from which each send's duration is drawn."""

    def __init__(self, log_path: Path, *, send_seconds: tuple[float, float] = (0.0, 0.0), port: int = 0) -> None:
        self._log_path = log_path
        self._send_seconds = send_seconds
        self._port = port
        self._tries: Counter[str] = Counter()
        self._in_chat: Counter[tuple[str, str]] = Counter()
        # A gateway that is started again may go on in the same log.
        self._run = os.urandom(4).hex()
        self._requests = 0
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._port}/"

    async def __aenter__(self) -> Self:
        self._log: TextIO = self._log_path.open("a", buffering=1, encoding="utf-8")
        self._server = await asyncio.start_server(self._connected, HOST, self._port, limit=HEAD_BYTES, backlog=1024)
        self._port = self._server.sockets[0].getsockname()[1]
        self._write("ready", url=self.url)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()
        self._log.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._serve_one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the sender has gone, or we are closing
        finally:
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection goes on."""
        head = await reader.readuntil(b"\r\n\r\n")
        started_at = now()
        length = _content_length(head)
        if length is None:
            _answer(writer, 400, {"error": "a JSON body with a Content-Length is needed"})
            return False
        message = _message(await reader.readexactly(length))
        if message is None:
            _answer(writer, 400, {"error": "not a message"})
            return True
        await self._attempt(message, _query(head), started_at, writer)
        return True

    async def _attempt(
        self, message: dict[str, Any], query: str, started_at: float, writer: asyncio.StreamWriter
    ) -> None:
        self._requests += 1
        chat = (str(message.get("instance")), str(message.get("chat_id")))
        facts = {
            "request": f"{self._run}-{self._requests}",
            "id": str(message["id"]),
            "instance": chat[0],
            "chat_id": chat[1],
            "attempt": message.get("attempt", 0),
        }
        self._in_chat[chat] += 1
        got = {"query": query, "digest": digest(message.get("payload"))}
        self._write("start", **facts, **got, at=started_at, in_chat=self._in_chat[chat])
        script = message["payload"] if isinstance(message.get("payload"), dict) else {}
        try:
            await asyncio.sleep(_number(script.get("send_seconds"), random.uniform(*self._send_seconds)))
            self._tries[facts["id"]] += 1
            status, headers = _verdict(script, self._tries[facts["id"]])
            body = {"id": f"gateway-{facts['request']}"} if status == 201 else {"error": "as the payload asked for"}
            # Before the answer: a sender that hears it on another core may be sending again while we look at the clock.
            ended_at = now()
            _answer(writer, status, body, headers)
        finally:
            # No await since the answer: nothing of this chat can have begun in between.
            self._in_chat[chat] -= 1
        self._write("end", **facts, at=ended_at, status=status)
        await writer.drain()

    def _write(self, event: str, **facts: object) -> None:
        self._log.write(json.dumps({"event": event, **facts}) + "\n")


def _content_length(head: bytes) -> int | None:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            length = int(value)
            return length if length <= BODY_BYTES else None
    return None


def _query(head: bytes) -> str:
    """What follows the ``?`` in the request line's target."""
    return head.partition(b"\r\n")[0].partition(b"?")[2].partition(b" ")[0].decode(errors="replace")


def _message(body: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return value if isinstance(value, dict) and "id" in value else None


def _verdict(script: dict[str, Any], tries: int) -> tuple[int, dict[str, str]]:
    """The status and headers of the answer to this try."""
    if script.get("fail_always") == "permanent":
        return 400, {}
    if script.get("fail_always") or tries <= _number(script.get("fail_times"), 0):
        return 500, {}
    if tries == 1 and (wait := _number(script.get("retry_after"), 0)) > 0:
        return 429, {"Retry-After": f"{wait:g}"}
    return 201, {}


def _number(value: object, default: float) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value)
    return default


def _answer(
    writer: asyncio.StreamWriter, status: int, body: dict[str, str], headers: dict[str, str] | None = None
) -> None:
    data = json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}", "Content-Type: application/json", f"Content-Length: {len(data)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    writer.write("\r\n".join([*lines, "", ""]).encode() + data)


async def _serve(options: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with Gateway(options.log, send_seconds=tuple(options.send_seconds), port=options.port) as gateway:
        print(gateway.url, flush=True)
        await stopped.wait()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mqworker.testing.gateway", description="A gateway to test with.")
    parser.add_argument("--log", type=Path, required=True, help="where the attempts are written, as JSON lines")
    parser.add_argument("--port", type=int, default=0, help="the port on 127.0.0.1 (default: a free one)")
    parser.add_argument(
        "--send-seconds",
        type=float,
        nargs=2,
        default=[0.0, 0.0],
        metavar=("LEAST", "MOST"),
        help="how long a send takes",
    )
    asyncio.run(_serve(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
