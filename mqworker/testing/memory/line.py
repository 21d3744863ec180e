"""What stands between a process and a server in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

Work = Callable[[], Any]


class Line(Protocol):
    """What carries a client's requests to its server."""

    async def call(self, works: Sequence[Work]) -> list[Any]:
        """Carry out commands in their order; answer in their order. Raises OSError where that is not known."""
        ...

    async def connect(self) -> None:
        """Raises OSError where the server is known to be away: then nothing was asked of it."""
        ...


class Direct:
    """A line without loss, on which no time passes."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._is_away = False

    async def call(self, works: Sequence[Work]) -> list[Any]:
        await self.connect()
        # As over a socket: whoever asks lets others go on meanwhile.
        await asyncio.sleep(0)
        return [work() for work in works]

    async def connect(self) -> None:
        if self._is_away:
            raise ConnectionRefusedError(f"{self._server} is away")

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Have the server refuse all that is asked of it, as long as the context lasts."""
        self._is_away = True
        try:
            yield
        finally:
            self._is_away = False
