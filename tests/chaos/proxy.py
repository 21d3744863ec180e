"""A TCP proxy for one client's way to one server, which can be slow, dumb, cut, or lose an answer."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos.wire import Answer, Requests

HOST = "127.0.0.1"
CHUNK = 65_536

Dropped = Callable[[str, int], None]
"""Told which kind of statement lost its answer, and how many rows it had changed."""


@dataclass(eq=False)
class _Connection:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    requests: Requests | None
    answer: Answer | None = None
    losing: str = ""

    def abort(self) -> None:
        """Reset both ends, as a vanished host does."""
        for writer in (self.client, self.server):
            writer.transport.abort()


@dataclass
class _Direction:
    """Whether what goes this way is held back, and for how long it is delayed."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    delay_seconds: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        self.open.set()

    async def pass_one(self) -> None:
        await self.open.wait()
        if self.delay_seconds[1]:
            await asyncio.sleep(random.uniform(*self.delay_seconds))


class Link:
    """Listens on a port of its own and passes on to ``server_port``; ``postgres`` tells which protocol it speaks."""

    def __init__(self, name: str, server_port: int, *, postgres: bool) -> None:
        self.name = name
        self._server_port = server_port
        self._postgres = postgres
        self._up, self._down = _Direction(), _Direction()
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._wanted: frozenset[str] = frozenset()
        self._on_dropped: Dropped | None = None
        self.port = 0

    async def start(self) -> Link:
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def aclose(self) -> None:
        self.heal()
        self._server.close()
        self.reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Faults

    def slow_down(self, least_seconds: float, most_seconds: float) -> None:
        """Delay every chunk, both ways."""
        self._up.delay_seconds = self._down.delay_seconds = (least_seconds, most_seconds)

    def hold(self, *, requests: bool = True, answers: bool = True) -> None:
        """A black hole: connections stay, nothing arrives until :meth:`heal` (TCP would send it again then)."""
        if requests:
            self._up.open.clear()
        if answers:
            self._down.open.clear()

    def heal(self) -> None:
        self._up.open.set()
        self._down.open.set()
        self.slow_down(0.0, 0.0)
        self._wanted = frozenset()

    def reset(self) -> None:
        """Break every connection at once."""
        for connection in list(self._connections):
            connection.abort()

    def lose_answer(self, kinds: frozenset[str], on_dropped: Dropped) -> None:
        """Swallow the answer to the next statement of these kinds, and break its connection."""
        self._wanted, self._on_dropped = kinds, on_dropped

    # Passing on

    async def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Before Python 3.12 the stream server tells of a cancelled handler with a traceback.
        with contextlib.suppress(asyncio.CancelledError):
            await self._connect(reader, client)

    async def _connect(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            from_server, server = await asyncio.open_connection(HOST, self._server_port)
        except OSError:
            client.transport.abort()
            return
        connection = _Connection(client, server, Requests() if self._postgres else None)
        self._connections.add(connection)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_requests(reader, connection))
                group.create_task(self._pass_answers(from_server, connection))
        finally:
            self._connections.discard(connection)
            connection.abort()

    async def _pass_requests(self, reader: asyncio.StreamReader, connection: _Connection) -> None:
        while data := await _read(reader):
            await self._up.pass_one()
            self._look_at(data, connection)
            if not await _write(connection.server, data):
                break
        await _finish(connection.server)

    def _look_at(self, data: bytes, connection: _Connection) -> None:
        kinds = connection.requests.feed(data) if connection.requests else ["redis"]
        kind = next((kind for kind in kinds if kind in self._wanted), None)
        if kind is not None:
            self._wanted = frozenset()
            connection.losing, connection.answer = kind, Answer()

    async def _pass_answers(self, reader: asyncio.StreamReader, connection: _Connection) -> None:
        while data := await _read(reader):
            await self._down.pass_one()
            if connection.answer is not None:
                if self._is_lost(data, connection):
                    connection.abort()
                    return
                continue
            if not await _write(connection.client, data):
                break
        await _finish(connection.client)

    def _is_lost(self, data: bytes, connection: _Connection) -> bool:
        """Swallow a part of the answer; whether it was the last."""
        assert connection.answer is not None
        if self._postgres and not connection.answer.feed(data):
            return False
        if self._on_dropped is not None:
            self._on_dropped(connection.losing, connection.answer.rows if self._postgres else 1)
        return True


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(CHUNK)
    except ConnectionError:
        return b""


async def _write(writer: asyncio.StreamWriter, data: bytes) -> bool:
    try:
        writer.write(data)
        await writer.drain()
    except ConnectionError:
        return False
    return True


async def _finish(writer: asyncio.StreamWriter) -> None:
    """One end has closed: tell the other, which closes in turn and ends the pump of the other way."""
    writer.close()
