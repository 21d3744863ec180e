"""A chat gateway that answers as a test wants it to: a transport for httpx, no server."""

from __future__ import annotations

import asyncio
import json
import math
from collections import defaultdict, deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime

import httpx

from mqworker.executors import Executor, WebhookExecutor
from mqworker.message import Message

_SENDING: ContextVar[Message] = ContextVar("the message that an executor sends")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the gateway does with one request: ``status`` is its answer's, ``None`` where none arrives.

    Made by :func:`ok`, :func:`fail`, :func:`retry_after`, :func:`lost` and :func:`hang`.
    """

    status: int | None
    is_accepted: bool = False
    provider_id: str | None = None
    retry_after_seconds: float | None = None
    after_seconds: float = 0.0


def ok(provider_id: str | None = None, *, after_seconds: float = 0.0) -> Answer:
    """It takes the message after a while: 201 with an ``id``, by default one of its own."""
    return Answer(201, is_accepted=True, provider_id=provider_id, after_seconds=after_seconds)


def fail(status: int = 500, *, after_seconds: float = 0.0) -> Answer:
    """It answers with an error; most 4xx are final to the executor ``webhook``."""
    return Answer(status, after_seconds=after_seconds)


def retry_after(seconds: float) -> Answer:
    """It names a wait: 429 with ``Retry-After``."""
    return Answer(429, retry_after_seconds=seconds)


def lost() -> Answer:
    """It takes the message, and the connection breaks before its answer."""
    return Answer(None, is_accepted=True)


def hang() -> Answer:
    """It never answers: the executor's time runs out."""
    return Answer(None, after_seconds=math.inf)


@dataclass(frozen=True, slots=True)
class Request:
    """One request: which message's, what the executor sent, when, and what the gateway does with it."""

    message: Message
    http: httpx.Request
    answer: Answer
    at: datetime


class ScriptedGateway(httpx.AsyncBaseTransport):
    """What executors send to: ``httpx.AsyncClient(transport=gateway)``. What no script says otherwise it takes.

    ``requests`` are all that it got, ``sent`` the messages of those that it took, both in their order.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.requests: list[Request] = []
        self.sent: list[Message] = []
        self._now = now
        self._scripts: dict[str, deque[Answer]] = defaultdict(deque)
        self._webhook = WebhookExecutor(
            "http://gateway.invalid/send", timeout_seconds=60, max_connections=1, transport=self
        )

    def script(self, chat_id: str, *answers: Answer) -> None:
        """Have the next requests of a chat answered like this, after what is scripted for it already."""
        self._scripts[chat_id].extend(answers)

    async def send(self, message: Message) -> str | None:
        """The ready-made executor ``webhook``, posting to this gateway."""
        return await self._webhook(message)

    def watched(self, executor: Executor) -> Executor:
        """The executor, with its requests known for those of its message."""

        async def send(message: Message) -> object:
            _SENDING.set(message)  # each message is sent in a task of its own, which has a context of its own
            return await executor(message)

        return send

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        message = _SENDING.get(None)
        if message is None:
            raise RuntimeError("the scripted gateway is for executors that a drain runs, not to be called directly")
        await request.aread()
        script = self._scripts[message.chat_id]
        answer = script.popleft() if script else ok()
        self.requests.append(Request(message, request, answer, self._now()))
        return await self._answer(message, request, answer)

    async def _answer(self, message: Message, request: httpx.Request, answer: Answer) -> httpx.Response:
        # sleep(inf) would be a timer at infinity, which no clock reaches.
        await (asyncio.Event().wait() if math.isinf(answer.after_seconds) else asyncio.sleep(answer.after_seconds))
        if answer.is_accepted:
            self.sent.append(message)
        if answer.status is None:
            raise httpx.ReadError("the connection broke, as the script says", request=request)
        body = {"error": "as the script says"}
        if answer.is_accepted:
            body = {"id": answer.provider_id or f"gateway-{len(self.sent)}"}
        headers = {"Content-Type": "application/json"}
        if answer.retry_after_seconds is not None:
            headers["Retry-After"] = f"{answer.retry_after_seconds:g}"
        # As a stream, which the client reads as it likes; one made of `json` has been read already.
        return httpx.Response(answer.status, headers=headers, stream=httpx.ByteStream(json.dumps(body).encode()))
