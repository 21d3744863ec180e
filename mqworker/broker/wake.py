"""Hear at once that something was announced. A missed wake-up costs latency only: workers look by themselves, too."""

from __future__ import annotations

import asyncio
import contextlib

from mqworker.broker.cluster import Cluster
from mqworker.broker.connection import BrokerUnavailable, translated_errors
from mqworker.broker.server import Server

LOOK_AGAIN_SECONDS = 1.0


class Wake:
    """Listens to the wake channel in a task of its own, over Redis' outages."""

    def __init__(self, servers: Server | Cluster, channel: str) -> None:
        self._servers = servers
        self._channel = channel
        self._heard = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0

    def ring(self) -> None:
        """Wake the waiter from inside this process."""
        self._heard.set()

    def ring_in(self, seconds: float) -> None:
        """Wake the waiter then, unless something earlier does."""
        loop = asyncio.get_running_loop()
        when = loop.time() + seconds
        if loop.time() < self._rings_at <= when:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = when
        self._timer = loop.call_at(when, self.ring)

    async def wait(self, timeout_seconds: float) -> None:
        """Return when woken, or after ``timeout_seconds``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._heard.wait()
        self._heard.clear()

    async def listen(self) -> None:
        """Run until cancelled."""
        while True:
            try:
                with translated_errors():
                    await self._hear()
            except BrokerUnavailable:
                await asyncio.sleep(LOOK_AGAIN_SECONDS)

    async def _hear(self) -> None:
        async with self._servers.pubsub() as pubsub:
            await pubsub.subscribe(self._channel)
            # What was announced before we listened is found by one look.
            self._heard.set()
            while True:
                if await pubsub.get_message(timeout=30.0) is not None:
                    self._heard.set()
