"""Redis in memory: the real :class:`mqworker.broker.Broker` and ``Wake`` on a client whose server is memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from copy import deepcopy
from functools import partial
from typing import Any, Self, cast

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError
from redis.exceptions import TimeoutError as RedisTimeoutError

from mqworker.broker import Broker, Keys
from mqworker.broker.connection import ConnectionCount
from mqworker.broker.server import Server
from mqworker.testing.memory.line import Line
from mqworker.testing.memory.redis import SCRIPTS, Memory


class RedisServer:
    """What all clients share: the memory, who listens, which scripts are known, and which server it is."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.runs = 1
        self.scripts = set(SCRIPTS)
        self.listeners: dict[PubSub, None] = {}
        self.memory = self._fresh()

    def _fresh(self) -> Memory:
        memory = Memory(self._clock)
        memory.publish = self._publish
        return memory

    @property
    def run_id(self) -> str:
        return f"run-{self.runs}"

    def flush(self) -> None:
        """FLUSHALL: the same server, nothing in it."""
        self.memory = self._fresh()

    def restart(self, memory: Memory | None = None) -> None:
        """Another run: empty, or with what a copy of the memory held."""
        self.runs += 1
        self.scripts.clear()
        self.memory = memory or self._fresh()
        for listener in self.listeners:
            listener.disconnect()
        self.listeners.clear()

    def load(self, source: str) -> None:
        self.scripts.add(hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())

    def snapshot(self) -> Memory:
        """A copy of the memory, to come back with later."""
        copy = self._fresh()
        copy.accounts, copy.instances = deepcopy(self.memory.accounts), dict(self.memory.instances)
        copy.strings = dict(self.memory.strings)
        return copy

    def _publish(self, channel: str) -> None:
        for listener in self.listeners:
            listener.hear()


class MemoryBroker(Broker):
    """The broker over ``line`` instead of a socket."""

    def __init__(self, server: RedisServer, line: Line, *, owner: str) -> None:
        super().__init__("redis://memory", Keys(), owner=owner)
        connections = ConnectionCount()
        self.redis = cast(Redis, RedisClient(server, line, connections))
        self.servers = Server(self.redis, connections)


class RedisClient:
    """As much of redis-py's client as the broker uses, with connections that break where the server restarts."""

    def __init__(self, server: RedisServer, line: Line, connections: ConnectionCount) -> None:
        self.server = server
        self._line = line
        self._connections = connections
        self._connected_to = 0

    async def call(self, commands: list[Callable[[], Any]]) -> list[Any]:
        """One round trip; redis-py's errors where it fails."""
        if self._connected_to != self.server.runs:
            self._connected_to = self.server.runs
            self._connections.made += 1
        try:
            return await self._line.call(commands)
        except TimeoutError as error:
            raise RedisTimeoutError from error
        except OSError as error:
            self._connected_to = 0
            raise RedisConnectionError from error

    async def one(self, command: Callable[[Memory], Any]) -> Any:
        (answer,) = await self.call([lambda: command(self.server.memory)])
        return answer

    async def info(self, section: str) -> dict[str, str]:
        return {"run_id": await self.one(lambda _: self.server.run_id)}

    async def ping(self) -> bool:
        return bool(await self.one(lambda _: True))

    async def flushall(self) -> None:
        await self.one(lambda _: self.server.flush())

    async def script_flush(self) -> None:
        await self.one(lambda _: self.server.scripts.clear())

    async def script_load(self, source: str) -> None:
        await self.one(lambda _: self.server.load(source))

    def pipeline(self, *, transaction: bool) -> Pipeline:
        assert not transaction
        return Pipeline(self)

    @asynccontextmanager
    async def pubsub(self, **_: Any) -> AsyncIterator[PubSub]:
        listener = PubSub(self)
        try:
            yield listener
        finally:
            self.server.listeners.pop(listener, None)

    async def aclose(self) -> None:
        """There is nothing to close."""


class Pipeline:
    """Commands of one round trip."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._server = client.server
        self._commands: list[Callable[[], Any]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Its commands were sent."""

    def execute_command(self, name: str, key: str, *words: str) -> None:
        commands: dict[str, Callable[[], Any]] = {
            "GET": lambda: self._server.memory.get(key),
            "SET": lambda: self._server.memory.set(key, *words),
            "ZREMRANGEBYSCORE": lambda: self._server.memory.sweep(),
        }
        self._commands.append(commands[name])

    def evalsha(self, sha: str, number: int, *words: str) -> None:
        self._commands.append(partial(self._run, sha, words[:number], words[number:]))

    def _run(self, sha: str, keys: tuple[str, ...], arguments: tuple[str, ...]) -> Any:
        if sha not in self._server.scripts:
            return NoScriptError()
        return self._server.memory.call(sha, keys, arguments)

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        return await self._client.call(self._commands) if self._commands else []


class PubSub:
    """One listener on the wake channel."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._heard = asyncio.Event()
        self._broken = False

    async def subscribe(self, channel: str) -> None:
        await self._client.one(lambda _: self._client.server.listeners.update({self: None}))

    def hear(self) -> None:
        self._heard.set()

    def disconnect(self) -> None:
        self._broken = True
        self._heard.set()

    async def get_message(self, timeout: float) -> str | None:
        try:
            async with asyncio.timeout(timeout):
                await self._heard.wait()
        except TimeoutError:
            return None
        self._heard.clear()
        if self._broken:
            raise RedisConnectionError
        return "message"
