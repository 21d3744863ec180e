"""What stands between a process and a simulated server: time on the way, lost requests, lost replies, outages.

The server is a world of its own: a request that was sent is carried out whether its sender lives or not. One that
names several commands is carried out command by command, and others' may come in between.
"""

from __future__ import annotations

import asyncio
import enum
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from random import Random
from typing import Any

from mqworker.testing.memory.line import Work
from tests.simulation.loop import Process, VirtualLoop, current_process

SPLIT = 0.1
"""How often others' requests may come between the commands of one."""


class Health(enum.Enum):
    UP = enum.auto()
    REFUSING = enum.auto()
    HANGING = enum.auto()


@dataclass(slots=True, eq=False)
class Request:
    """Commands under way; ``age`` is the server's generation when they were sent."""

    works: Sequence[Work]
    reply: asyncio.Future[list[Any]]
    sender: Process | None
    age: int
    answers: list[Any] = field(default_factory=list)


class Server:
    """One simulated server as its clients reach it: the line of every process."""

    def __init__(
        self,
        loop: VirtualLoop,
        rng: Random,
        name: str,
        *,
        slowest_seconds: float,
        loss: float,
        patience_seconds: float = inf,
    ) -> None:
        self.name = name
        self.health = Health.UP
        self.generation = 0
        self.cut: set[str] = set()
        """The processes that cannot reach it."""
        self.counts: Counter[str] = Counter()
        self._loop = loop
        self._rng = rng
        self._slowest_seconds = slowest_seconds
        self._loss = loss
        self._patience_seconds = patience_seconds
        """How long a client waits for an answer."""
        self._waiting: list[Request] = []

    async def call(self, works: Sequence[Work]) -> list[Any]:
        reply = self._loop.create_future()
        request = Request(works, reply, current_process(), self.generation)
        self._later(self._arrive, request)
        answers: list[Any] = await reply
        return answers

    async def connect(self) -> None:
        process = current_process()
        cut = process is not None and process.name in self.cut
        # Else a connection out of the pool is tried, and found broken when it is used.
        if (self.health is Health.REFUSING or cut) and self._rng.random() < 0.5:
            raise ConnectionRefusedError(f"{self.name} is away")

    def refuse(self) -> None:
        """Be away: who asks is told so at once."""
        self.health = Health.REFUSING

    def hang(self) -> None:
        """Take requests and do nothing: a server that is stopped, or a network that swallows."""
        self.health = Health.HANGING

    def come_back(self) -> None:
        self.health = Health.UP
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            self._later(self._arrive, request)

    def restart(self) -> None:
        """Break all connections: what is under way is lost, or done and not known."""
        self.generation += 1

    def quiet(self) -> None:
        """No more chance losses."""
        self._loss = 0.0

    def _later(self, step: Callable[..., None], *arguments: Any) -> None:
        # Mostly quick, now and then slow: a request or two in a hundred take as long as they can.
        seconds = 0.0002 + self._slowest_seconds * self._rng.random() ** 8
        self._loop.later(seconds, step, *arguments)

    def _arrive(self, request: Request) -> None:
        if self.health is Health.HANGING:
            self._waiting.append(request)
            if self._patience_seconds < inf:
                self._loop.later(self._patience_seconds, self._fail, request, TimeoutError(f"{self.name} hangs"))
        elif self.health is Health.REFUSING or not self._connected(request):
            self._fail(request)
        elif self._rng.random() < self._loss:
            self._carry_out(request, self._rng.randint(0, len(request.works)))
        else:
            self._carry_out(request, len(request.works))

    def _carry_out(self, request: Request, upto: int) -> None:
        """Carry out the next commands; where ``upto`` is not all of them, or the reply gets lost, nobody knows."""
        while len(request.answers) < upto:
            request.answers.append(request.works[len(request.answers)]())
            if len(request.answers) < upto and self._rng.random() < SPLIT:
                self._later(self._carry_out, request, upto)
                return
        lost = upto < len(request.works) or self._rng.random() < self._loss
        self._later(self._fail if lost else self._deliver, request)

    def _deliver(self, request: Request) -> None:
        if not self._connected(request):
            self._fail(request)
        elif not request.reply.done():
            request.reply.set_result(request.answers)

    def _fail(self, request: Request, error: OSError | None = None) -> None:
        if not request.reply.done():
            self.counts["ambiguous" if request.answers else "refused"] += 1
            request.reply.set_exception(error or ConnectionResetError(f"{self.name} is away"))

    def _connected(self, request: Request) -> bool:
        cut = request.sender is not None and request.sender.name in self.cut
        return request.age == self.generation and not cut
