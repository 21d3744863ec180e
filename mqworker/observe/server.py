"""A very small HTTP server: GET of a few paths whose answers are ready, one request a connection.

It runs in the worker's event loop and must never hold it up: a request is read in bounded time and space, and of too
many connections the oldest is pushed out. Anything bigger would bring its own threads, signals or loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import NamedTuple

from mqworker.errors import ConfigError

HEAD_BYTES = 8192
REQUEST_SECONDS = 5.0
CONNECTIONS = 64


class Answer(NamedTuple):
    """What is answered to a request."""

    status: int
    content_type: str
    body: bytes

    @property
    def data(self) -> bytes:
        head = [
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(self.body)}",
            "Cache-Control: no-store",
            *(["Allow: GET"] if self.status == HTTPStatus.METHOD_NOT_ALLOWED else []),
            "Connection: close",
        ]
        return "\r\n".join([*head, "", ""]).encode("ascii") + self.body


class ProbeServer:
    """Answers GET of each path of ``routes`` with what its function returns."""

    def __init__(self, routes: Mapping[str, Callable[[], Answer]]) -> None:
        self._routes = routes
        self._open: dict[asyncio.Task[None], None] = {}

    async def listen(self, host: str, port: int) -> None:
        """Answer on this address; port 0 takes any free one. Raises :class:`ConfigError` where it cannot be had."""
        try:
            self._server = await asyncio.start_server(self._connected, host, port, limit=HEAD_BYTES)
        except OSError as error:
            raise ConfigError(
                f"the probes cannot listen on {_address(host, port)} ({error.strerror or error}): "
                "set MQWORKER_PROBE_PORT and MQWORKER_PROBE_HOST to an address of this machine that nobody uses"
            ) from None
        self.url = f"http://{_address(host, self._server.sockets[0].getsockname()[1])}"

    async def aclose(self) -> None:
        """Answer no more."""
        self._server.close()
        for task in self._open:
            task.cancel()
        if self._open:
            await asyncio.wait(self._open)
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._open) >= CONNECTIONS:
            # Who opens connections and says nothing must not keep the next probe out.
            next(iter(self._open)).cancel()
        self._open[task] = None
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                writer.write((await self._answer(reader)).data)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError, asyncio.CancelledError):
            pass  # it went away, took too long, was pushed out, or we are closing
        finally:
            del self._open[task]
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> Answer:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        words = head.partition(b"\r\n")[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _refusal(HTTPStatus.BAD_REQUEST)
        method, target, _ = words
        route = self._routes.get(target.partition(b"?")[0].decode("latin-1"))
        if route is None:
            return _refusal(HTTPStatus.NOT_FOUND)
        return route() if method == b"GET" else _refusal(HTTPStatus.METHOD_NOT_ALLOWED)


def _refusal(status: HTTPStatus) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", f"{status.phrase}\n".encode())


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
